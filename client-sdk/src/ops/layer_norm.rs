//! LayerNorm: `y = w u + b`, `u = (x - mean(x)) r`, `r = 1 / sqrt(var(x) + eps)`, row by row. Source:
//! arXiv:1607.06450.
//!
//! Backward, with `g = w dy`: `dx = r (g - mean(g) - u mean(g u))`. Weight and bias are frozen.

use super::product::Store;
use super::{sum, vectorised};

/// `out`, `u`, `x`: `[n, d]`, `w`, `b`: `[d]`; `roots`: `[n]`, each row's `r`; it and `u` are kept for
/// [`backward`].
pub(crate) fn forward(
    out: &mut [f32],
    u: &mut [f32],
    roots: &mut [f32],
    x: &[f32],
    [w, b]: [&[f32]; 2],
    eps: f32,
) {
    let d = w.len();
    assert!([out.len(), u.len(), x.len()] == [roots.len() * d; 3] && b.len() == d, "lengths");
    vectorised(
        #[inline(always)]
        || {
            let rows = out.chunks_exact_mut(d).zip(u.chunks_exact_mut(d)).zip(x.chunks_exact(d));
            for (((out, u), x), root) in rows.zip(roots.iter_mut()) {
                let mean = sum::sum(x) / d as f32;
                for (u, &x) in u.iter_mut().zip(x) {
                    *u = x - mean;
                }
                let square = sum::dot(u, u) / d as f32 + eps;
                // An overflow would become 0 here and hide for good.
                let r = if square <= f32::MAX { 1.0 / square.sqrt() } else { f32::NAN };
                *root = r;
                for (((out, u), &w), &b) in out.iter_mut().zip(u).zip(w).zip(b) {
                    *u *= r;
                    *out = u.mul_add(w, b);
                }
            }
        },
    );
}

/// Sets `dx`, `[n, d]`, or adds to it; `dy`: `[n, d]`.
pub(crate) fn backward(
    dx: &mut [f32],
    store: Store,
    dy: &[f32],
    u: &[f32],
    roots: &[f32],
    w: &[f32],
) {
    let d = w.len();
    assert!([dx.len(), dy.len(), u.len()] == [roots.len() * d; 3], "lengths");
    vectorised(
        #[inline(always)]
        || {
            let mut g = vec![0.0; d];
            let rows = dx.chunks_exact_mut(d).zip(dy.chunks_exact(d)).zip(u.chunks_exact(d));
            for (((dx, dy), u), &r) in rows.zip(roots) {
                for ((g, &dy), &w) in g.iter_mut().zip(dy).zip(w) {
                    *g = dy * w;
                }
                let mean = sum::sum(&g) / d as f32;
                let along = sum::dot(&g, u) / d as f32;
                for (g, &u) in g.iter_mut().zip(u) {
                    *g = r * (*g - mean - u * along);
                }
                match store {
                    Store::Set => dx.copy_from_slice(&g),
                    Store::Add => super::add(dx, &g),
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: mean 2, variance 1, so `u = (-1, 1)` but for epsilon. Two features leave no gradient.
    #[test]
    fn two_features_by_hand() {
        let (mut out, mut u, mut roots) = ([0.0; 2], [0.0; 2], [0.0]);
        let (w, b) = ([2.0, 3.0], [10.0, 20.0]);
        forward(&mut out, &mut u, &mut roots, &[1.0, 3.0], [&w, &b], 0.0);
        assert_eq!((out, u, roots), ([8.0, 23.0], [-1.0, 1.0], [1.0]));
        let mut dx = [9.0; 2];
        backward(&mut dx, Store::Set, &[0.5, 1.0], &u, &roots, &w);
        assert_eq!(dx, [0.0, 0.0]);
        // Epsilon 3 under the root: twice as small.
        forward(&mut out, &mut u, &mut roots, &[1.0, 3.0], [&w, &b], 3.0);
        assert_eq!((out, roots), ([9.0, 21.5], [0.5]));
        // An overflow is no number, not a quiet 0.
        forward(&mut out, &mut u, &mut roots, &[f32::MAX, f32::MIN], [&w, &b], 0.0);
        assert!(roots[0].is_nan());
    }
}
