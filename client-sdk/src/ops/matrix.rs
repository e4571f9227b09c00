//! Frozen matrices as they are stored: rows of numbers, made `f32` again where they are used.
//!
//! | storage | bits a number | the number `x` is read back as |
//! |---|---|---|
//! | `f32` | 32 | `x` |
//! | `f16` | 16 | the nearest IEEE half |
//! | `bf16` | 16 | the nearest bfloat16 |
//! | `int8` | 8.5 | `q s`, `s = max abs / 127` and `q` the integer nearest to `x / s` |
//! | `fp4` | 4.5 | `v s`, `s = max abs / 6` and `v` the E2M1 number nearest to `x / s` |
//!
//! A scale `s` is an `f32` for each [`BLOCK`] entries of a row (fewer at its end). E2M1 has the numbers
//! `0, 0.5, 1, 1.5, 2, 3, 4, 6` and their negatives, by codes 0 to 7 and 8 more. Ties go to even: codes, where
//! there are codes. Source of vector-wise E2M1: arXiv:2501.17116.

use half::{bf16, f16};

use super::vectorised;

/// Entries with one scale.
pub(crate) const BLOCK: usize = 64;
/// Bytes of a block's E2M1 codes: byte `i` has entry `i` low and entry `i + 32` high.
const HALF: usize = BLOCK / 2;

/// How a frozen model's matrices are held: those of its linears, embeddings and head. Norms and biases are
/// always `f32`, and so is all arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// As read: nothing is lost.
    #[default]
    F32,
    /// IEEE half precision: what many models' files have.
    F16,
    /// bfloat16: the range of `f32` with 8 bits of precision.
    Bf16,
    /// 8 bits, a scale for each 64 entries.
    Int8,
    /// 4 bits (E2M1), a scale for each 64 entries.
    Fp4,
}

impl Storage {
    /// All of them, largest first.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::Bf16, Self::Int8, Self::Fp4];
}

impl std::fmt::Display for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Fp4 => "fp4",
        })
    }
}

/// A word that names no storage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no storage; f32, f16, bf16, int8 and fp4 are")]
pub struct UnknownStorage(pub String);

impl std::str::FromStr for Storage {
    type Err = UnknownStorage;

    fn from_str(name: &str) -> Result<Self, UnknownStorage> {
        let found = Self::ALL.into_iter().find(|storage| storage.to_string() == name);
        found.ok_or_else(|| UnknownStorage(name.to_owned()))
    }
}

/// A matrix `[rows, cols]` in its storage.
#[derive(Debug)]
pub(crate) struct Packed {
    cols: usize,
    numbers: Owned,
}

#[derive(Debug)]
enum Owned {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Bf16(Vec<u16>),
    Int8 { codes: Vec<i8>, scales: Vec<f32> },
    Fp4 { codes: Vec<u8>, scales: Vec<f32> },
}

impl Packed {
    /// Of zeros.
    pub(crate) fn new(storage: Storage, rows: usize, cols: usize) -> Self {
        let (n, blocks) = (rows * cols, rows * cols.div_ceil(BLOCK));
        let scales = || vec![0.0; blocks];
        let numbers = match storage {
            Storage::F32 => Owned::F32(vec![0.0; n]),
            Storage::F16 => Owned::F16(vec![0; n]),
            Storage::Bf16 => Owned::Bf16(vec![0; n]),
            Storage::Int8 => Owned::Int8 { codes: vec![0; n], scales: scales() },
            Storage::Fp4 => Owned::Fp4 { codes: vec![0; blocks * HALF], scales: scales() },
        };
        Self { cols, numbers }
    }

    /// Stores a row of finite numbers; the first that the storage has no finite number for is refused.
    pub(crate) fn set(&mut self, row: usize, values: &[f32]) -> Result<(), f32> {
        let cols = self.cols;
        assert_eq!(values.len(), cols, "lengths");
        let blocks = cols.div_ceil(BLOCK);
        let place = row * cols..(row + 1) * cols;
        match &mut self.numbers {
            Owned::F32(to) => to[place].copy_from_slice(values),
            Owned::F16(to) => {
                for (to, &x) in to[place].iter_mut().zip(values) {
                    let near = f16::from_f32(x);
                    *to = if near.is_finite() { near.to_bits() } else { return Err(x) };
                }
            }
            Owned::Bf16(to) => {
                for (to, &x) in to[place].iter_mut().zip(values) {
                    let near = bf16::from_f32(x);
                    *to = if near.is_finite() { near.to_bits() } else { return Err(x) };
                }
            }
            Owned::Int8 { codes, scales } => {
                let scales = &mut scales[row * blocks..][..blocks];
                let parts = codes[place].chunks_mut(BLOCK).zip(values.chunks(BLOCK));
                for ((codes, values), scale) in parts.zip(scales) {
                    *scale = scale_of(values, 127.0)?;
                    for (code, &x) in codes.iter_mut().zip(values) {
                        // A cast saturates, and 0 / 0 becomes 0.
                        *code = ((x / *scale).round_ties_even().clamp(-127.0, 127.0)) as i8;
                    }
                }
            }
            Owned::Fp4 { codes, scales } => {
                let scales = &mut scales[row * blocks..][..blocks];
                let parts = codes[row * blocks * HALF..].chunks_exact_mut(HALF);
                for ((codes, values), scale) in parts.zip(values.chunks(BLOCK)).zip(scales) {
                    *scale = scale_of(values, 6.0)?;
                    codes.fill(0);
                    for (i, &x) in values.iter().enumerate() {
                        codes[i % HALF] |= e2m1(x / *scale) << (4 * (i / HALF));
                    }
                }
            }
        }
        Ok(())
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn matrix(&self) -> Matrix<'_> {
        let numbers = match &self.numbers {
            Owned::F32(data) => Numbers::F32(data),
            Owned::F16(data) => Numbers::F16(data),
            Owned::Bf16(data) => Numbers::Bf16(data),
            Owned::Int8 { codes, scales } => Numbers::Int8 { codes, scales },
            Owned::Fp4 { codes, scales } => Numbers::Fp4 { codes, scales },
        };
        Matrix { cols: self.cols, numbers }
    }

