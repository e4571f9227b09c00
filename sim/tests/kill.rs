//! A comparison that is killed again and again, by SIGKILL, ends with the bytes of one that was not.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const SMOKE: &str = include_str!("../scenarios/smoke.toml");

/// Few clients, so that they return, get differences, and send on what they had kept back.
fn scenario() -> String {
    let text =
        SMOKE.replace("rounds = 3", "rounds = 8").replace("clients = 8", "clients = 5").replace(
            "method.upload = { density = 0.25 }",
            "method.upload = { density = 0.25, feedback = { decay = 0.9, rounds_max = 8 } }",
        );
    assert!(text.contains("feedback") && text.contains("clients = 5"));
    text
}

fn simulate(dir: &Path, out: &str, resume: bool) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gossamer-sim"));
    command
        .arg("compare")
        .arg(dir.join("kill.toml"))
        .arg("--out")
        .arg(dir.join(out))
        .args(["--json", "--threads", "2", "--checkpoint-every", "0"])
        .args(resume.then_some("--resume"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
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

/// Waits until `child` wrote a row more than `before`, and kills it; false where it ended by itself.
fn kill_after_a_row(child: &mut Child, out: &Path, before: usize) -> bool {
    let patience = Instant::now();
    while child.try_wait().expect("its state").is_none() {
        if rows(out).len() > before {
            child.kill().expect("killed");
            child.wait().expect("gone");
            return true;
        }
        assert!(patience.elapsed() < Duration::from_secs(120), "no row came");
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

#[test]
fn killed_at_every_round_and_resumed_it_gives_the_same_bytes() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("kill.toml"), scenario()).expect("written");
    let whole = simulate(dir.path(), "whole", false).output().expect("it runs");
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));

    let out = dir.path().join("killed");
    let mut child = simulate(dir.path(), "killed", false).spawn().expect("it starts");
    let mut kills = 0;
    // Each time it must come a round further than what was on the disk before; 2 methods of 9 rows.
    for before in (0..).step_by(2) {
        if !kill_after_a_row(&mut child, &out, before) {
            break;
        }
        kills += 1;
        child = simulate(dir.path(), "killed", true).spawn().expect("it starts");
    }
    let resumed = child.wait_with_output().expect("it ended");
    assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
    assert!(kills >= 3, "{kills} kills");

    let records = |output: &std::process::Output| -> Value {
        let outcome: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        outcome["records"].clone()
    };
    assert_eq!(records(&resumed), records(&whole));
    assert_eq!(rows(&out), rows(&dir.path().join("whole")));
    assert_eq!(std::fs::read_dir(out.join("checkpoints")).expect("there").count(), 0, "all done");
    let events = |name: &str| {
        let runs = dir.path().join(name).join("runs/dense-1/metrics.jsonl");
        std::fs::read_to_string(runs).expect("there").lines().count()
    };
    assert_eq!(events("killed"), events("whole"));
}

#[test]
fn a_damaged_checkpoint_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("kill.toml"), scenario()).expect("written");
    let out = dir.path().join("out");
    let mut child = simulate(dir.path(), "out", false).spawn().expect("it starts");
    let head = out.join("checkpoints/dense-1/checkpoint.json");
    let patience = Instant::now();
    while !head.exists() {
        assert!(patience.elapsed() < Duration::from_secs(120), "no checkpoint came");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("killed");
    child.wait().expect("gone");
    let mut text = std::fs::read(&head).expect("there");
    let middle = text.len() / 2;
    text[middle] ^= 1;
    std::fs::write(&head, text).expect("written");
    let refused = simulate(dir.path(), "out", true).output().expect("it runs");
    assert!(!refused.status.success());
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(why.contains("checkpoint.json is damaged") && why.contains("dense"), "{why}");
}
