//! Rotary positions: entries `i` and `i + d/2` of a head turn by the angle `t theta^(-2i/d)`.
//!
//! `x_i' = x_i cos - x_j sin`, `x_j' = x_j cos + x_i sin` with `j = i + d/2` (Hugging Face's
//! half-split order). Source: arXiv:2104.09864.

/// Cosines and sines for positions `0..len`.
#[derive(Clone, Debug)]
pub(crate) struct Rope {
    /// Half the head's size.
    half: usize,
    len: usize,
    /// `[half, len]`: a frequency's row runs over positions.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// Which way to turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Turn {
    /// As the formula says.
    Forward,
    /// Back: the transpose, which is what gradients take.
    Back,
}

impl Rope {
    /// Tables for heads of `head_dim`; computed in `f64` and rounded once. By `libm`, since the
    /// platforms' own powers and sines differ in their last bits. `stretch` changes a frequency.
    pub(crate) fn new(
        head_dim: usize,
        len: usize,
        theta: f64,
        stretch: &dyn Fn(f64) -> f64,
    ) -> Self {
        let half = head_dim / 2;
        let mut cos = Vec::with_capacity(half * len);
        let mut sin = Vec::with_capacity(half * len);
        for i in 0..half {
            let frequency = stretch(libm::pow(theta, -2.0 * i as f64 / head_dim as f64));
            for t in 0..len {
                let (s, c) = libm::sincos(t as f64 * frequency);
                cos.push(c as f32);
                sin.push(s as f32);
            }
        }
        Self { half, len, cos, sin }
    }

    /// Positions there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Frequency `i`'s cosines and sines at positions `start..start + n`.
    #[inline(always)]
    pub(crate) fn row(&self, i: usize, start: usize, n: usize) -> (&[f32], &[f32]) {
        let at = i * self.len + start;
        (&self.cos[at..at + n], &self.sin[at..at + n])
    }

    /// Cosines and sines as `[len, half]`, the order candle's composition wants.
    pub(crate) fn by_position(&self) -> (Vec<f32>, Vec<f32>) {
        let turn = |table: &[f32]| {
            (0..self.len * self.half)
                .map(|at| table[at % self.half * self.len + at / self.half])
                .collect()
        };
        (turn(&self.cos), turn(&self.sin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles() {
        let rope = Rope::new(8, 16, 10_000.0, &|f| f);
        let (cos, sin) = rope.row(1, 3, 2);
        for (k, t) in [3.0_f64, 4.0].into_iter().enumerate() {
            assert!((f64::from(cos[k]) - (t * 0.1).cos()).abs() < 1e-7);
            assert!((f64::from(sin[k]) - (t * 0.1).sin()).abs() < 1e-7);
        }
        let (by_position, _) = rope.by_position();
        assert_eq!(by_position[3 * 4 + 1], cos[0]);
    }
}
