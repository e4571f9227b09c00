//! Bit strings that fill bytes from the lowest bit up.

use std::io::BufRead;

use super::CodecError;

/// Writes bits.
#[derive(Debug, Default)]
pub(super) struct BitWriter {
    out: Vec<u8>,
    pending: u64,
    held: u32,
}

impl BitWriter {
    /// Appends the low `count <= 32` bits of `bits`; the others must be 0.
    #[inline]
    pub(super) fn put(&mut self, bits: u64, count: u32) {
        debug_assert!(count <= 32 && bits >> count == 0);
        self.pending |= bits << self.held;
        self.held += count;
        if self.held >= 32 {
            self.out.extend_from_slice(&(self.pending as u32).to_le_bytes());
            self.pending >>= 32;
            self.held -= 32;
        }
    }

    /// Appends `count` one-bits and the zero that ends them.
    #[inline]
    pub(super) fn unary(&mut self, mut count: u32) {
        while count >= 31 {
            self.put(0x7FFF_FFFF, 31);
            count -= 31;
        }
        self.put((1 << count) - 1, count + 1);
    }

    /// Bits written so far.
    pub(super) fn len(&self) -> u64 {
        8 * self.out.len() as u64 + u64::from(self.held)
    }

    /// The bytes, zero bits up to the last one's end.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let rest = self.held.div_ceil(8) as usize;
        self.out.extend_from_slice(&self.pending.to_le_bytes()[..rest]);
        self.out
    }
}

/// Reads bits, from memory or as they arrive.
pub(super) struct BitReader<R> {
    source: R,
    pending: u64,
    held: u32,
}

impl<R: BufRead> BitReader<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, pending: 0, held: 0 }
    }

    /// Holds at least 56 bits, or all that are left.
    #[inline]
    fn fill(&mut self) -> Result<(), CodecError> {
        if self.held < 56 {
            let buffer = self.source.fill_buf()?;
            if let Some(word) = buffer.first_chunk() {
                self.pending |= u64::from_le_bytes(*word) << self.held;
                let taken = (63 - self.held) / 8;
                self.source.consume(taken as usize);
                self.held += 8 * taken;
                // What lies above `held` was not consumed and will be read again.
                self.pending &= (1 << self.held) - 1;
            } else {
                self.fill_slowly()?;
            }
        }
        Ok(())
    }

    #[cold]
    fn fill_slowly(&mut self) -> Result<(), CodecError> {
        while self.held < 56 {
            let Some(&byte) = self.source.fill_buf()?.first() else { break };
            self.source.consume(1);
            self.pending |= u64::from(byte) << self.held;
            self.held += 8;
        }
        Ok(())
    }

    #[inline]
    fn skip(&mut self, count: u32) {
        self.pending >>= count;
        self.held -= count;
    }

    /// The next `count <= 32` bits.
    #[inline]
    pub(super) fn take(&mut self, count: u32) -> Result<u32, CodecError> {
        if self.held < count {
            self.fill()?;
            if self.held < count {
                return Err(CodecError::Ends);
            }
        }
        let bits = self.pending & ((1 << count) - 1);
        self.skip(count);
        Ok(bits as u32)
    }

    /// A gap in Rice code with parameter `low`: one-bits, a zero, `low` bits; below `limit`.
    #[inline]
    pub(super) fn rice(&mut self, low: u32, limit: u64) -> Result<u64, CodecError> {
        self.fill()?;
        let ones = self.pending.trailing_ones();
        if ones + 1 + low <= self.held {
            let rest = self.pending >> (ones + 1);
            let gap = (u64::from(ones) << low) | (rest & ((1 << low) - 1));
            self.skip(ones + 1 + low);
            return if gap < limit { Ok(gap) } else { Err(CodecError::Past) };
        }
        self.rice_slowly(low, limit)
    }

    #[cold]
    fn rice_slowly(&mut self, low: u32, limit: u64) -> Result<u64, CodecError> {
        let mut high = 0;
        loop {
            self.fill()?;
            let run = self.pending.trailing_ones().min(self.held);
            high += u64::from(run);
            if high << low >= limit {
                return Err(CodecError::Past);
            }
            self.skip(run);
            if self.held > 0 {
                self.skip(1);
                break;
            }
            self.fill()?;
            if self.held == 0 {
                return Err(CodecError::Ends);
            }
        }
        let gap = (high << low) | u64::from(self.take(low)?);
        if gap < limit { Ok(gap) } else { Err(CodecError::Past) }
    }

    /// Checks that only zero bits, and no whole byte, are left.
    pub(super) fn end(mut self) -> Result<(), CodecError> {
        if self.held >= 8 || !self.source.fill_buf()?.is_empty() {
            return Err(CodecError::Follows);
        }
        if self.pending != 0 {
            return Err(CodecError::Padding);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lowest_bit_first() {
        let mut writer = BitWriter::default();
        writer.put(0b1, 1);
        writer.put(0b0110, 4);
        writer.unary(2);
        writer.put(0b1, 1);
        assert_eq!(writer.len(), 9);
        assert_eq!(writer.finish(), [0b0110_1101, 1]);
    }

    proptest! {
        /// What was written is read, from memory or a byte at a time, and nothing is left.
        #[test]
        fn round_trip(items in prop::collection::vec((0_u32..28, 0_u64..5_000), 0..200)) {
            let mut writer = BitWriter::default();
            for &(low, gap) in &items {
                writer.unary((gap >> low) as u32);
                writer.put(gap & ((1 << low) - 1), low);
            }
            let bytes = writer.finish();
            let mut whole = BitReader::new(&bytes[..]);
            let mut trickle = BitReader::new(std::io::BufReader::with_capacity(1, &bytes[..]));
            for &(low, gap) in &items {
                prop_assert_eq!(whole.rice(low, 5_000), Ok(gap));
                prop_assert_eq!(trickle.rice(low, 5_000), Ok(gap));
            }
            prop_assert_eq!(whole.end(), Ok(()));
            prop_assert_eq!(trickle.end(), Ok(()));
        }

        /// Hostile bytes end in an error or in gaps below the limit.
        #[test]
        fn hostile(bytes in prop::collection::vec(any::<u8>(), 0..64), low in 0_u32..28, limit in 1_u64..1 << 28) {
            let mut reader = BitReader::new(&bytes[..]);
            while let Ok(gap) = reader.rice(low, limit) {
                prop_assert!(gap < limit);
            }
        }
    }
}
