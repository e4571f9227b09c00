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
        self.add_scaled(update, weight, weight)
    }

    /// Adds `weight` times an update that counts as `of` updates: `weight / of` of it goes into the mean.
    /// `of` is [`WEIGHT_MAX`] at most, `weight` at most `of`.
    ///
    /// # Errors
    /// [`FoldError`]; then nothing changed.
    pub fn add_scaled(&mut self, update: &Sparse, weight: u32, of: u32) -> Result<(), FoldError> {
        let of = of.min(WEIGHT_MAX);
        let weight = weight.min(of);
        if update.n() != self.sums.len() {
            return Err(FoldError::Length { got: update.n(), expected: self.sums.len() });
        }
        // NaN fails the comparison too.
        let travels = |v: &f32| v.abs() <= VALUE_MAX;
        if let Some(&bad) = update.values().iter().find(|v| !travels(v)) {
            return Err(FoldError::Value(bad));
        }
        if self.updates + u64::from(of) > UPDATES_MAX {
            return Err(FoldError::Full);
        }
        self.updates += u64::from(of);
        match update.support().indices() {
            None => {
                for (sum, &value) in self.sums.iter_mut().zip(update.values()) {
                    *sum += i64::from(weight) * units(value);
                }
                for count in self.contributors.iter_mut().flatten() {
                    *count += of;
                }
            }
            Some(indices) => {
                let mut adding = Adding::new(self, i64::from(weight), of as i32);
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
        let mut adding = Adding::new(self, 1, 1);
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
        let mut back = Adding::new(self, -1, -1);
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
    /// How many contributors that counts as; [`WEIGHT_MAX`] at most, either way.
    counts: i32,
    /// Entries that wait, and how many.
    indices: [u32; PIECE],
    sums: [i64; PIECE],
    held: usize,
    /// The least coordinate that the next entry may have.
    next: u64,
    fault: Option<FoldError>,
}

impl<'a> Adding<'a> {
    fn new(fold: &'a mut Fold, times: i64, counts: i32) -> Self {
        let (indices, sums) = ([0; PIECE], [0; PIECE]);
        Self { fold, times, counts, indices, sums, held: 0, next: 0, fault: None }
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
            for &index in indices {
                let count = &mut contributors[index as usize];
                *count = count.wrapping_add_signed(self.counts);
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
mod tests;
