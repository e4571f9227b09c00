//! A linear layer and the LoRA branch beside it: `y = x W^T + c + (s D(x) A^T) B^T`.
//!
//! `x`: `[n, d_in]`, `W`: `[d_out, d_in]`, bias `c`: `[d_out]`, `A`: `[r, d_in]`, `B`: `[d_out, r]`,
//! `s = alpha / r`; `D` drops entries in training. Source: LoRA, arXiv:2106.09685.
//!
//! Backward, with `h = D(x) A^T` and `dh = s dy B`: `dB = s dy^T h`, `dA = dh^T D(x)`,
//! `dx = dy W + D'(dh A)`, and only where the weight is trained `dW = dy^T x`, `dc = sum dy`.

use gossamer_protocol::rng::Stream;

use super::product::{Store, View, product};

/// One layer's parameters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear<'a> {
    pub(crate) d_in: usize,
    pub(crate) d_out: usize,
    pub(crate) weight: &'a [f32],
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) lora: Option<Lora<'a>>,
}

/// The low-rank branch's parameters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lora<'a> {
    pub(crate) rank: usize,
    pub(crate) scale: f32,
    pub(crate) a: &'a [f32],
    pub(crate) b: &'a [f32],
}

/// What [`Linear::backward`] needs of the forward pass besides `x`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Saved {
    /// `D(x) A^T`, `[n, r]`.
    h: Vec<f32>,
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
    pub(crate) a: Option<&'a mut [f32]>,
    pub(crate) b: Option<&'a mut [f32]>,
}

/// Dropout's share and the stream its draws come from, in the order of the calls.
#[derive(Debug)]
pub(crate) struct Dropout {
    pub(crate) share: f32,
    pub(crate) stream: Stream,
}

impl Linear<'_> {
    /// `out`: `[n, d_out]`, replaced or added to.
    pub(crate) fn forward(
        &self,
        out: &mut [f32],
        store: Store,
        x: &[f32],
        saved: &mut Saved,
        dropout: Option<&mut Dropout>,
    ) {
        let (d_in, d_out) = (self.d_in, self.d_out);
        let n = x.len() / d_in;
        let view = View::new(x, n, d_in);
        product(out, d_out, view, View::new(self.weight, d_out, d_in).t(), 1.0, store);
        if let Some(bias) = self.bias {
            for row in out.chunks_exact_mut(d_out) {
                super::add(row, bias);
            }
        }
        let Some(lora) = self.lora else { return };
        saved.draw(x, dropout);
        let view = if saved.dropped.is_empty() { view } else { View::new(&saved.dropped, n, d_in) };
        saved.h.resize(n * lora.rank, 0.0);
        let a = View::new(lora.a, lora.rank, d_in);
        product(&mut saved.h, lora.rank, view, a.t(), 1.0, Store::Set);
        let h = View::new(&saved.h, n, lora.rank);
        let b = View::new(lora.b, d_out, lora.rank);
        product(out, d_out, h, b.t(), lora.scale, Store::Add);
    }

    /// `dy`: `[n, d_out]`, `x`: as in [`forward`](Self::forward); `dx`: `[n, d_in]`, replaced or
    /// added to. `scratch` is only reused.
    pub(crate) fn backward(
        &self,
        dx: Option<(&mut [f32], Store)>,
        gradients: Gradients<'_>,
        dy: &[f32],
        x: &[f32],
        saved: &Saved,
        scratch: &mut Vec<f32>,
    ) {
        let (d_in, d_out) = (self.d_in, self.d_out);
        let n = x.len() / d_in;
        let view = View::new(dy, n, d_out);
        if let Some(dw) = gradients.weight {
            product(dw, d_in, view.t(), View::new(x, n, d_in), 1.0, Store::Add);
        }
        if let Some(dc) = gradients.bias {
            for row in dy.chunks_exact(d_out) {
                super::add(dc, row);
            }
        }
        let mut dx = dx;
        if let Some((dx, store)) = &mut dx {
            product(dx, d_in, view, View::new(self.weight, d_out, d_in), 1.0, *store);
        }
        let Some(lora) = self.lora else { return };
        let r = lora.rank;
        if let Some(db) = gradients.b {
            product(db, r, view.t(), View::new(&saved.h, n, r), lora.scale, Store::Add);
        }
        if gradients.a.is_none() && dx.is_none() {
            return;
        }
        scratch.clear();
        scratch.resize(n * r, 0.0);
        product(scratch, r, view, View::new(lora.b, d_out, r), lora.scale, Store::Set);
        let dh = View::new(scratch, n, r);
        if let Some(da) = gradients.a {
            let x = if saved.dropped.is_empty() { x } else { &saved.dropped };
            product(da, d_in, dh.t(), View::new(x, n, d_in), 1.0, Store::Add);
        }
        let Some((dx, _)) = dx else { return };
        let a = View::new(lora.a, r, d_in);
        if saved.drop.is_empty() {
            product(dx, d_in, dh, a, 1.0, Store::Add);
        } else {
            let mut branch = vec![0.0; n * d_in];
            product(&mut branch, d_in, dh, a, 1.0, Store::Set);
            for ((dx, branch), drop) in dx.iter_mut().zip(branch).zip(&saved.drop) {
                *dx += branch * drop;
            }
        }
    }
}

impl Saved {
    /// Draws a mask over `x`; what is kept grows by `1 / (1 - share)`, so means stay.
    fn draw(&mut self, x: &[f32], dropout: Option<&mut Dropout>) {
        self.drop.clear();
        self.dropped.clear();
        let Some(Dropout { share, stream }) = dropout else { return };
        let grown = 1.0 / (1.0 - *share);
        self.drop.extend(x.iter().map(|_| if stream.unit() < *share { 0.0 } else { grown }));
        self.dropped.extend(x.iter().zip(&self.drop).map(|(x, drop)| x * drop));
    }
}
