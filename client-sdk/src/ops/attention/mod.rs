//! Self-attention with grouped heads, causal with or without rotary positions, or both ways without:
//! `o_i = sum over j of softmax_j(R(q_i) . R(k_j) / sqrt(d)) v_j`, `j` as [`Reach`] says.
//!
//! `q`, `o`: `[rows * cols, heads * d]`; `k`, `v`: `[rows * cols, kv_heads * d]`; query head `h` meets
//! key head `h / (heads / kv_heads)`. Scores are formed for 32 queries at a time, transposed
//! (`[keys, queries]`), so that the softmax runs over columns with whole vectors and no more than
//! `32 * cols` scores a head exist. What is kept for the backward pass is each query's largest
//! score and the inverse of its sum; scores are formed anew, as in FlashAttention, arXiv:2205.14135.
//!
//! Backward: `dv_j = sum p_ij do_i`, `dp_ij = do_i . v_j`, `ds_ij = p_ij (dp_ij - do_i . o_i)`,
//! `dq_i = sum ds_ij k_j / sqrt(d)`, `dk_j = sum ds_ij q_i / sqrt(d)`, each turned back.

mod part;

use super::exp::exp;
use super::product::{Store, View, product};
use super::rope::{Rope, Turn};
use super::vectorised;
use part::{Block, Part, Scratch, scale};

/// The sizes of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

