//! The exact sum of updates: i64 fixed point, so that no order of arrival, thread, shard or replica
//! can change a bit.
//!
//! A value is rounded once to a multiple of 2^-30 (an `int8` value already is one) and added as an
//! integer; integer addition is associative and commutative, so partial sums merge exactly.
//! Headroom: magnitudes up to [`VALUE_MAX`] = 2^3 are 2^33 units, so weights of 2^30 stay below 2^63.

use crate::manifest::Average;
use crate::sparse::Sparse;

/// Largest magnitude an update may carry.
pub const VALUE_MAX: f32 = 8.0;
/// Most updates one fold takes, each as often as it weighs.
pub const UPDATES_MAX: u64 = 1 << 29;
/// Most that one update weighs: of 2^14 clients, the largest cohort, each may weigh as much.
pub const WEIGHT_MAX: u32 = 1 << 15;

/// Units per 1.0.
const UNITS: f64 = 1_073_741_824.0;
/// Bytes before the sums of a [`Fold::to_bytes`].
const HEADER: usize = 16;
/// Entries added at once.
const PIECE: usize = 256;

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
    /// A coordinate that is not above the one before it, or not below the length.
    #[error("update entry {0} is out of order or range")]
    Index(u32),
    /// More than [`UPDATES_MAX`] updates.
    #[error("the fold is full")]
    Full,
    /// Bytes that [`Fold::to_bytes`] did not write.
    #[error("the bytes are no partial sum")]
    Bytes,
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
    /// Each as often as it weighs.
    updates: u64,
}

impl Fold {
    /// The sum of no update, of `n` parameters.
    #[must_use]
    pub fn new(n: usize, average: Average) -> Self {
        let contributors = match average {
            Average::Cohort | Average::Examples => None,
            Average::Contributors => Some(vec![0; n]),
        };
        Self { sums: vec![0; n], contributors, updates: 0 }
    }

    /// Adds one update.
    ///
    /// # Errors
    /// [`FoldError`]; then nothing changed.
    pub fn add(&mut self, update: &Sparse) -> Result<(), FoldError> {
        self.add_weighted(update, 1)
    }

    /// Adds one update as often as `weight` says, [`WEIGHT_MAX`] times at most.
    ///
    /// # Errors
    /// [`FoldError`]; then nothing changed.
    pub fn add_weighted(&mut self, update: &Sparse, weight: u32) -> Result<(), FoldError> {
        let weight = weight.min(WEIGHT_MAX);
        if update.n() != self.sums.len() {
            return Err(FoldError::Length { got: update.n(), expected: self.sums.len() });
        }
        // NaN fails the comparison too.
        let travels = |v: &f32| v.abs() <= VALUE_MAX;
        if let Some(&bad) = update.values().iter().find(|v| !travels(v)) {
            return Err(FoldError::Value(bad));
        }
        if self.updates + u64::from(weight) > UPDATES_MAX {
            return Err(FoldError::Full);
        }
        self.updates += u64::from(weight);
        match update.support().indices() {
            None => {
                for (sum, &value) in self.sums.iter_mut().zip(update.values()) {
                    *sum += i64::from(weight) * units(value);
                }
                for count in self.contributors.iter_mut().flatten() {
                    *count += weight;
                }
            }
            Some(indices) => {
                let mut adding = Adding::new(self, i64::from(weight));
                for (&index, &value) in indices.iter().zip(update.values()) {
                    adding.entry(index, value);
                }
                adding.flush();
            }
        }
        Ok(())
    }

