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

mod assign;
mod bits;
mod block;
pub mod bound;
pub(crate) mod difference;
mod fit;
mod levels;
mod model;
mod modelled;
mod packed;
mod quantised;
mod range;
mod scale;

use std::io::BufRead;

use crate::layout::Layout;
use crate::manifest::{Coding, Values};
use crate::rng::Stream;
use crate::sparse::{Sparse, SparseError, Support};
use bits::BitReader;
use levels::Level;
use quantised::{Quantised, Sink};
use range::RangeDecoder;

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
    /// A level that its code does not have.
    #[error("a level is out of range")]
    Level,
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

/// Codes `sparse`, whose entries lie in the domain.
///
/// # Errors
/// [`CodecError::Value`] for a value that is not finite or over the limit, [`CodecError::Outside`] for
/// an entry that is not in the domain.
pub fn encode(
    shape: Shape<'_>,
    sparse: &Sparse,
    mut options: Options,
) -> Result<Encoded, CodecError> {
    let limit = options.limit;
    // NaN fails the comparison too.
    let good = |value: f32| value.abs() <= limit;
    // All of them first, which needs no branch, and only then which.
    if !sparse.values().iter().fold(true, |all, &value| all & good(value))
        && let Some(rank) = sparse.values().iter().position(|&value| !good(value))
    {
        return Err(CodecError::Value { rank, value: sparse.values()[rank], limit });
    }
    let quantised = Quantised::new(shape, sparse, &mut options)?;
    let (bits, model) = if quantised.whole {
        (Body::DensePacked, Body::DenseModelled)
    } else {
        (Body::RicePacked, Body::MapModelled)
    };
    let packed = packed::encode(&quantised, bits);
    if options.coding == Coding::Packed {
        return Ok(packed);
    }
    let modelled = modelled::encode(shape, &quantised, model);
    Ok(if modelled.bytes.len() < packed.bytes.len() { modelled } else { packed })
}

/// Decodes `k` entries from `source`, which has `len` bytes, and gives each coordinate, in rising order,
/// with its value.
///
/// Reserves nothing that grows with `k`: what it needs beside `entry`'s own memory is a block and a few
/// rows of the widest tensor.
///
/// # Errors
/// [`CodecError`] at the first thing that is off; entries before it were given.
#[expect(clippy::too_many_arguments, reason = "the fields of one frame")]
pub fn decode<R: BufRead>(
    shape: Shape<'_>,
    body: Body,
    values: Values,
    k: usize,
    len: u64,
    source: R,
    limit: f32,
    entry: &mut impl FnMut(u32, f32),
) -> Result<(), CodecError> {
    let mut sink = Entries { domain: shape.domain.indices(), entry };
    read(shape, body, values, k, len, source, limit, &mut sink)
}

/// Gives entries their coordinates.
struct Entries<'a, F> {
    domain: Option<&'a [u32]>,
    entry: &'a mut F,
}

impl<F: FnMut(u32, f32)> Sink for Entries<'_, F> {
    #[inline]
    fn entry(&mut self, rank: u32, _level: Level, value: f32) {
        (self.entry)(self.domain.map_or(rank, |domain| domain[rank as usize]), value);
    }
}

#[expect(clippy::too_many_arguments, reason = "the fields of one frame")]
fn read<R: BufRead>(
    shape: Shape<'_>,
    body: Body,
    values: Values,
    k: usize,
    len: u64,
    source: R,
    limit: f32,
    sink: &mut impl Sink,
) -> Result<(), CodecError> {
    if body.is_dense() && k != shape.len() {
        return Err(CodecError::Count { got: k, expected: shape.len() });
    }
    // Every entry's sign takes a bit, in every body.
    if k as u64 > 8 * (len + 4) {
        return Err(CodecError::TooFew { k, bytes: len });
    }
    match body {
        Body::DensePacked | Body::RicePacked => {
            packed::decode(shape, body, values, k, BitReader::new(source), limit, sink)
        }
        Body::DenseModelled | Body::MapModelled => {
            modelled::decode(shape, body, values, k, RangeDecoder::new(source)?, limit, sink)
        }
    }
}

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
    let (n, len) = (shape.layout.n(), bytes.len() as u64);
    if body.is_dense() && *shape.domain == Support::All {
        let mut whole = Whole { k, entries: Vec::new() };
        read(shape, body, values, k, len, bytes, limit, &mut whole)?;
        return Ok(Sparse::new(n, Support::All, whole.entries)?);
    }
    // `decode` has checked `k` against the bytes before it gives the first entry.
    let (mut indices, mut entries) = (Vec::new(), Vec::new());
    decode(shape, body, values, k, len, bytes, limit, &mut |index, value| {
        if entries.is_empty() {
            entries.reserve_exact(k);
            indices.reserve_exact(k);
        }
        indices.push(index);
        entries.push(value);
    })?;
    Ok(Sparse::new(n, Support::Indices(indices), entries)?)
}

/// Keeps the values of all coordinates.
struct Whole {
    /// So many; [`read`] has checked that against the bytes before it gives the first.
    k: usize,
    entries: Vec<f32>,
}

impl Sink for Whole {
    fn entry(&mut self, _rank: u32, _level: Level, value: f32) {
        self.entries(&[], &[], &[value]);
    }

    fn entries(&mut self, _ranks: &[u32], _levels: &[u32], values: &[f32]) {
        if self.entries.is_empty() {
            self.entries.reserve_exact(self.k);
        }
        self.entries.extend_from_slice(values);
    }
}

#[cfg(test)]
mod tests;
