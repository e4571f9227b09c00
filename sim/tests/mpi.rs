//! The same by MPI: `mpirun` with any number of ranks gives the bytes of one process, killed or not.
#![cfg(feature = "mpi")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const SMOKE: &str = include_str!("../scenarios/smoke.toml");

/// `mpirun -n RANKS gossamer-sim compare FILE`; 0 ranks: without `mpirun`.
fn simulate(ranks: usize, file: &Path, out: &Path, resume: bool) -> Command {
    let binary = env!("CARGO_BIN_EXE_gossamer-sim");
    let mut command = match ranks {
        0 => Command::new(binary),
        _ => Command::new("mpirun"),
    };
    if ranks > 0 {
        command.args(["--oversubscribe", "--allow-run-as-root", "-n", &ranks.to_string(), binary]);
    }
    command.arg("compare").arg(file).arg("--out").arg(out);
    command.args(["--json", "--threads", "1", "--checkpoint-every", "0"]);
    command.args(resume.then_some("--resume")).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn records(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let outcome: Value = serde_json::from_slice(&output.stdout).expect("JSON, of rank 0 alone");
    outcome["records"].clone()
}

/// Lines of all rows so far, without how long they took.
fn rows(out: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap_or_default();
    let row = |line: &str| {
        let mut row: Value = serde_json::from_str(line).ok()?;
        row.as_object_mut()?.remove("wall_s");
        Some(row.to_string())
    };
    text.lines().filter_map(row).collect()
}

#[test]
fn any_number_of_ranks_gives_the_same_bytes_killed_or_not() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("smoke.toml");
    std::fs::write(&file, SMOKE.replace("rounds = 3", "rounds = 6")).expect("written");
    let out = |name: &str| dir.path().join(name);
    let alone = records(&simulate(0, &file, &out("alone"), false).output().expect("it runs"));
    assert_eq!(alone.as_object().map(serde_json::Map::len), Some(2), "{alone}");
    for ranks in [1, 2, 4] {
        let at = out(&format!("of-{ranks}"));
        let output = simulate(ranks, &file, &at, false).output().expect("mpirun is there");
        assert_eq!(records(&output), alone, "{ranks} ranks");
        assert_eq!(rows(&at), rows(&out("alone")), "{ranks} ranks");
    }

    let at = out("killed");
    let mut child = simulate(3, &file, &at, false).spawn().expect("mpirun is there");
    let patience = Instant::now();
    while rows(&at).len() < 4 {
        assert!(child.try_wait().expect("its state").is_none(), "it ended before it was killed");
        assert!(patience.elapsed() < Duration::from_secs(120), "no row came");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("killed");
    child.wait().expect("gone");
    // What it started notices that it is gone.
    std::thread::sleep(Duration::from_secs(2));
    let output = simulate(2, &file, &at, true).output().expect("mpirun is there");
    assert_eq!(records(&output), alone, "resumed");
    assert_eq!(rows(&at), rows(&out("alone")), "resumed");
}

/// One rank that fails ends the job, with its word.
#[test]
fn a_rank_that_fails_ends_the_job() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("smoke.toml");
    let binary = env!("CARGO_BIN_EXE_gossamer-sim");
    std::fs::write(&file, SMOKE).expect("written");
    // Of two ranks one would simulate another number of rounds, and of another two one has no such file.
    let other = dir.path().join("missing.toml");
    for (second, rounds, why) in [
        (&file, "4", "rank 1 has another number of rounds than rank 0"),
        (&other, "3", "missing.toml"),
    ] {
        let mut command = Command::new("mpirun");
        command.args(["--oversubscribe", "--allow-run-as-root"]);
        for (file, rounds, out) in [(&file, "3", "a"), (second, rounds, "b")] {
            let out = dir.path().join(out);
            command.args(["-n", "1", binary, "compare"]).arg(file).arg("--out").arg(out);
            command.args(["--rounds", rounds, ":"]);
        }
        let output = command.output().expect("mpirun is there");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{said}");
    }
}