    /// Adds one update as it is decoded: `visit` gives its entries to an [`Adding`], so that the update
    /// is never in memory as a whole.
    ///
    /// # Errors
    /// What `visit` returns, or [`FoldError`]; then nothing changed. For that `visit` is called once more
    /// and must give the same entries, which are taken back.
    pub fn add_entries<T, E: From<FoldError>>(
        &mut self,
        mut visit: impl FnMut(&mut Adding<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        if self.updates == UPDATES_MAX {
            return Err(FoldError::Full.into());
        }
        let mut adding = Adding::new(self, 1);
        let said = visit(&mut adding);
        adding.flush();
        let failure = match (said, adding.fault) {
            (Ok(said), None) => {
                self.updates += 1;
                return Ok(said);
            }
            (_, Some(fault)) => fault.into(),
            (Err(error), None) => error,
        };
        let mut back = Adding::new(self, -1);
        // It fails as it did before.
        let _ = visit(&mut back);
        back.flush();
        Err(failure)
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

    /// Its bytes, for whoever merges it, little-endian:
    ///
    /// ```text
    /// updates u64 | n u32 | counted u32: 0 or 1 | sums i64 x n | contributors u32 x n, where counted
    /// ```
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let n = self.sums.len();
        let mut out =
            Vec::with_capacity(HEADER + n * if self.contributors.is_some() { 12 } else { 8 });
        out.extend(self.updates.to_le_bytes());
        // A layout has 2^28 parameters at most.
        out.extend((n as u32).to_le_bytes());
        out.extend(u32::from(self.contributors.is_some()).to_le_bytes());
        out.extend(self.sums.iter().flat_map(|sum| sum.to_le_bytes()));
        out.extend(self.contributors.iter().flatten().flat_map(|count| count.to_le_bytes()));
        out
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// [`FoldError::Bytes`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FoldError> {
        let (head, rest) = bytes.split_first_chunk::<HEADER>().ok_or(FoldError::Bytes)?;
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| head[at + i]));
        let updates = u64::from(word(0)) | u64::from(word(4)) << 32;
        let n = word(8) as usize;
        let counted = match word(12) {
            0 => false,
            1 => true,
            _ => return Err(FoldError::Bytes),
        };
        if rest.len() != n * if counted { 12 } else { 8 } || updates > UPDATES_MAX {
            return Err(FoldError::Bytes);
        }
        let (sums, counts) = rest.split_at(8 * n);
        let sums = sums.as_chunks::<8>().0.iter().map(|sum| i64::from_le_bytes(*sum)).collect();
        let counts = || counts.as_chunks::<4>().0.iter().map(|count| u32::from_le_bytes(*count));
        Ok(Self { sums, contributors: counted.then(|| counts().collect()), updates })
    }

    /// The sum as numbers, for whoever adds them place by place to those of folds of the same shape:
    /// `updates | sums [n] | contributors [n], where counted`.
    #[must_use]
    pub fn to_words(&self) -> Vec<i64> {
        let counts = self.contributors.iter().flatten().map(|&count| i64::from(count));
        // At most `UPDATES_MAX`.
        let updates = std::iter::once(self.updates as i64);
        updates.chain(self.sums.iter().copied()).chain(counts).collect()
    }

    /// Takes such a sum in place of its own.
    ///
    /// # Errors
    /// [`FoldError::Bytes`] where it is not of this shape, [`FoldError::Full`] where it is of too many updates; then
    /// nothing changed.
    pub fn set_words(&mut self, words: &[i64]) -> Result<(), FoldError> {
        let n = self.sums.len();
        let (&updates, rest) = words.split_first().ok_or(FoldError::Bytes)?;
        let updates = u64::try_from(updates).map_err(|_| FoldError::Bytes)?;
        if updates > UPDATES_MAX {
            return Err(FoldError::Full);
        }
        if rest.len() != if self.contributors.is_some() { 2 * n } else { n } {
            return Err(FoldError::Bytes);
        }
        let (sums, counts) = rest.split_at(n);
        let counts: Result<Vec<u32>, _> = counts.iter().map(|&count| count.try_into()).collect();
        let counts = counts.map_err(|_| FoldError::Bytes)?;
        if let Some(contributors) = &mut self.contributors {
            *contributors = counts;
        }
        self.sums.copy_from_slice(sums);
        self.updates = updates;
        Ok(())
    }

    /// Updates added so far, each as often as it weighs.
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

