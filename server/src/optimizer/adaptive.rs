//! FedAdam, FedYogi and FedAdagrad. Source: arXiv:2003.00295, algorithm 2.
//!
//! ```text
//! m <- b1 m + (1 - b1) delta
//! Adagrad: v <- v + delta^2
//! Yogi:    v <- v - (1 - b2) delta^2 sign(v - delta^2)
//! Adam:    v <- b2 v + (1 - b2) delta^2
//! theta <- theta + lr m / (sqrt(v) + tau)
//! ```
//!
//! `v` starts at `tau^2`, the least the paper allows; nothing is bias-corrected.

use super::Optimizer;

/// How the second moment follows the square.
#[derive(Clone, Copy, Debug)]
pub enum Second {
    /// It grows.
    Adagrad,
    /// It moves by a share of the square.
    Yogi {
        /// Decay of the square.
        beta2: f64,
    },
    /// It is a running mean.
    Adam {
        /// Decay of the square.
        beta2: f64,
    },
}

/// One of the three.
#[derive(Clone, Copy, Debug)]
pub struct Adaptive {
    /// Step size.
    pub lr: f64,
    /// Decay of the mean.
    pub beta1: f64,
    /// Adaptivity.
    pub tau: f64,
    /// The rule for the second moment.
    pub second: Second,
}

impl Optimizer for Adaptive {
    fn slots(&self) -> Vec<f32> {
        vec![0.0, (self.tau * self.tau) as f32]
    }

    fn step(&self, _t: u64, theta: &mut [f32], delta: &[f32], slots: &mut [Vec<f32>]) {
        let [means, squares] = slots else { return };
        let entries = theta.iter_mut().zip(delta).zip(means).zip(squares);
        for (((x, &d), m), v) in entries {
            let d = f64::from(d);
            let mean = self.beta1 * f64::from(*m) + (1.0 - self.beta1) * d;
            let square = self.second.next(f64::from(*v), d * d);
            *m = mean as f32;
            *v = square as f32;
            *x = (f64::from(*x) + self.lr * mean / (square.sqrt() + self.tau)) as f32;
        }
    }
}

impl Second {
    fn next(self, v: f64, square: f64) -> f64 {
        match self {
            Self::Adagrad => v + square,
            Self::Yogi { beta2 } if v > square => v - (1.0 - beta2) * square,
            Self::Yogi { beta2 } if v < square => v + (1.0 - beta2) * square,
            Self::Yogi { .. } => v,
            Self::Adam { beta2 } => beta2 * v + (1.0 - beta2) * square,
        }
    }
}
