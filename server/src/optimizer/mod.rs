//! How the mean delta becomes a step of the server's dense adapter.
//!
//! The pseudo-gradient is `g = -mean delta`. Values and slots (moments) are kept in `f32`; each
//! coordinate is computed in `f64` with `+ - * / sqrt` alone, which IEEE 754 fixes to the bit, and
//! rounded once. So every machine takes the same step.
//!
//! - [`sgd`]: FedAvg and momentum. [`adamw`]: `torch.optim.AdamW`.
//! - [`adaptive`]: FedAdam, FedYogi, FedAdagrad.

pub mod adamw;
pub mod adaptive;
pub mod sgd;

use gossamer_protocol::manifest::ServerOptimizer;

/// A rule for one step.
pub trait Optimizer: Send {
    /// What each slot starts at; as many slots of shape `[n]` are kept between rounds.
    fn slots(&self) -> Vec<f32>;

    /// Takes step number `t >= 1`: changes `theta`, shape `[n]`, and the slots, each of shape `[n]`.
    ///
    /// `delta`: the mean delta, shape `[n]`. Coordinates that nobody sent have 0 there and still
    /// take part: momentum goes on and decay bites, as FLASC has it.
    fn step(&self, t: u64, theta: &mut [f32], delta: &[f32], slots: &mut [Vec<f32>]);
}

/// The rule a manifest names.
#[must_use]
pub fn of(rule: &ServerOptimizer) -> Box<dyn Optimizer> {
    use adaptive::{Adaptive, Second};
    match *rule {
        ServerOptimizer::Sgd { lr, momentum } => Box::new(sgd::Sgd { lr, momentum }),
        ServerOptimizer::AdamW { lr, beta1, beta2, eps, weight_decay } => {
            Box::new(adamw::AdamW { lr, beta1, beta2, eps, weight_decay })
        }
        ServerOptimizer::FedAdam { lr, beta1, beta2, tau } => {
            Box::new(Adaptive { lr, beta1, tau, second: Second::Adam { beta2 } })
        }
        ServerOptimizer::FedYogi { lr, beta1, beta2, tau } => {
            Box::new(Adaptive { lr, beta1, tau, second: Second::Yogi { beta2 } })
        }
        ServerOptimizer::FedAdagrad { lr, beta1, tau } => {
            Box::new(Adaptive { lr, beta1, tau, second: Second::Adagrad })
        }
    }
}

/// `base^t` by repeated multiplication: `powi` may differ between machines.
fn power(base: f64, t: u64) -> f64 {
    (0..t).fold(1.0, |product, _| product * base)
}
