//! A file's tensors into a model's weights, in one pass from its first byte to its last.
//!
//! The pass also takes the file's digest, so that what was hashed is what is used, and neither the file
//! nor a tensor is ever held as a whole beside the weights: no more than a row is (a whole tensor where it is
//! turned on the way into another storage than `f32`).
//!
//! Invariant: room for the weights is made only once the file is known to be long enough for every tensor
//! in it, no two of them in the same bytes.

use std::collections::HashMap;
use std::io::Read;

use gossamer_protocol::digest::{Digest, Hasher};
use half::{bf16, f16};

use super::ModelError;
use super::gguf::Blocks;
use super::held::Held;
use super::tensors::{Tensor, Tensors};
use crate::ops::matrix::{Packed, Storage};

/// Entries decoded at once; a multiple of every format's block.
const CHUNK: usize = 1 << 14;

/// How a tensor's entries are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Format {
    F32,
    F16,
    BF16,
    /// In blocks with scales of their own.
    Blocks(Blocks),
}

/// A tensor as a file's header has it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Row by row, outermost first.
    pub(super) shape: Vec<usize>,
    /// Or the name of a format that is not read.
    pub(super) format: Result<Format, String>,
    /// From the file's first byte.
    pub(super) start: u64,
}

/// A file read once, front to back.
pub(super) struct Stream<'r> {
    reader: &'r mut dyn Read,
    at: u64,
    len: u64,
    hasher: Hasher,
}

/// Where a tensor's rows go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rows {
    /// As they are.
    Kept,
    /// Of heads of this size, whose entries `2 i` and `2 i + 1` belong at `i` and `i + d/2`.
    Paired(usize),
    /// As they are, of a tensor that Hugging Face's file has transposed and this one has not.
    Upright,
}

impl Format {
    /// Entries of a block, and its bytes.
    pub(super) fn block(self) -> [usize; 2] {
        match self {
            Self::F32 => [1, 4],
            Self::F16 | Self::BF16 => [1, 2],
            Self::Blocks(kind) => kind.size(),
        }
    }

    /// Bytes of `n` entries; `None` where no whole number of blocks has so many.
    fn bytes(self, n: usize) -> Option<u64> {
        let [entries, bytes] = self.block();
        let blocks = n.is_multiple_of(entries).then_some(n / entries)?;
        u64::try_from(blocks.checked_mul(bytes)?).ok()
    }

    /// Replaces what is in `out`.
    fn decode(self, out: &mut Vec<f32>, raw: &[u8]) {
        out.clear();
        let half = |to: fn([u8; 2]) -> f32| raw.as_chunks().0.iter().map(move |&b| to(b));
        match self {
            Self::F32 => out.extend(raw.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b))),
            Self::F16 => out.extend(half(|b| f16::from_le_bytes(b).to_f32())),
            Self::BF16 => out.extend(half(|b| bf16::from_le_bytes(b).to_f32())),
            Self::Blocks(kind) => kind.decode(out, raw),
        }
    }
}

impl<'r> Stream<'r> {
    /// Over all `len` bytes of `reader`.
    pub(super) fn new(reader: &'r mut dyn Read, len: u64) -> Self {
        Self { reader, at: 0, len, hasher: Hasher::default() }
    }

    /// Bytes read.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Bytes in all.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The next `n` bytes; never more than the file has.
    pub(super) fn take(&mut self, n: u64) -> Result<Vec<u8>, ModelError> {
        let mut bytes = Vec::new();
        self.fill(&mut bytes, n)?;
        Ok(bytes)
    }

    /// As [`take`](Self::take), into a buffer.
    pub(super) fn fill(&mut self, bytes: &mut Vec<u8>, n: u64) -> Result<(), ModelError> {
        let left = self.len - self.at;
        if n > left {
            let at = self.at;
            return Err(ModelError::Weights(format!(
                "{n} bytes belong at byte {at}, the file has {left} there"
            )));
        }
        bytes.clear();
        let read = self.reader.take(n).read_to_end(bytes);
        let read = read.map_err(|e| ModelError::Weights(e.to_string()))? as u64;
        if read < n {
            return Err(ModelError::Weights(format!("it ends {} bytes early", n - read)));
        }
        self.hasher.update(bytes);
        self.at += n;
        Ok(())
    }

    fn skip_to(&mut self, at: u64, buffer: &mut Vec<u8>) -> Result<(), ModelError> {
        while self.at < at {
            self.fill(buffer, (at - self.at).min(1 << 20))?;
        }
        Ok(())
    }

