//! What information theory allows, and what other ways to write the same entries would take.

use crate::manifest::Values;

/// `log2 C(n, k)`: bits that tell which `k` of `n` coordinates, all sets being equally likely.
#[must_use]
pub fn log2_choose(n: usize, k: usize) -> f64 {
    if k == 0 || k >= n {
        return 0.0;
    }
    let ln_factorial = |x: usize| libm::lgamma(x as f64 + 1.0);
    (ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)) / std::f64::consts::LN_2
}

/// Bits of `k` entries of `n`, if their places were uniform and every index equally likely: places, signs,
/// indices, and the floors and scales of full blocks.
#[must_use]
pub fn uniform_bits(n: usize, k: usize, values: Values) -> f64 {
    let scales = k.div_ceil(values.block()) * (values.header_bits() as usize - 1);
    log2_choose(n, k) + (k * (values.index_bits() as usize + 1) + scales) as f64
}

/// Bytes of the same entries as `u32` and `f32` each, the naive way.
#[must_use]
pub fn naive_bytes(k: usize) -> u64 {
    8 * k as u64
}

/// Bytes of the dense vector in `f32`.
#[must_use]
pub fn dense_bytes(n: usize) -> u64 {
    4 * n as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_where_it_can_be_counted() {
        // C(10, 3) = 120, C(52, 5) = 2,598,960, C(5, 0) = C(5, 5) = 1.
        assert!((log2_choose(10, 3) - 120_f64.log2()).abs() < 1e-9);
        assert!((log2_choose(52, 5) - 2_598_960_f64.log2()).abs() < 1e-9);
        assert_eq!((log2_choose(5, 0), log2_choose(5, 5)), (0.0, 0.0));
    }

    /// The published table of the entropy of a density: n H(d) bits, 0.811, 0.337 and 0.116 a parameter.
    #[test]
    fn near_the_entropy_for_large_n() {
        let n = 1 << 20;
        for (share, bits) in [(4, 0.811_3), (16, 0.337_3), (64, 0.116_1)] {
            let got = log2_choose(n, n / share) / n as f64;
            assert!((got - bits).abs() < 1e-4, "1/{share}: {got}");
        }
    }
}
