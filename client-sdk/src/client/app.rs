//! What the app answers while a client works: its watcher and its gate. A panic of theirs is an error.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::gate::{Gate, Need};
use super::{ClientError, Event, Watch};
use crate::train::Control;
use crate::train::caught::caught;

/// The app's side.
#[derive(Clone)]
pub(super) struct App {
    pub(super) watch: Watch,
    pub(super) gate: Arc<dyn Gate>,
}

impl App {
    /// Tells the watcher.
    pub(super) fn hear(&self, event: &Event<'_>) -> Result<Control, ClientError> {
        caught(|| (self.watch)(event)).map_err(panicked("the watcher"))
    }

    /// What is lacking now, and how long to wait.
    pub(super) fn closed(&self) -> Result<Option<(Need, Duration)>, ClientError> {
        let now = SystemTime::now();
        let ask = || self.gate.lacks(now).map(|need| (need, self.gate.again(now)));
        caught(ask).map_err(panicked("the gate"))
    }
}

fn panicked(what: &'static str) -> impl FnOnce(String) -> ClientError {
    move |message| ClientError::Panicked { what, message }
}

/// When a round is over; `None`: later than a clock counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    /// In so many milliseconds.
    pub(super) fn after(ms: u64) -> Self {
        Self(Instant::now().checked_add(Duration::from_millis(ms)))
    }

    /// The time left; `None` where there is none.
    pub(super) fn left(self) -> Option<Duration> {
        let Some(end) = self.0 else { return Some(Duration::MAX) };
        let left = end.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }
}
