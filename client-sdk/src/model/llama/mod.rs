//! The Llama family (Llama, SmolLM2, Qwen2): RMSNorm, rotary grouped-query attention, SwiGLU, tied or own head. Source:
//! arXiv:2302.13971.
//!
//! A layer: `m = x + O(attention(Q u, K u, V u))` with `u = norm(x)`, then `x' = m + D(silu(G w) * U w)`
//! with `w = norm(m)`. Features: `norm(x_last)`; logits: their product with the head, or where that is
//! tied with the embedding. Every linear may have a LoRA branch beside it.
//!
//! | tensor of `model.layers.{i}` | shape |
//! |---|---|
//! | `input_layernorm.weight`, `post_attention_layernorm.weight` | `[hidden]` |
//! | `self_attn.q_proj.weight` | `[heads * head_dim, hidden]` |
//! | `self_attn.k_proj.weight`, `v_proj` | `[kv_heads * head_dim, hidden]` |
//! | `self_attn.o_proj.weight` | `[hidden, heads * head_dim]` |
//! | `mlp.gate_proj.weight`, `up_proj` | `[intermediate, hidden]` |
//! | `mlp.down_proj.weight` | `[hidden, intermediate]` |
//!
//! (with biases behind q, k, v, and o, where the configuration says so)
//! and `model.embed_tokens.weight`, `lm_head.weight` `[vocab, hidden]`, `model.norm.weight` `[hidden]`.

mod config;
pub(super) mod graph;

use std::ops::Range;

use super::frozen::{Frozen, Gradients};
use super::tape::{LayerTape, NormTape, Scratch, Tape};
use super::tensors::Tensors;
use super::walk::{Back, Family, Layer, Sizes, attention_backward};
use crate::data::Batch;
use crate::ops::linear::{self, Dropout};
use crate::ops::product::Store;
use crate::ops::rope::Rope;
use crate::ops::{self, attention, norm, room, swiglu};

#[cfg(test)]
pub(crate) use config::tests;
pub use config::{Bias, Llama3Rope, LlamaConfig};

/// A layer's linears, in order.
pub(crate) const LINEARS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];
const Q: usize = 0;
const K: usize = 1;
const V: usize = 2;
const O: usize = 3;
const GATE: usize = 4;
const UP: usize = 5;
const DOWN: usize = 6;

/// A model's places.
#[derive(Clone, Debug)]
pub(crate) struct LlamaMap {
    embed: Range<usize>,
    /// The two norms of each layer.
    norms: Vec<[Range<usize>; 2]>,
    norm: Range<usize>,
    /// The embedding's own place where the head is tied.
    pub(crate) head: Range<usize>,
    pub(crate) tensors: Tensors,
}

impl LlamaMap {
    /// Lays out the tensors `config` calls for.
    pub(crate) fn new(config: &LlamaConfig) -> Self {
        let mut tensors = Tensors::default();
        let (d, ff) = (config.hidden, config.intermediate);
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let sizes = [[d, q], [d, kv], [d, kv], [q, d], [d, ff], [d, ff], [ff, d]];
        let embed = tensors.put("model.embed_tokens.weight".into(), &[config.vocab, d]);
        let norms = (0..config.layers).map(|layer| {
            let path = format!("model.layers.{layer}");
            let norm = tensors.put(format!("{path}.input_layernorm.weight"), &[d]);
            for (i, (name, size)) in LINEARS.iter().zip(sizes).enumerate() {
                tensors.put_linear(format!("{path}.{name}"), size, config.biased(i));
            }
            let mlp_norm = format!("{path}.post_attention_layernorm.weight");
            [norm, tensors.put(mlp_norm, &[d])]
        });
        let norms = norms.collect();
        let norm = tensors.put("model.norm.weight".into(), &[d]);
        let head = match config.tied {
            true => embed.clone(),
            false => tensors.put("lm_head.weight".into(), &[config.vocab, d]),
        };
        Self { embed, norms, norm, head, tensors }
    }
}

/// A Llama-family model over its weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Llama<'a> {
    pub(crate) config: &'a LlamaConfig,
    pub(crate) map: &'a LlamaMap,
    pub(crate) frozen: Frozen<'a>,
}

impl Llama<'_> {
    fn norm(&self, out: &mut [f32], tape: &mut NormTape, x: &[f32], place: &Range<usize>) {
        let roots = room(&mut tape.roots, x.len() / self.config.hidden);
        norm::forward(out, roots, x, self.frozen.at(place), self.config.norm_eps as f32);
    }

    /// The norm's output again, where it is read; else nothing.
    fn norm_again<'o>(
        &self,
        out: &'o mut Vec<f32>,
        read: bool,
        x: &[f32],
        tape: &NormTape,
        place: &Range<usize>,
    ) -> &'o [f32] {
        if !read {
            return &[];
        }
        let out = room(out, x.len());
        norm::again(out, x, &tape.roots, self.frozen.at(place));
        out
    }

    /// Adds to `dx`.
    fn norm_backward(
        &self,
        dx: &mut [f32],
        gradients: &mut Gradients<'_>,
        dy: &[f32],
        x: &[f32],
        tape: &NormTape,
        place: &Range<usize>,
    ) {
        let w = self.frozen.at(place);
        norm::backward(dx, gradients.weights_at(place), dy, x, &tape.roots, w);
    }
}

