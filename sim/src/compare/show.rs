//! What a comparison shows on the way.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gossamer_client::client::chain;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Progress;
use crate::engine::{EngineError, Repetition};
use crate::report::RoundRow;

/// Bars, or lines, on standard error.
#[derive(Clone)]
pub(super) struct Show {
    bars: MultiProgress,
    lines: bool,
    left: usize,
    /// All rounds of all repetitions, and the time they will take.
    total: ProgressBar,
    /// When a line last said so.
    said: Arc<Mutex<Instant>>,
}

/// Time between two lines that say how far all is.
const SAY_EVERY: Duration = Duration::from_secs(30);

impl Show {
    pub(super) fn new(progress: Progress, left: usize, rounds: u64) -> Self {
        let (bars, lines) = match progress {
            Progress::Bars => (MultiProgress::new(), false),
            Progress::Lines => {
                (MultiProgress::with_draw_target(ProgressDrawTarget::hidden()), true)
            }
        };
        let total = ProgressBar::new(left as u64 * rounds).with_prefix("all rounds");
        let total = bars.add(styled(total, "{prefix:28} {bar:30} {pos:>4}/{len} {eta:>5} left"));
        Self { bars, lines, left, total, said: Arc::new(Mutex::new(Instant::now())) }
    }

    /// Hears that a repetition is at the end of `round`.
    pub(super) fn round(&self, round: u64) {
        if round == 0 {
            return;
        }
        self.total.inc(1);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if self.lines && said.elapsed() >= SAY_EVERY {
            *said = Instant::now();
            let (done, all) = (self.total.position(), self.total.length().unwrap_or(0));
            let left = self.total.eta().as_secs();
            eprintln!("{done} of {all} rounds, about {} min {:02} s left", left / 60, left % 60);
        }
    }

    pub(super) fn bar(&self, rounds: u64, method: &str, seed: u64) -> ProgressBar {
        let template = "{prefix:28} {bar:30} {pos:>4}/{len} {eta:>5} {msg}";
        let bar = ProgressBar::new(rounds).with_prefix(format!("{method} seed {seed}"));
        self.bars.insert_before(&self.total, styled(bar, template))
    }

    pub(super) fn done(&self, method: &str, seed: u64, repetition: &Repetition) {
        if self.lines {
            eprintln!("{}", ended(method, seed, repetition, self.left));
        }
    }

    pub(super) fn failed(&self, method: &str, seed: u64, error: &EngineError) {
        let line = format!("{method} seed {seed} failed: {}", chain(error));
        if self.lines {
            eprintln!("{line}");
        } else if self.bars.println(&line).is_err() {
            tracing::warn!("{line}");
        }
    }
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// What an evaluated round came to.
pub(super) fn reached(row: &RoundRow) -> Option<String> {
    let loss = row.heldout_loss?;
    if !loss.is_finite() {
        return Some("diverged".to_owned());
    }
    Some(match row.heldout_accuracy {
        Some(share) => format!("{:.1} % right, {loss:.4} nats/example", 100.0 * share),
        None => format!("{loss:.4} nats/token"),
    })
}

/// What a log says of a repetition.
fn ended(method: &str, seed: u64, repetition: &Repetition, of: usize) -> String {
    let rows = &repetition.rows;
    let reached = rows.iter().rev().find_map(reached).unwrap_or_default();
    let wall_s: f64 = rows.iter().map(|row| row.wall_s).sum();
    let rounds = rows.len().saturating_sub(1);
    format!(
        "{method} seed {seed}: {reached} after {rounds} rounds in {wall_s:.1} s \
         (one of {of})"
    )
}
