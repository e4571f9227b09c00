//! A sparse vector as bytes, and back: frames of version 2.
//!
//! ```text
//! select -> quantise, block by block (levels, scale) -> code (packed: bits; modelled: range, model)
//! ```
//!
//! Four bodies, of which an encoder takes the smallest: entries of the whole domain or of part of it,
//! packed into bits or through the adaptive model. The choice is one for the frame and not for each
//! tensor: the model learns each tensor's ways by itself, and headers for every tensor of a small adapter
//! cost more than they save.
//!
//! Decoders take entries one by one and reserve nothing; see [`decode`].

mod bits;
mod body;
pub mod bound;
mod levels;
mod model;
mod range;
mod scale;

use crate::layout::Layout;
use crate::manifest::{Coding, Values};
use crate::rng::Stream;
use crate::sparse::{Sparse, SparseError, Support};

/// Where entries may lie: both ends know it.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// The tensors.
    pub layout: &'a Layout,
    /// The coordinates that may travel.
    pub domain: &'a Support,
}

impl Shape<'_> {
    /// Coordinates that may travel.
    #[must_use]
    pub fn len(&self) -> usize {
        self.domain.count(self.layout.n())
    }

    /// Whether none may.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How a body is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// The whole domain, values packed.
    DensePacked,
    /// Gaps in Rice code with a parameter per block, values packed.
    RicePacked,
    /// The whole domain, magnitudes modelled.
    DenseModelled,
    /// Positions and magnitudes modelled.
    MapModelled,
}

impl Body {
    /// Every one, in the order of their codes.
    pub const ALL: [Self; 4] =
        [Self::DensePacked, Self::RicePacked, Self::DenseModelled, Self::MapModelled];

    fn is_dense(self) -> bool {
        matches!(self, Self::DensePacked | Self::DenseModelled)
    }
}

/// What bits were spent on; for modelled bodies each part's own information content, rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Which coordinates.
    pub positions: u64,
    /// Signs and magnitudes.
    pub values: u64,
    /// Lengths, floors and scales of blocks.
    pub scales: u64,
    /// What lies beyond `fp4`'s largest level.
    pub outliers: u64,
}

/// A sparse vector's bytes, before a frame is put around them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// How.
    pub body: Body,
    /// Number of entries.
    pub k: u32,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What they were spent on, in bits.
    pub parts: Parts,
}

/// How entries are to be coded.
#[derive(Debug)]
pub struct Options {
    /// The levels.
    pub values: Values,
    /// The bodies to choose from.
    pub coding: Coding,
    /// Largest magnitude allowed.
    pub limit: f32,
    /// Draws between levels where rounding is stochastic.
    pub dice: Option<Stream>,
}

/// Bytes that are no sparse vector, or a vector that cannot be coded.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// A NaN, an infinity, or a magnitude over the limit.
    #[error("value {rank} is {value}; finite values of magnitude at most {limit} are allowed")]
    Value {
        /// Its rank among the entries.
        rank: usize,
        /// What it is.
        value: f32,
        /// The largest magnitude allowed.
        limit: f32,
    },
    /// An entry that may not travel in this round.
    #[error("coordinate {0} may not travel in this round")]
    Outside(u32),
    /// Another number of entries than the domain has, in a body of the whole domain.
    #[error("{got} entries for a domain of {expected}")]
    Count {
        /// Entries claimed.
        got: usize,
        /// Entries of the domain.
        expected: usize,
    },
    /// More entries than the bytes can hold: each takes a bit at least.
    #[error("{k} entries cannot be in {bytes} bytes")]
    TooFew {
        /// Entries claimed.
        k: usize,
        /// Bytes there are.
        bytes: u64,
    },
    /// The bytes end before the entries do.
    #[error("the bytes end early")]
    Ends,
    /// Bytes behind the last entry.
    #[error("bytes follow the last entry")]
    Follows,
    /// Padding that is not zero, or a last byte that no encoder writes.
    #[error("the last byte is malformed")]
    Padding,
    /// A coordinate behind the last one.
    #[error("an index runs past the last coordinate")]
    Past,
    /// A block longer than its code allows, or than the entries left.
    #[error("a block of {0} entries is too long")]
    Block(usize),
    /// An outlier that is not in its block, or not in rising order.
    #[error("an outlier is malformed")]
    Outlier,
    /// A zero with a sign, where zero has none.
    #[error("minus zero")]
    NegativeZero,
    /// Rice parameter above 27.
    #[error("Rice parameter {0} is above 27")]
    Rice(u32),
    /// Indices out of order or range.
    #[error("positions do not fit the layout")]
    Support(#[from] SparseError),
    /// The bytes could not be read.
    #[error("reading the body: {0}")]
    Read(String),
}

impl From<std::io::Error> for CodecError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::Ends,
            _ => Self::Read(error.to_string()),
        }
    }
}

pub use body::{decode, encode};

/// Decodes into a sparse vector. See [`decode`].
///
/// # Errors
/// [`CodecError`] at the first thing that is off.
pub fn decode_sparse(
    shape: Shape<'_>,
    body: Body,
    values: Values,
    k: usize,
    bytes: &[u8],
    limit: f32,
) -> Result<Sparse, CodecError> {
    // `decode` has checked `k` against the bytes before it gives the first entry.
    let (mut indices, mut entries) = (Vec::new(), Vec::new());
    let n = shape.layout.n();
    let whole = body.is_dense() && *shape.domain == Support::All;
    decode(shape, body, values, k, bytes.len() as u64, bytes, limit, &mut |index, value| {
        if entries.is_empty() {
            entries.reserve_exact(k);
            indices.reserve_exact(if whole { 0 } else { k });
        }
        if !whole {
            indices.push(index);
        }
        entries.push(value);
    })?;
    let support = if whole { Support::All } else { Support::Indices(indices) };
    Ok(Sparse::new(n, support, entries)?)
}

#[cfg(test)]
mod tests;
