//! Local optimisers over flat vectors, as torch computes them; fresh each round.

use gossamer_protocol::manifest::LocalOptimizer;

/// An optimiser with its state.
#[derive(Clone, Debug)]
pub(crate) enum Optimizer {
    Sgd { lr: f32, momentum: f32, velocity: Vec<f32> },
    AdamW(AdamW),
}

/// `torch.optim.AdamW` with its default betas and epsilon.
#[derive(Clone, Debug)]
pub(crate) struct AdamW {
    pub(crate) lr: f64,
    pub(crate) weight_decay: f64,
    /// Each beta to the power of the steps done: by products, since `powi` is not one number on every
    /// machine.
    powers: [f64; 2],
    mean: Vec<f32>,
    square: Vec<f32>,
}

impl Optimizer {
    /// For `n` parameters.
    pub(crate) fn new(kind: LocalOptimizer, n: usize) -> Self {
        match kind {
            LocalOptimizer::Sgd { lr, momentum } => {
                Self::Sgd { lr: lr as f32, momentum: momentum as f32, velocity: vec![0.0; n] }
            }
            LocalOptimizer::AdamW { lr, weight_decay } => {
                Self::AdamW(AdamW::new(lr, weight_decay, n))
            }
        }
    }

    /// Moves `theta` by its gradient.
    pub(crate) fn step(&mut self, theta: &mut [f32], gradient: &[f32]) {
        match self {
            Self::Sgd { lr, momentum, velocity } => {
                // From 0, torch's first velocity is the gradient itself.
                for ((theta, v), g) in theta.iter_mut().zip(velocity).zip(gradient) {
                    *v = *momentum * *v + g;
                    *theta -= *lr * *v;
                }
            }
            Self::AdamW(adamw) => adamw.step(theta, gradient),
        }
    }

    /// AdamW's powers (SGD has none: ones) and the moments, one or two vectors of the parameters' length.
    pub(crate) fn state(&self) -> ([f64; 2], Vec<&[f32]>) {
        match self {
            Self::Sgd { velocity, .. } => ([1.0; 2], vec![velocity]),
            Self::AdamW(adamw) => (adamw.powers, vec![&adamw.mean, &adamw.square]),
        }
    }

    /// As [`state`](Self::state), to be set.
    pub(crate) fn state_mut(&mut self) -> (Option<&mut [f64; 2]>, Vec<&mut [f32]>) {
        match self {
            Self::Sgd { velocity, .. } => (None, vec![velocity]),
            Self::AdamW(AdamW { powers, mean, square, .. }) => (Some(powers), vec![mean, square]),
        }
    }
}

impl AdamW {
    const BETA_1: f64 = 0.9;
    const BETA_2: f64 = 0.999;
    const EPS: f64 = 1e-8;

    pub(crate) fn new(lr: f64, weight_decay: f64, n: usize) -> Self {
        Self { lr, weight_decay, powers: [1.0; 2], mean: vec![0.0; n], square: vec![0.0; n] }
    }

    pub(crate) fn step(&mut self, theta: &mut [f32], gradient: &[f32]) {
        self.powers[0] *= Self::BETA_1;
        self.powers[1] *= Self::BETA_2;
        let [correction_1, correction_2] = self.powers.map(|power| 1.0 - power);
        let keep = (1.0 - self.lr * self.weight_decay) as f32;
        let size = (self.lr / correction_1) as f32;
        let root = (1.0 / correction_2.sqrt()) as f32;
        let (beta_2, eps) = (Self::BETA_2 as f32, Self::EPS as f32);
        let (fresh_1, fresh_2) = ((1.0 - Self::BETA_1) as f32, (1.0 - Self::BETA_2) as f32);
        let state = self.mean.iter_mut().zip(&mut self.square);
        for ((theta, (m, v)), g) in theta.iter_mut().zip(state).zip(gradient) {
            *m += fresh_1 * (g - *m);
            *v = beta_2 * *v + fresh_2 * g * g;
            *theta = *theta * keep - size * *m / (v.sqrt() * root + eps);
        }
    }
}

/// Scales `gradient` down to norm `most` where it is longer, and returns the norm it had.
///
/// `torch.nn.utils.clip_grad_norm_`: the factor is `min(1, most / (norm + 1e-6))`.
pub(crate) fn clip(gradient: &mut [f32], most: f32) -> f64 {
    let norm = gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
    let factor = f64::from(most) / (norm + 1e-6);
    if factor < 1.0 {
        for g in gradient {
            *g *= factor as f32;
        }
    }
    norm
}

/// Adds FedProx's gradient, `mu (theta - received)`.
pub(crate) fn pull(gradient: &mut [f32], theta: &[f32], received: &[f32], mu: f32) {
    for ((g, theta), received) in gradient.iter_mut().zip(theta).zip(received) {
        *g += mu * (theta - received);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: v1 = 1, v2 = 0.9 + 1 = 1.9.
    #[test]
    fn sgd_by_hand() {
        let mut sgd = Optimizer::new(LocalOptimizer::Sgd { lr: 0.1, momentum: 0.9 }, 1);
        let mut theta = [1.0];
        sgd.step(&mut theta, &[1.0]);
        assert!((theta[0] - 0.9).abs() < 1e-6);
        sgd.step(&mut theta, &[1.0]);
        assert!((theta[0] - 0.71).abs() < 1e-6);
    }

    /// With a constant gradient both corrected moments are the gradient's, so each step is `lr`.
    #[test]
    fn adamw_by_hand() {
        let kind = LocalOptimizer::AdamW { lr: 0.1, weight_decay: 0.5 };
        let mut adamw = Optimizer::new(kind, 1);
        let mut theta = [1.0];
        adamw.step(&mut theta, &[3.0]);
        assert!((theta[0] - (0.95 - 0.1)).abs() < 1e-6, "{theta:?}");
        adamw.step(&mut theta, &[3.0]);
        assert!((theta[0] - (0.85 * 0.95 - 0.1)).abs() < 1e-6, "{theta:?}");
    }

    #[test]
    fn clips_only_what_is_longer() {
        let mut gradient = [3.0, 4.0];
        assert!((clip(&mut gradient, 10.0) - 5.0).abs() < 1e-9);
        assert_eq!(gradient, [3.0, 4.0]);
        clip(&mut gradient, 1.0);
        assert!((gradient[0] - 0.6).abs() < 1e-6 && (gradient[1] - 0.8).abs() < 1e-6);
    }

    /// On `h / 2 (x - a)^2` gradient descent from `x0` with FedProx comes to `(h a + mu x0) / (h + mu)`:
    /// from 1 with h = 2, a = 5 to 3 for mu = 2, and for mu = 6 to 2.
    #[test]
    fn fed_prox_ends_between_the_optimum_and_the_start() {
        for (mu, end) in [(0.0, 5.0), (2.0, 3.0), (6.0, 2.0)] {
            let mut x = [1.0_f32];
            for _ in 0..200 {
                let mut gradient = [2.0 * (x[0] - 5.0)];
                pull(&mut gradient, &x, &[1.0], mu);
                x[0] -= 0.1 * gradient[0];
            }
            assert!((x[0] - end).abs() < 1e-5, "{mu}: {}", x[0]);
        }
    }
}