    /// Reads every one of `tensors`, found by name in the header's `entries`, and the rest of the file.
    pub(super) fn read(
        mut self,
        tensors: &Tensors,
        entries: &HashMap<String, Entry>,
        rows: &dyn Fn(&str) -> Rows,
        known: &'static str,
        storage: Storage,
    ) -> Result<(Held, Digest), ModelError> {
        let mut wanted = Vec::new();
        for (at, tensor) in tensors.iter().enumerate() {
            let other = || entries.get(tensors.other_name(&tensor.name)?);
            let entry = entries.get(&tensor.name).or_else(other);
            let entry = entry.ok_or_else(|| ModelError::Missing(tensor.name.clone()))?;
            let name = || tensor.name.clone();
            let mut expected = tensor.shape.clone();
            if rows(&tensor.name) == Rows::Upright {
                expected.reverse();
            }
            if entry.shape != expected {
                let found = entry.shape.clone();
                return Err(ModelError::Shape { name: name(), expected, found });
            }
            let format = entry.format.clone();
            let format =
                format.map_err(|found| ModelError::Dtype { name: name(), found, known })?;
            let bytes = format.bytes(tensor.place.len()).ok_or_else(|| {
                ModelError::Weights(format!("tensor {} is no whole number of blocks", tensor.name))
            })?;
            wanted.push((entry.start, bytes, format, at, tensor));
        }
        wanted.sort_by_key(|&(start, ..)| start);
        let mut free = self.at;
        for &(start, bytes, _, _, tensor) in &wanted {
            let end = start.checked_add(bytes).filter(|&end| start >= free && end <= self.len);
            free = end.ok_or_else(|| {
                ModelError::Weights(format!(
                    "tensor {} has {bytes} bytes at byte {start}; those before it end at {free}, \
                     the file at {}",
                    tensor.name, self.len
                ))
            })?;
        }
        let mut held = Held::new(tensors, storage);
        let (mut raw, mut values) = (Vec::new(), Vec::new());
        for (start, _, format, at, tensor) in wanted {
            self.skip_to(start, &mut raw)?;
            let place = Place::new(tensor, rows(&tensor.name));
            let mut sink = Sink::new(&mut held, at, tensor, &place);
            let beyond = |value| ModelError::Beyond { name: tensor.name.clone(), storage, value };
            let len = tensor.place.len();
            for first in (0..len).step_by(CHUNK) {
                let n = CHUNK.min(len - first);
                self.fill(&mut raw, format.bytes(n).unwrap_or(0))?;
                format.decode(&mut values, &raw);
                if !values.iter().all(|x| x.is_finite()) {
                    return Err(ModelError::NonFinite(tensor.name.clone()));
                }
                sink.put(&place, first, &values).map_err(beyond)?;
            }
            sink.finish().map_err(beyond)?;
        }
        self.skip_to(self.len, &mut raw)?;
        Ok((held, self.hasher.finish()))
    }
}

/// Takes one tensor's entries, from its first to its last.
enum Sink<'h> {
    /// Its part of the flat vector.
    Flat(&'h mut [f32]),
    /// Its rows, each once it is whole; the row to come, and which it is in the file.
    Rows(&'h mut Packed, Vec<f32>, usize),
    /// The whole, where columns come before rows.
    Whole(&'h mut Packed, Vec<f32>),
}

impl<'h> Sink<'h> {
    /// For tensor number `at`.
    fn new(held: &'h mut Held, at: usize, tensor: &Tensor, place: &Place) -> Self {
        match held {
            Held::Flat(flat) => Self::Flat(&mut flat[tensor.place.clone()]),
            Held::Tensors(_, parts) => {
                let packed = &mut parts[at].packed;
                match place.turned {
                    true => Self::Whole(packed, vec![0.0; tensor.place.len()]),
                    false => Self::Rows(packed, Vec::new(), 0),
                }
            }
        }
    }

    /// Takes entries `first..`; refuses one that the storage has no number for.
    fn put(&mut self, place: &Place, first: usize, values: &[f32]) -> Result<(), f32> {
        match self {
            Self::Flat(out) => place.put(out, first, values),
            Self::Whole(_, out) => place.put(out, first, values),
            Self::Rows(packed, row, next) => {
                let mut values = values;
                while !values.is_empty() {
                    let (some, rest) = values.split_at(values.len().min(packed.cols() - row.len()));
                    row.extend_from_slice(some);
                    if row.len() == packed.cols() {
                        packed.set(place.row(*next), row)?;
                        *next += 1;
                        row.clear();
                    }
                    values = rest;
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<(), f32> {
        let Self::Whole(packed, out) = self else { return Ok(()) };
        let cols = packed.cols();
        out.chunks_exact(cols).enumerate().try_for_each(|(at, row)| packed.set(at, row))
    }
}

/// Where a stored tensor's entries belong in its place.
struct Place {
    turned: bool,
    rows: Rows,
    /// Of the stored tensor.
    d: [usize; 2],
}

impl Place {
    fn new(tensor: &Tensor, rows: Rows) -> Self {
        let first = tensor.shape.first().copied().unwrap_or(1).max(1);
        let turned = tensor.turned && rows != Rows::Upright;
        Self { turned, rows, d: [first, tensor.place.len() / first] }
    }

    /// Puts entries `first..` of the stored tensor.
    fn put(&self, out: &mut [f32], first: usize, values: &[f32]) {
        let [rows, cols] = self.d;
        if !self.turned && !matches!(self.rows, Rows::Paired(_)) {
            out[first..first + values.len()].copy_from_slice(values);
            return;
        }
        for (at, &value) in (first..).zip(values) {
            let (row, col) = (self.row(at / cols), at % cols);
            let to = if self.turned { col * rows + row } else { row * cols + col };
            out[to] = value;
        }
    }

    fn row(&self, row: usize) -> usize {
        match self.rows {
            Rows::Kept | Rows::Upright => row,
            Rows::Paired(d) => {
                let (head, at) = (row / d, row % d);
                head * d + at % 2 * (d / 2) + at / 2
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two heads of 4: the file's rows are named by where they belong.
    #[test]
    fn rows_of_pairs() {
        let place = Place { turned: false, rows: Rows::Paired(4), d: [8, 1] };
        let mut out = [0.0; 8];
        place.put(&mut out, 0, &[0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        assert_eq!(out, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    }

    /// `[2, 3]` as `[3, 2]`, in two parts.
    #[test]
    fn a_turned_tensor() {
        let place = Place { turned: true, rows: Rows::Kept, d: [2, 3] };
        let mut out = [0.0; 6];
        place.put(&mut out, 0, &[1.0, 2.0, 3.0, 4.0]);
        place.put(&mut out, 4, &[5.0, 6.0]);
        assert_eq!(out, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}
