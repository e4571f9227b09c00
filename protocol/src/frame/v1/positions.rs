//! Positions as bytes.
//!
//! - *dense*: no bytes; every coordinate.
//! - *bitmap*: `ceil(n / 8)` bytes, coordinate `i` is bit `i % 8` of byte `i / 8`, low bit first.
//! - *Rice*: one byte `b <= 27`, then for each index its gap (index minus the one before, minus one)
//!   as `gap >> b` one-bits, a zero-bit and the `b` low bits, low bit first; bits fill bytes from
//!   the low end, and the rest of the last byte is zero. Indices rise by construction.
//! - *shared*: no bytes; both ends hold the support.
//!
//! The encoder takes the smallest. One support has one code of each kind: bits that could be
//! anything must be zero. Source: Golomb 1966, Rice 1979; parameter by exact cost.

use serde::{Deserialize, Serialize};

use super::codec::CodecError;
use crate::sparse::Support;

/// How positions are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Positions {
    /// Every coordinate.
    Dense,
    /// One bit a coordinate.
    Bitmap,
    /// Rice-coded gaps.
    Rice,
    /// Both ends hold the support.
    Shared,
}

/// Largest Rice parameter: a layout has at most 2^28 parameters.
const PARAMETER_MAX: u32 = 27;

pub(super) fn encode(support: &Support, n: usize) -> (Positions, Vec<u8>) {
    let Support::Indices(indices) = support else {
        return (Positions::Dense, Vec::new());
    };
    let (parameter, bits) = best_parameter(indices);
    let rice_len = 1 + bits.div_ceil(8);
    if rice_len <= n.div_ceil(8) as u64 {
        (Positions::Rice, rice(indices, parameter, rice_len))
    } else {
        (Positions::Bitmap, bitmap(indices, n))
    }
}

pub(super) fn decode(
    bytes: &[u8],
    code: Positions,
    k: usize,
    n: usize,
) -> Result<Support, CodecError> {
    match code {
        Positions::Dense if !bytes.is_empty() => {
            Err(CodecError::Length { part: "positions", got: bytes.len(), expected: 0 })
        }
        Positions::Dense => Ok(Support::All),
        Positions::Bitmap => read_bitmap(bytes, k, n).map(Support::Indices),
        Positions::Rice => read_rice(bytes, k, n).map(Support::Indices),
        Positions::Shared => Err(CodecError::NoSharedSupport),
    }
}

fn gaps(indices: &[u32]) -> impl Iterator<Item = u32> + '_ {
    let mut next = 0;
    indices.iter().map(move |&index| {
        let gap = index - next;
        next = index + 1;
        gap
    })
}

/// The parameter with the fewest bits, and those bits.
fn best_parameter(indices: &[u32]) -> (u32, u64) {
    let mut bits = [0_u64; PARAMETER_MAX as usize + 1];
    for gap in gaps(indices) {
        for (parameter, total) in bits.iter_mut().enumerate() {
            *total += u64::from(gap >> parameter);
        }
    }
    (0..=PARAMETER_MAX)
        .map(|p| (p, bits[p as usize] + indices.len() as u64 * u64::from(p + 1)))
        .min_by_key(|&(p, total)| (total, p))
        .unwrap_or((0, 0))
}

fn bitmap(indices: &[u32], n: usize) -> Vec<u8> {
    let mut out = vec![0; n.div_ceil(8)];
    for &index in indices {
        out[index as usize / 8] |= 1 << (index % 8);
    }
    out
}

fn read_bitmap(bytes: &[u8], k: usize, n: usize) -> Result<Vec<u32>, CodecError> {
    if bytes.len() != n.div_ceil(8) {
        let expected = n.div_ceil(8);
        return Err(CodecError::Length { part: "positions", got: bytes.len(), expected });
    }
    let ones: usize = bytes.iter().map(|b| b.count_ones() as usize).sum();
    if ones != k {
        return Err(CodecError::Count { got: k, expected: ones });
    }
    let mut indices = Vec::with_capacity(k);
    for (place, &byte) in bytes.iter().enumerate() {
        let mut rest = byte;
        while rest != 0 {
            indices.push(8 * place as u32 + rest.trailing_zeros());
            rest &= rest - 1;
        }
    }
    if indices.last().is_some_and(|&last| last as usize >= n) {
        return Err(CodecError::Positions("a bit beyond the last coordinate is set"));
    }
    Ok(indices)
}

fn rice(indices: &[u32], parameter: u32, len: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(len as usize);
    out.push(parameter as u8);
    let mut pending = 0_u64;
    let mut held = 0_u32;
    for gap in gaps(indices) {
        let mut ones = gap >> parameter;
        while ones >= 32 {
            push(&mut out, &mut pending, &mut held, 0xFFFF_FFFF, 32);
            ones -= 32;
        }
        // `ones` one-bits and the zero that ends them.
        push(&mut out, &mut pending, &mut held, (1_u64 << ones) - 1, ones + 1);
        push(&mut out, &mut pending, &mut held, u64::from(gap) & ((1 << parameter) - 1), parameter);
    }
    if held > 0 {
        out.push(pending as u8);
    }
    debug_assert_eq!(out.len() as u64, len);
    out
}

/// Appends the low `count <= 33` bits of `bits`; fewer than 8 are held back between calls.
fn push(out: &mut Vec<u8>, pending: &mut u64, held: &mut u32, bits: u64, count: u32) {
    *pending |= bits << *held;
    *held += count;
    while *held >= 8 {
        out.push(*pending as u8);
        *pending >>= 8;
        *held -= 8;
    }
}

