//! Gradient descent: `v <- momentum v + g; theta <- theta - lr v`, as `torch.optim.SGD` has it.
//!
//! With `lr = 1` and no momentum this is FedAvg (arXiv:1602.05629): the mean delta is added.

use super::Optimizer;

/// Plain or heavy-ball descent.
#[derive(Clone, Copy, Debug)]
pub struct Sgd {
    /// Step size.
    pub lr: f64,
    /// Share of the last step kept.
    pub momentum: f64,
}

impl Optimizer for Sgd {
    fn slots(&self) -> Vec<f32> {
        if self.momentum == 0.0 { Vec::new() } else { vec![0.0] }
    }

    fn step(&self, _t: u64, theta: &mut [f32], delta: &[f32], slots: &mut [Vec<f32>]) {
        match slots {
            [velocity, ..] => {
                for ((x, &d), v) in theta.iter_mut().zip(delta).zip(velocity) {
                    let step = self.momentum * f64::from(*v) - f64::from(d);
                    *v = step as f32;
                    *x = (f64::from(*x) - self.lr * step) as f32;
                }
            }
            [] => {
                for (x, &d) in theta.iter_mut().zip(delta) {
                    *x = (f64::from(*x) + self.lr * f64::from(d)) as f32;
                }
            }
        }
    }
}
