//! GELU by its tanh formula, which GPT-2 has (`gelu_new`): `y = x s(u)`, `s(u) = 1 / (1 + e^(-2u))`,
//! `u = sqrt(2 / pi) (x + 0.044715 x^3)`; `s(u)` is `(1 + tanh u) / 2`. Source: arXiv:1606.08415.
//!
//! Backward: `dx = dy (s + 2 x s (1 - s) u')`, `u' = sqrt(2 / pi) (1 + 3 * 0.044715 x^2)`.

use super::activation;
use super::exp::exp;

/// `sqrt(2 / pi)`.
const ROOT: f32 = 0.797_884_6;
const CUBE: f32 = 0.044_715;

/// `s(u)`, and `2 x s (1 - s) u'`.
#[inline(always)]
fn parts(x: f32) -> (f32, f32) {
    // Beyond 20 both have long reached their limits, and a cube does not overflow.
    let x = x.clamp(-20.0, 20.0);
    let square = x * x;
    let u = ROOT * x * square.mul_add(CUBE, 1.0);
    let s = 1.0 / (1.0 + exp(-2.0 * u));
    let slope = ROOT * square.mul_add(3.0 * CUBE, 1.0);
    (s, 2.0 * x * s * (1.0 - s) * slope)
}

/// Both of one length.
pub(crate) fn forward(out: &mut [f32], x: &[f32]) {
    activation::forward(
        out,
        x,
        #[inline(always)]
        |x| x * parts(x).0,
    );
}

/// `dy` becomes `dx`; both of one length.
pub(crate) fn backward_in_place(dy: &mut [f32], x: &[f32]) {
    activation::backward_in_place(
        dy,
        x,
        #[inline(always)]
        |x| {
            let (s, rest) = parts(x);
            s + rest
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The formula with the standard library's tanh in `f64`, and differences of it.
    #[test]
    fn agrees_with_tanh() {
        let gelu = |x: f64| {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        };
        let x: Vec<f32> = (-9_000..=9_000).map(|i| i as f32 * 1e-3).collect();
        let (mut y, mut dx) = (vec![0.0; x.len()], vec![1.0; x.len()]);
        forward(&mut y, &x);
        backward_in_place(&mut dx, &x);
        for ((&x, y), dx) in x.iter().zip(y).zip(dx) {
            let x = f64::from(x);
            let slope = (gelu(x + 1e-5) - gelu(x - 1e-5)) / 2e-5;
            assert!((f64::from(y) - gelu(x)).abs() < 5e-7 * x.abs().max(1.0), "{x}: {y}");
            assert!((f64::from(dx) - slope).abs() < 2e-6, "{x}: {dx}, not {slope}");
        }
    }

    /// Saturates without an overflow, and a NaN is not lost.
    #[test]
    fn the_ends() {
        let x = [1e30, -1e30, f32::NAN];
        let (mut y, mut dx) = ([0.0; 3], [1.0; 3]);
        forward(&mut y, &x);
        backward_in_place(&mut dx, &x);
        assert_eq!((y[0], dx[0]), (1e30, 1.0));
        assert!(y[1].abs() < 1e-6 && dx[1].abs() < 1e-6, "{y:?} {dx:?}");
        assert!(y[2].is_nan() && dx[2].is_nan());
    }
}
