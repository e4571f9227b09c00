//! Bits by hand, from `docs/wire.md` alone: so that no body here was made by the code that reads it.

/// A bit string that fills bytes from the lowest bit up (sections 9 and A.3; DEFLATE's as well).
#[derive(Clone, Default)]
pub(super) struct Bits(Vec<bool>);

impl Bits {
    /// The low `width` bits of `value`, lowest first.
    pub(super) fn put(mut self, value: u64, width: u32) -> Self {
        self.0.extend((0..width).map(|at| value >> at & 1 == 1));
        self
    }

    /// The length of a block that is not as long as the one before.
    pub(super) fn length(self, entries: u64) -> Self {
        self.put(0, 1).put(entries - 1, 10)
    }

    /// A gap in Rice code with parameter `low`.
    pub(super) fn gap(mut self, gap: u64, low: u32) -> Self {
        self.0.resize(self.0.len() + (gap >> low) as usize, true);
        self.put(0, 1).put(gap, low)
    }

    /// An entry: its sign, then its index of `width` bits.
    pub(super) fn entry(self, negative: bool, index: u64, width: u32) -> Self {
        self.put(negative.into(), 1).put(index, width)
    }

    /// An `f32` entry.
    pub(super) fn value(self, value: f32) -> Self {
        self.entry(value.is_sign_negative(), value.to_bits().into(), 31)
    }

    /// An outlier: its place in the block, and the bits of an `f16`.
    pub(super) fn outlier(self, place: u64, half: u64) -> Self {
        self.put(place, 8).put(half, 16)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let byte =
            |bits: &[bool]| bits.iter().rev().fold(0, |byte, &bit| byte << 1 | u8::from(bit));
        self.0.chunks(8).map(byte).collect()
    }
}

/// An even chance.
const EVEN: u32 = 1 << 15;

/// The range coder of section 10.
#[derive(Clone)]
pub(super) struct Range {
    low: u32,
    high: u32,
    out: Vec<u8>,
}

impl Range {
    pub(super) fn new() -> Self {
        Self { low: 0, high: u32::MAX, out: Vec::new() }
    }

    /// `bit`, which is 1 with the chance `p / 2^16`.
    pub(super) fn bit(mut self, bit: bool, p: u32) -> Self {
        let span = u64::from(self.high - self.low) * u64::from(p);
        let middle = self.low + (span >> 16) as u32;
        if bit {
            self.high = middle;
        } else {
            self.low = middle + 1;
        }
        while self.low >> 24 == self.high >> 24 {
            self.out.push((self.low >> 24) as u8);
            self.low <<= 8;
            self.high = self.high << 8 | 0xff;
        }
        self
    }

    /// `raw(x, width)`: highest bit first, at even chances.
    pub(super) fn raw(self, x: u32, width: u32) -> Self {
        (0..width).rev().fold(self, |range, at| range.bit(x >> at & 1 == 1, EVEN))
    }

    /// An `f32` entry.
    pub(super) fn value(self, value: f32) -> Self {
        self.raw(value.is_sign_negative().into(), 1).raw(value.to_bits() & 0x7fff_ffff, 31)
    }

    /// The bytes, ended as the page says.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut ends = (0..4).map(|len| {
            let step = 1_u64 << (32 - 8 * len);
            (len, u64::from(self.low).div_ceil(step) * step)
        });
        let (len, point) =
            ends.find(|&(_, point)| point <= self.high.into()).unwrap_or((4, self.low.into()));
        [&self.out[..], &(point as u32).to_be_bytes()[..len]].concat()
    }

    /// The bytes, ended in other ways that stand for the same bits.
    pub(super) fn other_bytes(&self) -> Vec<(&'static str, Vec<u8>)> {
        let ended = |end: &[u8]| [&self.out[..], end].concat();
        vec![
            ("with a zero behind", [self.bytes(), vec![0]].concat()),
            ("with four zeros behind", [self.bytes(), vec![0; 4]].concat()),
            ("ended by all of low", ended(&self.low.to_be_bytes())),
            ("ended by all of high", ended(&self.high.to_be_bytes())),
        ]
    }
}

/// The CRC of gzip (RFC 1952, section 8).
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}