    pub(crate) fn bytes(&self) -> usize {
        match &self.numbers {
            Owned::F32(data) => 4 * data.len(),
            Owned::F16(data) | Owned::Bf16(data) => 2 * data.len(),
            Owned::Int8 { codes, scales } => codes.len() + 4 * scales.len(),
            Owned::Fp4 { codes, scales } => codes.len() + 4 * scales.len(),
        }
    }
}

/// What makes the largest of `values` the largest code.
fn scale_of(values: &[f32], code: f32) -> Result<f32, f32> {
    let largest = values.iter().fold(0.0_f32, |most, x| x.abs().max(most));
    let scale = largest / code;
    // Near the end of f32's range it may be rounded beyond it.
    if (scale * code).is_finite() { Ok(scale) } else { Err(largest) }
}

/// The code of the nearest E2M1 number; of a tie the even code, of 0 or no number 0.
fn e2m1(x: f32) -> u8 {
    let size = x.abs();
    // Between two codes lies their mean; the even one has it.
    let code = u8::from(size > 0.25)
        + u8::from(size >= 0.75)
        + u8::from(size > 1.25)
        + u8::from(size >= 1.75)
        + u8::from(size > 2.5)
        + u8::from(size >= 3.5)
        + u8::from(size > 5.0);
    if x < 0.0 && code > 0 { code | 8 } else { code }
}

/// A matrix `[rows, cols]`, row by row, in its storage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    pub(crate) cols: usize,
    pub(crate) numbers: Numbers<'a>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Numbers<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
    Bf16(&'a [u16]),
    Int8 { codes: &'a [i8], scales: &'a [f32] },
    Fp4 { codes: &'a [u8], scales: &'a [f32] },
}

impl<'a> Matrix<'a> {
    pub(crate) fn new(data: &'a [f32], cols: usize) -> Self {
        Self { cols, numbers: Numbers::F32(data) }
    }

    pub(crate) fn rows(self) -> usize {
        let blocks = self.cols.div_ceil(BLOCK).max(1);
        match self.numbers {
            Numbers::F32(data) => data.len() / self.cols.max(1),
            Numbers::F16(data) | Numbers::Bf16(data) => data.len() / self.cols.max(1),
            Numbers::Int8 { scales, .. } | Numbers::Fp4 { scales, .. } => scales.len() / blocks,
        }
    }

    /// Its numbers, where they are stored as such.
    pub(crate) fn floats(self) -> Option<&'a [f32]> {
        match self.numbers {
            Numbers::F32(data) => Some(data),
            _ => None,
        }
    }

    /// A row's numbers.
    pub(crate) fn row(self, out: &mut [f32], row: usize) {
        assert_eq!(out.len(), self.cols, "lengths");
        vectorised(
            #[inline(always)]
            || self.decode(out, row, 0),
        );
    }

    /// The numbers from column `from` on.
    #[inline(always)]
    pub(crate) fn decode(self, out: &mut [f32], row: usize, from: usize) {
        let place = row * self.cols + from..row * self.cols + from + out.len();
        match self.numbers {
            Numbers::F32(data) => out.copy_from_slice(&data[place]),
            Numbers::F16(data) => {
                for (out, &bits) in out.iter_mut().zip(&data[place]) {
                    // 15 bits of exponent and mantissa in the place of f32's, whose exponent has 112 more.
                    let size = f32::from_bits(u32::from(bits & 0x7fff) << 13) * POWER_112;
                    *out = f32::from_bits(size.to_bits() | u32::from(bits & 0x8000) << 16);
                }
            }
            Numbers::Bf16(data) => {
                for (out, &bits) in out.iter_mut().zip(&data[place]) {
                    *out = f32::from_bits(u32::from(bits) << 16);
                }
            }
            Numbers::Int8 { codes, scales } => {
                let scales = &scales[row * self.cols.div_ceil(BLOCK)..];
                let (mut rest, mut at) = (out, from);
                while !rest.is_empty() {
                    let n = rest.len().min(BLOCK - at % BLOCK);
                    let (now, later) = rest.split_at_mut(n);
                    let scale = scales[at / BLOCK];
                    for (out, &code) in now.iter_mut().zip(&codes[row * self.cols + at..][..n]) {
                        *out = f32::from(code) * scale;
                    }
                    (rest, at) = (later, at + n);
                }
            }
            Numbers::Fp4 { codes, scales } => {
                let first = row * self.cols.div_ceil(BLOCK);
                let (mut rest, mut at) = (out, from);
                while !rest.is_empty() {
                    let n = rest.len().min(HALF - at % HALF);
                    let (now, later) = rest.split_at_mut(n);
                    let block = first + at / BLOCK;
                    let (high, scale) = (at / HALF % 2, scales[block]);
                    let mut values = [0.0; HALF];
                    for (value, &byte) in values.iter_mut().zip(&codes[block * HALF..][..HALF]) {
                        *value = number(byte >> (4 * high)) * scale;
                    }
                    now.copy_from_slice(&values[at % HALF..][..n]);
                    (rest, at) = (later, at + n);
                }
            }
        }
    }
}

