//! A linear layer and the LoRA branches beside it: `y = x W^T + c + (s D(x) A^T) B^T`.
//!
//! `x`: `[n, d_in]`, `W`: `[d_out, d_in]`, bias `c`: `[d_out]`, `A`: `[r, d_in]`, `B`: `[d_out, r]`,
//! `s = alpha / r`; `D` drops entries in training. Source: LoRA, arXiv:2106.09685.
//!
//! Backward, with `h = D(x) A^T` and `dh = s dy B`: `dB = s dy^T h`, `dA = dh^T D(x)`,
//! `dx = dy W + D'(dh A)`, and only where the weight is trained `dW = dy^T x`, `dc = sum dy`.
//!
//! A core `R`, `[r, r]`, may stand between the factors: `B R A`. Then `g = h R^T` and `dg = s dy B` are in the
//! place of `h` and `dh` at B, `dR = dg^T h` and `dh = dg R`.
//!
//! Rows of several clients may lie one client after the other: all meet `W`, each client's its own `A` and `B`.
//! A product's bits do not depend on how many rows it has, so a client's rows come out as if they were alone.

use gossamer_protocol::rng::Stream;

use super::matrix::Matrix;
use super::product::{Factor, Store, View, product};
use super::room;

/// One layer's parameters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear<'a> {
    pub(crate) d_in: usize,
    pub(crate) d_out: usize,
    /// `[d_out, d_in]`.
    pub(crate) weight: Matrix<'a>,
    pub(crate) bias: Option<&'a [f32]>,
}

/// A low-rank branch's parameters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lora<'a> {
    pub(crate) rank: usize,
    pub(crate) scale: f32,
    pub(crate) a: &'a [f32],
    pub(crate) b: &'a [f32],
    /// `[rank, rank]`; without one B meets A.
    pub(crate) core: Option<&'a [f32]>,
}

/// One of so many equal parts of a matrix's rows, each part another client's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) at: usize,
    pub(crate) of: usize,
}

/// What [`Lora::backward`] needs of the forward pass besides `x`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Saved {
    /// `D(x) A^T`, `[n, r]`.
    h: Vec<f32>,
    /// `h R^T`, `[n, r]`; empty without a core.
    g: Vec<f32>,
    /// What each entry of `x` was multiplied by; empty without dropout.
    drop: Vec<f32>,
    /// `D(x)`; empty without dropout.
    dropped: Vec<f32>,
}

/// Where gradients are added; `None`: not wanted.
#[derive(Debug, Default)]
pub(crate) struct Gradients<'a> {
    pub(crate) weight: Option<&'a mut [f32]>,
    pub(crate) bias: Option<&'a mut [f32]>,
}

/// Where a branch's gradients are added; `None`: not wanted.
#[derive(Debug, Default)]
pub(crate) struct LoraGradients<'a> {
    pub(crate) a: Option<&'a mut [f32]>,
    pub(crate) b: Option<&'a mut [f32]>,
    pub(crate) core: Option<&'a mut [f32]>,
}

/// Dropout's share and each client's stream, which its draws come from in the order of the calls.
#[derive(Clone, Debug)]
pub(crate) struct Dropout {
    pub(crate) share: f32,
    pub(crate) streams: Vec<Stream>,
}

impl Dropout {
    /// Client `at`'s next `n` factors: 0, or where an entry is kept `1 / (1 - share)`, so means stay.
    pub(crate) fn mask(&mut self, at: usize, n: usize) -> impl Iterator<Item = f32> {
        let (share, grown, stream) = (self.share, 1.0 / (1.0 - self.share), &mut self.streams[at]);
        (0..n).map(move |_| if stream.unit() < share { 0.0 } else { grown })
    }
}

impl Linear<'_> {
    /// `out`: `[n, d_out]`, replaced or added to.
    pub(crate) fn forward(&self, out: &mut [f32], store: Store, x: &[f32]) {
        let (d_in, d_out) = (self.d_in, self.d_out);
        let view = View::new(x, x.len() / d_in, d_in);
        product(out, d_out, view, Factor::stored(self.weight).t(), 1.0, store);
        if let Some(bias) = self.bias {
            for row in out.chunks_exact_mut(d_out) {
                super::add(row, bias);
            }
        }
    }

    /// `dy`: `[n, d_out]`, `x`: as in [`forward`](Self::forward), or nothing where the weight has no gradient;
    /// `dx`: `[n, d_in]`, replaced or added to.
    pub(crate) fn backward(
        &self,
        dx: Option<(&mut [f32], Store)>,
        gradients: Gradients<'_>,
        dy: &[f32],
        x: &[f32],
    ) {
        let (d_in, d_out) = (self.d_in, self.d_out);
        let n = dy.len() / d_out;
        let view = View::new(dy, n, d_out);
        if let Some(dw) = gradients.weight {
            product(dw, d_in, view.t(), View::new(x, n, d_in), 1.0, Store::Add);
        }
        if let Some(dc) = gradients.bias {
            for row in dy.chunks_exact(d_out) {
                super::add(dc, row);
            }
        }
        if let Some((dx, store)) = dx {
            product(dx, d_in, view, Factor::stored(self.weight), 1.0, store);
        }
    }
}

