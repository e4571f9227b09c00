//! A binary arithmetic coder: a carry-less range coder of 32 bits, probabilities of 16.
//!
//! Coder and model are integers throughout, so every machine makes the same bytes. Own code, because
//! the model (`super::model`) is the point, and the coder under it is thirty lines; the crates there
//! are code whole symbols from static tables or floats.

use std::io::BufRead;

use super::CodecError;

/// A probability of a one-bit in units of 2^-16, from 1 to 65,535.
pub(super) type Probability = u16;

/// An even chance.
pub(super) const EVEN: Probability = 1 << 15;

/// Codes bits.
pub(super) struct RangeEncoder {
    low: u32,
    high: u32,
    out: Vec<u8>,
}

impl RangeEncoder {
    pub(super) fn new() -> Self {
        Self { low: 0, high: u32::MAX, out: Vec::new() }
    }

    /// Codes `bit`, which is one with probability `one`.
    #[inline]
    pub(super) fn bit(&mut self, bit: bool, one: Probability) {
        let middle = split(self.low, self.high, one);
        if bit {
            self.high = middle;
        } else {
            self.low = middle + 1;
        }
        while (self.low ^ self.high) >> 24 == 0 {
            self.out.push((self.high >> 24) as u8);
            self.low <<= 8;
            self.high = (self.high << 8) | 0xFF;
        }
    }

    /// Codes the low `count` bits of `bits` at even chances, highest first.
    pub(super) fn raw(&mut self, bits: u32, count: u32) {
        for place in (0..count).rev() {
            self.bit(bits >> place & 1 == 1, EVEN);
        }
    }

    /// The bytes.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let (bytes, len) = last_bytes(self.low, self.high);
        self.out.extend_from_slice(&bytes[..len]);
        self.out
    }
}

/// The fewest bytes that tell the interval, given that zeros follow; the least such number.
fn last_bytes(low: u32, high: u32) -> ([u8; 4], usize) {
    for len in 0..4 {
        // The least multiple of this that is not below `low`.
        let step = 1_u64 << (32 - 8 * len);
        let point = u64::from(low).div_ceil(step) * step;
        if point <= u64::from(high) {
            return ((point as u32).to_be_bytes(), len);
        }
    }
    (low.to_be_bytes(), 4)
}

/// Decodes bits.
pub(super) struct RangeDecoder<R> {
    low: u32,
    high: u32,
    code: u32,
    source: R,
    /// Zero bytes taken from behind the end.
    invented: u32,
}

impl<R: BufRead> RangeDecoder<R> {
    pub(super) fn new(source: R) -> Result<Self, CodecError> {
        let mut decoder = Self { low: 0, high: u32::MAX, code: 0, source, invented: 0 };
        for _ in 0..4 {
            decoder.code = (decoder.code << 8) | decoder.byte()?;
        }
        Ok(decoder)
    }

    fn byte(&mut self) -> Result<u32, CodecError> {
        let Some(&byte) = self.source.fill_buf()?.first() else {
            self.invented += 1;
            // Four are the most that lie between the last bit and the bytes read ahead for it.
            return if self.invented <= 4 { Ok(0) } else { Err(CodecError::Ends) };
        };
        self.source.consume(1);
        Ok(u32::from(byte))
    }

    /// The next bit, which is one with probability `one`.
    #[inline]
    pub(super) fn bit(&mut self, one: Probability) -> Result<bool, CodecError> {
        let middle = split(self.low, self.high, one);
        let bit = self.code <= middle;
        if bit {
            self.high = middle;
        } else {
            self.low = middle + 1;
        }
        while (self.low ^ self.high) >> 24 == 0 {
            self.low <<= 8;
            self.high = (self.high << 8) | 0xFF;
            self.code = (self.code << 8) | self.byte()?;
        }
        Ok(bit)
    }

    /// The next `count` bits at even chances, highest first.
    pub(super) fn raw(&mut self, count: u32) -> Result<u32, CodecError> {
        let mut bits = 0;
        for _ in 0..count {
            bits = bits << 1 | u32::from(self.bit(EVEN)?);
        }
        Ok(bits)
    }

    /// Checks that the bytes end where an encoder ends them.
    pub(super) fn end(mut self) -> Result<(), CodecError> {
        if !self.source.fill_buf()?.is_empty() {
            return Err(CodecError::Follows);
        }
        // Of the four bytes read ahead, those that are real are the encoder's last.
        let (bytes, len) = last_bytes(self.low, self.high);
        let real = 4 - self.invented.min(4) as usize;
        if real == len && self.code.to_be_bytes()[..len] == bytes[..len] {
            Ok(())
        } else {
            Err(CodecError::Padding)
        }
    }
}

/// The last point of the interval's lower part, which stands for a one.
#[inline]
fn split(low: u32, high: u32, one: Probability) -> u32 {
    low + ((u64::from(high - low) * u64::from(one)) >> 16) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn near_the_entropy() {
        // 10,000 bits, one in sixteen is one: H = 0.337 bits each, 421.6 bytes.
        let mut encoder = RangeEncoder::new();
        for i in 0..10_000 {
            encoder.bit(i % 16 == 0, 1 << 12);
        }
        let len = encoder.finish().len();
        assert!((421..=425).contains(&len), "{len}");
    }

    proptest! {
        #[test]
        fn round_trip(bits in prop::collection::vec((any::<bool>(), 1_u16..), 0..500)) {
            let mut encoder = RangeEncoder::new();
            for &(bit, one) in &bits {
                encoder.bit(bit, one);
            }
            let bytes = encoder.finish();
            let mut decoder = RangeDecoder::new(&bytes[..]).expect("bytes");
            for &(bit, one) in &bits {
                prop_assert_eq!(decoder.bit(one), Ok(bit));
            }
            prop_assert_eq!(decoder.end(), Ok(()));
            // A byte too many is seen.
            for extra in [0, 1, 255] {
                let longer = [&bytes[..], &[extra]].concat();
                let mut decoder = RangeDecoder::new(&longer[..]).expect("bytes");
                let read = bits.iter().all(|&(bit, one)| decoder.bit(one) == Ok(bit));
                prop_assert!(!read || decoder.end().is_err());
            }
        }
    }
}