/// 2 to the power of 112.
const POWER_112: f32 = f32::from_bits((127 + 112) << 23);

/// The E2M1 number of a code's four bits.
#[inline(always)]
fn number(code: u8) -> f32 {
    let (exponent, mantissa) = (code >> 1 & 3, code & 1);
    // Halves: m, or (2 + m) 2^(e - 1).
    let halves = if exponent == 0 { mantissa } else { (2 | mantissa) << exponent >> 1 };
    let size = f32::from(halves) * 0.5;
    f32::from_bits(size.to_bits() | u32::from(code & 8) << 28)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `tests/python/storage.py`, from torch and from numpy's own arithmetic.
    const GOLDEN: &str = include_str!("../../tests/golden/storage.json");

    fn list(value: &serde_json::Value) -> Vec<f32> {
        let bits: Vec<u32> = serde_json::from_value(value.clone()).expect("a list of bits");
        bits.into_iter().map(f32::from_bits).collect()
    }

    #[test]
    fn every_number_is_the_scripts() {
        let golden: serde_json::Value = serde_json::from_str(GOLDEN).expect("golden JSON");
        let cols = golden["cols"].as_u64().expect("a size") as usize;
        let values = list(&golden["values"]);
        let rows = values.len() / cols;
        for storage in Storage::ALL {
            let mut packed = Packed::new(storage, rows, cols);
            for (at, row) in values.chunks_exact(cols).enumerate() {
                packed.set(at, row).expect("within range");
            }
            let matrix = packed.matrix();
            assert_eq!((matrix.rows(), matrix.cols), (rows, cols));
            let want = match storage {
                Storage::F32 => values.clone(),
                _ => list(&golden[storage.to_string()]),
            };
            for at in 0..rows {
                let mut row = vec![9.0; cols];
                matrix.row(&mut row, at);
                for (i, (got, want)) in row.iter().zip(&want[at * cols..]).enumerate() {
                    assert_eq!(
                        got.to_bits(),
                        want.to_bits(),
                        "{storage} [{at}, {i}]: {got} {want}"
                    );
                }
                for (from, n) in [(0, 1), (5, 40), (31, 2), (33, 64), (cols - 3, 3)] {
                    let mut part = vec![9.0; n];
                    matrix.decode(&mut part, at, from);
                    assert_eq!(part, row[from..from + n], "{storage} from {from}");
                }
            }
        }
    }

    /// By the published table of codes.
    #[test]
    fn codes_of_e2m1() {
        let table = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        for (code, want) in table.into_iter().enumerate() {
            let code = code as u8;
            assert_eq!((number(code), number(code | 8)), (want, -want));
            assert_eq!(e2m1(want), code);
            assert_eq!(e2m1(-want), if code == 0 { 0 } else { code | 8 });
        }
        for (tie, even) in
            [(0.25, 0), (0.75, 2), (1.25, 2), (1.75, 4), (2.5, 4), (3.5, 6), (5.0, 6), (9.0, 7)]
        {
            assert_eq!(e2m1(tie), even, "{tie}");
        }
    }

    #[test]
    fn what_a_storage_cannot_hold_is_refused() {
        let row = [1.0, -70_000.0];
        assert_eq!(Packed::new(Storage::F16, 1, 2).set(0, &row), Err(-70_000.0));
        assert_eq!(Packed::new(Storage::Bf16, 1, 2).set(0, &[0.0, f32::MAX]), Err(f32::MAX));
        for storage in [Storage::F32, Storage::Int8, Storage::Fp4] {
            let mut packed = Packed::new(storage, 1, 2);
            packed.set(0, &[0.0, -3e38]).expect("scales");
            let mut got = [9.0; 2];
            packed.matrix().row(&mut got, 0);
            assert!(got[0] == 0.0 && (got[1] / 3e38 + 1.0).abs() < 1e-6, "{storage}: {got:?}");
        }
    }

    #[test]
    fn names() {
        for storage in Storage::ALL {
            assert_eq!(storage.to_string().parse(), Ok(storage));
        }
        assert_eq!("int4".parse::<Storage>(), Err(UnknownStorage("int4".into())));
    }
}
