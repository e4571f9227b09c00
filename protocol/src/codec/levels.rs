//! Which values the codes can express, block by block.
//!
//! A block is up to [`Values::block`] entries that share a floor and a scale. All arithmetic is in
//! `f32`, each operation rounded, so that both ends get the same bits.
//!
//! | code | value of index `m` | header |
//! |---|---|---|
//! | `int8` | `±scale m`, `m` to 127 | scale |
//! | `int4`, `int3`, `int2` | `±(floor + scale m)` | floor, scale |
//! | `lloyd4`, `lloyd3`, `lloyd2` | `±(floor + scale T[m])` | floor, scale |
//! | `sign` | `±scale` | scale |
//! | `fp4` | `±scale E[m]` | scale, outliers |
//!
//! Why floors: what a top-k keeps of a tail `exp(-x/s)` is `floor + s Exp(1)`, whatever the density, so
//! one table fits every density. `T` is Lloyd-Max for `Exp(1)`.

use super::scale::Scale;
use crate::manifest::Values;

/// Lloyd-Max levels of the unit exponential, in units of 1/64; `tests/python/levels.py` computes them.
const LLOYD2: [f32; 2] = [38.0, 166.0];
const LLOYD3: [f32; 4] = [21.0, 75.0, 151.0, 279.0];
const LLOYD4: [f32; 8] = [11.0, 37.0, 66.0, 101.0, 143.0, 197.0, 273.0, 401.0];
/// E2M1's magnitudes.
const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// One entry as it is coded and packed: which magnitude, above a bit for the sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Level(pub(super) u32);

impl Level {
    #[inline]
    pub(super) fn new(negative: bool, index: u32) -> Self {
        Self(index << 1 | u32::from(negative))
    }

    #[inline]
    pub(super) fn is_negative(self) -> bool {
        self.0 & 1 == 1
    }

    /// Which magnitude; for `f32` and `f16` the bits without the sign.
    #[inline]
    pub(super) fn index(self) -> u32 {
        self.0 >> 1
    }
}

/// What a block's entries share.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Block {
    pub(super) floor: Scale,
    pub(super) scale: Scale,
}

impl Values {
    /// Bits of a magnitude's index where it is packed.
    pub(crate) fn index_bits(self) -> u32 {
        match self {
            Self::F32 => 31,
            Self::F16 => 15,
            Self::Int8 => 7,
            Self::Int4 | Self::Lloyd4 | Self::Fp4 => 3,
            Self::Int3 | Self::Lloyd3 => 2,
            Self::Int2 | Self::Lloyd2 => 1,
            Self::Sign => 0,
        }
    }

    /// Most entries of a block.
    pub(super) fn block(self) -> usize {
        match self {
            Self::Int8 | Self::Fp4 => 256,
            _ => 1024,
        }
    }

    pub(super) fn has_floor(self) -> bool {
        use Values as V;
        matches!(self, V::Int4 | V::Int3 | V::Int2 | V::Lloyd4 | V::Lloyd3 | V::Lloyd2)
    }

    pub(super) fn has_scale(self) -> bool {
        !matches!(self, Self::F32 | Self::F16)
    }

    /// Whether index 0 is zero, which has no sign.
    pub(super) fn has_zero(self) -> bool {
        matches!(self, Self::Int8 | Self::Fp4)
    }

    /// Bits that a block says before its entries: length flag, floor, scale. At least.
    pub(crate) fn header_bits(self) -> u32 {
        1 + 8 * (u32::from(self.has_floor()) + u32::from(self.has_scale()))
    }

    /// Magnitudes in units of a block's scale, above its floor.
    pub(super) fn table(self) -> Table {
        match self {
            Self::Sign => Table::Listed(&[1.0]),
            Self::Lloyd2 => Table::Sixtyfourths(&LLOYD2),
            Self::Lloyd3 => Table::Sixtyfourths(&LLOYD3),
            Self::Lloyd4 => Table::Sixtyfourths(&LLOYD4),
            Self::Fp4 => Table::Listed(&E2M1),
            _ => Table::Even,
        }
    }
}

#[derive(Clone, Copy)]
pub(super) enum Table {
    Even,
    Listed(&'static [f32]),
    Sixtyfourths(&'static [f32]),
}

impl Table {
    #[inline]
    pub(super) fn at(self, index: u32) -> f32 {
        match self {
            Self::Even => index as f32,
            Self::Listed(levels) => levels[index as usize],
            Self::Sixtyfourths(levels) => levels[index as usize] * (1.0 / 64.0),
        }
    }
}

/// Turns levels of one block into values.
#[derive(Clone, Copy)]
pub(super) struct Ladder {
    values: Values,
    /// Magnitudes of the first indices; `int8` has more and multiplies.
    magnitudes: [f32; 8],
    scale: f32,
}

impl Ladder {
    pub(super) fn new(values: Values, block: Block) -> Self {
        let (floor, scale) = (block.floor.value(), block.scale.value());
        let mut magnitudes = [0.0; 8];
        if values.has_scale() && values != Values::Int8 {
            let table = values.table();
            for (index, magnitude) in
                magnitudes.iter_mut().take(1 << values.index_bits()).enumerate()
            {
                *magnitude = floor + scale * table.at(index as u32);
            }
        }
        Self { values, magnitudes, scale }
    }

    /// The magnitudes that do not lie above `limit`: others stand for nothing that may travel, and a
    /// receiver refuses them.
    pub(super) fn within(&self, limit: f32) -> &[f32] {
        let levels = &self.magnitudes[..1 << self.values.index_bits().min(3)];
        &levels[..levels.iter().take_while(|&&magnitude| magnitude <= limit).count()]
    }

    /// The index nearest to a magnitude, the higher of two equally near.
    pub(super) fn nearest(&self, magnitude: f32) -> u32 {
        match self.values {
            Values::F32 => magnitude.to_bits(),
            Values::F16 => half::f16::from_f32(magnitude).to_bits().into(),
            Values::Int8 if self.scale > 0.0 => (magnitude / self.scale + 0.5).min(127.0) as u32,
            Values::Int8 => 0,
            _ => {
                let levels = &self.magnitudes[..1 << self.values.index_bits()];
                let above = |pair: &&[f32]| magnitude >= (pair[0] + pair[1]) * 0.5;
                levels.windows(2).take_while(above).count() as u32
            }
        }
    }

    pub(super) fn value(&self, level: Level) -> f32 {
        let mut value = [0.0];
        self.values(&[level.0], &mut value);
        value[0]
    }

    /// The values of `levels`, as packed.
    #[inline]
    pub(super) fn values(&self, levels: &[u32], values: &mut [f32]) {
        match self.values {
            Values::F32 => each(levels, values, f32::from_bits),
            Values::F16 => {
                each(levels, values, |index| half::f16::from_bits(index as u16).to_f32());
            }
            Values::Int8 => each(levels, values, |index| self.scale * index as f32),
            _ => each(levels, values, |index| self.magnitudes[index as usize & 7]),
        }
    }
}

#[inline]
fn each(levels: &[u32], values: &mut [f32], magnitude: impl Fn(u32) -> f32) {
    for (value, &level) in values.iter_mut().zip(levels) {
        // Signs are even chances, which no processor can guess: so no branch.
        *value = f32::from_bits(magnitude(level >> 1).to_bits() | level << 31);
    }
}