/// Takes the entries of one update.
pub struct Adding<'a> {
    fold: &'a mut Fold,
    /// How often an entry is added; -1 where it is taken back.
    times: i64,
    /// Entries that wait, and how many.
    indices: [u32; PIECE],
    sums: [i64; PIECE],
    held: usize,
    /// The least coordinate that the next entry may have.
    next: u64,
    fault: Option<FoldError>,
}

impl<'a> Adding<'a> {
    fn new(fold: &'a mut Fold, times: i64) -> Self {
        let (indices, sums) = ([0; PIECE], [0; PIECE]);
        Self { fold, times, indices, sums, held: 0, next: 0, fault: None }
    }

    /// Adds `value` at `index`; coordinates rise. What does not fit makes the whole update fail.
    #[inline]
    pub fn entry(&mut self, index: u32, value: f32) {
        // NaN fails the comparison too.
        let travels = value.abs() <= VALUE_MAX;
        let follows = u64::from(index) >= self.next && (index as usize) < self.fold.sums.len();
        if !(travels && follows) {
            let fault = if travels { FoldError::Index(index) } else { FoldError::Value(value) };
            self.fault = self.fault.or(Some(fault));
            return;
        }
        self.next = u64::from(index) + 1;
        self.indices[self.held] = index;
        self.sums[self.held] = self.times * units(value);
        self.held += 1;
        if self.held == PIECE {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let held = std::mem::take(&mut self.held);
        let (indices, waiting) = (&self.indices[..held], &mut self.sums[..held]);
        let sums = &mut self.fold.sums;
        // All are read before one is written: so memory is asked for many at once, which takes less time.
        for (sum, &index) in waiting.iter_mut().zip(indices) {
            *sum += sums[index as usize];
        }
        for (&sum, &index) in waiting.iter().zip(indices) {
            sums[index as usize] = sum;
        }
        if let Some(contributors) = &mut self.fold.contributors {
            // At most `WEIGHT_MAX` either way.
            let times = self.times as i32;
            for &index in indices {
                let count = &mut contributors[index as usize];
                *count = count.wrapping_add_signed(times);
            }
        }
    }
}

/// `value` in units of 2^-30, ties to even. The product is exact in f64, and at most 2^33.
#[inline]
fn units(value: f32) -> i64 {
    // Between 2^52 and 2^53 an f64 has no fraction, so the sum is rounded, and its low bits are the
    // integer.
    const WHOLE: f64 = 6_755_399_441_055_744.0;
    (f64::from(value) * UNITS + WHOLE).to_bits() as i64 - WHOLE.to_bits() as i64
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

    /// `(2 * 1 + 3 * 2) / 5` and `3 * 1 / 5`, dense or not.
    #[test]
    fn a_weight_is_so_many_updates() {
        let mut fold = Fold::new(2, Average::Examples);
        fold.add_weighted(&sparse(2, &[(0, 1.0)]), 2).expect("fits");
        let dense = Sparse::new(2, Support::All, vec![2.0, 1.0]).expect("valid");
        fold.add_weighted(&dense, 3).expect("fits");
        assert_eq!(fold.mean(), Some(vec![1.6, 0.6]));
        fold.add_weighted(&dense, u32::MAX).expect("no more than the most");
        assert_eq!(fold.updates(), 5 + u64::from(WEIGHT_MAX));
    }

    #[test]
    fn bytes_are_as_documented_and_come_back() {
        let mut fold = Fold::new(2, Average::Contributors);
        fold.add(&sparse(2, &[(1, -0.5)])).expect("fits");
        let bytes = fold.to_bytes();
        // One update, two parameters, counted; 0 and -2^29; nobody and one.
        let head = [[1, 0, 0, 0], [0, 0, 0, 0], [2, 0, 0, 0], [1, 0, 0, 0]].concat();
        let sums = [[0; 8], [0, 0, 0, 0xE0, 0xFF, 0xFF, 0xFF, 0xFF]].concat();
        assert_eq!(bytes, [head, sums, [[0, 0, 0, 0], [1, 0, 0, 0]].concat()].concat());
        for fold in [fold, Fold::new(3, Average::Cohort)] {
            let bytes = fold.to_bytes();
            assert_eq!(Fold::from_bytes(&bytes), Ok(fold));
            for cut in 0..bytes.len() {
                assert_eq!(Fold::from_bytes(&bytes[..cut]), Err(FoldError::Bytes), "{cut}");
            }
            assert_eq!(Fold::from_bytes(&[&bytes[..], &[0]].concat()), Err(FoldError::Bytes));
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

    #[test]
    fn units_are_rounded_to_even() {
        let unit = 1.0 / 1_073_741_824.0_f32;
        for (value, expected) in [
            (0.0, 0),
            (-0.0, 0),
            (0.5 * unit, 0),
            (1.5 * unit, 2),
            (-2.5 * unit, -2),
            (-3.5 * unit, -4),
            (0.75 * unit, 1),
            (f32::MIN_POSITIVE, 0),
            (1.0, 1 << 30),
            (-8.0, -(8 << 30)),
        ] {
            assert_eq!(units(value), expected, "{value}");
        }
    }

    /// Entries one by one are what they are together, whatever the number of pieces.
    #[test]
    fn entry_by_entry() {
        let n = 3 * PIECE;
        let mut rng = Stream::new(12, "entries", &[]);
        for average in [Average::Cohort, Average::Contributors] {
            let (mut whole, mut single) = (Fold::new(n, average), Fold::new(n, average));
            for count in [0, 1, PIECE, PIECE + 1, n] {
                let entries: Vec<(u32, f32)> =
                    (0..count as u32).map(|i| (i, rng.normal() as f32)).collect();
                whole.add(&sparse(n, &entries)).expect("fits");
                let said = single.add_entries(|adding| {
                    entries.iter().for_each(|&(index, value)| adding.entry(index, value));
                    Ok::<_, FoldError>(count)
                });
                assert_eq!(said, Ok(count));
                assert_eq!(single, whole);
            }
        }
    }

    /// Whatever is wrong, and wherever: the entries before it are taken back.
    #[test]
    fn a_failed_visit_changes_nothing() {
        let n = 2 * PIECE;
        for average in [Average::Cohort, Average::Contributors] {
            let mut fold = Fold::new(n, average);
            fold.add(&sparse(n, &[(0, 1.0), (7, -0.3)])).expect("fits");
            let before = fold.clone();
            for (bad, expected) in [
                ((n as u32, 1.0), FoldError::Index(n as u32)),
                ((u32::MAX, 1.0), FoldError::Index(u32::MAX)),
                ((3, 1.0), FoldError::Index(3)),
                ((400, 8.1), FoldError::Value(8.1)),
                ((400, f32::INFINITY), FoldError::Value(f32::INFINITY)),
            ] {
                let refused = fold.add_entries(|adding| {
                    (0..PIECE as u32 + 9).for_each(|index| adding.entry(index, 0.1));
                    adding.entry(bad.0, bad.1);
                    adding.entry(500, 0.1);
                    Ok::<_, FoldError>(())
                });
                assert_eq!(refused, Err(expected));
                assert_eq!(fold, before);
            }
            let refused: Result<(), FoldError> = fold.add_entries(|adding| {
                (0..PIECE as u32 + 9).for_each(|index| adding.entry(index, 0.1));
                Err(FoldError::Average) // stands for a decoder's error
            });
            assert_eq!(refused, Err(FoldError::Average));
            assert_eq!(fold, before);
        }
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
