//! The simulator against Flower, pfl-research and a plain PyTorch + PEFT loop, on the very same work.
//!
//! `cargo bench -p gossamer-sim --bench peers [-- heavy|light] [SIDE...] [--json]`, with a Python that has what
//! `requirements.txt` names: `GOSSAMER_PEERS_PYTHON`, or one made in the target folder (about 6 GB).
//!
//! A task is who trains in which round on which batches, what all start from, and what is evaluated: as the simulator
//! itself draws it (`heavy.toml`, `light.toml`), written to a folder that the peers read ([`task`]). Each side runs in
//! processes of its own, at each number of workers that makes sense for it, in turn with the others; what counts is
//! the time from the end of the first round to the end of the last but one, so neither starting nor evaluating.
//! Memory is the largest sum over a side's processes of what each has for itself and its part of what they share
//! (Linux' `Pss`), and so is their time on the processor ([`watch`]).

mod task;
mod watch;

use std::error::Error;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use gossamer_sim::engine::{self, Laboratory};
use gossamer_sim::report::RoundRow;
use gossamer_sim::scenario::Scenario;
use serde::Serialize;
use task::Facts;
use watch::Watched;

/// The allocator of the binaries.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Fallible<T> = Result<T, Box<dyn Error>>;

/// Processes of each side and number of workers; the fastest counts.
const TURNS: usize = 2;
const TASKS: [&str; 2] = ["heavy", "light"];

/// Who does the task.
struct Side {
    name: &'static str,
    /// The script, or for the simulator the scenario's method.
    by: By,
    workers: &'static [usize],
}

enum By {
    Simulator(&'static str),
    Script(&'static str),
}

const SIDES: [Side; 5] = [
    Side { name: "gossamer-dense", by: By::Simulator("dense"), workers: &[2] },
    Side { name: "gossamer", by: By::Simulator("gossamer"), workers: &[2] },
    Side { name: "loop", by: By::Script("loop.py"), workers: &[1, 2] },
    Side { name: "pfl", by: By::Script("pfl_research.py"), workers: &[1, 2] },
    Side { name: "flower", by: By::Script("flower.py"), workers: &[1, 2] },
];

/// A line of the table.
#[derive(Clone, Serialize)]
struct Line {
    task: &'static str,
    side: &'static str,
    workers: usize,
    /// Client-steps a second by the clock.
    steps_s: f64,
    /// Tokens a second by the clock, padding included.
    tokens_s: f64,
    /// Milliseconds on processors for each client-step.
    cpu_ms: f64,
    /// Most memory.
    peak_mib: f64,
    /// At the end, nats a token.
    loss: f64,
}

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Fallible<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [word, name, method] = &words[..]
        && word == "simulate"
    {
        return simulate(name, method);
    }
    let json = words.iter().any(|word| word == "--json");
    let named = |name: &str| words.iter().any(|word| word == name);
    let asked = |name: &str, all: &[&str]| named(name) || !all.iter().any(|one| named(one));
    let sides = SIDES.each_ref().map(|side| side.name);
    let python = python()?;
    let folder = tempfile::tempdir()?;
    for name in TASKS.into_iter().filter(|name| asked(name, &TASKS)) {
        let task = folder.path().join(name);
        let facts = task::write(&scenario(name)?, &task)?;
        if !json {
            println!("{name}: {facts}");
            println!(
                "side            workers  client-steps/s  tokens/s  CPU ms a step  MiB at most    loss"
            );
        }
        let mut lines: Vec<Line> = Vec::new();
        for turn in 0..TURNS {
            for side in SIDES.iter().filter(|side| asked(side.name, &sides)) {
                for &workers in side.workers {
                    let line = run(name, &task, &facts, side, workers, &python)?;
                    writeln!(std::io::stderr(), "turn {} of {TURNS}: {line}", turn + 1)?;
                    keep(&mut lines, line);
                }
            }
        }
        for line in &lines {
            match json {
                true => println!("{}", serde_json::to_string(line)?),
                false => println!("{line}"),
            }
        }
        if !json {
            ratios(&lines);
        }
    }
    Ok(())
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { side, workers, steps_s, tokens_s, cpu_ms, peak_mib, loss, .. } = self;
        write!(
            f,
            "{side:<15} {workers:>7} {steps_s:>15.1} {tokens_s:>9.0} {cpu_ms:>14.2} {peak_mib:>12.0} {loss:>7.4}"
        )
    }
}

