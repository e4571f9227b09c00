//! The mean delta: `(1 / m) sum_i delta_i`, exact, every client with the same weight.
//!
//! Source: FLASC, arXiv:2406.05233: uniform weights, no example counts. `m` is the number of updates
//! ([`Average::Cohort`]), or of the updates that sent the coordinate ([`Average::Contributors`]).

use gossamer_protocol::fold::Fold;
use gossamer_protocol::manifest::Average;
use gossamer_protocol::sparse::Sparse;

use super::{AggregateError, Aggregator};

/// A running mean in 64-bit fixed point.
#[derive(Clone, Debug)]
pub struct Mean(Fold);

impl Mean {
    /// The mean of no update yet, of `n` parameters.
    #[must_use]
    pub fn new(n: usize, average: Average) -> Self {
        Self(Fold::new(n, average))
    }
}

impl Aggregator for Mean {
    fn add(&mut self, update: &Sparse, _examples: u32) -> Result<(), AggregateError> {
        Ok(self.0.add(update)?)
    }

    fn partial(&self) -> Vec<u8> {
        self.0.to_bytes()
    }

    fn merge(&mut self, partial: &[u8]) -> Result<(), AggregateError> {
        Ok(self.0.merge(&Fold::from_bytes(partial)?)?)
    }

    fn finish(self: Box<Self>) -> Option<Vec<f32>> {
        self.0.mean()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gossamer_protocol::sparse::Support;

    #[test]
    fn example_counts_do_not_weigh() {
        let update = |value| Sparse::new(2, Support::Indices(vec![1]), vec![value]).expect("valid");
        let mut mean = Box::new(Mean::new(2, Average::Cohort));
        mean.add(&update(1.0), 1).expect("fits");
        mean.add(&update(3.0), 1_000_000).expect("fits");
        assert!(mean.add(&update(9.0), 1).is_err(), "over the limit");
        assert_eq!(mean.finish(), Some(vec![0.0, 2.0]));
    }
}
