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

use super::CodecError;
use super::scale::Scale;
use crate::manifest::Values;
use crate::rng::Stream;

/// Lloyd-Max levels of the unit exponential, in units of 1/64; `tests/python/levels.py` computes them.
const LLOYD2: [f32; 2] = [38.0, 166.0];
const LLOYD3: [f32; 4] = [21.0, 75.0, 151.0, 279.0];
const LLOYD4: [f32; 8] = [11.0, 37.0, 66.0, 101.0, 143.0, 197.0, 273.0, 401.0];
/// E2M1's magnitudes.
const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// One entry as it is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) negative: bool,
    /// Which magnitude; for `f32` and `f16` the bits without the sign.
    pub(super) index: u32,
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

    /// Bits that a block says before its entries: length flag, floor, scale. At least.
    pub(crate) fn header_bits(self) -> u32 {
        1 + 8 * (u32::from(self.has_floor()) + u32::from(self.has_scale()))
    }

    /// Magnitudes in units of a block's scale, above its floor.
    fn table(self) -> Table {
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
enum Table {
    Even,
    Listed(&'static [f32]),
    Sixtyfourths(&'static [f32]),
}

impl Table {
    #[inline]
    fn at(self, index: u32) -> f32 {
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
    #[inline]
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

    #[inline]
    pub(super) fn value(&self, level: Level) -> f32 {
        let magnitude = match self.values {
            Values::F32 => f32::from_bits(level.index),
            Values::F16 => half::f16::from_bits(level.index as u16).to_f32(),
            Values::Int8 => self.scale * level.index as f32,
            _ => self.magnitudes[level.index as usize & 7],
        };
        if level.negative { -magnitude } else { magnitude }
    }
}

/// Quantises `values` of one block.
///
/// `outliers` takes what `fp4` sends beside: rank within the block, and remainder.
pub(super) fn quantise(
    code: Values,
    values: &[f32],
    limit: f32,
    dice: &mut Option<Stream>,
    levels: &mut Vec<Level>,
    outliers: &mut Vec<(u8, half::f16)>,
) -> Block {
    let block = fit(code, values, limit);
    let ladder = Ladder::new(code, block);
    // Levels above the limit stand for nothing that may travel; a receiver refuses them.
    let levels_there = 1_usize << code.index_bits().min(3);
    let within = ladder.magnitudes[..levels_there].iter().take_while(|&&m| m <= limit).count();
    let most = match block.scale.value() {
        0.0 => 0.0,
        scale => (limit / scale).floor().min(127.0),
    };
    for (rank, &value) in values.iter().enumerate() {
        let size = value.abs();
        let index = match code {
            Values::F32 => size.to_bits(),
            Values::F16 => u32::from(half::f16::from_f32(size).to_bits()),
            Values::Int8 => match block.scale.value() {
                0.0 => 0,
                scale => round(size / scale, dice).min(most) as u32,
            },
            _ => nearest(&ladder.magnitudes[..within], size, dice),
        };
        let zero = index == 0 && matches!(code, Values::Int8 | Values::Fp4);
        let level = Level { negative: value.is_sign_negative() && !zero, index };
        levels.push(level);
        if code == Values::Fp4 && size > ladder.magnitudes[within - 1] {
            outliers.push((rank as u8, remainder(value, ladder.value(level), limit)));
        }
    }
    block
}

/// What is sent beside `level`, so that the sum is `value` and not above the limit.
fn remainder(value: f32, level: f32, limit: f32) -> half::f16 {
    let rest = half::f16::from_f32(value - level);
    if (level + rest.to_f32()).abs() <= limit {
        return rest;
    }
    // The next one towards zero.
    half::f16::from_bits(rest.to_bits() - 1)
}

fn round(x: f32, dice: &mut Option<Stream>) -> f32 {
    match dice {
        None => x.round_ties_even(),
        Some(dice) => {
            let low = x.floor();
            low + f32::from(u8::from(dice.unit() < x - low))
        }
    }
}

/// The index of the level nearest to `size`, or drawn between the two around it.
fn nearest(magnitudes: &[f32], size: f32, dice: &mut Option<Stream>) -> u32 {
    let above = magnitudes.iter().take_while(|&&level| level < size).count();
    if above == 0 {
        return 0;
    }
    let Some(&high) = magnitudes.get(above) else { return above as u32 - 1 };
    let low = magnitudes[above - 1];
    let up = match dice {
        None => size - low > high - size,
        Some(dice) => dice.unit() * (high - low) < size - low,
    };
    above as u32 - u32::from(!up)
}

/// Floor and scale for the least square error, near enough.
fn fit(code: Values, values: &[f32], limit: f32) -> Block {
    let sizes = || values.iter().map(|v| v.abs());
    let count = values.len() as f32;
    let mean = sizes().sum::<f32>() / count;
    match code {
        Values::F32 | Values::F16 => Block::default(),
        Values::Sign => Block { floor: Scale::ZERO, scale: Scale::nearest(mean) },
        Values::Int8 => {
            let most = sizes().fold(0.0, f32::max);
            Block { floor: Scale::ZERO, scale: Scale::at_least(most / 127.0) }
        }
        // The largest level at the 99th percentile; beyond it are the outliers.
        Values::Fp4 => {
            let mut sorted: Vec<f32> = sizes().collect();
            sorted.sort_unstable_by(|a, b| a.total_cmp(b));
            let clamp = sorted[(99 * (sorted.len() - 1)) / 100];
            Block { floor: Scale::ZERO, scale: Scale::at_least(clamp / 6.0) }
        }
        _ => fit_ladder(code, values, mean, limit),
    }
}

/// A few rounds of Lloyd's: assign to the nearest level, then the best line through table and means.
fn fit_ladder(code: Values, values: &[f32], mean: f32, limit: f32) -> Block {
    let table = code.table();
    let count = 1_usize << code.index_bits();
    let least = values.iter().fold(f32::INFINITY, |m, v| m.min(v.abs()));
    // What is best for an exponential tail; for equal steps half a step above the least.
    let (mut floor, mut scale) = match (code, mean - least) {
        (Values::Int2, spread) => (least + 0.59 * spread, 2.0 * spread),
        (Values::Int3, spread) => (least + 0.4 * spread, 1.2 * spread),
        (Values::Int4, spread) => (least + 0.3 * spread, 0.75 * spread),
        (_, spread) => (least, spread),
    };
    for _ in 0..3 {
        let mut sums = [(0.0_f32, 0.0_f32); 8];
        let mut magnitudes = [0.0_f32; 8];
        for (index, magnitude) in magnitudes.iter_mut().take(count).enumerate() {
            *magnitude = floor + scale * table.at(index as u32);
        }
        for value in values {
            let size = value.abs();
            let place = nearest(&magnitudes[..count], size, &mut None) as usize;
            sums[place].0 += 1.0;
            sums[place].1 += size;
        }
        // Weighted least squares of size = floor + scale * table.
        let (mut n, mut x, mut y, mut xx, mut xy) = (0.0_f32, 0.0, 0.0, 0.0, 0.0);
        for (index, &(weight, sum)) in sums.iter().enumerate().take(count) {
            let t = table.at(index as u32);
            n += weight;
            x += weight * t;
            y += sum;
            xx += weight * t * t;
            xy += sum * t;
        }
        let spread = n * xx - x * x;
        if spread <= 1e-6 * n * xx {
            break;
        }
        scale = ((n * xy - x * y) / spread).max(0.0);
        floor = ((y - scale * x) / n).max(0.0);
    }
    // The limit is one of the scales, so the least level never lies above it.
    Block { floor: Scale::nearest(floor.min(limit)), scale: Scale::nearest(scale) }
}

/// Checks an index that a decoder read.
pub(super) fn check(code: Values, level: Level) -> Result<(), CodecError> {
    // One value, one code: minus zero is never written where zero can be.
    let zero = matches!(code, Values::Int8 | Values::Fp4) && level.index == 0;
    if zero && level.negative { Err(CodecError::NegativeZero) } else { Ok(()) }
}
