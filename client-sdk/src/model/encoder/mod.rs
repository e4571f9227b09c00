//! BERT's encoder over a batch: forward, keeping what backward needs, and backward. Source:
//! arXiv:1810.04805.
//!
//! Embeddings: `x = norm(E_word[token] + E_position[t] + E_type[0])`. A layer:
//! `m = norm(x + O(attention(Q x, K x, V x)))`, then `x' = norm(m + D(gelu(I m)))`; every linear has a
//! bias and may have a LoRA branch beside it. Attention meets all real tokens of a row; the features
//! are the last layer's mean over them, `[rows, hidden]`.
//!
//! Invariant: a frozen weight's own gradient is never formed, and the walk down ends at the lowest
//! adapted layer. Padding changes no feature and no gradient.

mod config;
mod tape;
#[cfg(test)]
mod tests;
pub(crate) mod weights;

use crate::data::Batch;
use crate::lora::Adapter;
use crate::ops::linear::{self, Dropout, Linear};
use crate::ops::product::Store;
use crate::ops::{self, attention, gelu, layer_norm, pool, room};

#[cfg(test)]
pub(crate) use config::tests::tiny as config_of_tests;

pub use config::BertConfig;
pub(crate) use tape::Tape;
use tape::{LayerTape, NormTape, Scratch};
use weights::{EncoderMap, NormMap};

const Q: usize = 0;
const K: usize = 1;
const V: usize = 2;
const O: usize = 3;
const INNER: usize = 4;
const OUTER: usize = 5;
/// Linears in a layer.
const PER_LAYER: usize = weights::LINEARS.len();

/// Parameters and sizes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoder<'a> {
    pub(crate) config: &'a BertConfig,
    pub(crate) map: &'a EncoderMap,
    pub(crate) flat: &'a [f32],
    pub(crate) adapter: Option<Adapter<'a>>,
}