/// Of two turns the faster.
fn keep(lines: &mut Vec<Line>, line: Line) {
    match lines.iter_mut().find(|old| old.side == line.side && old.workers == line.workers) {
        Some(old) if old.steps_s >= line.steps_s => {}
        Some(old) => *old = line,
        None => lines.push(line),
    }
}

/// The simulator by each peer at its best.
fn ratios(lines: &[Line]) {
    let best = |name: &str| {
        let own = lines.iter().filter(|line| line.side == name);
        own.max_by(|a, b| a.steps_s.total_cmp(&b.steps_s))
    };
    let Some(ours) = best("gossamer-dense") else { return };
    for peer in SIDES.iter().filter(|side| matches!(side.by, By::Script(_))) {
        let Some(theirs) = best(peer.name) else { continue };
        println!(
            "gossamer-dense by {} at its best ({} workers): {:.2}x as fast, {:.2}x on processors, {:.2}x the memory, loss {:+.4}",
            peer.name,
            theirs.workers,
            ours.steps_s / theirs.steps_s,
            theirs.cpu_ms / ours.cpu_ms,
            ours.peak_mib / theirs.peak_mib,
            ours.loss - theirs.loss,
        );
    }
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers")
}

fn scenario(name: &str) -> Fallible<Scenario> {
    Ok(Scenario::load(&here().join(name).with_extension("toml"))?)
}

/// A side's processes, from their start to their end.
fn run(
    name: &'static str,
    task: &Path,
    facts: &Facts,
    side: &Side,
    workers: usize,
    python: &Path,
) -> Fallible<Line> {
    let mut command = match side.by {
        By::Simulator(method) => {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["simulate", name, method]).env("RAYON_NUM_THREADS", workers.to_string());
            command
        }
        By::Script(script) => {
            let mut command = Command::new(python);
            command.arg(here().join(script)).arg(task).arg(workers.to_string());
            let threads = if workers == 1 { "2" } else { "1" };
            command.env("OMP_NUM_THREADS", threads).env("PYTHONDONTWRITEBYTECODE", "1");
            command
        }
    };
    let Watched { seconds, cpu_s, peak_kib, loss } = watch::watch(&mut command, facts.rounds)?;
    let (steps, tokens) = facts.between();
    Ok(Line {
        task: name,
        side: side.name,
        workers,
        steps_s: steps as f64 / seconds,
        tokens_s: tokens as f64 / seconds,
        cpu_ms: 1e3 * cpu_s / steps as f64,
        peak_mib: peak_kib as f64 / 1024.0,
        loss,
    })
}

/// The simulator's side: this program, in a process of its own.
fn simulate(name: &str, method: &str) -> Fallible<()> {
    let scenario = scenario(name)?;
    let method = scenario.methods.iter().find(|known| known.name == method).cloned();
    let (method, seed) = (method.ok_or("no such method")?, scenario.seeds[0]);
    let threads = NonZeroUsize::MIN.saturating_add(1);
    let laboratory = Laboratory::open(scenario, threads)?;
    let rounds = laboratory.scenario().rounds;
    let on_row = Arc::new(move |row: &RoundRow| {
        if row.round > 0 {
            println!("{}", serde_json::json!({ "round": row.round }));
        }
        if row.round == rounds {
            println!("{}", serde_json::json!({ "loss": row.heldout_loss }));
        }
    });
    engine::runtime(threads)?.block_on(laboratory.repeat(&method, seed, on_row))?;
    Ok(())
}

/// A Python that has the peers.
fn python() -> Fallible<PathBuf> {
    if let Some(python) = std::env::var_os("GOSSAMER_PEERS_PYTHON") {
        return Ok(python.into());
    }
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers");
    let python = venv.join("bin/python");
    let wants = here().join("requirements.txt");
    // Kept beside what it was made from.
    let (text, made) = (std::fs::read_to_string(&wants)?, venv.join("requirements.txt"));
    if std::fs::read_to_string(&made).is_ok_and(|made| made == text) {
        return Ok(python);
    }
    eprintln!("installing Flower, pfl-research, PyTorch and PEFT (about 6 GB, once)");
    let mut steps = [Command::new("python3"), Command::new(&python)];
    steps[0].args(["-m", "venv", "--clear"]).arg(&venv);
    steps[1].args(["-m", "pip", "install", "--quiet", "-r"]).arg(&wants);
    for step in &mut steps {
        if !step.status()?.success() {
            return Err(format!("{step:?} failed; GOSSAMER_PEERS_PYTHON names another").into());
        }
    }
    std::fs::write(made, text)?;
    Ok(python)
}
