//! Blocks of quantised weights, back to `f32`.
//!
//! A block has its scales, half-precision, and its entries in a few bits each. With `q` an entry's bits
//! as an unsigned number, `d` and `m` a block's scales, `s` and `t` those of 16 or 32 of its entries:
//!
//! | kind | entries | bytes | value |
//! |---|---|---|---|
//! | `Q4_0` | 32 | 18 | `d (q - 8)` |
//! | `Q4_1` | 32 | 20 | `d q + m` |
//! | `Q5_0` | 32 | 22 | `d (q - 16)` |
//! | `Q5_1` | 32 | 24 | `d q + m` |
//! | `Q8_0` | 32 | 34 | `d q`, `q` with its sign |
//! | `Q4_K` | 256 | 144 | `d s q - m t` |
//! | `Q5_K` | 256 | 176 | `d s q - m t` |
//! | `Q6_K` | 256 | 210 | `d s (q - 32)` |
//!
//! Source: `dequantize_row_*` of ggml's `ggml-quants.c`.

use half::f16;

/// A kind of block that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(non_camel_case_types, reason = "ggml's names")]
pub(in crate::model) enum Blocks {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl Blocks {
    /// Entries of a block, and its bytes.
    pub(in crate::model) fn size(self) -> [usize; 2] {
        match self {
            Self::Q4_0 => [32, 18],
            Self::Q4_1 => [32, 20],
            Self::Q5_0 => [32, 22],
            Self::Q5_1 => [32, 24],
            Self::Q8_0 => [32, 34],
            Self::Q4_K => [256, 144],
            Self::Q5_K => [256, 176],
            Self::Q6_K => [256, 210],
        }
    }

    /// Puts the entries of whole blocks behind `out`; what is left of `raw` behind the last is not read.
    pub(in crate::model) fn decode(self, out: &mut Vec<f32>, raw: &[u8]) {
        match self {
            Self::Q4_0 => each(raw, |[d0, d1, qs @ ..]: &[u8; 18]| {
                nibbles::<16>(out, qs, half(d0, d1), 0.0, -8.0, 0);
            }),
            Self::Q4_1 => each(raw, |[d0, d1, m0, m1, qs @ ..]: &[u8; 20]| {
                nibbles::<16>(out, qs, half(d0, d1), half(m0, m1), 0.0, 0);
            }),
            Self::Q5_0 => each(raw, |[d0, d1, h0, h1, h2, h3, qs @ ..]: &[u8; 22]| {
                let high = u32::from_le_bytes([*h0, *h1, *h2, *h3]);
                nibbles::<16>(out, qs, half(d0, d1), 0.0, -16.0, high);
            }),
            Self::Q5_1 => each(raw, |[d0, d1, m0, m1, h0, h1, h2, h3, qs @ ..]: &[u8; 24]| {
                let high = u32::from_le_bytes([*h0, *h1, *h2, *h3]);
                nibbles::<16>(out, qs, half(d0, d1), half(m0, m1), 0.0, high);
            }),
            Self::Q8_0 => each(raw, |[d0, d1, qs @ ..]: &[u8; 34]| {
                let d = half(d0, d1);
                out.extend(qs.iter().map(|&q| d * f32::from(q.cast_signed())));
            }),
            Self::Q4_K => each(raw, |block: &[u8; 144]| k4(out, block, &[0; 32], &block[16..])),
            Self::Q5_K => each(raw, |block: &[u8; 176]| {
                let high = block[16..].first_chunk().unwrap_or(&[0; 32]);
                k4(out, block, high, &block[48..]);
            }),
            Self::Q6_K => each(raw, |block: &[u8; 210]| k6(out, block)),
        }
    }
}

fn each<const N: usize>(raw: &[u8], block: impl FnMut(&[u8; N])) {
    raw.as_chunks().0.iter().for_each(block);
}

fn half(low: &u8, high: &u8) -> f32 {
    f16::from_le_bytes([*low, *high]).to_f32()
}

/// The low halves of `N` bytes, then the high ones; entry `i` has bit `i` of `high` as its fifth.
fn nibbles<const N: usize>(
    out: &mut Vec<f32>,
    qs: &[u8; N],
    d: f32,
    m: f32,
    shift: f32,
    high: u32,
) {
    let fifth = |i: usize| f32::from((high >> i & 1) as u8 * 16);
    out.extend(qs.iter().enumerate().map(|(i, q)| d * (f32::from(q & 15) + fifth(i) + shift) + m));
    let upper = qs.iter().zip(N..);
    out.extend(upper.map(|(q, i)| d * (f32::from(q >> 4) + fifth(i) + shift) + m));
}

/// `Q4_K` and `Q5_K`: `d | m | 12 bytes of scales | [32 of fifth bits] | 128 of halves`.
fn k4(out: &mut Vec<f32>, block: &[u8], fifths: &[u8; 32], qs: &[u8]) {
    let [d, m] = [half(&block[0], &block[1]), half(&block[2], &block[3])];
    let scales = &block[4..16];
    for (pair, qs) in qs.chunks_exact(32).enumerate() {
        for side in 0..2 {
            let at = 2 * pair + side;
            let [s, t] = scale(scales, at);
            let [s, t] = [d * f32::from(s), m * f32::from(t)];
            out.extend(qs.iter().zip(fifths).map(|(q, fifth)| {
                let q = (q >> (4 * side) & 15) + (fifth >> at & 1) * 16;
                s * f32::from(q) - t
            }));
        }
    }
}

/// Scales number `at` of eight pairs in 12 bytes, six bits each.
fn scale(packed: &[u8], at: usize) -> [u8; 2] {
    match at {
        0..4 => [packed[at] & 63, packed[at + 4] & 63],
        _ => [
            packed[at + 4] & 15 | packed[at - 4] >> 6 << 4,
            packed[at + 4] >> 4 | packed[at] >> 6 << 4,
        ],
    }
}

/// `Q6_K`: `128 bytes of low halves | 64 of high pairs of bits | 16 scales with sign | d`.
fn k6(out: &mut Vec<f32>, block: &[u8; 210]) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let d = half(&rest[16], &rest[17]);
    for side in 0..2 {
        let (low, high, scales) = (&low[64 * side..], &high[32 * side..], &rest[8 * side..]);
        for quarter in 0..4 {
            let low = &low[32 * (quarter % 2)..];
            for i in 0..32 {
                let q = low[i] >> (quarter / 2 * 4) & 15 | (high[i] >> (2 * quarter) & 3) << 4;
                let s = f32::from(scales[2 * quarter + i / 16].cast_signed());
                out.push(d * s * (f32::from(q) - 32.0));
            }
        }
    }
}
