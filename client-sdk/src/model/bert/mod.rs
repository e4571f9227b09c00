//! BERT's encoder: LayerNorm behind each sum, attention both ways, GELU, mean features. Source:
//! arXiv:1810.04805.
//!
//! Embeddings: `x = norm(E_word[token] + E_position[t] + E_type[0])`. A layer:
//! `m = norm(x + O(attention(Q x, K x, V x)))`, then `x' = norm(m + D(gelu(I m)))`; every linear has a
//! bias and may have a LoRA branch beside it. Attention meets all real tokens of a row; the features
//! are the last layer's mean over them, `[rows, hidden]`. Padding changes no feature and no gradient.
//!
//! | tensor of `encoder.layer.{i}` | shape |
//! |---|---|
//! | `attention.self.query.weight`, `key`, `value`, `attention.output.dense` | `[hidden, hidden]` |
//! | `intermediate.dense.weight` | `[intermediate, hidden]` |
//! | `output.dense.weight` | `[hidden, intermediate]` |
//! | each of these with `.bias` | `[d_out]` |
//! | `attention.output.LayerNorm.weight`, `output.LayerNorm`, and `.bias` | `[hidden]` |
//!
//! and `embeddings.word_embeddings.weight` `[vocab, hidden]`, `position_embeddings` `[context, hidden]`,
//! `token_type_embeddings` `[types, hidden]`, `embeddings.LayerNorm.weight` and `.bias` `[hidden]`; in a
//! classifier's file each name begins with `bert.`.

mod config;
pub(super) mod graph;
#[cfg(test)]
mod tests;

use std::ops::Range;

use super::frozen::{Frozen, Gradients};
use super::layer_norms::NormMap;
use super::tape::{LayerTape, NormTape, Scratch, Tape};
use super::tensors::Tensors;
use super::walk::{Back, Family, Layer, Sizes, attention_backward};
use crate::data::Batch;
use crate::ops::linear::{self, Dropout};
use crate::ops::product::Store;
use crate::ops::{self, attention, gelu, pool, room};

pub use config::BertConfig;
#[cfg(test)]
pub(crate) use config::tests::tiny as config_of_tests;

/// A layer's linears, in order; all have a bias.
pub(crate) const LINEARS: [&str; 6] = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
];
const Q: usize = 0;
const K: usize = 1;
const V: usize = 2;
const O: usize = 3;
const INNER: usize = 4;
const OUTER: usize = 5;

/// A model's places.
#[derive(Clone, Debug)]
pub(crate) struct BertMap {
    words: Range<usize>,
    positions: Range<usize>,
    types: Range<usize>,
    norm: NormMap,
    /// The two norms of each layer.
    norms: Vec<[NormMap; 2]>,
    pub(crate) tensors: Tensors,
}

impl BertMap {
    /// Lays out the tensors `config` calls for.
    pub(crate) fn new(config: &BertConfig) -> Self {
        let prefix = if config.bare { "" } else { "bert." };
        let mut tensors = Tensors::default();
        let (d, ff) = (config.hidden, config.intermediate);
        let norm = |tensors: &mut Tensors, path: String| {
            ["weight", "bias"].map(|part| tensors.put(format!("{path}.LayerNorm.{part}"), &[d]))
        };
        let embeddings = format!("{prefix}embeddings");
        let mut embed = |name: &str, rows| {
            tensors.put(format!("{embeddings}.{name}_embeddings.weight"), &[rows, d])
        };
        let words = embed("word", config.vocab);
        let positions = embed("position", config.context);
        let types = embed("token_type", config.types);
        let embedded = norm(&mut tensors, embeddings);
        let sizes = [[d, d], [d, d], [d, d], [d, d], [d, ff], [ff, d]];
        let norms = (0..config.layers).map(|layer| {
            let path = format!("{prefix}encoder.layer.{layer}");
            for (name, size) in LINEARS.iter().zip(sizes) {
                tensors.put_linear(format!("{path}.{name}"), size, true);
            }
            let attention_norm = norm(&mut tensors, format!("{path}.attention.output"));
            [attention_norm, norm(&mut tensors, format!("{path}.output"))]
        });
        let norms = norms.collect();
        Self { words, positions, types, norm: embedded, norms, tensors }
    }
}

/// A BERT-family model over its weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bert<'a> {
    pub(crate) config: &'a BertConfig,
    pub(crate) map: &'a BertMap,
    pub(crate) frozen: Frozen<'a>,
}

