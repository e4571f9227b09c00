//! A block's scale in one byte: 5 bits of exponent, 3 of mantissa, no sign.

/// `0` for byte 0; else `(8 + low three bits) 2^(high five bits - 27)`: 6e-8 to 240 in steps of at most
/// one eighth. Every one is an integer times a power of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Scale(pub(super) u8);

impl Scale {
    pub(super) const ZERO: Self = Self(0);

    #[inline]
    pub(super) fn value(self) -> f32 {
        if self.0 == 0 {
            return 0.0;
        }
        let power = f32::from_bits((127 - 27 + u32::from(self.0 >> 3)) << 23);
        f32::from(8 + (self.0 & 7)) * power
    }

    /// The least that is not below `x`; the largest there is for what lies above all.
    pub(super) fn at_least(x: f32) -> Self {
        let (mut low, mut high) = (0_u8, u8::MAX);
        while low < high {
            let middle = low + (high - low) / 2;
            if Self(middle).value() < x { low = middle + 1 } else { high = middle }
        }
        Self(low)
    }

    /// The nearest to `x`, the lower of two equally near.
    pub(super) fn nearest(x: f32) -> Self {
        let above = Self::at_least(x);
        let below = Self(above.0.saturating_sub(1));
        if x - below.value() <= above.value() - x { below } else { above }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_strictly_from_zero() {
        assert_eq!(Scale(0).value(), 0.0);
        assert_eq!(Scale(1).value(), 9.0 / 134_217_728.0);
        assert_eq!(Scale(255).value(), 240.0);
        assert!((0..255).all(|c| Scale(c).value() < Scale(c + 1).value()));
    }

    #[test]
    fn nearest_and_at_least() {
        assert_eq!(Scale::at_least(1.0).value(), 1.0);
        assert_eq!(Scale::at_least(1.01).value(), 1.125);
        assert_eq!(Scale::nearest(1.05).value(), 1.0);
        assert_eq!(Scale::nearest(1.07).value(), 1.125);
        assert_eq!(Scale::nearest(1e9).value(), 240.0);
        assert_eq!(Scale::nearest(0.0).value(), 0.0);
        assert_eq!(Scale::nearest(1e-9).value(), 0.0);
    }
}