/// Which keys a query meets, and how positions enter.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reach<'a> {
    /// Its own position's and those before it; `R` turns queries and keys by position where there is a
    /// table.
    Back(Option<&'a Rope>),
    /// The first `lengths[row]` of its row, wherever it stands itself: what is behind them is padding.
    /// `R` turns nothing.
    Row(&'a [usize]),
}

/// What the backward pass needs besides inputs and output.
#[derive(Clone, Debug, Default)]
pub(crate) struct Saved {
    /// Each query's largest score, `[rows, kv_heads, blocks, group, block]`, flat.
    top: Vec<f32>,
    /// The inverse of its sum of `e^(score - top)`.
    inverse: Vec<f32>,
}

impl Shape {
    fn group(self) -> usize {
        self.heads / self.kv_heads
    }

    fn check(self, reach: Reach<'_>, q: &[f32], kv: [&[f32]; 2]) {
        let n = self.rows * self.cols * self.head_dim;
        assert!(
            q.len() == n * self.heads && kv.map(<[f32]>::len) == [n * self.kv_heads; 2],
            "lengths"
        );
        assert!(self.heads.is_multiple_of(self.kv_heads), "heads");
        match reach {
            Reach::Back(None) => {}
            Reach::Back(Some(rope)) => {
                assert!(self.head_dim.is_multiple_of(2), "heads");
                assert!(self.cols <= rope.len(), "positions");
            }
            Reach::Row(lengths) => {
                let fit = lengths.iter().all(|length| (1..=self.cols).contains(length));
                assert!(fit && lengths.len() == self.rows, "lengths of rows");
            }
        }
    }

    fn parts(self, reach: Reach<'_>) -> impl Iterator<Item = Part<'_>> {
        (0..self.rows * self.kv_heads).map(move |at| Part {
            shape: self,
            reach,
            row: at / self.kv_heads,
            kv: at % self.kv_heads,
        })
    }
}

/// Sets `out`.
pub(crate) fn forward(
    out: &mut [f32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    shape: Shape,
    reach: Reach<'_>,
    saved: &mut Saved,
) {
    shape.check(reach, q, [k, v]);
    assert_eq!(out.len(), q.len(), "lengths");
    let queries = shape.rows * shape.cols * shape.heads;
    saved.top.resize(queries, 0.0);
    saved.inverse.resize(queries, 0.0);
    let (d, cols) = (shape.head_dim, shape.cols);
    let mut scratch = Scratch::default();
    for part in shape.parts(reach) {
        part.load_keys(&mut scratch, k, v);
        for block in part.blocks() {
            let width = part.shape.group() * block.n;
            let keys = part.keys(block);
            part.scores(&mut scratch, q, block);
            let top = &mut saved.top[block.saved..][..width];
            let inverse = &mut saved.inverse[block.saved..][..width];
            softmax(&mut scratch.scores, top, inverse, block);
            scratch.o.resize(d * width, 0.0);
            let v = View::strided(&scratch.v, d, keys, cols);
            product(
                &mut scratch.o,
                width,
                v,
                View::new(&scratch.scores, keys, width),
                1.0,
                Store::Set,
            );
            for o in scratch.o.chunks_exact_mut(width) {
                for (o, inverse) in o.iter_mut().zip(&*inverse) {
                    *o *= inverse;
                }
            }
            part.store_queries(out, &scratch.o, block, None);
        }
    }
}

/// Sets `dq`, `dk` and `dv`; the other arguments as in and after [`forward`].
#[expect(clippy::too_many_arguments, reason = "three gradients of three inputs")]
pub(crate) fn backward(
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
    dout: &[f32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &[f32],
    shape: Shape,
    reach: Reach<'_>,
    saved: &Saved,
) {
    shape.check(reach, q, [k, v]);
    shape.check(reach, dq, [dk, dv]);
    assert!(out.len() == q.len() && dout.len() == q.len(), "lengths");
    let (d, cols) = (shape.head_dim, shape.cols);
    let scale = scale(d);
    let mut scratch = Scratch::default();
    let (mut dkeys, mut dvalues) = (vec![0.0; cols * d], vec![0.0; cols * d]);
    let (mut go, mut dp, mut along) = (Vec::new(), Vec::new(), Vec::new());
    for part in shape.parts(reach) {
        part.load_keys(&mut scratch, k, v);
        dkeys.fill(0.0);
        dvalues.fill(0.0);
        for block in part.blocks() {
            let width = part.shape.group() * block.n;
            let keys = part.keys(block);
            part.scores(&mut scratch, q, block);
            part.load_queries(&mut scratch.o, out, block, None);
            part.load_queries(&mut go, dout, block, None);
            along.clear();
            along.resize(width, 0.0);
            for (go, o) in go.chunks_exact(width).zip(scratch.o.chunks_exact(width)) {
                for ((along, go), o) in along.iter_mut().zip(go).zip(o) {
                    *along += go * o;
                }
            }
            dp.resize(keys * width, 0.0);
            let values = View::strided(&scratch.v, d, keys, cols);
            let gradient = View::new(&go, d, width);
            product(&mut dp, width, values.t(), gradient, 1.0, Store::Set);
            let top = &saved.top[block.saved..][..width];
            let inverse = &saved.inverse[block.saved..][..width];
            gradients(&mut scratch.scores, &mut dp, top, inverse, &along, block);
            let p = View::new(&scratch.scores, keys, width);
            product(&mut dvalues, d, p, gradient.t(), 1.0, Store::Add);
            let ds = View::new(&dp, keys, width);
            // The queries were already divided by the root.
            product(&mut dkeys, d, ds, View::new(&scratch.q, d, width).t(), 1.0, Store::Add);
            scratch.o.resize(d * width, 0.0);
            let keys_t = View::strided(&scratch.k, d, keys, cols);
            product(&mut scratch.o, width, keys_t, ds, scale, Store::Set);
            part.store_queries(dq, &scratch.o, block, Some(Turn::Back));
        }
        part.store_keys(dk, &dkeys, Some(Turn::Back));
        part.store_keys(dv, &dvalues, None);
    }
}

/// Scores `[keys, width]` become `e^(score - top)`, 0 where it is out of the query's reach.
fn softmax(scores: &mut [f32], top: &mut [f32], inverse: &mut [f32], block: Block) {
    let width = top.len();
    vectorised(
        #[inline(always)]
        || {
            top.fill(f32::NEG_INFINITY);
            for (j, row) in scores.chunks_exact_mut(width).enumerate() {
                block.hide(j, row, f32::NEG_INFINITY);
                for (top, &s) in top.iter_mut().zip(&*row) {
                    *top = if s > *top { s } else { *top };
                }
            }
            inverse.fill(0.0);
            for row in scores.chunks_exact_mut(width) {
                for ((s, top), sum) in row.iter_mut().zip(&*top).zip(inverse.iter_mut()) {
                    *s = exp(*s - top);
                    *sum += *s;
                }
            }
            for sum in inverse.iter_mut() {
                *sum = 1.0 / *sum;
            }
        },
    );
}

/// Scores become probabilities, and `dp` becomes the scores' gradient.
fn gradients(
    scores: &mut [f32],
    dp: &mut [f32],
    top: &[f32],
    inverse: &[f32],
    along: &[f32],
    block: Block,
) {
    let width = top.len();
    vectorised(
        #[inline(always)]
        || {
            let rows = scores.chunks_exact_mut(width).zip(dp.chunks_exact_mut(width));
            for (j, (scores, dp)) in rows.enumerate() {
                for ((s, top), inverse) in scores.iter_mut().zip(top).zip(inverse) {
                    *s = exp(*s - top) * inverse;
                }
                block.hide(j, scores, 0.0);
                for ((dp, &p), along) in dp.iter_mut().zip(&*scores).zip(along) {
                    *dp = p * (*dp - along);
                }
            }
        },
    );
}
