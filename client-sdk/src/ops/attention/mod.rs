//! Self-attention with grouped heads, causal with or without rotary positions, or both ways without:
//! `o_i = sum over j of softmax_j(R(q_i) . R(k_j) / sqrt(d)) v_j`, `j` as [`Reach`] says.
//!
//! `q`, `o`: `[rows * cols, heads * d]`; `k`, `v`: `[rows * cols, kv_heads * d]`; query head `h` meets
//! key head `h / (heads / kv_heads)`. Scores are formed for 32 queries at a time, transposed
//! (`[keys, queries]`), so that the softmax runs over columns with whole vectors and no more than
//! `32 * cols` scores a head exist. What is kept for the backward pass is each query's largest
//! score and the inverse of its sum; scores are formed anew, as in FlashAttention, arXiv:2205.14135.
//!
//! Where keys and values of earlier positions are kept (generation), only later positions have queries, of one
//! row; their numbers are those that all positions at once would give.
//!
//! Backward: `dv_j = sum p_ij do_i`, `dp_ij = do_i . v_j`, `ds_ij = p_ij (dp_ij - do_i . o_i)`,
//! `dq_i = sum ds_ij k_j / sqrt(d)`, `dk_j = sum ds_ij q_i / sqrt(d)`, each turned back.

mod part;

use super::exp::exp;
use super::product::{Store, View, product};
use super::rope::{Rope, Turn};
use super::{team, vectorised};
use part::{Block, Part, Scratch, scale};

