//! Which level of its block stands for a value.

use super::levels::{Block, Ladder, Level};
use crate::manifest::Values;
use crate::rng::Stream;

/// Rank within its block, and what is sent beside the level.
pub(super) type Outlier = (u8, half::f16);

/// Appends the level of each of `values`, which are one block: the nearest, or one of the two around it,
/// drawn by `dice`. `outliers` takes what `fp4` sends beside.
pub(super) fn assign(
    code: Values,
    block: Block,
    values: &[f32],
    limit: f32,
    dice: &mut Option<Stream>,
    levels: &mut Vec<Level>,
    outliers: &mut Vec<Outlier>,
) {
    let from = levels.len();
    let bits = |index: fn(f32) -> u32| {
        values.iter().map(move |v| Level::new(v.is_sign_negative(), index(v.abs())))
    };
    match code {
        Values::F32 => levels.extend(bits(f32::to_bits)),
        Values::F16 => levels.extend(bits(|size| half::f16::from_f32(size).to_bits().into())),
        Values::Int8 => steps(block.scale.value(), values, limit, dice, levels),
        _ => {
            let ladder = Ladder::new(code, block);
            let magnitudes = ladder.within(limit);
            match dice {
                None => nearest(magnitudes, values, levels),
                Some(dice) => levels.extend(values.iter().map(|value| {
                    Level::new(value.is_sign_negative(), drawn(magnitudes, value.abs(), dice))
                })),
            }
            if code == Values::Fp4 {
                beside(&ladder, values, limit, &mut levels[from..], outliers);
            }
        }
    }
}

/// Levels that are multiples of `scale`, up to the limit.
fn steps(
    scale: f32,
    values: &[f32],
    limit: f32,
    dice: &mut Option<Stream>,
    levels: &mut Vec<Level>,
) {
    if scale == 0.0 {
        levels.resize(levels.len() + values.len(), Level::new(false, 0));
        return;
    }
    let most = (limit / scale).floor().min(127.0);
    let level = |value: f32, index: u32| Level::new(value.is_sign_negative() && index > 0, index);
    match dice {
        None => levels.extend(values.iter().map(|&value| {
            // From 2^23 on an f32 has no fraction, so the sum rounds, ties to even, and ends in the
            // integer.
            let sum = (value.abs() / scale).min(most) + 8_388_608.0;
            level(value, sum.to_bits() & 0x7F)
        })),
        Some(dice) => levels.extend(values.iter().map(|&value| {
            let x = value.abs() / scale;
            let low = x.floor();
            let up = dice.unit() < x - low;
            level(value, (low + f32::from(u8::from(up))).min(most) as u32)
        })),
    }
}

/// The level nearest to each value, the lower of two.
fn nearest(magnitudes: &[f32], values: &[f32], levels: &mut Vec<Level>) {
    let from = levels.len();
    levels.extend(values.iter().map(|value| Level::new(value.is_sign_negative(), 0)));
    // One step up for each pair whose upper one is nearer: magnitudes rise, so these are the first pairs.
    for pair in magnitudes.windows(2) {
        for (level, value) in levels[from..].iter_mut().zip(values) {
            let size = value.abs();
            level.0 += 2 * u32::from(size - pair[0] > pair[1] - size);
        }
    }
}

/// One of the two levels around `size`, so that on average it is `size`.
fn drawn(magnitudes: &[f32], size: f32, dice: &mut Stream) -> u32 {
    let above = magnitudes.partition_point(|&magnitude| magnitude < size);
    if above == 0 {
        return 0;
    }
    let Some(&high) = magnitudes.get(above) else { return above as u32 - 1 };
    let low = magnitudes[above - 1];
    let up = dice.unit() * (high - low) < size - low;
    above as u32 - u32::from(!up)
}

/// What `fp4` sends beside levels: what lies above the largest. And its zero has no sign.
fn beside(
    ladder: &Ladder,
    values: &[f32],
    limit: f32,
    levels: &mut [Level],
    outliers: &mut Vec<Outlier>,
) {
    // Zero is a level of every block.
    let top = ladder.within(limit).last().copied().unwrap_or_default();
    for (rank, (level, &value)) in levels.iter_mut().zip(values).enumerate() {
        if level.index() == 0 {
            *level = Level::new(false, 0);
        }
        if value.abs() > top {
            outliers.push((rank as u8, remainder(value, ladder.value(*level), limit)));
        }
    }
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