impl Family for Llama<'_> {
    fn frozen(&self) -> &Frozen<'_> {
        &self.frozen
    }

    fn sizes(&self) -> Sizes {
        let LlamaConfig { hidden, layers, heads, kv_heads, head_dim, .. } = *self.config;
        Sizes { hidden, layers, linears: LINEARS.len(), heads, kv_heads, head_dim }
    }

    fn causal(&self) -> bool {
        true
    }

    fn rope(&self, len: usize) -> Option<Rope> {
        Some(self.config.rope(len))
    }

    fn embed(&self, out: &mut [f32], batch: &Batch, _: usize) {
        let d = self.config.hidden;
        let embed = self.frozen.matrix(&self.map.embed, d);
        for (x, &token) in out.chunks_exact_mut(d).zip(&batch.inputs) {
            embed.row(x, token as usize);
        }
    }

    fn embed_backward(&self, dx: &[f32], tape: &Tape, gradients: &mut Gradients<'_>) {
        let d = self.config.hidden;
        let Some(dembed) = gradients.weights_at(&self.map.embed) else { return };
        for (dx, &token) in dx.chunks_exact(d).zip(&tape.inputs) {
            ops::add(&mut dembed[token as usize * d..][..d], dx);
        }
    }

    fn layer(
        &self,
        at: Layer<'_>,
        tape: &mut LayerTape,
        out: &mut [f32],
        scratch: &mut Scratch,
        mut dropout: Option<&mut Dropout>,
    ) {
        let [norm, mlp_norm] = &self.map.norms[at.at];
        let n = at.n();
        let linears = &self.frozen.tensors.linears()[at.first..];
        let mut run = |i: usize, out: &mut [f32], store, x: &[f32], saved: &mut linear::Saved| {
            self.frozen.forward(at.first + i, out, store, x, saved, dropout.as_deref_mut());
        };
        let Scratch { normed, active, .. } = scratch;
        let LayerTape { x, attention_norm, q, k, v, attended, linears: saved, .. } = tape;
        self.norm(room(normed, x.len()), attention_norm, x, norm);
        run(Q, room(q, n * linears[Q].d_out), Store::Set, normed, &mut saved[Q]);
        for (i, to) in [(K, &mut *k), (V, &mut *v)] {
            run(i, at.keys(to, linears[i].d_out), Store::Set, normed, &mut saved[i]);
        }
        let to = room(attended, q.len());
        attention::forward(to, q, k, v, at.shape, at.reach, &mut tape.attention);
        let LayerTape { middle, norm, inner, up, .. } = tape;
        middle.clear();
        middle.extend_from_slice(x);
        run(O, middle, Store::Add, attended, &mut saved[O]);
        self.norm(normed, norm, middle, mlp_norm);
        for (i, to) in [(GATE, &mut *inner), (UP, up)] {
            run(i, room(to, n * linears[i].d_out), Store::Set, normed, &mut saved[i]);
        }
        if at.again && !self.frozen.adapts(at.first + DOWN) {
            return;
        }
        swiglu::forward(room(active, inner.len()), inner, up);
        out.copy_from_slice(middle);
        run(DOWN, out, Store::Add, active, &mut saved[DOWN]);
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
        let [norm, mlp_norm] = &self.map.norms[at.at];
        let Scratch { normed, active, dnormed, dactive, dinner, dup, dattended, branch, .. } =
            scratch;
        let (frozen, ff) = (&self.frozen, tape.inner.len());
        let mut back = Back { frozen, layer: at, tape, gradients, branch };
        let active = if back.reads(&[DOWN]) {
            swiglu::forward(room(active, ff), &tape.inner, &tape.up);
            &active[..]
        } else {
            &[]
        };
        back.linear(DOWN, Some((room(dactive, ff), Store::Set)), dx, active);
        swiglu::backward(room(dinner, ff), room(dup, ff), dactive, &tape.inner, &tape.up);
        let reads = back.reads(&[GATE, UP]);
        let x = self.norm_again(normed, reads, &tape.middle, &tape.norm, mlp_norm);
        let to = room(dnormed, dx.len());
        back.linear(GATE, Some((to, Store::Set)), dinner, x);
        back.linear(UP, Some((to, Store::Add)), dup, x);
        self.norm_backward(dx, back.gradients, to, &tape.middle, &tape.norm, mlp_norm);

        let to = room(dattended, tape.q.len());
        back.linear(O, Some((to, Store::Set)), dx, &tape.attended);
        attention_backward(at, tape, scratch);
        let Scratch { normed, dnormed, dq, dk, dv, branch, .. } = scratch;
        let mut back = Back { frozen, layer: at, tape, gradients, branch };
        let reads = back.reads(&[Q, K, V]);
        let x = self.norm_again(normed, reads, &tape.x, &tape.attention_norm, norm);
        for (i, dy, store) in [(Q, dq, Store::Set), (K, dk, Store::Add), (V, dv, Store::Add)] {
            back.linear(i, down.then_some((&mut *dnormed, store)), dy, x);
        }
        if down {
            self.norm_backward(dx, gradients, dnormed, &tape.x, &tape.attention_norm, norm);
        }
    }

    fn features(&self, tape: &mut Tape) {
        let Tape { x, norm, features, .. } = tape;
        self.norm(room(features, x.len()), norm, x, &self.map.norm);
    }

    fn features_backward(
        &self,
        dx: &mut [f32],
        dfeatures: &[f32],
        tape: &Tape,
        gradients: &mut Gradients<'_>,
    ) {
        self.norm_backward(dx, gradients, dfeatures, &tape.x, &tape.norm, &self.map.norm);
    }
}
