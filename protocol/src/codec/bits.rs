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
    pub(super) fn put(&mut self, bits: u32, count: u32) {
        debug_assert!(count <= 32 && u64::from(bits) >> count == 0);
        self.pending |= u64::from(bits) << self.held;
        self.held += count;
        if self.held >= 32 {
            self.out.extend_from_slice(&(self.pending as u32).to_le_bytes());
            self.pending >>= 32;
            self.held -= 32;
        }
    }

    /// Appends 32 bits for each of `words`, which is how values in f32 travel.
    pub(super) fn put_words(&mut self, words: impl ExactSizeIterator<Item = u32>) {
        let before = self.out.len();
        self.out.resize(before + 4 * words.len(), 0);
        let (to, _) = self.out[before..].as_chunks_mut();
        // Fewer than 32 bits are held between two calls.
        for (to, word) in to.iter_mut().zip(words) {
            let both = self.pending | u64::from(word) << self.held;
            *to = (both as u32).to_le_bytes();
            self.pending = both >> 32;
        }
    }

    /// Appends gaps in Rice code with parameter `low`: one-bits, a zero, `low` bits.
    pub(super) fn rice(&mut self, low: u32, gaps: &[u32]) {
        let code = |gap: u32| {
            let (ones, rest) = (gap >> low, gap & ((1 << low) - 1));
            (((1_u32 << ones) - 1) | (rest << ones << 1), ones + 1 + low)
        };
        // Four at once where they are short, as nearly all are.
        let (fours, rest) = gaps.as_chunks::<4>();
        for four in fours {
            let width = four.iter().map(|gap| (gap >> low) + 1 + low).sum::<u32>();
            if width > 32 {
                four.iter().for_each(|&gap| self.gap(low, gap));
                continue;
            }
            let [a, b, c, d] = four.map(code);
            self.put(a.0 | b.0 << a.1 | (c.0 | d.0 << c.1) << (a.1 + b.1), width);
        }
        rest.iter().for_each(|&gap| self.gap(low, gap));
    }

    fn gap(&mut self, low: u32, gap: u32) {
        let mut ones = gap >> low;
        while ones >= 31 {
            self.put(0x7FFF_FFFF, 31);
            ones -= 31;
        }
        self.put((1 << ones) - 1, ones + 1);
        self.put(gap & ((1 << low) - 1), low);
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

    /// The next `width <= 32` bits for each of `out`: how many were read, and why not all.
    pub(super) fn take_each(
        &mut self,
        width: u32,
        out: &mut [u32],
    ) -> (usize, Result<(), CodecError>) {
        let mask = (1 << width) - 1;
        let mut read = 0;
        while read < out.len() {
            if width == 32 {
                match self.take_words(&mut out[read..]) {
                    Ok(words) => read += words,
                    Err(error) => return (read, Err(error)),
                }
                if read == out.len() {
                    break;
                }
            }
            if let Err(error) = self.fill() {
                return (read, Err(error));
            }
            let held = (self.held / width) as usize;
            if held == 0 {
                return (read, Err(CodecError::Ends));
            }
            let mut pending = self.pending;
            let piece = &mut out[read..];
            let count = held.min(piece.len());
            for code in &mut piece[..count] {
                *code = (pending & mask) as u32;
                pending >>= width;
            }
            self.pending = pending;
            self.held -= width * count as u32;
            read += count;
        }
        (read, Ok(()))
    }

    /// As many of `out` as lie whole in the source's buffer, 32 bits each, which is how values in f32 travel; none
    /// where more than 31 bits are held already.
    fn take_words(&mut self, out: &mut [u32]) -> Result<usize, CodecError> {
        if self.held >= 32 {
            return Ok(0);
        }
        let (words, _) = self.source.fill_buf()?.as_chunks::<4>();
        let count = words.len().min(out.len());
        for (code, word) in out.iter_mut().zip(words) {
            let both = self.pending | u64::from(u32::from_le_bytes(*word)) << self.held;
            *code = both as u32;
            self.pending = both >> 32;
        }
        self.source.consume(4 * count);
        Ok(count)
    }

    /// Ranks of as many entries as `out` has, from their gaps in Rice code with parameter `low`: one-bits,
    /// a zero, `low` bits. `next`, the least rank of the first, becomes that of the entry behind the last;
    /// all are below `size`.
    pub(super) fn ranks(
        &mut self,
        low: u32,
        size: u64,
        next: &mut u64,
        out: &mut [u32],
    ) -> Result<(), CodecError> {
        let mask = (1 << low) - 1;
        let mut read = 0;
        while read < out.len() {
            self.fill()?;
            let before = read;
            // Copies, which can stay in registers, for those that lie whole in what is held.
            let (mut pending, mut held) = (self.pending, self.held);
            for rank in &mut out[before..] {
                let ones = pending.trailing_ones();
                let width = ones + 1 + low;
                if width > held {
                    break;
                }
                let gap = u64::from(ones) << low | pending >> (ones + 1) & mask;
                if gap >= size - *next {
                    return Err(CodecError::Past);
                }
                *rank = (*next + gap) as u32;
                *next += gap + 1;
                pending >>= width;
                held -= width;
                read += 1;
            }
            (self.pending, self.held) = (pending, held);
            if read == before {
                let gap = self.long_gap(low, size - *next)?;
                out[read] = (*next + gap) as u32;
                *next += gap + 1;
                read += 1;
            }
        }
        Ok(())
    }

    /// A gap below `limit`, however long.
    #[cold]
    fn long_gap(&mut self, low: u32, limit: u64) -> Result<u64, CodecError> {
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
        writer.rice(0, &[2]);
        writer.put(0b1, 1);
        assert_eq!(writer.len(), 9);
        assert_eq!(writer.finish(), [0b0110_1101, 1]);
    }

    /// The ranks that these gaps make, and the rank behind the last.
    fn ranks(gaps: &[u32]) -> (Vec<u32>, u64) {
        let mut next = 0;
        let rank = |&gap: &u32| {
            next += gap + 1;
            next - 1
        };
        (gaps.iter().map(rank).collect(), next.into())
    }

    proptest! {
        /// What was written is read, from memory or a byte at a time, and nothing is left.
        #[test]
        fn round_trip(
            blocks in prop::collection::vec(
                (0_u32..28, prop::collection::vec(0_u32..5_000, 0..40), 1_u32..=32), 0..20),
        ) {
            let mut writer = BitWriter::default();
            let code = |gap: u32, width: u32| gap.wrapping_mul(0x9E37_79B9) >> (32 - width);
            for (low, gaps, width) in &blocks {
                writer.rice(*low, gaps);
                gaps.iter().for_each(|&gap| writer.put(code(gap, *width), *width));
            }
            let bytes = writer.finish();
            let mut whole = BitReader::new(&bytes[..]);
            let mut trickle = BitReader::new(std::io::BufReader::with_capacity(1, &bytes[..]));
            for (low, gaps, width) in &blocks {
                let (expected, end) = ranks(gaps);
                let codes: Vec<u32> = gaps.iter().map(|&gap| code(gap, *width)).collect();
                let (mut out, mut next) = (vec![0; gaps.len()], 0);
                prop_assert_eq!(whole.ranks(*low, end, &mut next, &mut out), Ok(()));
                prop_assert_eq!((&out, next), (&expected, end));
                prop_assert_eq!(whole.take_each(*width, &mut out), (gaps.len(), Ok(())));
                prop_assert_eq!(&out, &codes);
                let mut next = 0;
                prop_assert_eq!(trickle.ranks(*low, end, &mut next, &mut out), Ok(()));
                prop_assert_eq!(&out, &expected);
                prop_assert_eq!(trickle.take_each(*width, &mut out), (gaps.len(), Ok(())));
                prop_assert_eq!(&out, &codes);
            }
            prop_assert_eq!(whole.end(), Ok(()));
            prop_assert_eq!(trickle.end(), Ok(()));
        }

        /// Hostile bytes end in an error or in rising ranks below the size, alike however they arrive.
        #[test]
        fn hostile(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
            low in 0_u32..28,
            size in 1_u64..1 << 28,
            count in 0_usize..40,
        ) {
            let (mut out, mut next) = (vec![0; count], 0);
            let read = BitReader::new(&bytes[..]).ranks(low, size, &mut next, &mut out);
            if read.is_ok() {
                prop_assert!(out.windows(2).all(|pair| pair[0] < pair[1]));
                prop_assert!(out.iter().all(|&rank| u64::from(rank) < size) && next <= size);
            }
            let source = std::io::BufReader::with_capacity(1, &bytes[..]);
            let trickle = BitReader::new(source).ranks(low, size, &mut 0, &mut vec![0; count]);
            prop_assert_eq!(read, trickle);
        }
    }
}