/// The sizes of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) rows: usize,
    /// Positions that have keys.
    pub(crate) cols: usize,
    /// The first so many of them have no queries: those were met before.
    pub(crate) past: usize,
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
    /// Each query's largest score, `[rows, kv_heads, blocks, group, block]`, flat: a part's lie together.
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
        let queries = self.rows * (self.cols - self.past) * self.head_dim;
        assert!(
            q.len() == queries * self.heads && kv.map(<[f32]>::len) == [n * self.kv_heads; 2],
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

    /// Every row's and key head's part, in the order of [`Saved`]'s chunks of [`queries`](Self::queries).
    fn parts(self, reach: Reach<'_>) -> Vec<Part<'_>> {
        let part =
            |at| Part { shape: self, reach, row: at / self.kv_heads, kv: at % self.kv_heads };
        (0..self.rows * self.kv_heads).map(part).collect()
    }

    /// Queries of a part.
    fn queries(self) -> usize {
        (self.cols - self.past) * self.group()
    }

    /// Parts to work on at once: each takes about 4 operations for each query, key and entry of a head, and
    /// backward 2.5 times as many.
    fn at_once(self) -> usize {
        let pairs = self.cols * (self.cols - self.past);
        let work = 4 * self.rows * pairs * self.heads * self.head_dim;
        team::parts(work).min(self.rows * self.kv_heads).max(1)
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
    let each = shape.queries();
    saved.top.resize(shape.rows * shape.kv_heads * each, 0.0);
    saved.inverse.resize(saved.top.len(), 0.0);
    let at_once = shape.at_once();
    let mut desks = vec![Scratch::default(); at_once];
    let tops = saved.top.chunks_mut(at_once * each).zip(saved.inverse.chunks_mut(at_once * each));
    for (parts, (tops, inverses)) in shape.parts(reach).chunks(at_once).zip(tops) {
        let saved = tops.chunks_mut(each).zip(inverses.chunks_mut(each));
        let tasks = parts.iter().zip(&mut desks).zip(saved);
        team::each(tasks, |((part, desk), saved)| part_forward(*part, desk, [q, k, v], saved));
        // Heads lie side by side, so what they give is put in its place by one thread.
        for (part, desk) in parts.iter().zip(&desks) {
            for block in part.blocks() {
                part.store_queries(out, block.of(&desk.o, shape.head_dim), block, None);
            }
        }
    }
}

/// Leaves its part of the output in `desk.o`, block by block.
fn part_forward(
    part: Part<'_>,
    desk: &mut Scratch,
    [q, k, v]: [&[f32]; 3],
    (top, inverse): (&mut [f32], &mut [f32]),
) {
    let (d, cols) = (part.shape.head_dim, part.shape.cols);
    part.load_keys(desk, k, v);
    desk.o.resize(d * part.shape.queries(), 0.0);
    for block in part.blocks() {
        let (width, keys) = (block.width, part.keys(block));
        part.scores(desk, q, block);
        let top = &mut top[block.saved..][..width];
        let inverse = &mut inverse[block.saved..][..width];
        softmax(&mut desk.scores, top, inverse, block);
        let v = View::strided(&desk.v, d, keys, cols);
        let o = &mut desk.o[d * block.saved..][..d * width];
        product(o, width, v, View::new(&desk.scores, keys, width), 1.0, Store::Set);
        for o in o.chunks_exact_mut(width) {
            for (o, inverse) in o.iter_mut().zip(&*inverse) {
                *o *= inverse;
            }
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
    let (each, at_once) = (shape.queries(), shape.at_once());
    let mut desks = vec![Scratch::default(); at_once];
    let tops = saved.top.chunks(at_once * each).zip(saved.inverse.chunks(at_once * each));
    for (parts, (tops, inverses)) in shape.parts(reach).chunks(at_once).zip(tops) {
        let saved = tops.chunks(each).zip(inverses.chunks(each));
        let tasks = parts.iter().zip(&mut desks).zip(saved);
        team::each(tasks, |((part, desk), saved)| {
            part_backward(*part, desk, [q, k, v, out, dout], saved);
        });
        for (part, desk) in parts.iter().zip(&desks) {
            for block in part.blocks() {
                let dq_block = block.of(&desk.dq, shape.head_dim);
                part.store_queries(dq, dq_block, block, Some(Turn::Back));
            }
            part.store_keys(dk, &desk.dk, Some(Turn::Back));
            part.store_keys(dv, &desk.dv, None);
        }
    }
}

/// Leaves its part of the gradients in `desk`: `dq` block by block, `dk` and `dv` as `[cols, d]`.
fn part_backward(
    part: Part<'_>,
    desk: &mut Scratch,
    [q, k, v, out, dout]: [&[f32]; 5],
    (top, inverse): (&[f32], &[f32]),
) {
    let (d, cols) = (part.shape.head_dim, part.shape.cols);
    let scale = scale(d);
    part.load_keys(desk, k, v);
    for keys in [&mut desk.dk, &mut desk.dv] {
        keys.clear();
        keys.resize(cols * d, 0.0);
    }
    desk.dq.resize(d * part.shape.queries(), 0.0);
    for block in part.blocks() {
        let (width, keys) = (block.width, part.keys(block));
        part.scores(desk, q, block);
        part.load_queries(&mut desk.o, out, block, None);
        part.load_queries(&mut desk.go, dout, block, None);
        let Scratch { k, v, q, o, scores, go, dp, along, dq, dk, dv } = &mut *desk;
        along.clear();
        along.resize(width, 0.0);
        for (go, o) in go.chunks_exact(width).zip(o.chunks_exact(width)) {
            for ((along, go), o) in along.iter_mut().zip(go).zip(o) {
                *along += go * o;
            }
        }
        dp.resize(keys * width, 0.0);
        let values = View::strided(v, d, keys, cols);
        let gradient = View::new(go, d, width);
        product(dp, width, values.t(), gradient, 1.0, Store::Set);
        let top = &top[block.saved..][..width];
        let inverse = &inverse[block.saved..][..width];
        gradients(scores, dp, top, inverse, along, block);
        let p = View::new(scores, keys, width);
        product(dv, d, p, gradient.t(), 1.0, Store::Add);
        let ds = View::new(dp, keys, width);
        // The queries were already divided by the root.
        product(dk, d, ds, View::new(q, d, width).t(), 1.0, Store::Add);
        let keys_t = View::strided(k, d, keys, cols);
        let dq = &mut dq[d * block.saved..][..d * width];
        product(dq, width, keys_t, ds, scale, Store::Set);
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
