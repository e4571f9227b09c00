//! A sparse vector as bytes: where its entries are, then what they are.
//!
//! Decoders allocate by bytes received, never by claimed sizes: the number of entries is checked
//! against the length of the value bytes before anything is reserved.

use super::positions::{self, Positions};
use super::values;
use crate::manifest::Values;
use crate::sparse::{Sparse, SparseError, Support};

/// A sparse vector's bytes, before a frame is put around them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Encoded {
    /// How positions are coded.
    pub(super) positions: Positions,
    /// Number of entries.
    pub(super) k: u32,
    /// The position bytes.
    pub(super) position_bytes: Vec<u8>,
    /// The value bytes.
    pub(super) value_bytes: Vec<u8>,
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
    /// A block scale outside the allowed exponents.
    #[error("block {block} has exponent {exponent}, outside {min}..={max}", min = values::EXPONENT_MIN, max = values::EXPONENT_MAX)]
    Exponent {
        /// The block.
        block: usize,
        /// Its exponent.
        exponent: i8,
    },
    /// More or fewer bytes than the entries need.
    #[error("{part} take {got} bytes, {expected} are needed")]
    Length {
        /// "positions" or "values".
        part: &'static str,
        /// Bytes found.
        got: usize,
        /// Bytes needed.
        expected: usize,
    },
    /// Position bits that end early, run over, or are not in their one canonical form.
    #[error("position bytes are malformed: {0}")]
    Positions(&'static str),
    /// Positions that are implied by a support the decoder was not given.
    #[error("positions are implied by a support that this run does not share")]
    NoSharedSupport,
    /// Another number of entries than the shared support has.
    #[error("{got} entries on a shared support of {expected}")]
    Count {
        /// Entries claimed.
        got: usize,
        /// Entries of the shared support.
        expected: usize,
    },
    /// Indices out of order or range.
    #[error("positions do not fit the layout")]
    Support(#[from] SparseError),
}

/// Codes `sparse`. With `shared`, the receiver already holds the support, so no positions travel.
///
/// Otherwise the smallest of the position codes is taken. `limit` is the largest magnitude allowed.
///
/// # Errors
/// [`CodecError::Value`] for a value that is not finite or over `limit`.
pub(super) fn encode(
    sparse: &Sparse,
    values: Values,
    shared: bool,
    limit: f32,
) -> Result<Encoded, CodecError> {
    let value_bytes = values::encode(sparse.values(), values, limit)?;
    let (positions, position_bytes) = match (shared, sparse.support()) {
        (true, Support::Indices(_)) => (Positions::Shared, Vec::new()),
        (_, support) => positions::encode(support, sparse.n()),
    };
    // `n` fits: a layout has at most 2^28 parameters.
    Ok(Encoded { positions, k: sparse.values().len() as u32, position_bytes, value_bytes })
}

/// Decodes entries of a vector of `n`.
///
/// `shared` is the support both ends hold, where there is one.
///
/// # Errors
/// [`CodecError`] at the first thing that is off; nothing larger than the input was reserved.
pub(super) fn decode(
    n: usize,
    coded: &Coded<'_>,
    shared: Option<&Support>,
    limit: f32,
) -> Result<Sparse, CodecError> {
    let k = coded.k as usize;
    let values = values::decode(coded.value_bytes, coded.values, k, limit)?;
    let support = if coded.positions == Positions::Shared {
        let shared = shared.ok_or(CodecError::NoSharedSupport)?;
        if !coded.position_bytes.is_empty() {
            return Err(CodecError::Positions("shared positions take no bytes"));
        }
        if shared.count(n) != k {
            return Err(CodecError::Count { got: k, expected: shared.count(n) });
        }
        shared.clone()
    } else {
        positions::decode(coded.position_bytes, coded.positions, k, n)?
    };
    Ok(Sparse::new(n, support, values)?)
}

/// A sparse vector's bytes as they lie in a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coded<'a> {
    /// How positions are coded.
    pub(super) positions: Positions,
    /// How values are coded.
    pub(super) values: Values,
    /// Number of entries claimed.
    pub(super) k: u32,
    /// The position bytes.
    pub(super) position_bytes: &'a [u8],
    /// The value bytes.
    pub(super) value_bytes: &'a [u8],
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Values;
    use proptest::prelude::*;

    const N: usize = 300;

    fn any_sparse() -> impl Strategy<Value = Sparse> {
        (prop::collection::btree_set(0..N as u32, 0..N), any::<bool>()).prop_flat_map(
            |(indices, all)| {
                let support = if all {
                    Support::All
                } else {
                    Support::Indices(indices.into_iter().collect())
                };
                prop::collection::vec(-8.0_f32..8.0, support.count(N))
                    .prop_map(move |v| Sparse::new(N, support.clone(), v).expect("valid"))
            },
        )
    }

    fn coded(encoded: &Encoded, values: Values) -> Coded<'_> {
        Coded {
            positions: encoded.positions,
            values,
            k: encoded.k,
            position_bytes: &encoded.position_bytes,
            value_bytes: &encoded.value_bytes,
        }
    }

    proptest! {
        /// decode after encode is the identity for f32.
        #[test]
        fn round_trip(sparse in any_sparse(), shared in any::<bool>()) {
            let encoded = encode(&sparse, Values::F32, shared, 8.0).expect("in range");
            let back = decode(N, &coded(&encoded, Values::F32), Some(sparse.support()), 8.0)
                .expect("own bytes");
            prop_assert_eq!(back.values(), sparse.values());
            prop_assert!(back.iter().eq(sparse.iter()));
        }

        /// int8 is within half a step of the block's scale: at most max|v| / 127.
        #[test]
        fn int8_error_bound(sparse in any_sparse()) {
            let encoded = encode(&sparse, Values::Int8, false, 8.0).expect("in range");
            let back = decode(N, &coded(&encoded, Values::Int8), None, 8.0).expect("own bytes");
            for (block, (ours, theirs)) in
                sparse.values().chunks(256).zip(back.values().chunks(256)).enumerate()
            {
                let top = ours.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
                for (a, b) in ours.iter().zip(theirs) {
                    prop_assert!((a - b).abs() <= top / 127.0, "block {}: {} {}", block, a, b);
                }
            }
        }

        /// Any bytes are refused or decoded, never a panic, and never more entries than bytes.
        #[test]
        fn hostile_bytes(
            position_bytes in prop::collection::vec(any::<u8>(), 0..64),
            value_bytes in prop::collection::vec(any::<u8>(), 0..64),
            k in prop_oneof![0_u32..70, any::<u32>()],
            positions in prop_oneof![
                Just(Positions::Dense), Just(Positions::Bitmap), Just(Positions::Rice),
                Just(Positions::Shared)
            ],
            values in prop_oneof![Just(Values::F32), Just(Values::Int8)],
        ) {
            let coded = Coded {
                positions, values, k, position_bytes: &position_bytes, value_bytes: &value_bytes,
            };
            if let Ok(sparse) = decode(N, &coded, Some(&Support::All), 8.0) {
                prop_assert!(sparse.values().iter().all(|v| v.abs() <= 8.0));
                prop_assert!(sparse.values().len() <= value_bytes.len());
            }
        }
    }
}
