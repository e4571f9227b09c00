//! What one aggregator bears on this machine, the load included: `cargo bench -p gossamer-tests --bench load
//! [-- PART]`.
//!
//! - `uploads`: updates a second over TLS, signed, flushed to the disk and committed before they are answered.
//! - `memory`: its memory with 10 and with 10,000 clients enrolled, and at round 1 and round 1,000.
//! - `slow`: requests of 50 clients beside 1,000 connections that dribble.
//! - `fold`: updates decoded and folded a second, on one core.
//!
//! The aggregator is a process of its own, so that its processor time and memory are its own; the machine is shared
//! with the load. `--json` prints one object a line.

mod fleet;
mod fold;
mod memory;
mod slow;
mod uploads;

use std::error::Error;
use std::time::Duration;

use serde_json::Value;

/// What every part may fail with.
pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// How results are told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Teller {
    json: bool,
}

impl Teller {
    /// One result, in words and as JSON.
    pub(crate) fn tell(self, words: &str, json: &Value) {
        if self.json {
            println!("{json}");
        } else {
            println!("{words}");
        }
    }
}

fn main() -> Outcome {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let teller = Teller { json: words.iter().any(|word| word == "--json") };
    let wanted: Vec<&String> = words.iter().filter(|word| !word.starts_with("--")).collect();
    let wants = |part: &str| wanted.is_empty() || wanted.iter().any(|word| *word == part);
    if let Some(unknown) =
        wanted.iter().find(|word| !["uploads", "memory", "slow", "fold"].contains(&word.as_str()))
    {
        return Err(format!("{unknown}: the parts are uploads, memory, slow and fold").into());
    }
    if wants("fold") {
        fold::run(teller)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        if wants("uploads") {
            uploads::run(teller).await?;
        }
        if wants("memory") {
            memory::run(teller).await?;
        }
        if wants("slow") {
            slow::run(teller).await?;
        }
        Ok(())
    })
}

/// The `share` quantile of some durations, in milliseconds.
pub(crate) fn quantile(of: &mut [Duration], share: f64) -> f64 {
    of.sort_unstable();
    let at = ((of.len() as f64 * share) as usize).min(of.len().saturating_sub(1));
    of.get(at).map_or(f64::NAN, |found| found.as_secs_f64() * 1e3)
}
