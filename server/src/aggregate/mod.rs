//! How one round's updates become one step of the adapter.
//!
//! - [`mean`]: the exact mean, by cohort or by contributors.

pub mod mean;

use gossamer_protocol::fold::FoldError;
use gossamer_protocol::problem::ProblemType;
use gossamer_protocol::sparse::Sparse;

pub use mean::Mean;

/// A rule that combines updates.
///
/// What it gives must not depend on the order of [`add`](Aggregator::add).
pub trait Aggregator: Send {
    /// Adds one update, trained on `examples` sequences; on `Err` nothing changed.
    ///
    /// # Errors
    /// [`AggregateError`] where the update does not fit.
    fn add(&mut self, update: &Sparse, examples: u32) -> Result<(), AggregateError>;

    /// What was added so far, as bytes for [`merge`](Aggregator::merge).
    fn partial(&self) -> Vec<u8>;

    /// Adds what another of the same rule and shape was given; on `Err` nothing changed.
    ///
    /// # Errors
    /// [`AggregateError`] where the bytes are not such.
    fn merge(&mut self, partial: &[u8]) -> Result<(), AggregateError>;

    /// The combined delta, shape `[n]`; `None` when nobody reported.
    fn finish(self: Box<Self>) -> Option<Vec<f32>>;
}

/// Why an update cannot be combined.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AggregateError {
    /// It does not fit the sum.
    #[error(transparent)]
    Fold(#[from] FoldError),
}

impl AggregateError {
    /// Its public name.
    #[must_use]
    pub fn problem(&self) -> ProblemType {
        match self {
            Self::Fold(FoldError::Length { .. }) => ProblemType::BadLayout,
            Self::Fold(FoldError::Value(_)) => ProblemType::BadValue,
            Self::Fold(_) => ProblemType::Internal,
        }
    }
}
