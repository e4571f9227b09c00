//! The mean delta: `sum_i w_i delta_i / m`, exact.
//!
//! Every client weighs the same, and `m` is the number of updates ([`Average::Cohort`]; source: FLASC,
//! arXiv:2406.05233) or of the updates that sent the coordinate ([`Average::Contributors`]). Or each weighs
//! as much as it has examples, and `m` is their number ([`Average::Examples`]; source: FedAvg,
//! arXiv:1602.05629).
//!
//! In buffered rounds `w_i = 1 / sqrt(1 + s_i)` for an update made `s_i` rounds ago, and `m` still counts
//! updates: what is late moves less. Source: FedBuff, arXiv:2106.06639, algorithm 1 and its staleness scaling.

use gossamer_protocol::fold::{Fold, WEIGHT_MAX};
use gossamer_protocol::ids::ClientId;
use gossamer_protocol::manifest::Average;
use gossamer_protocol::sparse::Sparse;

use super::{AggregateError, Aggregator, Worth};

/// A running mean in 64-bit fixed point.
#[derive(Clone, Debug)]
pub struct Mean {
    fold: Fold,
    by: By,
}

/// What an update weighs by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Nothing,
    Examples,
    Staleness,
}

impl Mean {
    /// The mean of no update yet, of `n` parameters.
    #[must_use]
    pub fn new(n: usize, average: Average) -> Self {
        let by = if average == Average::Examples { By::Examples } else { By::Nothing };
        Self { fold: Fold::new(n, average), by }
    }

    /// The same in buffered rounds, by cohort or by contributors.
    #[must_use]
    pub fn buffered(n: usize, average: Average) -> Self {
        Self { fold: Fold::new(n, average), by: By::Staleness }
    }
}

/// `1 / sqrt(1 + staleness)` in units of 1 / [`WEIGHT_MAX`], to the nearest.
fn weight(staleness: u32) -> u32 {
    // IEEE 754 fixes both operations to the bit.
    (f64::from(WEIGHT_MAX) / (1.0 + f64::from(staleness)).sqrt()).round() as u32
}

impl Aggregator for Mean {
    fn add(&mut self, _: ClientId, update: &Sparse, worth: Worth) -> Result<(), AggregateError> {
        let (weight, of) = match self.by {
            By::Nothing => (1, 1),
            By::Examples => {
                let examples = worth.examples.clamp(1, WEIGHT_MAX);
                (examples, examples)
            }
            By::Staleness => (weight(worth.staleness), WEIGHT_MAX),
        };
        Ok(self.fold.add_scaled(update, weight, of)?)
    }

    fn partial(&self) -> Vec<u8> {
        self.fold.to_bytes()
    }

    fn merge(&mut self, partial: &[u8]) -> Result<(), AggregateError> {
        Ok(self.fold.merge(&Fold::from_bytes(partial)?)?)
    }

    fn words(&self) -> Option<Vec<i64>> {
        Some(self.fold.to_words())
    }

    fn set_words(&mut self, words: &[i64]) -> Result<(), AggregateError> {
        Ok(self.fold.set_words(words)?)
    }

    fn finish(self: Box<Self>) -> Option<Vec<f32>> {
        self.fold.mean()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gossamer_protocol::sparse::Support;

    const CLIENT: ClientId = ClientId([0; 16]);

    fn examples(examples: u32) -> Worth {
        Worth { examples, staleness: 0 }
    }

    /// `round(2^15 / sqrt(1 + s))`, by Python's `decimal`.
    #[test]
    fn what_is_late_weighs_less() {
        let expected =
            [(0, 32_768), (1, 23_170), (2, 18_919), (3, 16_384), (8, 10_923), (64, 4_064)];
        for (staleness, expected) in expected {
            assert_eq!(weight(staleness), expected, "{staleness}");
        }
        // Three rounds late counts half: (1 + 1/2 * 3) / 2.
        let update = |value| Sparse::new(1, Support::All, vec![value]).expect("valid");
        let worth = |staleness| Worth { examples: 7, staleness };
        for order in [[(1.0, 0), (3.0, 3)], [(3.0, 3), (1.0, 0)]] {
            let mut mean = Box::new(Mean::buffered(1, Average::Cohort));
            for (value, staleness) in order {
                mean.add(CLIENT, &update(value), worth(staleness)).expect("fits");
            }
            assert_eq!(mean.finish(), Some(vec![1.25]));
        }
    }

    #[test]
    fn examples_weigh_only_where_asked() {
        let update = |value| Sparse::new(2, Support::Indices(vec![1]), vec![value]).expect("valid");
        for (average, expected) in [(Average::Cohort, 2.0), (Average::Examples, 2.5)] {
            let mut mean = Box::new(Mean::new(2, average));
            mean.add(CLIENT, &update(1.0), examples(10)).expect("fits");
            mean.add(CLIENT, &update(3.0), examples(30)).expect("fits");
            assert!(mean.add(CLIENT, &update(9.0), examples(1)).is_err(), "over the limit");
            assert_eq!(mean.finish(), Some(vec![0.0, expected]));
        }
    }
}
