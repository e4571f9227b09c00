//! A model's weights as they are held, found by their places in the flat vector of its tensors.
//!
//! In `f32` that vector is held itself; in another storage each tensor on its own, matrices row by row in the
//! storage, vectors (norms, biases) in `f32`.

use std::ops::Range;

use super::tensors::{Tensor, Tensors};
use crate::ops::matrix::{Matrix, Packed, Storage};

/// All of a model's weights.
#[derive(Debug)]
pub(crate) enum Held {
    Flat(Vec<f32>),
    /// In the order of their places.
    Tensors(Storage, Vec<Part>),
}

/// One tensor; a vector is a matrix of one row.
#[derive(Debug)]
pub(crate) struct Part {
    start: usize,
    pub(super) packed: Packed,
}

/// The same, to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Weights<'a> {
    Flat(&'a [f32]),
    Tensors(&'a [Part]),
}

impl Held {
    /// Zeros for every one of `tensors`.
    pub(super) fn new(tensors: &Tensors, storage: Storage) -> Self {
        if storage == Storage::F32 {
            return Self::Flat(vec![0.0; tensors.n()]);
        }
        let part = |tensor: &Tensor| {
            let [rows, cols] = tensor.matrix();
            let storage = if tensor.shape.len() == 2 { storage } else { Storage::F32 };
            Part { start: tensor.place.start, packed: Packed::new(storage, rows, cols) }
        };
        Self::Tensors(storage, tensors.iter().map(part).collect())
    }

    pub(super) fn storage(&self) -> Storage {
        match self {
            Self::Flat(_) => Storage::F32,
            Self::Tensors(storage, _) => *storage,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Flat(flat) => 4 * flat.len(),
            Self::Tensors(_, parts) => parts.iter().map(|part| part.packed.bytes()).sum(),
        }
    }

    pub(crate) fn weights(&self) -> Weights<'_> {
        match self {
            Self::Flat(flat) => Weights::Flat(flat),
            Self::Tensors(_, parts) => Weights::Tensors(parts),
        }
    }

    /// Takes away the last tensor, a vector.
    pub(super) fn pop(&mut self, place: &Range<usize>) -> Vec<f32> {
        match self {
            Self::Flat(flat) => flat.split_off(place.start),
            Self::Tensors(_, parts) => {
                let part = parts.pop();
                part.and_then(|p| Some(p.packed.matrix().floats()?.to_vec())).unwrap_or_default()
            }
        }
    }
}

impl<'a> Weights<'a> {
    /// A vector.
    pub(crate) fn at(self, place: &Range<usize>) -> &'a [f32] {
        match self {
            Self::Flat(flat) => &flat[place.clone()],
            Self::Tensors(parts) => find(parts, place).floats().expect("vectors are held in f32"),
        }
    }

    /// A matrix with rows of `cols` entries.
    pub(crate) fn matrix(self, place: &Range<usize>, cols: usize) -> Matrix<'a> {
        match self {
            Self::Flat(flat) => Matrix::new(&flat[place.clone()], cols),
            Self::Tensors(parts) => {
                let matrix = find(parts, place);
                assert_eq!(matrix.cols, cols, "a row's length");
                matrix
            }
        }
    }

    /// A tensor's numbers in the order of its place.
    pub(crate) fn values(self, tensor: &Tensor) -> Vec<f32> {
        let [rows, cols] = tensor.matrix();
        let matrix = self.matrix(&tensor.place, cols);
        let mut values = vec![0.0; rows * cols];
        for (row, values) in values.chunks_exact_mut(cols.max(1)).enumerate() {
            matrix.row(values, row);
        }
        values
    }
}

/// The tensor that begins where `place` does.
fn find<'a>(parts: &'a [Part], place: &Range<usize>) -> Matrix<'a> {
    let at = parts.partition_point(|part| part.start < place.start);
    parts[at].packed.matrix()
}
