//! GELU, the exact one: `y = x P(x)`, `P(x) = (1 + erf(x / sqrt 2)) / 2`. Source: arXiv:1606.08415.
//!
//! Backward: `dx = dy (P(x) + x e^(-x^2 / 2) / sqrt(2 pi))`. `P` by Abramowitz and Stegun's formula
//! 7.1.26, within 1.5e-7 of the true error function: plain arithmetic, which vectorises and has the same bits on
//! every machine.

use super::activation;
use super::exp::exp;

/// `P(x)`, and `e^(-x^2 / 2)` on the way to it.
#[inline(always)]
fn parts(x: f32) -> (f32, f32) {
    let t = 1.0 / (0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2).mul_add(x.abs(), 1.0);
    let mut y = 1.061_405_4_f32;
    y = y.mul_add(t, -1.453_152);
    y = y.mul_add(t, 1.421_413_7);
    y = y.mul_add(t, -0.284_496_74);
    y = y.mul_add(t, 0.254_829_6);
    let bell = exp(-0.5 * x * x);
    // The share beyond |x|.
    let tail = 0.5 * y * t * bell;
    (if x < 0.0 { tail } else { 1.0 - tail }, bell)
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
    /// `1 / sqrt(2 pi)`.
    const PEAK: f32 = 0.398_942_3;
    activation::backward_in_place(
        dy,
        x,
        #[inline(always)]
        |x| {
            let (p, bell) = parts(x);
            (x * bell).mul_add(PEAK, p)
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against `libm`'s error function in `f64`.
    #[test]
    fn agrees_with_the_error_function() {
        let x: Vec<f32> = (-9_000..=9_000).map(|i| i as f32 * 1e-3).collect();
        let (mut y, mut dx) = (vec![0.0; x.len()], vec![1.0; x.len()]);
        forward(&mut y, &x);
        backward_in_place(&mut dx, &x);
        for ((&x, y), dx) in x.iter().zip(y).zip(dx) {
            let x = f64::from(x);
            let p = 0.5 * (1.0 + libm::erf(x / 2.0_f64.sqrt()));
            let slope = p + x * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            assert!((f64::from(y) - x * p).abs() < 4e-7 * x.abs().max(1.0), "{x}: {y}");
            assert!((f64::from(dx) - slope).abs() < 4e-7, "{x}: {dx}, not {slope}");
        }
    }

    /// Saturates without an overflow, and a NaN is not lost.
    #[test]
    fn the_ends() {
        let mut y = [0.0; 3];
        forward(&mut y, &[1e30, -1e30, f32::NAN]);
        assert_eq!(y[0], 1e30);
        assert_eq!(y[1], 0.0);
        assert!(y[2].is_nan());
    }
}
