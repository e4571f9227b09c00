//! RMSNorm: `y = w * x / sqrt(mean(x^2) + eps)`, row by row. Source: arXiv:1910.07467.
//!
//! Backward, with `u = x r`, `r = 1 / sqrt(mean(x^2) + eps)` and `g = w dy`:
//! `dx = r (g - u mean(g u))`, `dw = sum over rows of dy u`.

use super::{sum, vectorised};

/// `out`, `x`: `[n, d]`, `w`: `[d]`; `roots`: `[n]`, each row's `r`, kept for [`backward`].
pub(crate) fn forward(out: &mut [f32], roots: &mut [f32], x: &[f32], w: &[f32], eps: f32) {
    let d = w.len();
    assert!(out.len() == x.len() && x.len() == roots.len() * d, "lengths");
    vectorised(
        #[inline(always)]
        || {
            let rows = out.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(roots.iter_mut());
            for ((out, x), root) in rows {
                let square = sum::dot(x, x) / d as f32 + eps;
                // An overflow would become 0 here and hide for good.
                let r = if square <= f32::MAX { 1.0 / square.sqrt() } else { f32::NAN };
                *root = r;
                for ((out, &x), &w) in out.iter_mut().zip(x).zip(w) {
                    *out = x * r * w;
                }
            }
        },
    );
}

/// [`forward`]'s output again, from its input and the roots that it left.
pub(crate) fn again(out: &mut [f32], x: &[f32], roots: &[f32], w: &[f32]) {
    let d = w.len();
    assert!(out.len() == x.len() && x.len() == roots.len() * d, "lengths");
    vectorised(
        #[inline(always)]
        || {
            for ((out, x), &r) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(roots) {
                for ((out, &x), &w) in out.iter_mut().zip(x).zip(w) {
                    *out = x * r * w;
                }
            }
        },
    );
}

/// Adds to `dx`, `[n, d]`, and, where the weight is trained, to `dw`, `[d]`.
pub(crate) fn backward(
    dx: &mut [f32],
    dw: Option<&mut [f32]>,
    dy: &[f32],
    x: &[f32],
    roots: &[f32],
    w: &[f32],
) {
    let d = w.len();
    assert!(dx.len() == x.len() && dy.len() == x.len() && x.len() == roots.len() * d, "lengths");
    vectorised(
        #[inline(always)]
        || {
            let mut g = vec![0.0; d];
            let rows = dx.chunks_exact_mut(d).zip(dy.chunks_exact(d)).zip(x.chunks_exact(d));
            for (((dx, dy), x), &r) in rows.zip(roots) {
                for ((g, &dy), &w) in g.iter_mut().zip(dy).zip(w) {
                    *g = dy * w;
                }
                let along = sum::dot(&g, x) * r * r / d as f32;
                for ((dx, &g), &x) in dx.iter_mut().zip(&g).zip(x) {
                    *dx += r * (g - x * along);
                }
            }
        },
    );
    if let Some(dw) = dw {
        assert_eq!(dw.len(), d, "lengths");
        for ((dy, x), &r) in dy.chunks_exact(d).zip(x.chunks_exact(d)).zip(roots) {
            for ((dw, &dy), &x) in dw.iter_mut().zip(dy).zip(x) {
                *dw += dy * x * r;
            }
        }
    }
}
