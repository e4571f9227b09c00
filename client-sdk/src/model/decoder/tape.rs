//! The decoder's buffers.

use super::PER_LAYER;
use crate::data::Batch;
use crate::model::LlamaConfig;
use crate::ops::rope::Rope;
use crate::ops::{attention, linear};

/// What a forward pass leaves for the backward pass; reused from step to step.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) inputs: Vec<u32>,
    pub(super) rope: Option<Rope>,
    pub(super) layers: Vec<LayerTape>,
    /// Input of the last norm.
    pub(super) x: Vec<f32>,
    pub(super) roots: Vec<f32>,
    /// Output of the last norm, `[n, hidden]`.
    pub(super) hidden: Vec<f32>,
}

#[derive(Debug, Default)]
pub(super) struct LayerTape {
    pub(super) x: Vec<f32>,
    pub(super) roots: Vec<f32>,
    pub(super) normed: Vec<f32>,
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    pub(super) attended: Vec<f32>,
    pub(super) attention: attention::Saved,
    pub(super) middle: Vec<f32>,
    pub(super) middle_roots: Vec<f32>,
    pub(super) middle_normed: Vec<f32>,
    pub(super) gate: Vec<f32>,
    pub(super) up: Vec<f32>,
    pub(super) gated: Vec<f32>,
    pub(super) linears: [linear::Saved; PER_LAYER],
}

/// Gradients on the way down, reused from layer to layer.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) dnormed: Vec<f32>,
    pub(super) dgated: Vec<f32>,
    pub(super) dgate: Vec<f32>,
    pub(super) dup: Vec<f32>,
    pub(super) dattended: Vec<f32>,
    pub(super) dq: Vec<f32>,
    pub(super) dk: Vec<f32>,
    pub(super) dv: Vec<f32>,
    pub(super) branch: Vec<f32>,
}

impl Tape {
    pub(super) fn start(&mut self, config: &LlamaConfig, batch: &Batch) {
        self.rows = batch.rows;
        self.cols = batch.cols;
        self.inputs.clone_from(&batch.inputs);
        self.layers.resize_with(config.layers, LayerTape::default);
        if self.rope.as_ref().is_none_or(|rope| rope.len() < batch.cols) {
            self.rope = Some(Rope::new(config.head_dim, batch.cols, config.rope_theta));
        }
    }
}
