//! The models' operations on `f32` slices, forward and backward.
//!
//! candle's fused layers cut gradients in silence, its product of a frozen weight also forms the
//! weight's gradient, and its gradient sums start a thread pool from 65,536 entries up. So training
//! does not run on candle's graph on a CPU: each file here has one operation's formula, shapes, forward and
//! backward in safe Rust. [`crate::model::graph`] has the same models from candle's differentiable
//! operations, for GPUs; tests compare the two, and both with PyTorch.
//!
//! Nothing here starts a thread (an app's [`team`] may have some), reads a clock or draws a random number that
//! was not passed in. Sums run in an order fixed by the shapes alone, and what the hardware does not define (powers, sines,
//! logarithms) is computed in software, so equal inputs give equal bytes whatever the machine, the vector
//! width and whatever else runs beside. Wrong lengths panic: callers check what comes from outside.

mod activation;
pub(crate) mod attention;
pub(crate) mod cross_entropy;
mod exp;
pub(crate) mod gelu;
pub(crate) mod gelu_tanh;
pub(crate) mod layer_norm;
pub(crate) mod linear;
pub(crate) mod matrix;
pub(crate) mod norm;
pub(crate) mod pool;
pub(crate) mod product;
pub(crate) mod rope;
mod sum;
pub(crate) mod swiglu;
pub(crate) mod team;

use std::sync::LazyLock;

/// The instruction set, found once.
static ARCH: LazyLock<pulp::Arch> = LazyLock::new(pulp::Arch::new);

/// Runs `f`, which wants `#[inline(always)]`, compiled for the instruction set found.
///
/// `FnMut`, although it runs once: a closure's `FnOnce` entry is a shim of its own, which would not be
/// inlined here and so would not be compiled for that set.
fn vectorised(f: impl FnMut()) {
    struct Run<F>(F);
    impl<F: FnMut()> pulp::WithSimd for Run<F> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: pulp::Simd>(mut self, _: S) {
            (self.0)();
        }
    }
    ARCH.dispatch(Run(f));
}

/// `buffer` with room for `n` entries, whatever they are.
pub(crate) fn room(buffer: &mut Vec<f32>, n: usize) -> &mut [f32] {
    buffer.resize(n, 0.0);
    buffer
}

/// `out += x`, entry by entry.
pub(crate) fn add(out: &mut [f32], x: &[f32]) {
    assert_eq!(out.len(), x.len(), "lengths");
    for (out, x) in out.iter_mut().zip(x) {
        *out += x;
    }
}
