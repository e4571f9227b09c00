//! Whether a device may work now: the app answers, and the client waits.
//!
//! ```
//! use gossamer_client::client::gate::{All, Condition, Gate, Window};
//! # fn plugged_in() -> bool { true }
//! # fn on_wifi() -> bool { true }
//!
//! let gate = All::of([
//!     Box::new(Condition::charging(plugged_in)) as Box<dyn Gate>,
//!     Box::new(Condition::unmetered(on_wifi)),
//!     // From ten in the evening to six, two hours ahead of UTC.
//!     Box::new(Window::new(22 * 60, 6 * 60, 120)?),
//! ]);
//! # Ok::<(), gossamer_client::client::gate::BadWindow>(())
//! ```

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a closed gate is left alone where it does not say.
const AGAIN: Duration = Duration::from_secs(30);
/// The longest time without asking: clocks and time zones are set.
const AGAIN_MAX: Duration = Duration::from_secs(600);
const MINUTES_A_DAY: u16 = 24 * 60;

/// What a device lacks to work.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Need {
    /// It is not charging.
    Charging,
    /// Its network is metered, or there is none.
    Unmetered,
    /// Somebody uses it.
    Idle,
    /// It is too warm.
    Cool,
    /// It is not the time of the day.
    Hours,
    /// The app's own, in its words.
    Other(String),
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Charging => "the device is not charging",
            Self::Unmetered => "the network is metered",
            Self::Idle => "the device is in use",
            Self::Cool => "the device is too warm",
            Self::Hours => "it is not the time of the day",
            Self::Other(text) => text,
        })
    }
}

/// Asked before each round, between any two steps and before an upload, on whatever thread; so it should
/// answer within microseconds, from what the app already knows.
///
/// While it is closed nothing is trained or sent: what was trained is kept, its memory given back.
pub trait Gate: Send + Sync {
    /// What is lacking at `now`; `None`: nothing, the gate is open.
    fn lacks(&self, now: SystemTime) -> Option<Need>;

    /// How long a closed gate is not asked again; 30 s where it does not say.
    fn again(&self, now: SystemTime) -> Duration {
        let _ = now;
        AGAIN
    }
}

/// Always open.
#[derive(Clone, Copy, Debug, Default)]
pub struct Open;

impl Gate for Open {
    fn lacks(&self, _: SystemTime) -> Option<Need> {
        None
    }
}

/// Open while the app's answer is yes.
#[derive(Clone, Debug)]
pub struct Condition<F> {
    need: Need,
    holds: F,
}

impl<F: Fn() -> bool + Send + Sync> Condition<F> {
    /// While the device charges.
    pub fn charging(holds: F) -> Self {
        Self { need: Need::Charging, holds }
    }

    /// While its network costs nothing.
    pub fn unmetered(holds: F) -> Self {
        Self { need: Need::Unmetered, holds }
    }

    /// While nobody uses it.
    pub fn idle(holds: F) -> Self {
        Self { need: Need::Idle, holds }
    }

    /// While it is not too warm.
    pub fn cool(holds: F) -> Self {
        Self { need: Need::Cool, holds }
    }

    /// While something else holds; `lacking` says what is told where it does not.
    pub fn other(lacking: impl Into<String>, holds: F) -> Self {
        Self { need: Need::Other(lacking.into()), holds }
    }
}

impl<F: Fn() -> bool + Send + Sync> Gate for Condition<F> {
    fn lacks(&self, _: SystemTime) -> Option<Need> {
        (!(self.holds)()).then(|| self.need.clone())
    }
}

/// Open while all are; the first that is closed is the one that is told.
#[derive(Default)]
pub struct All(Vec<Box<dyn Gate>>);

impl All {
    /// All of `gates`.
    pub fn of(gates: impl IntoIterator<Item = Box<dyn Gate>>) -> Self {
        Self(gates.into_iter().collect())
    }
}

impl Gate for All {
    fn lacks(&self, now: SystemTime) -> Option<Need> {
        self.0.iter().find_map(|gate| gate.lacks(now))
    }

    /// As long as the most patient of the closed ones.
    fn again(&self, now: SystemTime) -> Duration {
        let closed = self.0.iter().filter(|gate| gate.lacks(now).is_some());
        closed.map(|gate| gate.again(now)).max().unwrap_or(AGAIN)
    }
}

/// Hours that are no part of a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "from minute {from} to {to} of the day, {offset_min} minutes ahead of UTC, is no time of the day"
)]
pub struct BadWindow {
    /// Opening.
    pub from: u16,
    /// Closing.
    pub to: u16,
    /// The clock's.
    pub offset_min: i16,
}

/// Open during a part of each day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    from: u16,
    to: u16,
    offset_min: i16,
}

