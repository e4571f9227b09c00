//! How one round's updates become one step of the adapter.
//!
//! - [`mean`]: the exact mean, by cohort, by contributors or by examples.
//! - `products`: rules that look at a linear's factors together; `dense`: the algebra they need.

mod dense;
pub mod mean;
mod products;

use gossamer_protocol::fold::FoldError;
use gossamer_protocol::frame::Snapshot;
use gossamer_protocol::ids::ClientId;
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::problem::ProblemType;
use gossamer_protocol::select::SelectError;
use gossamer_protocol::sparse::Sparse;

pub use mean::Mean;

/// A rule that combines updates.
///
/// What it gives must not depend on the order of [`add`](Aggregator::add).
pub trait Aggregator: Send {
    /// Adds `client`'s update, which is worth so much; on `Err` nothing changed.
    ///
    /// # Errors
    /// [`AggregateError`] where the update does not fit.
    fn add(
        &mut self,
        client: ClientId,
        update: &Sparse,
        worth: Worth,
    ) -> Result<(), AggregateError>;

    /// What was added so far, as bytes for [`merge`](Aggregator::merge).
    fn partial(&self) -> Vec<u8>;

    /// Adds what another of the same rule and shape was given; on `Err` nothing changed.
    ///
    /// # Errors
    /// [`AggregateError`] where the bytes are not such.
    fn merge(&mut self, partial: &[u8]) -> Result<(), AggregateError>;

    /// What was added so far as numbers, where adding place by place those of others is what
    /// [`merge`](Aggregator::merge) would do.
    fn words(&self) -> Option<Vec<i64>> {
        None
    }

    /// Takes a sum of [`words`](Aggregator::words) in place of what was added; on `Err` nothing changed.
    ///
    /// # Errors
    /// [`AggregateError`] where they are not such.
    fn set_words(&mut self, _: &[i64]) -> Result<(), AggregateError> {
        Err(AggregateError::Fold(FoldError::Bytes))
    }

    /// The combined delta, shape `[n]`; `None` when nobody reported.
    fn finish(self: Box<Self>) -> Option<Vec<f32>>;
}

/// What an update's weight is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Worth {
    /// Sequences it was trained on.
    pub examples: u32,
    /// Rounds that have closed since the snapshot it was made from.
    pub staleness: u32,
}

/// What a round started from: rules that look at products need it.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// The aggregator's own adapter, shape `[n]`.
    pub theta: Vec<f32>,
    /// What clients received of it.
    pub snapshot: Snapshot,
}

/// The rule that `manifest` names.
///
/// # Errors
/// [`AggregateError::NoStart`] where it looks at products and `start` is not there or does not fit.
pub fn of(
    manifest: &Manifest,
    start: Option<Start>,
) -> Result<Box<dyn Aggregator>, AggregateError> {
    let (n, average) = (manifest.layout.n(), manifest.method.average);
    if !manifest.method.combine.is_of_products() {
        return Ok(Box::new(match manifest.cohort.buffered {
            None => Mean::new(n, average),
            Some(_) => Mean::buffered(n, average),
        }));
    }
    let fits = |start: &Start| [start.theta.len(), start.snapshot.values.n()] == [n, n];
    let start = start.filter(fits).ok_or(AggregateError::NoStart)?;
    Ok(Box::new(products::Products::new(manifest, start)))
}

/// Why an update cannot be combined.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AggregateError {
    /// It does not fit the sum.
    #[error(transparent)]
    Fold(#[from] FoldError),
    /// What the round started from has no order.
    #[error("what the round started from")]
    Start(#[from] SelectError),
    /// A rule of products was not told what the round started from.
    #[error("the rule needs the adapter that the round started from")]
    NoStart,
}

impl AggregateError {
    /// Its public name.
    #[must_use]
    pub fn problem(&self) -> ProblemType {
        match self {
            Self::Fold(FoldError::Length { .. }) => ProblemType::BadLayout,
            Self::Fold(FoldError::Value(_)) => ProblemType::BadValue,
            Self::Fold(_) | Self::Start(_) | Self::NoStart => ProblemType::Internal,
        }
    }
}
