//! One sequence's and key head's share of attention: loading, turning and storing.
//!
//! Slices from outside are `[positions, heads * d]`; inside, everything is `[d, positions]`, so that
//! whole vectors run over positions.

use super::{Reach, Shape};
use crate::ops::product::{Store, View, product};
use crate::ops::rope::{Rope, Turn};

/// Queries met at once, per head.
const BLOCK: usize = 32;

/// One thread's buffers.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    pub(super) q: Vec<f32>,
    pub(super) o: Vec<f32>,
    pub(super) scores: Vec<f32>,
    /// Only backward: gradients of the block's output and scores, and `do . o` of each query.
    pub(super) go: Vec<f32>,
    pub(super) dp: Vec<f32>,
    pub(super) along: Vec<f32>,
    pub(super) dq: Vec<f32>,
    pub(super) dk: Vec<f32>,
    pub(super) dv: Vec<f32>,
}

/// One row's and key head's part of the work.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) shape: Shape,
    pub(super) reach: Reach<'a>,
    pub(super) row: usize,
    pub(super) kv: usize,
}

/// A block of queries: `start..start + n`, for each head of the group.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) start: usize,
    pub(super) n: usize,
    /// `n` for each head of the group.
    pub(super) width: usize,
    /// Whether its queries meet no key ahead of them.
    pub(super) causal: bool,
    /// Where its columns begin among those of its part.
    pub(super) saved: usize,
}

/// What scores are multiplied by.
pub(super) fn scale(head_dim: usize) -> f32 {
    (1.0 / (head_dim as f64).sqrt()) as f32
}

impl Block {
    /// Its own entries of all blocks', which lie one behind the other, each `[d, width]`.
    pub(super) fn of(self, all: &[f32], d: usize) -> &[f32] {
        &all[d * self.saved..][..d * self.width]
    }

    /// Writes `value` over key `j`'s scores with queries that do not reach it.
    #[inline(always)]
    pub(super) fn hide(self, j: usize, row: &mut [f32], value: f32) {
        if self.causal && j > self.start {
            for head in row.chunks_exact_mut(self.n) {
                head[..j - self.start].fill(value);
            }
        }
    }
}

