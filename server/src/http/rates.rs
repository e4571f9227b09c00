//! How often one caller may ask: a token bucket each.
//!
//! Kept as one instant a caller, when its bucket would be full again (the generic cell rate algorithm, ITU-T
//! I.371 annex A, which is the same bucket by another account). Callers whose bucket is full are forgotten.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use gossamer_protocol::problem::ProblemType;

use super::problem::Refusal;
use crate::config::Rate;

/// Callers remembered before any is looked at to be forgotten.
const FEW: usize = 1 << 10;

/// Where requests come from: an IPv4 address, or the 64 bits of an IPv6 address that a network has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source(u128);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            // As it would be mapped into IPv6, which no network's prefix is equal to.
            IpAddr::V4(address) => Self(address.to_ipv6_mapped().to_bits()),
            IpAddr::V6(address) => Self(address.to_bits() & !u128::from(u64::MAX)),
        }
    }
}

/// A bucket for each caller.
#[derive(Debug)]
pub(crate) struct Rates<K> {
    /// What one token takes to come back; `None`: nobody is limited.
    token: Option<Duration>,
    /// What a full bucket takes.
    full: Duration,
    buckets: Mutex<Buckets<K>>,
}

#[derive(Debug)]
struct Buckets<K> {
    full_at: HashMap<K, Instant>,
    /// How many there are before the full ones are forgotten.
    most: usize,
}

impl<K: Eq + Hash> Rates<K> {
    pub(crate) fn new(rate: Rate) -> Self {
        let token = (rate.a_second > 0.0).then(|| Duration::from_secs_f64(1.0 / rate.a_second));
        let full = token.unwrap_or_default().saturating_mul(rate.burst.max(1));
        Self { token, full, buckets: Mutex::new(Buckets { full_at: HashMap::new(), most: FEW }) }
    }

    /// Takes a token of `caller`'s, or refuses until there is one.
    pub(crate) fn take(&self, caller: K, whose: &str) -> Result<(), Refusal> {
        self.take_at(caller, Instant::now()).map_err(|wait| {
            let detail = format!("too many requests from one {whose}");
            Refusal::after(ProblemType::RateLimited, detail, wait)
        })
    }

    fn take_at(&self, caller: K, now: Instant) -> Result<(), Duration> {
        let Some(token) = self.token else { return Ok(()) };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.full_at.len() >= buckets.most {
            buckets.full_at.retain(|_, full_at| *full_at > now);
            buckets.most = (2 * buckets.full_at.len()).max(FEW);
        }
        let full_at = buckets.full_at.entry(caller).or_insert(now);
        let then = (*full_at).max(now) + token;
        match then.saturating_duration_since(now).checked_sub(self.full) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                *full_at = then;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10 a second, 3 at once.
    fn rates() -> Rates<u8> {
        Rates::new(Rate { a_second: 10.0, burst: 3 })
    }

    #[test]
    fn a_bucket_empties_and_fills_at_its_rate() {
        let (rates, start) = (rates(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for _ in 0..3 {
            assert_eq!(rates.take_at(1, at(0)), Ok(()));
        }
        assert_eq!(rates.take_at(1, at(0)), Err(Duration::from_millis(100)));
        assert_eq!(rates.take_at(1, at(60)), Err(Duration::from_millis(40)));
        // Another has its own, and being refused costs nothing.
        assert_eq!(rates.take_at(2, at(60)), Ok(()));
        assert_eq!(rates.take_at(1, at(100)), Ok(()));
        assert_eq!(rates.take_at(1, at(199)), Err(Duration::from_millis(1)));
        // It never holds more than three, however long nobody asked.
        for _ in 0..3 {
            assert_eq!(rates.take_at(1, at(60_000)), Ok(()));
        }
        assert!(rates.take_at(1, at(60_000)).is_err());
    }

    #[test]
    fn over_time_it_is_the_rate() {
        let (rates, start) = (rates(), Instant::now());
        let passed = (0..10_000)
            .filter(|ms| rates.take_at(1, start + Duration::from_millis(*ms)).is_ok())
            .count();
        // Three at once, and ten a second for ten seconds but for the last millisecond.
        assert_eq!(passed, 3 + 99);
    }

    #[test]
    fn who_does_not_ask_is_forgotten() {
        let rates = Rates::<u32>::new(Rate { a_second: 10.0, burst: 3 });
        let start = Instant::now();
        for caller in 0..10 * FEW as u32 {
            let now = start + Duration::from_millis(caller.into());
            rates.take_at(caller, now).expect("its first");
        }
        let left = rates.buckets.lock().expect("no panic").full_at.len();
        assert!(left <= FEW, "{left} remembered");
    }

    #[test]
    fn no_rate_is_no_limit() {
        let rates = Rates::new(Rate { a_second: 0.0, burst: 1 });
        assert!((0..1_000).all(|_| rates.take_at(1, Instant::now()).is_ok()));
    }

    #[test]
    fn a_network_is_one_source() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().expect("an address"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
        assert_ne!(source("10.0.0.2"), source("10.0.0.1"));
        assert_ne!(source("::1"), source("0.0.0.1"));
    }
}
