//! GPT-2: LayerNorm before each half, learned positions, one linear for q, k and v, tanh GELU. Source:
//! Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
//!
//! Embeddings: `x = E_word[token] + E_position[t]`. A layer: `[q | k | v] = C u` with `u = norm(x)`,
//! `m = x + P(attention(q, k, v))`, then `x' = m + D(gelu(F w))` with `w = norm(m)`; every linear has a
//! bias and may have a LoRA branch beside it, `C` one over all of q, k and v. Features: `norm(x_last)`;
//! logits: their product with the word embedding, or a head of its own.
//!
//! The file has a linear's weight as `[d_in, d_out]` (transformers' Conv1D); here it is turned on
//! loading and lies as every other, `[d_out, d_in]`.
//!
//! | tensor of `transformer.h.{i}` | shape in the file |
//! |---|---|
//! | `attn.c_attn.weight` | `[hidden, 3 hidden]` |
//! | `attn.c_proj.weight` | `[hidden, hidden]` |
//! | `mlp.c_fc.weight` | `[hidden, intermediate]` |
//! | `mlp.c_proj.weight` | `[intermediate, hidden]` |
//! | each of these with `.bias` | `[d_out]` |
//! | `ln_1.weight`, `ln_2.weight`, and `.bias` | `[hidden]` |
//!
//! and `transformer.wte.weight` `[vocab, hidden]`, `wpe` `[context, hidden]`, `ln_f.weight` and `.bias`
//! `[hidden]`; older files lack the `transformer.` everywhere.

mod config;
pub(super) mod graph;

use std::ops::Range;

use super::frozen::{Frozen, Gradients};
use super::layer_norms::NormMap;
use super::tape::{LayerTape, Scratch, Tape};
use super::tensors::Tensors;
use super::walk::{Back, Family, Layer, Sizes, attention_backward};
use crate::data::Batch;
use crate::ops::linear::{self, Dropout};
use crate::ops::product::Store;
use crate::ops::{self, attention, gelu_tanh, room};

pub use config::Gpt2Config;

/// A layer's linears, in order; all have a bias.
const LINEARS: [&str; 4] = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"];
const QKV: usize = 0;
const O: usize = 1;
const INNER: usize = 2;
const OUTER: usize = 3;

/// What every name in a newer file begins with, and none in an older one.
const PREFIX: &str = "transformer.";

/// A model's places.
#[derive(Clone, Debug)]
pub(crate) struct Gpt2Map {
    words: Range<usize>,
    positions: Range<usize>,
    /// The two norms of each layer.
    norms: Vec<[NormMap; 2]>,
    norm: NormMap,
    /// The word embedding's own place where the head is tied.
    pub(crate) head: Range<usize>,
    pub(crate) tensors: Tensors,
}

impl Gpt2Map {
    /// Lays out the tensors `config` calls for.
    pub(crate) fn new(config: &Gpt2Config) -> Self {
        let mut tensors = Tensors::with_optional_prefix(PREFIX);
        let (d, ff) = (config.hidden, config.intermediate);
        let norm = |tensors: &mut Tensors, path: String| {
            ["weight", "bias"].map(|part| tensors.put(format!("{path}.{part}"), &[d]))
        };
        let words = tensors.put(format!("{PREFIX}wte.weight"), &[config.vocab, d]);
        let positions = tensors.put(format!("{PREFIX}wpe.weight"), &[config.context, d]);
        let sizes = [[d, 3 * d], [d, d], [d, ff], [ff, d]];
        let norms = (0..config.layers).map(|layer| {
            let path = format!("{PREFIX}h.{layer}");
            let norms = ["ln_1", "ln_2"].map(|name| norm(&mut tensors, format!("{path}.{name}")));
            for (name, size) in LINEARS.iter().zip(sizes) {
                tensors.put_conv1d(format!("{path}.{name}"), size);
            }
            norms
        });
        let norms = norms.collect();
        let norm = norm(&mut tensors, format!("{PREFIX}ln_f"));
        let head = match config.tied {
            true => words.clone(),
            false => tensors.put("lm_head.weight".into(), &[config.vocab, d]),
        };
        Self { words, positions, norms, norm, head, tensors }
    }
}

/// A GPT-2-family model over its weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gpt2<'a> {
    pub(crate) config: &'a Gpt2Config,
    pub(crate) map: &'a Gpt2Map,
    pub(crate) frozen: Frozen<'a>,
}