impl<'a> Encoder<'a> {
    /// Runs the batch; each row's features, `[rows, hidden]`.
    pub(crate) fn forward<'t>(
        &self,
        tape: &'t mut Tape,
        batch: &Batch,
        mut dropout: Option<&mut Dropout>,
    ) -> &'t [f32] {
        let (d, n) = (self.config.hidden, batch.rows * batch.cols);
        tape.start(self.config.layers, batch);
        let Tape { lengths, layers, x, pooled, .. } = tape;
        let mut stream = std::mem::take(x);
        self.embed(room(&mut stream, n * d), batch);
        for (at, layer) in layers.iter_mut().enumerate() {
            std::mem::swap(&mut layer.x, &mut stream);
            let out = room(&mut stream, n * d);
            self.layer_forward(at, layer, out, batch, lengths, dropout.as_deref_mut());
        }
        *x = stream;
        pool::forward(room(pooled, batch.rows * d), x, lengths);
        pooled
    }

    /// Word, position and type, summed and normed.
    fn embed(&self, out: &mut [f32], batch: &Batch) {
        let d = self.config.hidden;
        let [words, positions, types] = [&self.map.words, &self.map.positions, &self.map.types]
            .map(|place| &self.flat[place.clone()]);
        let mut sum = vec![0.0; out.len()];
        for (at, (sum, &token)) in sum.chunks_exact_mut(d).zip(&batch.inputs).enumerate() {
            sum.copy_from_slice(&words[token as usize * d..][..d]);
            ops::add(sum, &positions[at % batch.cols * d..][..d]);
            ops::add(sum, &types[..d]);
        }
        self.norm(out, &mut NormTape::default(), &sum, &self.map.norm);
    }

    fn layer_forward(
        &self,
        at: usize,
        tape: &mut LayerTape,
        out: &mut [f32],
        batch: &Batch,
        lengths: &[usize],
        mut dropout: Option<&mut Dropout>,
    ) {
        let map = &self.map.layers[at];
        let (n, ff) = (batch.rows * batch.cols, self.config.intermediate);
        let mut run = |i: usize, out: &mut [f32], store, x: &[f32], saved: &mut linear::Saved| {
            self.linear(at, i).forward(out, store, x, saved, dropout.as_deref_mut());
        };
        let LayerTape { x, q, k, v, attended, attention, linears, .. } = tape;
        for (i, to) in [(Q, &mut *q), (K, k), (V, v)] {
            run(i, room(to, x.len()), Store::Set, x, &mut linears[i]);
        }
        let (shape, reach) = (self.shape(batch.rows, batch.cols), attention::Reach::Row(lengths));
        attention::forward(room(attended, x.len()), q, k, v, shape, reach, attention);
        let mut sum = x.clone();
        run(O, &mut sum, Store::Add, attended, &mut linears[O]);
        let LayerTape { middle, inner, active, .. } = tape;
        let middle = room(middle, sum.len());
        self.norm(middle, &mut tape.attention_norm, &sum, &map.attention_norm);
        let inner = room(inner, n * ff);
        run(INNER, inner, Store::Set, middle, &mut tape.linears[INNER]);
        gelu::forward(room(active, n * ff), inner);
        sum.copy_from_slice(middle);
        run(OUTER, &mut sum, Store::Add, active, &mut tape.linears[OUTER]);
        self.norm(out, &mut tape.norm, &sum, &map.norm);
    }

    /// Adds the adapter's gradients that follow from `dpooled`, `[rows, hidden]`.
    pub(crate) fn backward(&self, tape: &Tape, dpooled: &[f32], gradient: &mut [f32]) {
        let Some(adapter) = self.adapter else { return };
        let lowest = adapter.plan().first() / PER_LAYER;
        let mut scratch = Scratch::default();
        let mut dx = vec![0.0; tape.x.len()];
        pool::backward(&mut dx, dpooled, &tape.lengths);
        for at in (lowest..tape.layers.len()).rev() {
            self.layer_backward(at, tape, &mut dx, gradient, &mut scratch, at > lowest);
        }
    }

    /// `dx`: the gradient of the layer's output, becomes that of its input where `down`.
    fn layer_backward(
        &self,
        at: usize,
        tape: &Tape,
        dx: &mut [f32],
        gradient: &mut [f32],
        scratch: &mut Scratch,
        down: bool,
    ) {
        let map = &self.map.layers[at];
        let (shape, lengths) = (self.shape(tape.rows, tape.cols), &tape.lengths);
        let tape = &tape.layers[at];
        let Scratch { dsum, dinner, dattended, dq, dk, dv, branch } = scratch;
        let mut run = |i: usize, dx: Option<(&mut [f32], Store)>, dy: &[f32], x: &[f32]| {
            let (a, b) = match self.adapter {
                Some(adapter) => adapter.plan().split(at * PER_LAYER + i, gradient),
                None => (None, None),
            };
            let parts = linear::Gradients { a, b, ..Default::default() };
            self.linear(at, i).backward(dx, parts, dy, x, &tape.linears[i], branch);
        };
        // Of the sum before the second norm; through the residual it is also the middle's.
        let dsum = room(dsum, dx.len());
        let w = &self.flat[map.norm[0].clone()];
        layer_norm::backward(dsum, dx, &tape.norm.u, &tape.norm.roots, w);
        let dinner = room(dinner, tape.inner.len());
        run(OUTER, Some((dinner, Store::Set)), dsum, &tape.active);
        gelu::backward_in_place(dinner, &tape.inner);
        run(INNER, Some((dsum, Store::Add)), dinner, &tape.middle);

        // Of the sum before the first norm; through the residual it is also the input's.
        let w = &self.flat[map.attention_norm[0].clone()];
        let NormTape { u, roots } = &tape.attention_norm;
        layer_norm::backward(dx, dsum, u, roots, w);
        let dattended = room(dattended, dx.len());
        run(O, Some((dattended, Store::Set)), dx, &tape.attended);
        let LayerTape { x, q, k, v, attended, attention, .. } = tape;
        attention::backward(
            room(dq, q.len()),
            room(dk, k.len()),
            room(dv, v.len()),
            dattended,
            q,
            k,
            v,
            attended,
            shape,
            attention::Reach::Row(lengths),
            attention,
        );
        for (i, dy) in [(Q, dq), (K, dk), (V, dv)] {
            run(i, down.then_some((&mut *dx, Store::Add)), dy, x);
        }
    }

    fn norm(&self, out: &mut [f32], tape: &mut NormTape, x: &[f32], map: &NormMap) {
        let parameters = map.each_ref().map(|place| &self.flat[place.clone()]);
        let NormTape { u, roots } = tape;
        let n = x.len() / self.config.hidden;
        let eps = self.config.norm_eps as f32;
        layer_norm::forward(out, room(u, x.len()), room(roots, n), x, parameters, eps);
    }

    fn linear(&self, layer: usize, i: usize) -> Linear<'a> {
        let map = &self.map.layers[layer].linears[i];
        Linear {
            d_in: map.d_in,
            d_out: map.d_out,
            weight: &self.flat[map.weight.clone()],
            bias: map.bias.clone().map(|bias| &self.flat[bias]),
            lora: self.adapter.and_then(|adapter| adapter.branch(layer * PER_LAYER + i)),
        }
    }

    fn shape(&self, rows: usize, cols: usize) -> attention::Shape {
        let heads = self.config.heads;
        let head_dim = self.config.head_dim();
        attention::Shape { rows, cols, heads, kv_heads: heads, head_dim }
    }
}