impl Lora<'_> {
    fn d_in(&self) -> usize {
        self.a.len() / self.rank
    }

    fn d_out(&self) -> usize {
        self.b.len() / self.rank
    }

    /// Adds to `out`. `x`, `out` and `saved`: of all rows, of which the branch meets its share.
    pub(crate) fn forward(
        &self,
        out: &mut [f32],
        x: &[f32],
        saved: &mut Saved,
        share: Share,
        dropout: Option<&mut Dropout>,
    ) {
        let (r, d_in, d_out) = (self.rank, self.d_in(), self.d_out());
        if share.at == 0 {
            saved.start(x.len() / d_in * r, self.core.is_some());
        }
        saved.draw(share.part(x), share.at, dropout);
        let (x, out) = (share.part(x), share.part_mut(out));
        let n = x.len() / d_in;
        let Saved { h, g, dropped, .. } = saved;
        let x = if dropped.is_empty() { x } else { &dropped[share.at * x.len()..] };
        let (a, b) = (View::new(self.a, r, d_in), View::new(self.b, d_out, r));
        let mut h = share.part_mut(h);
        product(h, r, View::new(x, n, d_in), a.t(), 1.0, Store::Set);
        if let Some(core) = self.core {
            let g = share.part_mut(g);
            product(g, r, View::new(h, n, r), View::new(core, r, r).t(), 1.0, Store::Set);
            h = g;
        }
        product(out, d_out, View::new(h, n, r), b.t(), self.scale, Store::Add);
    }

    /// Adds to `dx`, `[n, d_in]`. `dy`: `[n, d_out]`, `x`: as in [`forward`](Self::forward), or nothing where A
    /// has no gradient; all of all rows. `scratch` is only reused.
    #[expect(clippy::too_many_arguments, reason = "three gradients of three inputs")]
    pub(crate) fn backward(
        &self,
        dx: Option<&mut [f32]>,
        gradients: LoraGradients<'_>,
        dy: &[f32],
        x: &[f32],
        saved: &Saved,
        share: Share,
        scratch: &mut Vec<f32>,
    ) {
        let (r, d_in, d_out) = (self.rank, self.d_in(), self.d_out());
        let dy = share.part(dy);
        let n = dy.len() / d_out;
        let view = View::new(dy, n, d_out);
        let h = View::new(share.part(&saved.h), n, r);
        if let Some(db) = gradients.b {
            let g = self.core.map_or(h, |_| View::new(share.part(&saved.g), n, r));
            product(db, r, view.t(), g, self.scale, Store::Add);
        }
        if gradients.a.is_none() && gradients.core.is_none() && dx.is_none() {
            return;
        }
        let each = n * r * if self.core.is_some() { 2 } else { 1 };
        let (at_b, at_a) = room(scratch, each).split_at_mut(n * r);
        product(at_b, r, view, View::new(self.b, d_out, r), self.scale, Store::Set);
        let mut dh = View::new(at_b, n, r);
        if let Some(core) = self.core {
            let dg = dh;
            if let Some(dr) = gradients.core {
                product(dr, r, dg.t(), h, 1.0, Store::Add);
            }
            product(at_a, r, dg, View::new(core, r, r), 1.0, Store::Set);
            dh = View::new(at_a, n, r);
        }
        if let Some(da) = gradients.a {
            let x = if saved.dropped.is_empty() { x } else { &saved.dropped };
            product(da, d_in, dh.t(), View::new(share.part(x), n, d_in), 1.0, Store::Add);
        }
        let Some(dx) = dx else { return };
        let (dx, drop) = (share.part_mut(dx), share.part(&saved.drop));
        let a = View::new(self.a, r, d_in);
        if drop.is_empty() {
            product(dx, d_in, dh, a, 1.0, Store::Add);
        } else {
            let mut branch = vec![0.0; n * d_in];
            product(&mut branch, d_in, dh, a, 1.0, Store::Set);
            for ((dx, branch), drop) in dx.iter_mut().zip(branch).zip(drop) {
                *dx += branch * drop;
            }
        }
    }
}

impl Share {
    /// Of a matrix's entries, row by row.
    pub(crate) fn part<T>(self, all: &[T]) -> &[T] {
        let n = all.len() / self.of;
        &all[self.at * n..][..n]
    }

    /// As [`part`](Self::part).
    pub(crate) fn part_mut<T>(self, all: &mut [T]) -> &mut [T] {
        let n = all.len() / self.of;
        &mut all[self.at * n..][..n]
    }
}

impl Saved {
    /// Forgets another pass. `n`: entries of `h`, and of `g` where there is a `core`.
    fn start(&mut self, n: usize, core: bool) {
        room(&mut self.h, n);
        room(&mut self.g, if core { n } else { 0 });
        self.drop.clear();
        self.dropped.clear();
    }

    /// Draws client `at`'s mask over its `x`.
    fn draw(&mut self, x: &[f32], at: usize, dropout: Option<&mut Dropout>) {
        let Some(dropout) = dropout else { return };
        let before = self.drop.len();
        self.drop.extend(dropout.mask(at, x.len()));
        let drop = &self.drop[before..];
        self.dropped.extend(x.iter().zip(drop).map(|(x, drop)| x * drop));
    }
}
