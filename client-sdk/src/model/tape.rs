//! The buffers of a pass, for every family; what one does not use stays empty.

use crate::data::Batch;
use crate::ops::rope::Rope;
use crate::ops::{attention, layer_norm, linear};

/// What a forward pass keeps for the way back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Of each layer that has a gradient, what its backward pass reads and what is not cheap to make again.
    #[default]
    Layers,
    /// Of each of those its input; all else is made again, layer by layer, on the way down (gradient
    /// checkpointing, arXiv:1604.06174).
    Inputs,
    /// Nothing: there is no way back.
    Nothing,
    /// Of each layer keys and values: the next pass goes on behind this one's positions, without a way back.
    Keys,
}

/// What a forward pass leaves for the backward pass; reused from step to step. `n = rows * cols`.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    pub(crate) keep: Keep,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Positions whose keys and values are kept; of one row.
    pub(crate) past: usize,
    pub(crate) inputs: Vec<u32>,
    /// Real tokens of each row.
    pub(crate) lengths: Vec<usize>,
    /// Where positions turn.
    pub(crate) rope: Option<Rope>,
    pub(crate) layers: Vec<LayerTape>,
    /// Of a layer that is not kept, or is made again.
    pub(crate) spare: LayerTape,
    pub(crate) scratch: Scratch,
    /// The last layer's output, `[n, hidden]`.
    pub(crate) x: Vec<f32>,
    /// Of the norm behind the layers.
    pub(crate) norm: NormTape,
    /// What the head takes: `[n, hidden]` of a decoder, `[rows, hidden]` of an encoder.
    pub(crate) features: Vec<f32>,
}

/// One layer's. Widths: `q` and `attended` have all heads', `k` and `v` the key heads', `inner` and `up` the
/// feed-forward's, all else `hidden`. Norms' outputs and the activation's are made again where they are read.
#[derive(Debug, Default)]
pub(crate) struct LayerTape {
    /// Input.
    pub(crate) x: Vec<f32>,
    /// Where dropout's draws stood before this layer, where it is made again.
    pub(crate) dropout: Option<linear::Dropout>,
    /// Of the norm before (or, where a family norms its sums, behind) attention.
    pub(crate) attention_norm: NormTape,
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) attended: Vec<f32>,
    pub(crate) attention: attention::Saved,
    /// Input plus attention: what the second half starts from, or, where a family norms its sums, its norm.
    pub(crate) middle: Vec<f32>,
    /// Of the norm before, or behind, the feed-forward.
    pub(crate) norm: NormTape,
    /// Before the activation, and what a gated one is multiplied by.
    pub(crate) inner: Vec<f32>,
    pub(crate) up: Vec<f32>,
    /// What the last norm takes, where a family norms its sums.
    pub(crate) sum: Vec<f32>,
    pub(crate) linears: Vec<linear::Saved>,
}

/// Each row's statistics: an RMSNorm's roots, or what a LayerNorm saves.
#[derive(Debug, Default)]
pub(crate) struct NormTape {
    pub(crate) roots: Vec<f32>,
    pub(crate) layer: layer_norm::Saved,
}

/// What no layer keeps: a norm's output, the activation's, and gradients on the way down.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Output of a layer made again, which nothing reads.
    pub(crate) out: Vec<f32>,
    pub(crate) normed: Vec<f32>,
    pub(crate) active: Vec<f32>,
    pub(crate) dfeatures: Vec<f32>,
    pub(crate) dx: Vec<f32>,
    pub(crate) dnormed: Vec<f32>,
    pub(crate) dactive: Vec<f32>,
    pub(crate) dinner: Vec<f32>,
    pub(crate) dup: Vec<f32>,
    pub(crate) dattended: Vec<f32>,
    pub(crate) dq: Vec<f32>,
    pub(crate) dk: Vec<f32>,
    pub(crate) dv: Vec<f32>,
    pub(crate) branch: Vec<f32>,
}

impl Tape {
    /// Of a pass without a way back.
    pub(crate) fn one_way() -> Self {
        Self { keep: Keep::Nothing, ..Self::default() }
    }

    /// Of passes that go on behind one another.
    pub(crate) fn going_on() -> Self {
        Self { keep: Keep::Keys, ..Self::default() }
    }

    /// Takes over the batch's sizes; `linears`: in a layer.
    pub(crate) fn start(&mut self, layers: usize, linears: usize, batch: &Batch) {
        self.rows = batch.rows;
        self.cols = batch.cols;
        self.inputs.clone_from(&batch.inputs);
        self.lengths.clear();
        match batch.lengths.is_empty() {
            true => self.lengths.resize(batch.rows, batch.cols),
            false => self.lengths.extend_from_slice(&batch.lengths),
        }
        self.layers.resize_with(layers, LayerTape::default);
        for layer in self.layers.iter_mut().chain([&mut self.spare]) {
            layer.linears.resize_with(linears, linear::Saved::default);
        }
    }
}
