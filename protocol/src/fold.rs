//! The exact sum of updates: i64 fixed point, so that no order of arrival, thread, shard or replica
//! can change a bit.
//!
//! A value is rounded once to a multiple of 2^-30 (an `int8` value already is one) and added as an
//! integer; integer addition is associative and commutative, so partial sums merge exactly.
//! Headroom: magnitudes up to [`VALUE_MAX`] = 2^3 are 2^33 units, so 2^30 updates stay below 2^63.

use crate::manifest::Average;
use crate::sparse::Sparse;

/// Largest magnitude an update may carry.
pub const VALUE_MAX: f32 = 8.0;
/// Most updates one fold takes.
pub const UPDATES_MAX: u64 = 1 << 29;

/// Units per 1.0.
const UNITS: f64 = 1_073_741_824.0;

/// Why an update cannot be added; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FoldError {
    /// Another vector length.
    #[error("update of {got} parameters, the fold has {expected}")]
    Length {
        /// The update's length.
        got: usize,
        /// The fold's length.
        expected: usize,
    },
    /// A value that is not finite or over [`VALUE_MAX`].
    #[error("update value {0} is over the limit of {VALUE_MAX}")]
    Value(f32),
    /// More than [`UPDATES_MAX`] updates.
    #[error("the fold is full")]
    Full,
    /// Folds of different averages.
    #[error("one fold counts contributors, the other does not")]
    Average,
}

/// A running exact sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fold {
    sums: Vec<i64>,
    /// Contributors of each coordinate, where the average wants them.
    contributors: Option<Vec<u32>>,
    updates: u64,
}

impl Fold {
    /// The sum of no update, of `n` parameters.
    #[must_use]
    pub fn new(n: usize, average: Average) -> Self {
        let contributors = match average {
            Average::Cohort => None,
            Average::Contributors => Some(vec![0; n]),
        };
        Self { sums: vec![0; n], contributors, updates: 0 }
    }

    /// Adds one update.
    ///
    /// # Errors
    /// [`FoldError`]; then nothing changed.
    pub fn add(&mut self, update: &Sparse) -> Result<(), FoldError> {
        if update.n() != self.sums.len() {
            return Err(FoldError::Length { got: update.n(), expected: self.sums.len() });
        }
        // NaN fails the comparison too.
        let travels = |v: &f32| v.abs() <= VALUE_MAX;
        if let Some(&bad) = update.values().iter().find(|v| !travels(v)) {
            return Err(FoldError::Value(bad));
        }
        if self.updates == UPDATES_MAX {
            return Err(FoldError::Full);
        }
        self.updates += 1;
        match update.support().indices() {
            None => {
                for (sum, &value) in self.sums.iter_mut().zip(update.values()) {
                    *sum += units(value);
                }
            }
            Some(indices) => {
                for (&index, &value) in indices.iter().zip(update.values()) {
                    self.sums[index as usize] += units(value);
                }
            }
        }
        if let Some(contributors) = &mut self.contributors {
            for (index, _) in update.iter() {
                contributors[index] += 1;
            }
        }
        Ok(())
    }

    /// Adds another partial sum.
    ///
    /// # Errors
    /// [`FoldError`]; then nothing changed.
    pub fn merge(&mut self, other: &Self) -> Result<(), FoldError> {
        if other.sums.len() != self.sums.len() {
            return Err(FoldError::Length { got: other.sums.len(), expected: self.sums.len() });
        }
        if other.contributors.is_some() != self.contributors.is_some() {
            return Err(FoldError::Average);
        }
        if self.updates + other.updates > UPDATES_MAX {
            return Err(FoldError::Full);
        }
        self.updates += other.updates;
        for (sum, part) in self.sums.iter_mut().zip(&other.sums) {
            *sum += part;
        }
        if let (Some(ours), Some(theirs)) = (&mut self.contributors, &other.contributors) {
            for (count, part) in ours.iter_mut().zip(theirs) {
                *count += part;
            }
        }
        Ok(())
    }

