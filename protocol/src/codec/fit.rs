//! A block's floor and scale: what an encoder is free to choose.
//!
//! Sums run in [`LANES`] lanes that are added up at the end, an order that vector units follow without
//! changing a bit; but for `sign`, whose sum `docs/wire.md` has in order.

use super::levels::{Block, Ladder};
use super::scale::Scale;
use crate::manifest::Values;

/// Partial sums.
const LANES: usize = 16;
/// Rounds of Lloyd's.
const ROUNDS: usize = 3;

/// Floor and scale for the least square error, near enough. Under a `limit` that is one of the scales the
/// least level is within it.
pub(super) fn fit(code: Values, values: &[f32], limit: f32) -> Block {
    let only = |scale| Block { floor: Scale::ZERO, scale };
    match code {
        Values::F32 | Values::F16 => Block::default(),
        Values::Sign => {
            let sum: f32 = values.iter().map(|v| v.abs()).sum();
            only(Scale::nearest(sum / values.len() as f32))
        }
        Values::Int8 => {
            let most = values.iter().map(|v| magnitude(*v)).fold(0, u32::max);
            only(Scale::at_least(f32::from_bits(most) / 127.0))
        }
        // The largest level at the 99th percentile; beyond it are the outliers.
        Values::Fp4 => {
            let mut sizes: Vec<u32> = values.iter().map(|v| magnitude(*v)).collect();
            let rank = (99 * (sizes.len() - 1)) / 100;
            let (_, &mut clamp, _) = sizes.select_nth_unstable(rank);
            only(Scale::at_least(f32::from_bits(clamp) / 6.0))
        }
        _ => fit_ladder(code, values, limit),
    }
}

/// A few rounds of Lloyd's: assign to the nearest level, then the best line through table and means.
fn fit_ladder(code: Values, values: &[f32], limit: f32) -> Block {
    let table = code.table();
    let levels = 1_u32 << code.index_bits();
    let all = Sizes { count: values.len() as f32, sum: above(values, 0.0).sum };
    let least = f32::from_bits(values.iter().map(|v| magnitude(*v)).fold(u32::MAX, u32::min));
    // What is best for an exponential tail; for equal steps half a step above the least.
    let (mut floor, mut scale) = match (code, all.sum / all.count - least) {
        (Values::Int2, spread) => (least + 0.59 * spread, 2.0 * spread),
        (Values::Int3, spread) => (least + 0.4 * spread, 1.2 * spread),
        (Values::Int4, spread) => (least + 0.3 * spread, 0.75 * spread),
        (_, spread) => (least, spread),
    };
    for _ in 0..ROUNDS {
        // Weighted least squares of size = floor + scale * table.
        let (n, y) = (all.count, all.sum);
        let (mut x, mut xx, mut xy) = (0.0_f32, 0.0, 0.0);
        let mut from = all;
        for index in 0..levels {
            let t = table.at(index);
            let border = floor + scale * 0.5 * (t + table.at((index + 1).min(levels - 1)));
            let to = if index + 1 < levels { above(values, border) } else { Sizes::default() };
            let here = Sizes { count: from.count - to.count, sum: from.sum - to.sum };
            x += here.count * t;
            xx += here.count * t * t;
            xy += here.sum * t;
            from = to;
        }
        let spread = n * xx - x * x;
        if spread <= 1e-6 * n * xx {
            break;
        }
        scale = ((n * xy - x * y) / spread).max(0.0);
        floor = ((y - scale * x) / n).max(0.0);
    }
    // The limit is one of the scales, so the floor never lies above it.
    let block = Block { floor: Scale::nearest(floor.min(limit)), scale: Scale::nearest(scale) };
    let none = Ladder::new(code, block).within(limit).is_empty();
    if none { Block { scale: Scale::ZERO, ..block } } else { block }
}

/// How many magnitudes, and their sum.
#[derive(Clone, Copy, Default)]
struct Sizes {
    count: f32,
    sum: f32,
}

/// Those above `border`, which is not negative.
fn above(values: &[f32], border: f32) -> Sizes {
    let (mut counts, mut sums) = ([0_u32; LANES], [0.0_f32; LANES]);
    let mut add = |chunk: &[f32; LANES]| {
        for ((count, sum), value) in counts.iter_mut().zip(&mut sums).zip(chunk) {
            let size = value.abs();
            let is_above = size > border;
            *count += u32::from(is_above);
            *sum += if is_above { size } else { 0.0 };
        }
    };
    let (chunks, rest) = values.as_chunks();
    chunks.iter().for_each(&mut add);
    // Zeros are above nothing.
    let mut last = [0.0; LANES];
    last[..rest.len()].copy_from_slice(rest);
    add(&last);
    Sizes { count: counts.iter().sum::<u32>() as f32, sum: sums.iter().sum() }
}

/// Bits of `|value|`; they rank as magnitudes do.
fn magnitude(value: f32) -> u32 {
    value.to_bits() & 0x7FFF_FFFF
}

#[cfg(test)]
mod tests {
    use super::super::levels::Level;
    use super::*;
    use crate::rng::Stream;

    const LADDERS: [Values; 6] =
        [Values::Int4, Values::Int3, Values::Int2, Values::Lloyd4, Values::Lloyd3, Values::Lloyd2];

    /// Least mean squared errors of Lloyd-Max quantisers of a Laplacian of variance 1, 4, 8 and 16 levels:
    /// Jayant and Noll, Digital Coding of Waveforms, 1984. Its one side is an exponential of
    /// scale `1/sqrt 2`, so these are twice as large in units of the square of its scale.
    const LAPLACIAN: [(Values, f64); 3] =
        [(Values::Lloyd2, 0.1762), (Values::Lloyd3, 0.0545), (Values::Lloyd4, 0.0154)];

    fn mean_square(code: Values, values: &[f32]) -> f64 {
        let ladder = Ladder::new(code, fit(code, values, 8.0));
        let error = |value: f32| {
            let errors = (0..1 << code.index_bits())
                .map(|index| f64::from(ladder.value(Level::new(false, index)) - value).powi(2));
            errors.fold(f64::INFINITY, f64::min)
        };
        values.iter().map(|&value| error(value)).sum::<f64>() / values.len() as f64
    }

    #[test]
    fn a_tail_is_quantised_nearly_as_well_as_can_be() {
        let mut rng = Stream::new(3, "tail", &[]);
        let blocks = 200;
        for (code, best) in LAPLACIAN {
            let mut sum = 0.0;
            for _ in 0..blocks {
                let values: Vec<f32> = (0..1_024)
                    .map(|_| (0.05 - 0.01 * (1.0 - rng.unit_f64()).ln()) as f32)
                    .collect();
                sum += mean_square(code, &values) / 0.01_f64.powi(2);
            }
            // Floors and scales have three bits of mantissa, which costs some percent.
            let ratio = sum / f64::from(blocks) / (2.0 * best);
            assert!((0.97..1.05).contains(&ratio), "{code:?}: {ratio}");
        }
    }

    /// A level above the limit could not be read.
    #[test]
    fn the_least_level_is_within_the_limit() {
        let mut rng = Stream::new(4, "limit", &[]);
        for code in LADDERS {
            for width in [0.0, 0.001, 0.1, 0.5] {
                let values: Vec<f32> = (0..1_024).map(|_| 8.0 - width * rng.unit()).collect();
                let block = fit(code, &values, 8.0);
                assert!(!Ladder::new(code, block).within(8.0).is_empty(), "{code:?} {width}");
            }
        }
    }
}
