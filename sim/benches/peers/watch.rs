//! A side's processes: when each round ended, their time on processors and their memory.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::Fallible;

/// Marks all of a side's processes: whoever starts another hands its environment on.
const MARK: &str = "GOSSAMER_PEERS_SIDE";
/// Between two looks at their memory.
const EVERY: Duration = Duration::from_millis(200);

/// What a side took.
pub(crate) struct Watched {
    /// From the end of the first round to that of the last but one.
    pub(crate) seconds: f64,
    /// On processors, in the same time, of all its processes.
    pub(crate) cpu_s: f64,
    pub(crate) peak_kib: u64,
    pub(crate) loss: f64,
}

/// A side says which round is done, and at the end the loss.
#[derive(Deserialize)]
struct Said {
    round: Option<usize>,
    loss: Option<f64>,
}

/// Runs a side of `rounds` rounds to its end.
pub(crate) fn watch(command: &mut Command, rounds: usize) -> Fallible<Watched> {
    let mark = format!("{}-{:?}", std::process::id(), Instant::now());
    let errors = tempfile::NamedTempFile::new()?;
    let mut child = command
        .env(MARK, &mark)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors.reopen()?)
        .spawn()?;
    let entry = format!("{MARK}={mark}");
    let done = Arc::new(AtomicBool::new(false));
    let ticks: Arc<Mutex<BTreeMap<u32, u64>>> = Arc::default();
    let looking = {
        let (done, entry, ticks) = (done.clone(), entry.clone(), ticks.clone());
        thread::spawn(move || {
            let mut peak = 0;
            while !done.load(Ordering::Relaxed) {
                peak = peak.max(look(&entry, &ticks));
                thread::sleep(EVERY);
            }
            peak
        })
    };
    let out = BufReader::new(child.stdout.take().ok_or("no output")?);
    let (mut begin, mut end, mut loss) = (None, None, None);
    for line in out.lines() {
        let Ok(said) = serde_json::from_str::<Said>(&line?) else { continue };
        if said.round == Some(1) {
            begin = Some((Instant::now(), cpu_s(&entry, &ticks)));
        }
        if said.round == Some(rounds - 1) {
            end = Some((Instant::now(), cpu_s(&entry, &ticks)));
        }
        loss = loss.or(said.loss);
    }
    let status = child.wait()?;
    done.store(true, Ordering::Relaxed);
    let peak_kib = looking.join().map_err(|_| "the look at the memory failed")?;
    let (Some(begin), Some(end), Some(loss), true) = (begin, end, loss, status.success()) else {
        let said = std::fs::read_to_string(errors.path())?;
        return Err(format!("{command:?} came to no end ({status}):\n{said}").into());
    };
    let seconds = end.0.duration_since(begin.0).as_secs_f64();
    Ok(Watched { seconds, cpu_s: end.1 - begin.1, peak_kib, loss })
}

/// The side's processes that live.
fn processes(entry: &str) -> Vec<u32> {
    let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
    let ids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let ours = |id: &u32| {
        let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|word| word == entry.as_bytes())
    };
    ids.filter(ours).collect()
}

/// KiB of all of them together; and counts the time of those that end before they are asked.
fn look(entry: &str, ticks: &Mutex<BTreeMap<u32, u64>>) -> u64 {
    let all = processes(entry);
    count(&all, ticks);
    all.iter().filter_map(|id| pss(*id)).sum()
}

fn pss(id: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn cpu_s(entry: &str, ticks: &Mutex<BTreeMap<u32, u64>>) -> f64 {
    count(&processes(entry), ticks);
    let ticks = ticks.lock().unwrap_or_else(PoisonError::into_inner);
    // Linux tells processor time in hundredths, whatever it counts in.
    ticks.values().sum::<u64>() as f64 / 100.0
}

fn count(all: &[u32], ticks: &Mutex<BTreeMap<u32, u64>>) {
    let mut ticks = ticks.lock().unwrap_or_else(PoisonError::into_inner);
    for id in all {
        let text = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // Behind the name, which may have spaces and brackets.
        let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
        let used: Vec<u64> = fields.skip(11).take(2).filter_map(|word| word.parse().ok()).collect();
        if let [user, system] = used[..] {
            ticks.insert(*id, user + system);
        }
    }
}
