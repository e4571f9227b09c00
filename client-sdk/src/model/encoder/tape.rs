//! The encoder's buffers.

use super::PER_LAYER;
use crate::data::Batch;
use crate::ops::{attention, linear};

/// What a forward pass leaves for the backward pass; reused from step to step. `n = rows * cols`.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Real tokens of each row.
    pub(super) lengths: Vec<usize>,
    pub(super) layers: Vec<LayerTape>,
    /// The last layer's output, `[n, hidden]`.
    pub(super) x: Vec<f32>,
    /// Its mean over each row's real tokens, `[rows, hidden]`.
    pub(super) pooled: Vec<f32>,
}

#[derive(Debug, Default)]
pub(super) struct LayerTape {
    /// Input, `[n, hidden]`.
    pub(super) x: Vec<f32>,
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    pub(super) attended: Vec<f32>,
    pub(super) attention: attention::Saved,
    pub(super) attention_norm: NormTape,
    /// Output of the attention's norm, `[n, hidden]`.
    pub(super) middle: Vec<f32>,
    /// Before and after GELU, `[n, intermediate]`.
    pub(super) inner: Vec<f32>,
    pub(super) active: Vec<f32>,
    pub(super) norm: NormTape,
    pub(super) linears: [linear::Saved; PER_LAYER],
}

/// A LayerNorm's `u` and `r`.
#[derive(Debug, Default)]
pub(super) struct NormTape {
    pub(super) u: Vec<f32>,
    pub(super) roots: Vec<f32>,
}

/// Gradients on the way down, reused from layer to layer.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) dsum: Vec<f32>,
    pub(super) dinner: Vec<f32>,
    pub(super) dattended: Vec<f32>,
    pub(super) dq: Vec<f32>,
    pub(super) dk: Vec<f32>,
    pub(super) dv: Vec<f32>,
    pub(super) branch: Vec<f32>,
}

impl Tape {
    pub(super) fn start(&mut self, layers: usize, batch: &Batch) {
        self.rows = batch.rows;
        self.cols = batch.cols;
        self.lengths.clear();
        match batch.lengths.is_empty() {
            true => self.lengths.resize(batch.rows, batch.cols),
            false => self.lengths.extend_from_slice(&batch.lengths),
        }
        self.layers.resize_with(layers, LayerTape::default);
    }
}
