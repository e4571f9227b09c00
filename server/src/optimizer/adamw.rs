//! `torch.optim.AdamW`, FLASC's server step.
//!
//! ```text
//! theta <- theta - lr wd theta
//! m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2
//! theta <- theta - lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps)
//! ```
//!
//! Source: arXiv:1711.05101, in the order torch computes it. Every coordinate moves, sent or not.

use super::{Optimizer, power};

/// Adam with bias correction and decoupled decay.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Step size.
    pub lr: f64,
    /// Decay of the mean.
    pub beta1: f64,
    /// Decay of the square.
    pub beta2: f64,
    /// Added to the root.
    pub eps: f64,
    /// Decoupled decay.
    pub weight_decay: f64,
}

impl Optimizer for AdamW {
    fn slots(&self) -> Vec<f32> {
        vec![0.0, 0.0]
    }

    fn step(&self, t: u64, theta: &mut [f32], delta: &[f32], slots: &mut [Vec<f32>]) {
        let [means, squares] = slots else { return };
        let rate = self.lr / (1.0 - power(self.beta1, t));
        let correction = (1.0 - power(self.beta2, t)).sqrt();
        let keep = 1.0 - self.lr * self.weight_decay;
        let entries = theta.iter_mut().zip(delta).zip(means).zip(squares);
        for (((x, &d), m), v) in entries {
            let g = -f64::from(d);
            let mean = self.beta1 * f64::from(*m) + (1.0 - self.beta1) * g;
            let square = self.beta2 * f64::from(*v) + (1.0 - self.beta2) * g * g;
            let root = square.sqrt() / correction + self.eps;
            *m = mean as f32;
            *v = square as f32;
            *x = (f64::from(*x) * keep - rate * mean / root) as f32;
        }
    }
}
