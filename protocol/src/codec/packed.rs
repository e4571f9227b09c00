//! Packed bodies: gaps in Rice code, levels as they are.
//!
//! Bits of a block: header | `rice-packed`: parameter 5 bits, gaps | levels | `fp4`: outliers.

use std::io::BufRead;

use super::bits::{BitReader, BitWriter};
use super::block::{Reading, header, outliers};
use super::levels::Level;
use super::quantised::{Quantised, Sink};
use super::{Body, CodecError, Encoded, Parts, Shape};
use crate::manifest::Values;

/// Most entries of any block.
const BLOCK_MAX: usize = 1024;
/// Largest Rice parameter.
const RICE_MAX: u32 = 27;

pub(super) fn encode(quantised: &Quantised<'_>, body: Body) -> Encoded {
    let values = quantised.values;
    let width = values.index_bits() + 1;
    let mut parts = Parts::default();
    let mut writer = BitWriter::default();
    let mut gaps = [0_u32; BLOCK_MAX];
    let (mut next, mut length) = (0, values.block());
    for entries in quantised.blocks() {
        let start = writer.len();
        for (bits, width) in header(values, entries.levels.len(), entries.block, &mut length) {
            writer.put(bits, width);
        }
        let headed = writer.len();
        if body == Body::RicePacked {
            let gaps = &mut gaps[..entries.ranks.len()];
            for (gap, &rank) in gaps.iter_mut().zip(entries.ranks) {
                *gap = rank - next;
                next = rank + 1;
            }
            let low = rice_parameter(gaps);
            writer.put(low, 5);
            writer.rice(low, gaps);
        }
        let placed = writer.len();
        put_levels(&mut writer, entries.levels, width);
        let valued = writer.len();
        if values == Values::Fp4 {
            for (bits, width) in outliers(entries.outliers) {
                writer.put(bits, width);
            }
        }
        parts.scales += headed - start;
        parts.positions += placed - headed;
        parts.values += valued - placed;
        parts.outliers += writer.len() - valued;
    }
    Encoded { body, k: quantised.len() as u32, bytes: writer.finish(), parts }
}

/// The parameter with the fewest bits for these gaps.
fn rice_parameter(gaps: &[u32]) -> u32 {
    let count = gaps.len() as u32;
    // No sum overflows: the gaps of all entries together are fewer than the coordinates, at most 2^28.
    let sum: u32 = gaps.iter().sum();
    // Near log2 of the mean gap; the best is there or beside.
    let guess = (sum / count.max(1) + 1).ilog2().min(RICE_MAX);
    let cost = |low: u32| count * (low + 1) + gaps.iter().map(|gap| gap >> low).sum::<u32>();
    (guess.saturating_sub(1)..=(guess + 1).min(RICE_MAX))
        .min_by_key(|&low| cost(low))
        .unwrap_or(guess)
}

fn put_levels(writer: &mut BitWriter, levels: &[Level], width: u32) {
    if width == 32 {
        return writer.put_words(levels.iter().map(|level| level.0));
    }
    let mut rest = levels;
    if width <= 8 {
        let fours;
        (fours, rest) = levels.as_chunks::<4>();
        for [a, b, c, d] in fours {
            let bits = a.0 | b.0 << width | (c.0 | d.0 << width) << (2 * width);
            writer.put(bits, 4 * width);
        }
    }
    for level in rest {
        writer.put(level.0, width);
    }
}

/// Decodes `k` entries; see [`super::decode`].
pub(super) fn decode<R: BufRead>(
    shape: Shape<'_>,
    body: Body,
    values: Values,
    k: usize,
    mut reader: BitReader<R>,
    limit: f32,
    sink: &mut impl Sink,
) -> Result<(), CodecError> {
    let size = shape.len() as u64;
    let width = values.index_bits() + 1;
    let mut block = Reading::new(values);
    let (mut ranks, mut levels) = ([0_u32; BLOCK_MAX], [0_u32; BLOCK_MAX]);
    let mut numbers = [0.0_f32; BLOCK_MAX];
    let (mut done, mut next) = (0, 0_u64);
    while done < k {
        block.open(k - done, |count| reader.take(count))?;
        let ranks = &mut ranks[..block.length];
        if body == Body::RicePacked {
            let low = reader.take(5)?;
            if low > RICE_MAX {
                return Err(CodecError::Rice(low));
            }
            reader.ranks(low, size, &mut next, ranks)?;
        } else {
            for rank in &mut *ranks {
                *rank = next as u32;
                next += 1;
            }
        }
        let (read, end) = reader.take_each(width, &mut levels[..block.length]);
        if values == Values::Fp4 {
            // Outliers stand behind the levels that they correct.
            end.clone()?;
            block.read_outliers(|count| reader.take(count))?;
        }
        let (levels, numbers) = (&levels[..read], &mut numbers[..read]);
        block.values(levels, numbers);
        sink.block(&block);
        let good = block.good(levels, numbers, limit);
        sink.entries(&ranks[..good], &levels[..good], &numbers[..good]);
        if good < read {
            block.check(Level(levels[good]), numbers[good], done + good, limit)?;
        }
        end?;
        done += block.length;
    }
    reader.end()
}
