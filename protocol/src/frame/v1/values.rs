//! Values as bytes.
//!
//! - `f32`: `k x f32 LE`.
//! - `int8`: `ceil(k / 256) x i8` exponents, then `k x i8`; a value is its integer times
//!   `2^exponent` of its block of 256. The exponent is the least for which the block's largest
//!   magnitude fits 127, so what a server folds is an exact multiple of 2^-30.

use super::codec::CodecError;
use crate::manifest::Values;

/// Values that share one scale.
pub(super) const BLOCK: usize = 256;
/// Least block exponent: the fold's own resolution.
pub(super) const EXPONENT_MIN: i8 = -30;
/// Largest block exponent: 127 x 2^1 bounds every weight we send.
pub(super) const EXPONENT_MAX: i8 = 1;

/// Bytes that `k` values take.
#[must_use]
pub(super) fn len(values: Values, k: usize) -> u64 {
    let k = k as u64;
    match values {
        Values::Int8 => k + k.div_ceil(BLOCK as u64),
        // A version 1 manifest has no third.
        _ => 4 * k,
    }
}

pub(super) fn encode(values: &[f32], code: Values, limit: f32) -> Result<Vec<u8>, CodecError> {
    // NaN fails the comparison too.
    if let Some((rank, &value)) = values.iter().enumerate().find(|(_, v)| !in_range(**v, limit)) {
        return Err(CodecError::Value { rank, value, limit });
    }
    match code {
        Values::Int8 => encode_int8(values, limit),
        _ => Ok(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
    }
}

fn encode_int8(values: &[f32], limit: f32) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::with_capacity(values.len() + values.len().div_ceil(BLOCK));
    let mut exponents = Vec::with_capacity(values.len().div_ceil(BLOCK));
    for (block, chunk) in values.chunks(BLOCK).enumerate() {
        let top = chunk.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        let exponent = (EXPONENT_MIN..=EXPONENT_MAX)
            .find(|&e| f64::from(top) <= 127.0 * scale(e))
            .ok_or(CodecError::Value { rank: block * BLOCK, value: top, limit })?;
        exponents.push(exponent);
    }
    out.extend(exponents.iter().map(|e| e.to_le_bytes()[0]));
    for (chunk, &exponent) in values.chunks(BLOCK).zip(&exponents) {
        // Exact: a power of two times an f32, in f64.
        let inverse = scale(-exponent);
        out.extend(chunk.iter().map(|&v| {
            let m = (f64::from(v) * inverse).round_ties_even() as i8;
            m.to_le_bytes()[0]
        }));
    }
    Ok(out)
}

pub(super) fn decode(
    bytes: &[u8],
    code: Values,
    k: usize,
    limit: f32,
) -> Result<Vec<f32>, CodecError> {
    // Before anything is reserved: so many values need so many bytes, and those are here.
    if bytes.len() as u64 != len(code, k) {
        let expected = usize::try_from(len(code, k)).unwrap_or(usize::MAX);
        return Err(CodecError::Length { part: "values", got: bytes.len(), expected });
    }
    let values: Vec<f32> = match code {
        Values::Int8 => decode_int8(bytes, k)?,
        _ => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
    };
    match values.iter().enumerate().find(|(_, v)| !in_range(**v, limit)) {
        Some((rank, &value)) => Err(CodecError::Value { rank, value, limit }),
        None => Ok(values),
    }
}

fn decode_int8(bytes: &[u8], k: usize) -> Result<Vec<f32>, CodecError> {
    let (exponents, integers) = bytes.split_at(k.div_ceil(BLOCK));
    let mut out = Vec::with_capacity(k);
    for (block, (&exponent, chunk)) in exponents.iter().zip(integers.chunks(BLOCK)).enumerate() {
        let exponent = i8::from_le_bytes([exponent]);
        if !(EXPONENT_MIN..=EXPONENT_MAX).contains(&exponent) {
            return Err(CodecError::Exponent { block, exponent });
        }
        let scale = scale(exponent) as f32;
        for (rank, &byte) in chunk.iter().enumerate() {
            let integer = i8::from_le_bytes([byte]);
            if integer == i8::MIN {
                // The encoder never writes it; one value must have one code.
                let value = f32::from(integer) * scale;
                let limit = 127.0 * scale;
                return Err(CodecError::Value { rank: block * BLOCK + rank, value, limit });
            }
            out.push(f32::from(integer) * scale);
        }
    }
    Ok(out)
}

fn in_range(value: f32, limit: f32) -> bool {
    value.abs() <= limit
}

/// `2^exponent`, exactly.
fn scale(exponent: i8) -> f64 {
    f64::from_bits(((1023 + i64::from(exponent)) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_bytes_are_as_written_in_the_header() {
        // 127 x 2^-7 = 0.9921875 < 1.0 <= 127 x 2^-6.
        let bytes = encode(&[1.0, -0.5, 0.0], Values::Int8, 8.0).expect("in range");
        assert_eq!(bytes, [(-6_i8).to_le_bytes()[0], 64, (-32_i8).to_le_bytes()[0], 0]);
        assert_eq!(decode(&bytes, Values::Int8, 3, 8.0).expect("valid"), [1.0, -0.5, 0.0]);
    }

    #[test]
    fn refuses_nan_infinity_and_the_overlarge() {
        for bad in [f32::NAN, f32::INFINITY, 8.5] {
            assert!(matches!(
                encode(&[0.0, bad], Values::F32, 8.0),
                Err(CodecError::Value { rank: 1, .. })
            ));
            let bytes: Vec<u8> = [0.0, bad].iter().flat_map(|v: &f32| v.to_le_bytes()).collect();
            assert!(matches!(
                decode(&bytes, Values::F32, 2, 8.0),
                Err(CodecError::Value { rank: 1, .. })
            ));
        }
    }

    #[test]
    fn refuses_lying_counts_and_huge_exponents() {
        let lied = decode(&[0; 8], Values::F32, usize::MAX / 8, 8.0);
        assert!(matches!(lied, Err(CodecError::Length { got: 8, .. })));
        assert_eq!(
            decode(&[127, 1], Values::Int8, 1, 8.0),
            Err(CodecError::Exponent { block: 0, exponent: 127 })
        );
        assert!(decode(&[0, 128], Values::Int8, 1, 1e9).is_err());
    }
}