impl Window {
    /// From minute `from` of the day up to minute `to`, which may be the next day's, on a clock
    /// `offset_min` minutes ahead of UTC (negative: behind).
    ///
    /// # Errors
    /// [`BadWindow`] where a minute is not in `0..1440`, both are one, or the offset is over 18 hours.
    pub fn new(from: u16, to: u16, offset_min: i16) -> Result<Self, BadWindow> {
        let bad =
            from.max(to) >= MINUTES_A_DAY || from == to || offset_min.unsigned_abs() > 18 * 60;
        if bad {
            Err(BadWindow { from, to, offset_min })
        } else {
            Ok(Self { from, to, offset_min })
        }
    }

    /// Second of the local day.
    fn second(self, now: SystemTime) -> u64 {
        let utc = match now.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_secs()).unwrap_or(0),
            // A clock that was never set.
            Err(_) => 0,
        };
        (utc + 60 * i64::from(self.offset_min)).rem_euclid(86_400) as u64
    }
}

impl Gate for Window {
    fn lacks(&self, now: SystemTime) -> Option<Need> {
        let minute = (self.second(now) / 60) as u16;
        let open = match self.from < self.to {
            true => (self.from..self.to).contains(&minute),
            false => minute >= self.from || minute < self.to,
        };
        (!open).then_some(Need::Hours)
    }

    /// Until it opens, at most ten minutes.
    fn again(&self, now: SystemTime) -> Duration {
        let until = (60 * u64::from(self.from) + 86_400 - self.second(now)) % 86_400;
        Duration::from_secs(until).min(AGAIN_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Thursday, at this second of its day.
    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(20_000 * 86_400 + second)
    }

    fn clock(hour: u64, minute: u64) -> SystemTime {
        at(3600 * hour + 60 * minute)
    }

    #[test]
    fn a_window_within_a_day() {
        let lunch = Window::new(12 * 60, 13 * 60 + 30, 0).expect("hours");
        assert_eq!(lunch.lacks(at(12 * 3600 - 1)), Some(Need::Hours));
        assert_eq!(lunch.lacks(clock(12, 0)), None);
        assert_eq!(lunch.lacks(at(13 * 3600 + 30 * 60 - 1)), None);
        assert_eq!(lunch.lacks(clock(13, 30)), Some(Need::Hours));
        assert_eq!(lunch.again(at(12 * 3600 - 40)), Duration::from_secs(40));
        assert_eq!(lunch.again(clock(14, 0)), AGAIN_MAX);
    }

    #[test]
    fn a_window_over_midnight_on_another_clock() {
        // 22 to 6 at UTC+2 is 20 to 4 UTC.
        let night = Window::new(22 * 60, 6 * 60, 120).expect("hours");
        for (hour, open) in [(19, false), (20, true), (23, true), (0, true), (3, true), (4, false)]
        {
            assert_eq!(night.lacks(clock(hour, 0)).is_none(), open, "{hour} UTC");
        }
        // The same night at UTC-5 is 3 to 11 UTC.
        let night = Window::new(22 * 60, 6 * 60, -300).expect("hours");
        for (hour, open) in [(2, false), (3, true), (10, true), (11, false)] {
            assert_eq!(night.lacks(clock(hour, 0)).is_none(), open, "{hour} UTC");
        }
        // A clock before 1970 is some time of the day too.
        assert_eq!(night.lacks(UNIX_EPOCH - Duration::from_secs(7)), Some(Need::Hours));
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for (from, to, offset_min) in [(0, 1440, 0), (1440, 0, 0), (60, 60, 0), (0, 1, 1081)] {
            let bad = Window::new(from, to, offset_min);
            assert_eq!(bad, Err(BadWindow { from, to, offset_min }));
        }
        assert!(Window::new(0, 1439, -1080).is_ok());
    }

    #[test]
    fn all_must_be_open_and_the_first_closed_is_told() {
        let gates = |charging: bool, cool: bool| {
            All::of([
                Box::new(Condition::charging(move || charging)) as Box<dyn Gate>,
                Box::new(Condition::cool(move || cool)),
            ])
        };
        assert_eq!(gates(true, true).lacks(at(0)), None);
        assert_eq!(gates(false, true).lacks(at(0)), Some(Need::Charging));
        assert_eq!(gates(true, false).lacks(at(0)), Some(Need::Cool));
        assert_eq!(gates(false, false).lacks(at(0)), Some(Need::Charging));
        assert_eq!(gates(false, true).again(at(0)), AGAIN);
        let own = Condition::other("a call is on", || false).lacks(at(0)).expect("closed");
        assert_eq!(own.to_string(), "a call is on");
    }
}