impl Part<'_> {
    /// The keys that any query of the block meets: the first so many.
    pub(super) fn keys(self, block: Block) -> usize {
        match self.reach {
            Reach::Back(_) => block.start + block.n,
            Reach::Row(lengths) => lengths[self.row],
        }
    }

    fn rope(&self) -> Option<&Rope> {
        match self.reach {
            Reach::Back(rope) => rope,
            Reach::Row(_) => None,
        }
    }

    pub(super) fn blocks(self) -> impl Iterator<Item = Block> {
        let (Shape { cols, past, .. }, group) = (self.shape, self.shape.group());
        let causal = matches!(self.reach, Reach::Back(_));
        (past..cols).step_by(BLOCK).map(move |start| {
            let n = BLOCK.min(cols - start);
            Block { start, n, width: group * n, causal, saved: (start - past) * group }
        })
    }

    /// Keys, turned where positions turn, and values, each as `[d, cols]`.
    pub(super) fn load_keys(self, scratch: &mut Scratch, k: &[f32], v: &[f32]) {
        let (d, cols) = (self.shape.head_dim, self.shape.cols);
        scratch.k.resize(d * cols, 0.0);
        scratch.v.resize(d * cols, 0.0);
        let stride = self.shape.kv_heads * d;
        let from = self.row * cols * stride + self.kv * d;
        transpose(&mut scratch.k, cols, &k[from..], stride, d, cols);
        transpose(&mut scratch.v, cols, &v[from..], stride, d, cols);
        turn(&mut scratch.k, cols, [d, cols], self.rope(), 0, Turn::Forward, 1.0);
    }

    /// The block's scores, `[keys, group * n]`; leaves its queries, turned and scaled, in `q`.
    pub(super) fn scores(self, scratch: &mut Scratch, q: &[f32], block: Block) {
        let (d, cols) = (self.shape.head_dim, self.shape.cols);
        let (width, keys) = (block.width, self.keys(block));
        self.load_queries(&mut scratch.q, q, block, Some(Turn::Forward));
        scratch.scores.resize(keys * width, 0.0);
        let k = View::strided(&scratch.k, d, keys, cols);
        let q = View::new(&scratch.q, d, width);
        product(&mut scratch.scores, width, k.t(), q, 1.0, Store::Set);
    }

    /// Where head `h` of the group begins in a `[rows * (cols - past), heads * d]` slice.
    fn query_start(self, h: usize, block: Block) -> usize {
        let shape = self.shape;
        let head = self.kv * shape.group() + h;
        let position = self.row * (shape.cols - shape.past) + block.start - shape.past;
        (position * shape.heads + head) * shape.head_dim
    }

    /// `[d, group * n]` of the block's part of `from`.
    pub(super) fn load_queries(
        self,
        to: &mut Vec<f32>,
        from: &[f32],
        block: Block,
        rope: Option<Turn>,
    ) {
        let (d, group) = (self.shape.head_dim, self.shape.group());
        let width = block.width;
        to.resize(d * width, 0.0);
        for h in 0..group {
            let to = &mut to[h * block.n..];
            let from = &from[self.query_start(h, block)..];
            transpose(to, width, from, self.shape.heads * d, d, block.n);
            if let Some(way) = rope {
                turn(to, width, [d, block.n], self.rope(), block.start, way, scale(d));
            }
        }
    }

    /// The inverse of [`load_queries`](Self::load_queries).
    pub(super) fn store_queries(
        self,
        to: &mut [f32],
        from: &[f32],
        block: Block,
        rope: Option<Turn>,
    ) {
        let (d, group) = (self.shape.head_dim, self.shape.group());
        let width = block.width;
        let stride = self.shape.heads * d;
        let mut turned = Vec::new();
        let mut from = from;
        if let (Some(way), Some(_)) = (rope, self.rope()) {
            turned.extend_from_slice(from);
            for h in 0..group {
                let part = &mut turned[h * block.n..];
                turn(part, width, [d, block.n], self.rope(), block.start, way, 1.0);
            }
            from = &turned;
        }
        for h in 0..group {
            let to = &mut to[self.query_start(h, block)..];
            for (t, to) in to.chunks_mut(stride).take(block.n).enumerate() {
                for (i, to) in to[..d].iter_mut().enumerate() {
                    *to = from[i * width + h * block.n + t];
                }
            }
        }
    }

    /// `from`: `[cols, d]`.
    pub(super) fn store_keys(self, to: &mut [f32], from: &[f32], rope: Option<Turn>) {
        let (d, cols) = (self.shape.head_dim, self.shape.cols);
        let stride = self.shape.kv_heads * d;
        let to = &mut to[self.row * cols * stride + self.kv * d..];
        for (t, (to, from)) in to.chunks_mut(stride).zip(from.chunks_exact(d)).enumerate() {
            let to = &mut to[..d];
            let (Some(_), Some(table)) = (rope, self.rope()) else {
                to.copy_from_slice(from);
                continue;
            };
            for i in 0..d / 2 {
                let (cos, sin) = table.row(i, t, 1);
                let (x, y) = (from[i], from[i + d / 2]);
                to[i] = x * cos[0] + y * sin[0];
                to[i + d / 2] = y * cos[0] - x * sin[0];
            }
        }
    }
}

/// `to[i, t] = from[t, i]` for `i` below `d` and `t` below `n`.
#[inline]
fn transpose(
    to: &mut [f32],
    to_stride: usize,
    from: &[f32],
    from_stride: usize,
    d: usize,
    n: usize,
) {
    for (t, from) in from.chunks(from_stride).take(n).enumerate() {
        for (i, &x) in from[..d].iter().enumerate() {
            to[i * to_stride + t] = x;
        }
    }
}

/// Turns `[d, n]` (rows `stride` apart) by the angles of positions from `start`, where there are any,
/// and scales it.
fn turn(
    x: &mut [f32],
    stride: usize,
    [d, n]: [usize; 2],
    rope: Option<&Rope>,
    start: usize,
    way: Turn,
    scale: f32,
) {
    let Some(rope) = rope else {
        for row in x.chunks_mut(stride).take(d) {
            row[..n].iter_mut().for_each(|x| *x *= scale);
        }
        return;
    };
    let half = d / 2;
    let (low, high) = x.split_at_mut(half * stride);
    for i in 0..half {
        let (cos, sin) = rope.row(i, start, n);
        let sign = if way == Turn::Back { -scale } else { scale };
        let low = &mut low[i * stride..][..n];
        let high = &mut high[i * stride..][..n];
        for (((x, y), &cos), &sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
            let (a, b) = (*x, *y);
            *x = a * (cos * scale) - b * (sin * sign);
            *y = b * (cos * scale) + a * (sin * sign);
        }
    }
}