impl Family for Bert<'_> {
    fn frozen(&self) -> &Frozen<'_> {
        &self.frozen
    }

    fn sizes(&self) -> Sizes {
        let BertConfig { hidden, layers, heads, .. } = *self.config;
        let head_dim = self.config.head_dim();
        Sizes { hidden, layers, linears: LINEARS.len(), heads, kv_heads: heads, head_dim }
    }

    fn causal(&self) -> bool {
        false
    }

    fn embed(&self, out: &mut [f32], batch: &Batch, _: usize) {
        let d = self.config.hidden;
        let [words, positions, types] = [&self.map.words, &self.map.positions, &self.map.types]
            .map(|place| self.frozen.matrix(place, d));
        let (mut sum, mut row) = (vec![0.0; out.len()], vec![0.0; d]);
        for (at, (sum, &token)) in sum.chunks_exact_mut(d).zip(&batch.inputs).enumerate() {
            words.row(sum, token as usize);
            positions.row(&mut row, at % batch.cols);
            ops::add(sum, &row);
            types.row(&mut row, 0);
            ops::add(sum, &row);
        }
        self.frozen.norm(out, &mut NormTape::default(), &sum, &self.map.norm, self.config.norm_eps);
    }

    fn layer(
        &self,
        at: Layer<'_>,
        tape: &mut LayerTape,
        out: &mut [f32],
        scratch: &mut Scratch,
        mut dropout: Option<&mut Dropout>,
    ) {
        let [attention_norm, norm] = &self.map.norms[at.at];
        let mut run = |i: usize, out: &mut [f32], store, x: &[f32], saved: &mut linear::Saved| {
            self.frozen.forward(at.first + i, out, store, x, saved, dropout.as_deref_mut());
        };
        let LayerTape { x, q, k, v, attended, attention, linears, .. } = tape;
        for (i, to) in [(Q, &mut *q), (K, k), (V, v)] {
            run(i, room(to, x.len()), Store::Set, x, &mut linears[i]);
        }
        attention::forward(room(attended, x.len()), q, k, v, at.shape, at.reach, attention);
        let LayerTape { middle, inner, sum, .. } = tape;
        middle.clear();
        middle.extend_from_slice(x);
        run(O, middle, Store::Add, attended, &mut linears[O]);
        let Scratch { normed, active, .. } = scratch;
        let normed = room(normed, middle.len());
        self.frozen.norm(
            normed,
            &mut tape.attention_norm,
            middle,
            attention_norm,
            self.config.norm_eps,
        );
        let wide = at.n() * self.config.intermediate;
        let inner = room(inner, wide);
        run(INNER, inner, Store::Set, normed, &mut linears[INNER]);
        gelu::forward(room(active, wide), inner);
        sum.clear();
        sum.extend_from_slice(normed);
        run(OUTER, sum, Store::Add, active, &mut linears[OUTER]);
        self.frozen.norm(out, &mut tape.norm, sum, norm, self.config.norm_eps);
    }

    fn layer_backward(
        &self,
        at: Layer<'_>,
        tape: &LayerTape,
        dx: &mut [f32],
        down: bool,
        gradients: &mut Gradients<'_>,
        scratch: &mut Scratch,
    ) {
        let [attention_norm, norm] = &self.map.norms[at.at];
        let Scratch { normed, active, dnormed, dinner, dattended, branch, .. } = scratch;
        let frozen = &self.frozen;
        let mut back = Back { frozen, layer: at, tape, gradients, branch };
        // Of the sum before the second norm; through the residual it is also the first norm's output's.
        let dsum = room(dnormed, dx.len());
        self.frozen.norm_backward((&mut *dsum, Store::Set), dx, &tape.sum, &tape.norm, norm);
        let active = if back.reads(&[OUTER]) {
            gelu::forward(room(active, tape.inner.len()), &tape.inner);
            &active[..]
        } else {
            &[]
        };
        let dinner = room(dinner, tape.inner.len());
        back.linear(OUTER, Some((dinner, Store::Set)), dsum, active);
        gelu::backward_in_place(dinner, &tape.inner);
        let (reads, middle) = (back.reads(&[INNER]), &tape.middle);
        let x = self.frozen.norm_again(normed, reads, middle, &tape.attention_norm, attention_norm);
        back.linear(INNER, Some((dsum, Store::Add)), dinner, x);

        // Of the sum before the first norm; through the residual it is also the input's.
        self.frozen.norm_backward(
            (&mut *dx, Store::Set),
            dsum,
            middle,
            &tape.attention_norm,
            attention_norm,
        );
        let dattended = room(dattended, dx.len());
        back.linear(O, Some((dattended, Store::Set)), dx, &tape.attended);
        attention_backward(at, tape, scratch);
        let Scratch { dq, dk, dv, branch, .. } = scratch;
        let mut back = Back { frozen, layer: at, tape, gradients, branch };
        for (i, dy) in [(Q, dq), (K, dk), (V, dv)] {
            back.linear(i, down.then_some((&mut *dx, Store::Add)), dy, &tape.x);
        }
    }

    fn features(&self, tape: &mut Tape) {
        let Tape { x, features, lengths, rows, .. } = tape;
        pool::forward(room(features, *rows * self.config.hidden), x, lengths);
    }

    fn features_backward(
        &self,
        dx: &mut [f32],
        dfeatures: &[f32],
        tape: &Tape,
        _: &mut Gradients<'_>,
    ) {
        pool::backward(dx, dfeatures, &tape.lengths);
    }
}