impl Family for Gpt2<'_> {
    fn frozen(&self) -> &Frozen<'_> {
        &self.frozen
    }

    fn sizes(&self) -> Sizes {
        let Gpt2Config { hidden, layers, heads, .. } = *self.config;
        let head_dim = self.config.head_dim();
        Sizes { hidden, layers, linears: LINEARS.len(), heads, kv_heads: heads, head_dim }
    }

    fn causal(&self) -> bool {
        true
    }

    fn embed(&self, out: &mut [f32], batch: &Batch, past: usize) {
        let d = self.config.hidden;
        let [words, positions] =
            [&self.map.words, &self.map.positions].map(|place| self.frozen.matrix(place, d));
        let mut row = vec![0.0; d];
        for (at, (x, &token)) in out.chunks_exact_mut(d).zip(&batch.inputs).enumerate() {
            words.row(x, token as usize);
            positions.row(&mut row, past + at % batch.cols);
            ops::add(x, &row);
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
        let (n, d) = (at.n(), self.config.hidden);
        let mut run = |i: usize, out: &mut [f32], store, x: &[f32], saved: &mut linear::Saved| {
            self.frozen.forward(at.first + i, out, store, x, saved, dropout.as_deref_mut());
        };
        let Scratch { normed, active, dinner, .. } = scratch;
        let LayerTape { x, attention_norm, q, k, v, attended, linears, .. } = tape;
        self.frozen.norm(room(normed, x.len()), attention_norm, x, norm, self.config.norm_eps);
        // Nothing reads q, k and v as one again.
        let fused = room(dinner, 3 * n * d);
        run(QKV, fused, Store::Set, normed, &mut linears[QKV]);
        split(fused, [room(q, n * d), at.keys(k, d), at.keys(v, d)], d);
        let to = room(attended, n * d);
        attention::forward(to, q, k, v, at.shape, at.reach, &mut tape.attention);
        let LayerTape { middle, norm, inner, .. } = tape;
        middle.clear();
        middle.extend_from_slice(x);
        run(O, middle, Store::Add, attended, &mut linears[O]);
        self.frozen.norm(normed, norm, middle, mlp_norm, self.config.norm_eps);
        let inner = room(inner, n * self.config.intermediate);
        run(INNER, inner, Store::Set, normed, &mut linears[INNER]);
        if at.again && !self.frozen.adapts(at.first + OUTER) {
            return;
        }
        gelu_tanh::forward(room(active, inner.len()), inner);
        out.copy_from_slice(middle);
        run(OUTER, out, Store::Add, active, &mut linears[OUTER]);
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
        let Scratch { normed, active, dnormed, dinner, dattended, branch, .. } = scratch;
        let frozen = &self.frozen;
        let mut back = Back { frozen, layer: at, tape, gradients, branch };
        let active = if back.reads(&[OUTER]) {
            gelu_tanh::forward(room(active, tape.inner.len()), &tape.inner);
            &active[..]
        } else {
            &[]
        };
        let dinner = room(dinner, tape.inner.len());
        back.linear(OUTER, Some((dinner, Store::Set)), dx, active);
        gelu_tanh::backward_in_place(dinner, &tape.inner);
        let dnormed = room(dnormed, dx.len());
        let reads = back.reads(&[INNER]);
        let x = self.frozen.norm_again(normed, reads, &tape.middle, &tape.norm, mlp_norm);
        back.linear(INNER, Some((dnormed, Store::Set)), dinner, x);
        self.frozen.norm_backward(
            (&mut *dx, Store::Add),
            dnormed,
            &tape.middle,
            &tape.norm,
            mlp_norm,
        );

        let dattended = room(dattended, dx.len());
        back.linear(O, Some((dattended, Store::Set)), dx, &tape.attended);
        attention_backward(at, tape, scratch);
        let Scratch { normed, dnormed, dinner, dq, dk, dv, branch, .. } = scratch;
        let mut back = Back { frozen, layer: at, tape, gradients, branch };
        let dfused = room(dinner, 3 * dx.len());
        join(dfused, [dq, dk, dv], self.config.hidden);
        let to = down.then_some((&mut dnormed[..], Store::Set));
        let reads = back.reads(&[QKV]);
        let x = self.frozen.norm_again(normed, reads, &tape.x, &tape.attention_norm, norm);
        back.linear(QKV, to, dfused, x);
        if down {
            self.frozen.norm_backward(
                (&mut *dx, Store::Add),
                dnormed,
                &tape.x,
                &tape.attention_norm,
                norm,
            );
        }
    }

    fn features(&self, tape: &mut Tape) {
        let Tape { x, norm, features, .. } = tape;
        self.frozen.norm(room(features, x.len()), norm, x, &self.map.norm, self.config.norm_eps);
    }

    fn features_backward(
        &self,
        dx: &mut [f32],
        dfeatures: &[f32],
        tape: &Tape,
        _: &mut Gradients<'_>,
    ) {
        self.frozen.norm_backward(
            (&mut *dx, Store::Add),
            dfeatures,
            &tape.x,
            &tape.norm,
            &self.map.norm,
        );
    }
}

/// `fused`, `[n, 3 d]`, to three of `[n, d]`.
fn split(fused: &[f32], parts: [&mut [f32]; 3], d: usize) {
    for (at, part) in parts.into_iter().enumerate() {
        for (to, from) in part.chunks_exact_mut(d).zip(fused.chunks_exact(3 * d)) {
            to.copy_from_slice(&from[at * d..][..d]);
        }
    }
}

/// The inverse of [`split`].
fn join(fused: &mut [f32], parts: [&[f32]; 3], d: usize) {
    for (at, part) in parts.into_iter().enumerate() {
        for (to, from) in fused.chunks_exact_mut(3 * d).zip(part.chunks_exact(d)) {
            to[at * d..][..d].copy_from_slice(from);
        }
    }
}
