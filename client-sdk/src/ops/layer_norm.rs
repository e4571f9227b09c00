//! LayerNorm: `y = w u + b`, `u = (x - mean(x)) r`, `r = 1 / sqrt(var(x) + eps)`, row by row. Source:
//! arXiv:1607.06450.
//!
//! Backward, with `g = w dy`: `dx = r (g - mean(g) - u mean(g u))`. Weight and bias are frozen.

use super::product::Store;
use super::{room, sum, vectorised};

/// What [`backward`] and [`again`] need besides `x`.
#[derive(Debug, Default)]
pub(crate) struct Saved {
    /// Each row's mean.
    means: Vec<f32>,
    /// Each row's `r`.
    roots: Vec<f32>,
}

/// `out`, `x`: `[n, d]`, `w`, `b`: `[d]`.
pub(crate) fn forward(
    out: &mut [f32],
    saved: &mut Saved,
    x: &[f32],
    [w, b]: [&[f32]; 2],
    eps: f32,
) {
    let d = w.len();
    let Saved { means, roots } = saved;
    let (means, roots) = (room(means, x.len() / d), room(roots, x.len() / d));
    assert!([out.len(), x.len()] == [roots.len() * d; 2] && b.len() == d, "lengths");
    vectorised(
        #[inline(always)]
        || {
            let rows = out.chunks_exact_mut(d).zip(x.chunks_exact(d));
            let saved = means.iter_mut().zip(roots.iter_mut());
            for ((out, x), (mean, root)) in rows.zip(saved) {
                *mean = sum::sum(x) / d as f32;
                for (u, &x) in out.iter_mut().zip(x) {
                    *u = x - *mean;
                }
                let square = sum::dot(out, out) / d as f32 + eps;
                // An overflow would become 0 here and hide for good.
                let r = if square <= f32::MAX { 1.0 / square.sqrt() } else { f32::NAN };
                *root = r;
                for ((out, &w), &b) in out.iter_mut().zip(w).zip(b) {
                    *out = (*out * r).mul_add(w, b);
                }
            }
        },
    );
}

/// [`forward`]'s output again.
pub(crate) fn again(out: &mut [f32], saved: &Saved, x: &[f32], [w, b]: [&[f32]; 2]) {
    let d = w.len();
    let Saved { means, roots } = saved;
    assert!([out.len(), x.len()] == [roots.len() * d; 2] && b.len() == d, "lengths");
    vectorised(
        #[inline(always)]
        || {
            let rows = out.chunks_exact_mut(d).zip(x.chunks_exact(d));
            for ((out, x), (&mean, &r)) in rows.zip(means.iter().zip(roots)) {
                for (((out, &x), &w), &b) in out.iter_mut().zip(x).zip(w).zip(b) {
                    *out = ((x - mean) * r).mul_add(w, b);
                }
            }
        },
    );
}

/// Sets `dx`, `[n, d]`, or adds to it; `dy`, `x`: `[n, d]`.
pub(crate) fn backward(
    dx: &mut [f32],
    store: Store,
    dy: &[f32],
    x: &[f32],
    saved: &Saved,
    w: &[f32],
) {
    let d = w.len();
    let Saved { means, roots } = saved;
    assert!([dx.len(), dy.len(), x.len()] == [roots.len() * d; 3], "lengths");
    vectorised(
        #[inline(always)]
        || {
            let (mut g, mut u) = (vec![0.0; d], vec![0.0; d]);
            let rows = dx.chunks_exact_mut(d).zip(dy.chunks_exact(d)).zip(x.chunks_exact(d));
            for (((dx, dy), x), (&mean, &r)) in rows.zip(means.iter().zip(roots)) {
                for (u, &x) in u.iter_mut().zip(x) {
                    *u = (x - mean) * r;
                }
                for ((g, &dy), &w) in g.iter_mut().zip(dy).zip(w) {
                    *g = dy * w;
                }
                let mean = sum::sum(&g) / d as f32;
                let along = sum::dot(&g, &u) / d as f32;
                for (g, &u) in g.iter_mut().zip(&u) {
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
        let (mut out, mut saved, x) = ([0.0; 2], Saved::default(), [1.0, 3.0]);
        let (w, b) = ([2.0, 3.0], [10.0, 20.0]);
        forward(&mut out, &mut saved, &x, [&w, &b], 0.0);
        assert_eq!(
            (out, &saved.means[..], &saved.roots[..]),
            ([8.0, 23.0], &[2.0][..], &[1.0][..])
        );
        let mut made = [9.0; 2];
        again(&mut made, &saved, &x, [&w, &b]);
        assert_eq!(made, out);
        let mut dx = [9.0; 2];
        backward(&mut dx, Store::Set, &[0.5, 1.0], &x, &saved, &w);
        assert_eq!(dx, [0.0, 0.0]);
        // Epsilon 3 under the root: twice as small.
        forward(&mut out, &mut saved, &x, [&w, &b], 3.0);
        assert_eq!((out, &saved.roots[..]), ([9.0, 21.5], &[0.5][..]));
        // An overflow is no number, not a quiet 0.
        forward(&mut out, &mut saved, &[f32::MAX, f32::MIN], [&w, &b], 0.0);
        assert!(saved.roots[0].is_nan());
    }
}
