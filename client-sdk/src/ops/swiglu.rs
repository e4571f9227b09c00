//! SwiGLU's gate: `y = silu(g) u`, `silu(g) = g / (1 + e^-g)`. Source: arXiv:2002.05202.
//!
//! Backward, with `s = 1 / (1 + e^-g)`: `dg = dy u s (1 + g (1 - s))`, `du = dy g s`.

use super::exp::exp;
use super::{team, vectorised};

/// Operations an entry, or what takes as long.
const WORK: usize = 64;

/// All slices of one length.
pub(crate) fn forward(out: &mut [f32], gate: &[f32], up: &[f32]) {
    assert!(out.len() == gate.len() && gate.len() == up.len(), "lengths");
    let n = team::share(out.len(), WORK);
    let parts = out.chunks_mut(n).zip(gate.chunks(n)).zip(up.chunks(n));
    team::each(parts, |((out, gate), up)| {
        vectorised(
            #[inline(always)]
            || {
                for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
                    *out = g / (1.0 + exp(-g)) * u;
                }
            },
        );
    });
}

/// Sets `dgate` and `dup`; all slices of one length.
pub(crate) fn backward(dgate: &mut [f32], dup: &mut [f32], dy: &[f32], gate: &[f32], up: &[f32]) {
    let n = dy.len();
    assert!([dgate.len(), dup.len(), gate.len(), up.len()] == [n; 4], "lengths");
    let n = team::share(n, WORK);
    let out = dgate.chunks_mut(n).zip(dup.chunks_mut(n));
    let parts = out.zip(dy.chunks(n)).zip(gate.chunks(n).zip(up.chunks(n)));
    team::each(parts, |(((dgate, dup), dy), (gate, up))| {
        vectorised(
            #[inline(always)]
            || {
                let out = dgate.iter_mut().zip(dup.iter_mut());
                for (((dgate, dup), &dy), (&g, &u)) in out.zip(dy).zip(gate.iter().zip(up)) {
                    let s = 1.0 / (1.0 + exp(-g));
                    *dgate = dy * u * s * (1.0 + g * (1.0 - s));
                    *dup = dy * g * s;
                }
            },
        );
    });
}
