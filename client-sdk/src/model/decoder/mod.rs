//! The decoder over a batch: forward, keeping what backward needs, and backward.
//!
//! A layer: `m = x + O(attention(Q u, K u, V u))` with `u = norm(x)`, then `x' = m + D(silu(G w) * U w)`
//! with `w = norm(m)`. Logits: `norm(x_last) E^T`. Every linear may have a LoRA branch beside it.
//!
//! Invariant: gradients are added only where they are asked for, and the walk down ends at the first
//! layer that has any; a frozen weight's own gradient is never formed.

mod tape;

use super::LlamaConfig;
use super::weights::{LayerMap, WeightMap};
use crate::data::Batch;
use crate::lora::Adapter;
use crate::ops::linear::{self, Dropout, Linear};
use crate::ops::product::{Store, View, product};
use crate::ops::rope::Rope;
use crate::ops::{self, attention, norm, room, swiglu};

pub(crate) use tape::Tape;
use tape::{LayerTape, Scratch};

const Q: usize = 0;
const K: usize = 1;
const V: usize = 2;
const O: usize = 3;
const GATE: usize = 4;
const UP: usize = 5;
const DOWN: usize = 6;
/// Linears in a layer.
const PER_LAYER: usize = super::weights::LINEARS.len();

/// Parameters and sizes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decoder<'a> {
    pub(crate) config: &'a LlamaConfig,
    pub(crate) map: &'a WeightMap,
    pub(crate) flat: &'a [f32],
    pub(crate) adapter: Option<Adapter<'a>>,
}

/// Where gradients are added; `None`: not wanted.
#[derive(Debug, Default)]
pub(crate) struct Gradients<'a> {
    /// The flat adapter's.
    pub(crate) adapter: Option<&'a mut [f32]>,
    /// The flat base weights'.
    pub(crate) weights: Option<&'a mut [f32]>,
}

impl Gradients<'_> {
    fn weights_at(&mut self, place: &std::ops::Range<usize>) -> Option<&mut [f32]> {
        self.weights.as_deref_mut().map(|w| &mut w[place.clone()])
    }
}

