//! How often a training is saved for the case that the process is killed.

use std::num::NonZeroU32;
use std::time::Duration;

/// A save may take at most this part of the time: one fiftieth.
const SHARE: u32 = 50;

/// When a training is saved to the state folder, between two steps. Where it pauses or is stopped it is
/// saved in any case; without a folder only where it pauses, in memory.
///
/// A save writes 12 bytes a trained entry (AdamW; 8 with SGD) and waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Saving {
    /// Only where it pauses or is stopped.
    Never,
    /// After so many steps, whatever it costs.
    Steps(NonZeroU32),
    /// After so long, and never so often that saving takes more than a fiftieth of the time.
    Every(Duration),
}

impl Default for Saving {
    /// Every 20 s.
    fn default() -> Self {
        Self::Every(Duration::from_secs(20))
    }
}

/// Saves by one [`Saving`]; time is passed in, from any start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    saving: Saving,
    /// The end of the last save, or the start.
    last: Duration,
    /// What the last one took.
    took: Duration,
    steps: u32,
}

impl Pace {
    pub(super) fn new(saving: Saving, now: Duration) -> Self {
        Self { saving, last: now, took: Duration::ZERO, steps: 0 }
    }

    /// Whether to save behind the step that ends at `now`.
    pub(super) fn step(&mut self, now: Duration) -> bool {
        self.steps = self.steps.saturating_add(1);
        match self.saving {
            Saving::Never => false,
            Saving::Steps(steps) => self.steps >= steps.get(),
            Saving::Every(wait) => {
                now.saturating_sub(self.last) >= wait.max(self.took.saturating_mul(SHARE))
            }
        }
    }

    /// A save began and ended.
    pub(super) fn saved(&mut self, began: Duration, now: Duration) {
        self.took = now.saturating_sub(began);
        self.last = now;
        self.steps = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The milliseconds at which saves began, of steps of 10 ms until 10 s and saves of `took`.
    fn saves(saving: Saving, took: Duration) -> Vec<u128> {
        let (mut now, mut at) = (5 * MS, Vec::new());
        let mut pace = Pace::new(saving, now);
        while now < 10_000 * MS {
            now += 10 * MS;
            if pace.step(now) {
                at.push(now.as_millis());
                pace.saved(now, now + took);
                now += took;
            }
        }
        at
    }

    #[test]
    fn by_steps_and_never() {
        let three = NonZeroU32::new(3).expect("not 0");
        assert_eq!(saves(Saving::Steps(three), Duration::ZERO)[..3], [35, 65, 95]);
        assert!(saves(Saving::Never, Duration::ZERO).is_empty());
    }

    #[test]
    fn by_time_and_never_too_costly() {
        let second = Saving::Every(1_000 * MS);
        assert_eq!(saves(second, MS), [1005, 2006, 3007, 4008, 5009, 6010, 7011, 8012, 9013]);
        // 60 ms each: not before 3 s more.
        assert_eq!(saves(second, 60 * MS), [1005, 4065, 7125]);
        let spent = 60.0 * saves(Saving::Every(Duration::ZERO), 60 * MS).len() as f64;
        assert!(spent / 10_000.0 <= 0.025, "{spent} ms of 10 s");
    }
}
