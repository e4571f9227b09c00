//! The one source of randomness: ChaCha8 streams named by a seed and a purpose.
//!
//! Two draws with the same name are equal on every machine; two purposes never share a stream.
//! The key is `SHA-256("gossamer/v1/rng\0" | label | "\0" | seed u64 LE | part…)`.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::digest::Hasher;

/// A seeded stream of random numbers.
#[derive(Clone, Debug)]
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream named by `seed`, `label` and `parts`.
    #[must_use]
    pub fn new(seed: u64, label: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(b"gossamer/v1/rng\0");
        hasher.update(label.as_bytes());
        hasher.update(b"\0");
        hasher.update(&seed.to_le_bytes());
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(ChaCha8Rng::from_seed(hasher.finish().0))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// 32 random bits.
    pub fn word(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// Uniform on `[0, 1)`, a multiple of 2^-24.
    pub fn unit(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform on `[0, 1)`, a multiple of 2^-53.
    pub fn unit_f64(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// Uniform on `0..n`; 0 where `n` is 0. Lemire's multiply-and-reject, so without bias.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 {
            return 0;
        }
        let threshold = n.wrapping_neg() % n;
        loop {
            let wide = u128::from(self.bits()) * u128::from(n);
            if wide as u64 >= threshold {
                return (wide >> 64) as u64;
            }
        }
    }

    /// Standard normal (Box-Muller, one of the pair).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit_f64()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit_f64()).cos()
    }

    /// Fisher-Yates shuffle.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_streams_differ_and_repeat() {
        let draw = |seed, label, part: &[u8]| Stream::new(seed, label, &[part]).bits();
        assert_eq!(draw(1, "a", b"x"), draw(1, "a", b"x"));
        assert_ne!(draw(1, "a", b"x"), draw(2, "a", b"x"));
        assert_ne!(draw(1, "a", b"x"), draw(1, "b", b"x"));
        assert_ne!(draw(1, "a", b"x"), draw(1, "a", b"y"));
    }

    #[test]
    fn moments() {
        let mut rng = Stream::new(7, "moments", &[]);
        let n = 40_000;
        let (mut unit, mut normal, mut square) = (0.0, 0.0, 0.0);
        for _ in 0..n {
            unit += f64::from(rng.unit());
            let z = rng.normal();
            normal += z;
            square += z * z;
        }
        // Five standard errors: 0.289/200, 1/200 and sqrt(2)/200.
        let n = f64::from(n);
        assert!((unit / n - 0.5).abs() < 5.0 * 0.001_45);
        assert!((normal / n).abs() < 5.0 * 0.005);
        assert!((square / n - 1.0).abs() < 5.0 * 0.007_1);
    }

    #[test]
    fn below_reaches_all_and_only() {
        let mut rng = Stream::new(3, "below", &[]);
        let mut seen = [0_u32; 5];
        for _ in 0..5_000 {
            seen[rng.below(5) as usize] += 1;
        }
        // Binomial(5000, 1/5): sd 28.3.
        assert!(seen.iter().all(|&c| c.abs_diff(1_000) < 142), "{seen:?}");
    }
}