impl<'a> Decoder<'a> {
    /// Runs the batch up to the last norm; its output, `[rows * cols, hidden]`.
    pub(crate) fn forward<'t>(
        &self,
        tape: &'t mut Tape,
        batch: &Batch,
        mut dropout: Option<&mut Dropout>,
    ) -> &'t [f32] {
        let (d, n) = (self.config.hidden, batch.rows * batch.cols);
        tape.start(self.config, batch);
        let Tape { layers, x, roots, hidden, rope, inputs, .. } = tape;
        // `start` made it.
        let Some(rope) = rope else { return &[] };
        let embed = &self.flat[self.map.embed.clone()];
        let mut stream = std::mem::take(x);
        room(&mut stream, n * d);
        for (x, &token) in stream.chunks_exact_mut(d).zip(&*inputs) {
            x.copy_from_slice(&embed[token as usize * d..][..d]);
        }
        let shape = self.shape(batch.rows, batch.cols);
        for (at, layer) in layers.iter_mut().enumerate() {
            std::mem::swap(&mut layer.x, &mut stream);
            room(&mut stream, n * d);
            self.layer_forward(at, layer, &mut stream, shape, rope, dropout.as_deref_mut());
        }
        *x = stream;
        let w = &self.flat[self.map.norm.clone()];
        norm::forward(room(hidden, n * d), room(roots, n), x, w, self.config.norm_eps as f32);
        hidden
    }

    fn layer_forward(
        &self,
        at: usize,
        tape: &mut LayerTape,
        out: &mut [f32],
        shape: attention::Shape,
        rope: &Rope,
        mut dropout: Option<&mut Dropout>,
    ) {
        let map = &self.map.layers[at];
        let eps = self.config.norm_eps as f32;
        let n = shape.rows * shape.cols;
        let mut run = |i: usize, out: &mut [f32], store, x: &[f32], saved: &mut linear::Saved| {
            self.linear(at, i).forward(out, store, x, saved, dropout.as_deref_mut());
        };
        let LayerTape { x, roots, normed, q, k, v, attended, linears, .. } = tape;
        let w = &self.flat[map.norm.clone()];
        norm::forward(room(normed, x.len()), room(roots, n), x, w, eps);
        for (i, to) in [(Q, &mut *q), (K, k), (V, v)] {
            let to = room(to, n * map.linears[i].d_out);
            run(i, to, Store::Set, normed, &mut linears[i]);
        }
        let reach = attention::Reach::Back(rope);
        attention::forward(room(attended, q.len()), q, k, v, shape, reach, &mut tape.attention);
        let LayerTape { middle, middle_roots, middle_normed, gate, up, gated, .. } = tape;
        middle.clear();
        middle.extend_from_slice(x);
        run(O, middle, Store::Add, attended, &mut linears[O]);
        let w = &self.flat[map.mlp_norm.clone()];
        norm::forward(room(middle_normed, x.len()), room(middle_roots, n), middle, w, eps);
        for (i, to) in [(GATE, &mut *gate), (UP, up)] {
            let to = room(to, n * map.linears[i].d_out);
            run(i, to, Store::Set, middle_normed, &mut linears[i]);
        }
        swiglu::forward(room(gated, gate.len()), gate, up);
        out.copy_from_slice(middle);
        run(DOWN, out, Store::Add, gated, &mut linears[DOWN]);
    }

    /// Logits of some rows of the last norm's output, `[rows, vocab]`.
    pub(crate) fn logits(&self, out: &mut Vec<f32>, hidden: &[f32]) {
        let (d, vocab) = (self.config.hidden, self.config.vocab);
        let n = hidden.len() / d;
        let head = View::new(&self.flat[self.map.head.clone()], vocab, d);
        let hidden = View::new(hidden, n, d);
        product(room(out, n * vocab), vocab, hidden, head.t(), 1.0, Store::Set);
    }

    /// Adds the gradients that follow from `dlogits`, `[rows * cols, vocab]`.
    pub(crate) fn backward(&self, tape: &Tape, dlogits: &[f32], gradients: &mut Gradients<'_>) {
        let (d, vocab, n) = (self.config.hidden, self.config.vocab, tape.rows * tape.cols);
        let Some(rope) = &tape.rope else { return };
        let dlogits = View::new(dlogits, n, vocab);
        if let Some(dhead) = gradients.weights_at(&self.map.head) {
            let hidden = View::new(&tape.hidden, n, d);
            product(dhead, d, dlogits.t(), hidden, 1.0, Store::Add);
        }
        let mut scratch = Scratch::default();
        let head = View::new(&self.flat[self.map.head.clone()], vocab, d);
        product(room(&mut scratch.dnormed, n * d), d, dlogits, head, 1.0, Store::Set);
        let mut dx = vec![0.0; n * d];
        let w = &self.flat[self.map.norm.clone()];
        let dw = gradients.weights_at(&self.map.norm);
        norm::backward(&mut dx, dw, &scratch.dnormed, &tape.x, &tape.roots, w);

        let lowest = match (&gradients.weights, self.adapter) {
            (Some(_), _) => None,
            (None, Some(adapter)) => Some(adapter.plan().first() / PER_LAYER),
            (None, None) => return,
        };
        let shape = self.shape(tape.rows, tape.cols);
        for (at, layer) in tape.layers.iter().enumerate().rev() {
            let down = match lowest {
                Some(lowest) if at < lowest => break,
                Some(lowest) => at > lowest,
                None => true,
            };
            self.layer_backward(at, layer, &mut dx, gradients, shape, rope, &mut scratch, down);
        }
        if let Some(dembed) = gradients.weights_at(&self.map.embed) {
            for (dx, &token) in dx.chunks_exact(d).zip(&tape.inputs) {
                ops::add(&mut dembed[token as usize * d..][..d], dx);
            }
        }
    }

    /// `dx`: the gradient of the layer's output, becomes that of its input where `down`.
    #[expect(clippy::too_many_arguments, reason = "one caller, and its loop's own state")]
    fn layer_backward(
        &self,
        at: usize,
        tape: &LayerTape,
        dx: &mut [f32],
        gradients: &mut Gradients<'_>,
        shape: attention::Shape,
        rope: &Rope,
        scratch: &mut Scratch,
        down: bool,
    ) {
        let map = &self.map.layers[at];
        let Scratch { dnormed, dgated, dgate, dup, dattended, dq, dk, dv, branch } = scratch;
        let mut run = |i: usize, dx: Option<(&mut [f32], Store)>, dy: &[f32], x: &[f32]| {
            let parts = self.split(map, at, i, gradients);
            self.linear(at, i).backward(dx, parts, dy, x, &tape.linears[i], branch);
        };
        let ff = tape.gated.len();
        run(DOWN, Some((room(dgated, ff), Store::Set)), dx, &tape.gated);
        swiglu::backward(room(dgate, ff), room(dup, ff), dgated, &tape.gate, &tape.up);
        let dnormed = room(dnormed, dx.len());
        run(GATE, Some((dnormed, Store::Set)), dgate, &tape.middle_normed);
        run(UP, Some((dnormed, Store::Add)), dup, &tape.middle_normed);
        let w = &self.flat[map.mlp_norm.clone()];
        let dw = gradients.weights_at(&map.mlp_norm);
        norm::backward(dx, dw, dnormed, &tape.middle, &tape.middle_roots, w);

        let mut run = |i: usize, dx: Option<(&mut [f32], Store)>, dy: &[f32], x: &[f32]| {
            let parts = self.split(map, at, i, gradients);
            self.linear(at, i).backward(dx, parts, dy, x, &tape.linears[i], branch);
        };
        run(O, Some((room(dattended, tape.q.len()), Store::Set)), dx, &tape.attended);
        let LayerTape { q, k, v, attended, attention, normed, .. } = tape;
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
            attention::Reach::Back(rope),
            attention,
        );
        for (i, dy, store) in [(Q, dq, Store::Set), (K, dk, Store::Add), (V, dv, Store::Add)] {
            run(i, down.then_some((&mut *dnormed, store)), dy, normed);
        }
        if down {
            let w = &self.flat[map.norm.clone()];
            let dw = gradients.weights_at(&map.norm);
            norm::backward(dx, dw, dnormed, &tape.x, &tape.roots, w);
        }
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

    /// Linear `i`'s parts of the gradients.
    fn split<'g>(
        &self,
        map: &LayerMap,
        layer: usize,
        i: usize,
        gradients: &'g mut Gradients<'_>,
    ) -> linear::Gradients<'g> {
        let map = &map.linears[i];
        let (weight, bias) = match (gradients.weights.as_deref_mut(), &map.bias) {
            (None, _) => (None, None),
            (Some(flat), None) => (Some(&mut flat[map.weight.clone()]), None),
            (Some(flat), Some(bias)) => {
                // The bias lies right behind its weight.
                let (weight, rest) =
                    flat[map.weight.start..bias.end].split_at_mut(map.weight.len());
                (Some(weight), Some(rest))
            }
        };
        let (a, b) = match (gradients.adapter.as_deref_mut(), self.adapter) {
            (Some(flat), Some(adapter)) => adapter.plan().split(layer * PER_LAYER + i, flat),
            _ => (None, None),
        };
        linear::Gradients { weight, bias, a, b }
    }

    fn shape(&self, rows: usize, cols: usize) -> attention::Shape {
        let LlamaConfig { heads, kv_heads, head_dim, .. } = *self.config;
        attention::Shape { rows, cols, heads, kv_heads, head_dim }
    }
}
