//! Share of entries that travel.

use serde::{Deserialize, Serialize};

/// Share of entries that are sent, in `(0, 1]`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Density(f64);

/// A share outside `(0, 1]`.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("density must be in (0, 1], got {0}")]
pub struct BadDensity(pub f64);

impl Density {
    /// Everything travels.
    pub const FULL: Self = Self(1.0);

    /// `k = max(1, round(density * n))`, and 0 only where there is nothing to keep.
    ///
    /// FLASC's code rounds down, which can keep nothing.
    #[must_use]
    pub fn count(self, n: usize) -> usize {
        // Exact for every n below 2^53; the product of a share <= 1 cannot exceed n.
        let k = (self.0 * n as f64).round() as usize;
        k.max(1).min(n)
    }

    /// Whether every entry travels.
    #[must_use]
    pub fn is_full(self) -> bool {
        self.0 == 1.0
    }
}

impl TryFrom<f64> for Density {
    type Error = BadDensity;

    fn try_from(share: f64) -> Result<Self, BadDensity> {
        // NaN fails the comparison too.
        if 0.0 < share && share <= 1.0 { Ok(Self(share)) } else { Err(BadDensity(share)) }
    }
}

impl From<Density> for f64 {
    fn from(density: Density) -> Self {
        density.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_share() {
        for bad in [0.0, -0.1, 1.000_001, f64::NAN, f64::INFINITY] {
            assert!(Density::try_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keeps_at_least_one() {
        let d = Density::try_from(1.0 / 64.0).unwrap_or(Density::FULL);
        assert_eq!(d.count(10), 1);
        assert_eq!(d.count(0), 0);
        assert_eq!(d.count(96), 2); // 1.5 rounds away from zero
        assert_eq!(Density::FULL.count(7), 7);
    }
}