    /// Updates added so far.
    #[must_use]
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// The mean update, shape `[n]`; `None` when nobody reported. One rounding a coordinate.
    #[must_use]
    pub fn mean(&self) -> Option<Vec<f32>> {
        if self.updates == 0 {
            return None;
        }
        let mean = |sum: i64, count: u64| (sum as f64 / (UNITS * count as f64)) as f32;
        Some(match &self.contributors {
            None => self.sums.iter().map(|&sum| mean(sum, self.updates)).collect(),
            Some(counts) => self
                .sums
                .iter()
                .zip(counts)
                // Nobody sent it: its sum is 0, and so is its mean.
                .map(|(&sum, &count)| mean(sum, u64::from(count.max(1))))
                .collect(),
        })
    }
}

/// `value` in units of 2^-30, ties to even. The product is exact in f64.
fn units(value: f32) -> i64 {
    (f64::from(value) * UNITS).round_ties_even() as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;
    use crate::sparse::Support;

    fn sparse(n: usize, entries: &[(u32, f32)]) -> Sparse {
        let indices = entries.iter().map(|e| e.0).collect();
        Sparse::new(n, Support::Indices(indices), entries.iter().map(|e| e.1).collect())
            .expect("rising")
    }

    #[test]
    fn mean_by_cohort_and_by_contributors() {
        for (average, expected) in
            [(Average::Cohort, [1.5, 0.5, 0.0]), (Average::Contributors, [1.5, 1.0, 0.0])]
        {
            let mut fold = Fold::new(3, average);
            assert_eq!(fold.mean(), None);
            fold.add(&sparse(3, &[(0, 1.0), (1, 1.0)])).expect("fits");
            fold.add(&sparse(3, &[(0, 2.0)])).expect("fits");
            assert_eq!(fold.mean(), Some(expected.to_vec()));
        }
    }

    #[test]
    fn a_refused_update_changes_nothing() {
        let mut fold = Fold::new(2, Average::Cohort);
        let before = fold.clone();
        assert!(fold.add(&sparse(3, &[(0, 1.0)])).is_err());
        for bad in [f32::NAN, f32::INFINITY, -8.1] {
            assert!(fold.add(&sparse(2, &[(0, 1.0), (1, bad)])).is_err());
        }
        assert!(fold.merge(&Fold::new(2, Average::Contributors)).is_err());
        assert_eq!(fold, before);
    }

    /// A thousand random orders and splits of the same updates give one sum, bit for bit.
    #[test]
    fn a_thousand_orders_and_splits_one_sum() {
        let n = 500;
        let mut rng = Stream::new(11, "orders", &[]);
        let updates: Vec<Sparse> = (0..40)
            .map(|_| {
                let entries: Vec<(u32, f32)> = (0..n as u32)
                    .filter(|_| rng.below(4) == 0)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .map(|i| (i, (rng.normal() * 0.01) as f32))
                    .collect();
                sparse(n, &entries)
            })
            .collect();
        for average in [Average::Cohort, Average::Contributors] {
            let mut reference = Fold::new(n, average);
            for update in &updates {
                reference.add(update).expect("fits");
            }
            let bits: Vec<u32> =
                reference.mean().expect("some").iter().map(|v| v.to_bits()).collect();
            for _ in 0..1_000 {
                let mut order: Vec<&Sparse> = updates.iter().collect();
                rng.shuffle(&mut order);
                let mut parts = vec![Fold::new(n, average); 1 + rng.below(8) as usize];
                for update in order {
                    let part = rng.below(parts.len() as u64) as usize;
                    parts[part].add(update).expect("fits");
                }
                rng.shuffle(&mut parts);
                let mut whole = Fold::new(n, average);
                for part in &parts {
                    whole.merge(part).expect("fits");
                }
                let got: Vec<u32> =
                    whole.mean().expect("some").iter().map(|v| v.to_bits()).collect();
                assert_eq!(got, bits);
            }
        }
    }
}