fn read_rice(bytes: &[u8], k: usize, n: usize) -> Result<Vec<u32>, CodecError> {
    let (&parameter, body) = bytes.split_first().ok_or(CodecError::Positions("no parameter"))?;
    let parameter = u32::from(parameter);
    if parameter > PARAMETER_MAX {
        return Err(CodecError::Positions("Rice parameter above 27"));
    }
    // Every gap takes a bit at least, so `k` cannot exceed what arrived.
    if k as u64 > 8 * body.len() as u64 {
        return Err(CodecError::Positions("more entries than bits"));
    }
    let mut indices = Vec::with_capacity(k);
    let mut bits = Bits { body, at: 0, held: 0, pending: 0 };
    let mut next = 0_u64;
    for _ in 0..k {
        let high = bits.ones(n as u64 >> parameter)?;
        let low = bits.take(parameter)?;
        let index = next + ((high << parameter) | low);
        if index >= n as u64 {
            return Err(CodecError::Positions("an index runs past the last coordinate"));
        }
        indices.push(index as u32);
        next = index + 1;
    }
    bits.end()?;
    Ok(indices)
}

/// Reads bits from the low end of each byte.
struct Bits<'a> {
    body: &'a [u8],
    at: usize,
    held: u32,
    pending: u64,
}

impl Bits<'_> {
    /// Holds at least 32 bits, or all that are left.
    fn fill(&mut self) {
        while self.held <= 56 && self.at < self.body.len() {
            self.pending |= u64::from(self.body[self.at]) << self.held;
            self.at += 1;
            self.held += 8;
        }
    }

    /// Counts one-bits up to the zero that ends them; at most `most`.
    fn ones(&mut self, most: u64) -> Result<u64, CodecError> {
        let mut count = 0;
        loop {
            self.fill();
            let run = self.pending.trailing_ones().min(self.held);
            count += u64::from(run);
            if count > most {
                return Err(CodecError::Positions("an index runs past the last coordinate"));
            }
            if run < self.held {
                self.drop(run + 1);
                return Ok(count);
            }
            if self.at == self.body.len() {
                return Err(CodecError::Positions("the bits end early"));
            }
            self.drop(run);
        }
    }

    fn take(&mut self, count: u32) -> Result<u64, CodecError> {
        self.fill();
        if self.held < count {
            return Err(CodecError::Positions("the bits end early"));
        }
        let bits = self.pending & ((1 << count) - 1);
        self.drop(count);
        Ok(bits)
    }

    fn drop(&mut self, count: u32) {
        self.pending = self.pending.checked_shr(count).unwrap_or(0);
        self.held -= count;
    }

    fn end(mut self) -> Result<(), CodecError> {
        self.fill();
        if self.at < self.body.len() || self.held >= 8 {
            return Err(CodecError::Positions("bytes follow the last position"));
        }
        if self.pending != 0 {
            return Err(CodecError::Positions("padding bits are set"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rice_bits_are_as_written_in_the_header() {
        // Gaps 0 and 5 with b = 1: "0" "0" and "11" "0" "1", low bits first: 0b101100.
        let coded = rice(&[0, 6], 1, 2);
        assert_eq!(coded, [1, 0b10_1100]);
        assert_eq!(read_rice(&coded, 2, 7), Ok(vec![0, 6]));
    }

    #[test]
    fn long_runs_of_ones() {
        for indices in [vec![0_u32, 70, 300], vec![299], vec![63, 64, 128, 256]] {
            for parameter in 0..5 {
                let bits: u64 =
                    gaps(&indices).map(|g| u64::from((g >> parameter) + 1 + parameter)).sum();
                let coded = rice(&indices, parameter, 1 + bits.div_ceil(8));
                assert_eq!(read_rice(&coded, indices.len(), 301), Ok(indices.clone()));
            }
        }
    }

    #[test]
    fn every_malformation_is_named() {
        let bad = |bytes: &[u8], k, n| read_rice(bytes, k, n).expect_err("malformed");
        let says = |e: CodecError, text| assert!(e.to_string().contains(text), "{e}");
        says(bad(&[], 1, 8), "no parameter");
        says(bad(&[28, 0], 1, 8), "above 27");
        says(bad(&[0], 1, 8), "more entries than bits");
        says(bad(&[0, 0xFF], 1, 7), "past the last"); // eight ones: beyond n
        says(bad(&[0, 0xFF], 1, 100), "end early");
        says(bad(&[2, 0b0], 3, 100), "end early");
        says(bad(&[0, 0b1000_0000], 1, 8), "padding");
        says(bad(&[0, 0, 0], 1, 8), "follow");
        says(bad(&[0, 0b1110], 2, 4), "past the last");
    }

    #[test]
    fn bitmap_is_strict() {
        assert_eq!(read_bitmap(&[0b101], 2, 3), Ok(vec![0, 2]));
        assert!(matches!(read_bitmap(&[0b101], 1, 3), Err(CodecError::Count { .. })));
        assert!(matches!(read_bitmap(&[0b1001], 2, 3), Err(CodecError::Positions(_))));
        assert!(matches!(read_bitmap(&[0, 0], 0, 3), Err(CodecError::Length { .. })));
    }

    #[test]
    fn the_smaller_code_is_taken() {
        let thin: Vec<u32> = (0..16).map(|i| i * 64).collect();
        let thick: Vec<u32> = (0..1024).filter(|i| i % 2 == 0).collect();
        assert_eq!(encode(&Support::Indices(thin), 1024).0, Positions::Rice);
        let (code, bytes) = encode(&Support::Indices(thick), 1024);
        assert_eq!((code, bytes.len()), (Positions::Bitmap, 128));
    }
}
