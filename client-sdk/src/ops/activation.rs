//! Functions of each entry alone, over a [`team`]'s threads.

use super::{team, vectorised};

/// Operations an entry, or what takes as long.
const WORK: usize = 64;

/// `out = f(x)`; both of one length.
pub(super) fn forward(out: &mut [f32], x: &[f32], f: impl Fn(f32) -> f32 + Sync) {
    assert_eq!(out.len(), x.len(), "lengths");
    let n = team::share(out.len(), WORK);
    team::each(out.chunks_mut(n).zip(x.chunks(n)), |(out, x)| {
        vectorised(
            #[inline(always)]
            || {
                for (out, &x) in out.iter_mut().zip(x) {
                    *out = f(x);
                }
            },
        );
    });
}

/// `dy` becomes `dx = dy slope(x)`; both of one length.
pub(super) fn backward_in_place(dy: &mut [f32], x: &[f32], slope: impl Fn(f32) -> f32 + Sync) {
    assert_eq!(dy.len(), x.len(), "lengths");
    let n = team::share(dy.len(), WORK);
    team::each(dy.chunks_mut(n).zip(x.chunks(n)), |(dy, x)| {
        vectorised(
            #[inline(always)]
            || {
                for (dy, &x) in dy.iter_mut().zip(x) {
                    *dy *= slope(x);
                }
            },
        );
    });
}
