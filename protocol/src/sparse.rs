//! Some entries of a flat vector of `n`: which ones, and their values.

/// Which coordinates travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// All of `0..n`.
    All,
    /// These, strictly rising and below `n`.
    Indices(Vec<u32>),
}

impl Support {
    /// Number of coordinates out of `n`.
    #[must_use]
    pub fn count(&self, n: usize) -> usize {
        match self {
            Self::All => n,
            Self::Indices(indices) => indices.len(),
        }
    }

    /// The coordinates, or `None` for all of them.
    #[must_use]
    pub fn indices(&self) -> Option<&[u32]> {
        match self {
            Self::All => None,
            Self::Indices(indices) => Some(indices),
        }
    }

    /// The coordinates that are in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::All, one) | (one, Self::All) => one.clone(),
            (Self::Indices(ours), Self::Indices(theirs)) => {
                let mut theirs = theirs.iter().peekable();
                let both = |index: &&u32| {
                    while theirs.next_if(|other| other < index).is_some() {}
                    theirs.next_if_eq(index).is_some()
                };
                Self::Indices(ours.iter().filter(both).copied().collect())
            }
        }
    }

    /// The entries of `dense` on this support, in order.
    #[must_use]
    pub fn gather(&self, dense: &[f32]) -> Vec<f32> {
        match self {
            Self::All => dense.to_vec(),
            Self::Indices(indices) => indices.iter().map(|&i| dense[i as usize]).collect(),
        }
    }
}

/// Values on a support of a vector of `n`; zero elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Sparse {
    n: usize,
    support: Support,
    values: Vec<f32>,
}

/// Parts that make no sparse vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SparseError {
    /// As many values as coordinates are needed.
    #[error("{values} values on a support of {support}")]
    Length {
        /// Values given.
        values: usize,
        /// Coordinates given.
        support: usize,
    },
    /// A coordinate that is not below `n`.
    #[error("index {index} is outside a vector of {n}")]
    Range {
        /// The coordinate.
        index: u32,
        /// The vector's length.
        n: usize,
    },
    /// A coordinate not above the one before it.
    #[error("index {index} follows {before}: indices must rise")]
    Order {
        /// The coordinate.
        index: u32,
        /// The one before.
        before: u32,
    },
}

impl Sparse {
    /// Puts `values` on `support` of a vector of `n`.
    ///
    /// # Errors
    /// [`SparseError`] where lengths disagree or indices do not rise below `n`.
    pub fn new(n: usize, support: Support, values: Vec<f32>) -> Result<Self, SparseError> {
        if values.len() != support.count(n) {
            return Err(SparseError::Length { values: values.len(), support: support.count(n) });
        }
        if let Support::Indices(indices) = &support {
            for pair in indices.windows(2) {
                if pair[1] <= pair[0] {
                    return Err(SparseError::Order { index: pair[1], before: pair[0] });
                }
            }
            if let Some(&index) = indices.last().filter(|&&last| last as usize >= n) {
                return Err(SparseError::Range { index, n });
            }
        }
        Ok(Self { n, support, values })
    }

    /// The entries of `dense` on `support`.
    ///
    /// # Errors
    /// [`SparseError`] where an index is not below `dense.len()`, or indices do not rise.
    pub fn gather(dense: &[f32], support: Support) -> Result<Self, SparseError> {
        if let Some(&index) =
            support.indices().and_then(|i| i.iter().find(|&&i| i as usize >= dense.len()))
        {
            return Err(SparseError::Range { index, n: dense.len() });
        }
        let values = support.gather(dense);
        Self::new(dense.len(), support, values)
    }

    /// The vector's length.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// Which coordinates have values.
    #[must_use]
    pub fn support(&self) -> &Support {
        &self.support
    }

    /// The values, in the support's order.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Each coordinate with its value.
    pub fn iter(&self) -> impl Iterator<Item = (usize, f32)> + '_ {
        self.values.iter().enumerate().map(|(rank, &value)| match &self.support {
            Support::All => (rank, value),
            Support::Indices(indices) => (indices[rank] as usize, value),
        })
    }

    /// Adds these entries to `dense`, shape `[n]`.
    pub fn add_to(&self, dense: &mut [f32]) {
        debug_assert_eq!(dense.len(), self.n);
        for (index, value) in self.iter() {
            dense[index] += value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_unsorted_twice_and_out_of_range() {
        let indices = |i: &[u32]| Support::Indices(i.to_vec());
        let new = |i: &[u32]| Sparse::new(4, indices(i), vec![1.0; i.len()]);
        assert_eq!(new(&[2, 1]), Err(SparseError::Order { index: 1, before: 2 }));
        assert_eq!(new(&[1, 1]), Err(SparseError::Order { index: 1, before: 1 }));
        assert_eq!(new(&[1, 4]), Err(SparseError::Range { index: 4, n: 4 }));
        assert_eq!(
            Sparse::new(4, Support::All, vec![0.0; 3]),
            Err(SparseError::Length { values: 3, support: 4 })
        );
        assert!(Sparse::gather(&[0.0; 4], indices(&[9])).is_err());
    }

    #[test]
    fn gathers_and_adds() {
        let sparse =
            Sparse::gather(&[1.0, 2.0, 3.0], Support::Indices(vec![0, 2])).expect("rising");
        let mut dense = [10.0; 3];
        sparse.add_to(&mut dense);
        assert_eq!(dense, [11.0, 10.0, 13.0]);
    }
}
