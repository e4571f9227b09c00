//! The mean delta: `sum_i w_i delta_i / m`, exact.
//!
//! Every client weighs the same, and `m` is the number of updates ([`Average::Cohort`]; source: FLASC,
//! arXiv:2406.05233) or of the updates that sent the coordinate ([`Average::Contributors`]). Or each weighs
//! as much as it has examples, and `m` is their number ([`Average::Examples`]; source: FedAvg,
//! arXiv:1602.05629).

use gossamer_protocol::fold::{Fold, WEIGHT_MAX};
use gossamer_protocol::ids::ClientId;
use gossamer_protocol::manifest::Average;
use gossamer_protocol::sparse::Sparse;

use super::{AggregateError, Aggregator};

/// A running mean in 64-bit fixed point.
#[derive(Clone, Debug)]
pub struct Mean {
    fold: Fold,
    by_examples: bool,
}

impl Mean {
    /// The mean of no update yet, of `n` parameters.
    #[must_use]
    pub fn new(n: usize, average: Average) -> Self {
        Self { fold: Fold::new(n, average), by_examples: average == Average::Examples }
    }
}

impl Aggregator for Mean {
    fn add(&mut self, _: ClientId, update: &Sparse, examples: u32) -> Result<(), AggregateError> {
        let weight = if self.by_examples { examples.clamp(1, WEIGHT_MAX) } else { 1 };
        Ok(self.fold.add_weighted(update, weight)?)
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

    #[test]
    fn examples_weigh_only_where_asked() {
        let update = |value| Sparse::new(2, Support::Indices(vec![1]), vec![value]).expect("valid");
        for (average, expected) in [(Average::Cohort, 2.0), (Average::Examples, 2.5)] {
            let mut mean = Box::new(Mean::new(2, average));
            mean.add(CLIENT, &update(1.0), 10).expect("fits");
            mean.add(CLIENT, &update(3.0), 30).expect("fits");
            assert!(mean.add(CLIENT, &update(9.0), 1).is_err(), "over the limit");
            assert_eq!(mean.finish(), Some(vec![0.0, expected]));
        }
    }
}
