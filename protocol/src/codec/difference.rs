//! A body for a receiver that holds an earlier one: the same levels, with what is held as context.
//!
//! ```text
//! a body's levels -> which are sent, given what is held there -> steps from the level next to what is held
//! ```
//!
//! Nothing is subtracted before rounding, so a receiver ends with the very levels, and can write the very
//! body, that everybody else got. What is held may be of any values and any round.

use std::convert::Infallible;

use super::block::{Reading, header, outliers};
use super::levels::{Block, Ladder, Level};
use super::model::{Chance, Magnitudes, Map, PACE};
use super::modelled::{Coder, Spent, code_index, learn, read_index, walk};
use super::quantised::{Quantised, Sink as _};
use super::range::{EVEN, Probability, RangeDecoder};
use super::{Body, CodecError, Encoded, Shape, modelled, packed};
use crate::manifest::Values;

/// A body's header fields, as its frame has them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    /// How the whole body is coded.
    pub(crate) body: Body,
    /// The levels.
    pub(crate) values: Values,
    /// Number of entries.
    pub(crate) k: usize,
}

/// Codes the body `bytes` for a receiver that holds `held`, shape `[n]`, zero where nothing was sent.
///
/// `None` where `bytes` are not what an encoder writes, so that no receiver could write them again.
///
/// # Errors
/// [`CodecError`] where `bytes` are no body.
pub(crate) fn encode(
    shape: Shape<'_>,
    header: Header,
    bytes: &[u8],
    held: &[f32],
    limit: f32,
) -> Result<Option<Vec<u8>>, CodecError> {
    let Header { body, values, k } = header;
    let mut quantised = Quantised::empty(values, body.is_dense());
    super::read(shape, body, values, k, bytes.len() as u64, bytes, limit, &mut quantised)?;
    if whole_body(shape, &quantised, body).bytes != bytes {
        return Ok(None);
    }
    Ok(Some(code(shape, &quantised, held)))
}

/// The body that [`encode`] was given.
///
/// # Errors
/// [`CodecError`] where `bytes` are no difference to `held`.
pub(crate) fn decode(
    shape: Shape<'_>,
    header: Header,
    bytes: &[u8],
    held: &[f32],
    limit: f32,
) -> Result<Vec<u8>, CodecError> {
    let quantised = decode_levels(shape, header, bytes, held, limit)?;
    Ok(whole_body(shape, &quantised, header.body).bytes)
}

fn whole_body(shape: Shape<'_>, quantised: &Quantised<'_>, body: Body) -> Encoded {
    match body {
        Body::DensePacked | Body::RicePacked => packed::encode(quantised, body),
        Body::DenseModelled | Body::MapModelled => modelled::encode(shape, quantised, body),
    }
}

fn code(shape: Shape<'_>, quantised: &Quantised<'_>, held: &[f32]) -> Vec<u8> {
    let (values, whole) = (quantised.values, quantised.whole);
    let mut coder = Coder::new();
    let (mut magnitudes, mut steps) = (Magnitudes::new(), Steps::new());
    let mut ladder = Ladder::new(values, Block::default());
    let mut length = values.block();
    let mut blocks = quantised.blocks();
    let (mut ranks, mut levels) = (quantised.ranks().iter().peekable(), [].iter());
    let Ok(()) = walk(shape, Map::of_difference(), |rank, column, map| -> Result<(), Infallible> {
        let near = map.surroundings(column);
        let held = at(shape, held, rank);
        if !whole {
            let sent = ranks.next_if_eq(&&rank).is_some();
            coder.bit(sent, map.chance(column, Some(class(held))), Spent::Positions);
            if !sent {
                map.learn(column, 0);
                return Ok(());
            }
        }
        if levels.len() == 0
            && let Some(entries) = blocks.next()
        {
            for (bits, width) in header(values, entries.levels.len(), entries.block, &mut length) {
                coder.raw(bits, width, Spent::Scales);
            }
            if values == Values::Fp4 {
                for (bits, width) in outliers(entries.outliers) {
                    coder.raw(bits, width, Spent::Outliers);
                }
            }
            ladder = Ladder::new(values, entries.block);
            levels = entries.levels.iter();
        }
        let Some(&level) = levels.next() else { return Ok(()) };
        if nothing_near(values, held) {
            coder.raw(level.is_negative().into(), 1, Spent::Values);
            code_index(values, level.index(), near, &mut magnitudes, &mut coder);
        } else {
            let place = Place::new(values, &ladder, held);
            let step = place.step(values, level);
            let Ok(_) = steps.code(&place, |bit, one| {
                let bit = bit.of(step);
                coder.bit(bit, one, Spent::Values);
                Ok::<_, Infallible>(bit)
            });
        }
        learn(map, column, values, level, whole);
        Ok(())
    });
    coder.range.finish()
}

fn decode_levels(
    shape: Shape<'_>,
    header: Header,
    bytes: &[u8],
    held: &[f32],
    limit: f32,
) -> Result<Quantised<'static>, CodecError> {
    let Header { body, values, k } = header;
    let whole = body.is_dense();
    if whole && k != shape.len() {
        return Err(CodecError::Count { got: k, expected: shape.len() });
    }
    let mut quantised = Quantised::empty(values, whole);
    let mut coder = RangeDecoder::new(bytes)?;
    let (mut magnitudes, mut steps) = (Magnitudes::new(), Steps::new());
    let mut block = Reading::new(values);
    let (mut done, mut left) = (0, 0);
    walk(shape, Map::of_difference(), |rank, column, map| {
        let near = map.surroundings(column);
        let held = at(shape, held, rank);
        if !whole {
            let chance = map.chance(column, Some(class(held)));
            if !coder.bit(chance)? {
                map.learn(column, 0);
                return Ok(());
            }
            if done == k {
                return Err(CodecError::Count { got: k, expected: k + 1 });
            }
        }
        if left == 0 {
            block.open(k - done, |count| coder.raw(count))?;
            if values == Values::Fp4 {
                block.read_outliers(|count| coder.raw(count))?;
            }
            quantised.block(&block);
            left = block.length;
        }
        let level = if nothing_near(values, held) {
            let negative = coder.bit(EVEN)?;
            Level::new(negative, read_index(values, near, &mut magnitudes, &mut coder)?)
        } else {
            let place = Place::new(values, &block.ladder, held);
            let step = steps.code(&place, |_, one| coder.bit(one))?;
            place.level(values, step).ok_or(CodecError::Level)?
        };
        let value = block.value(level, block.length - left);
        block.check(level, value, done, limit)?;
        quantised.entry(rank, level, value);
        left -= 1;
        done += 1;
        learn(map, column, values, level, whole);
        Ok(())
    })?;
    if done != k {
        return Err(CodecError::Count { got: k, expected: done });
    }
    coder.end()?;
    Ok(quantised)
}

/// What is held at a rank of the domain.
#[inline]
fn at(shape: Shape<'_>, held: &[f32], rank: u32) -> f32 {
    let index = shape.domain.indices().map_or(rank, |domain| domain[rank as usize]);
    held[index as usize]
}

/// Whether what is held says nothing of the level: none was sent, and none of the levels is zero.
#[inline]
fn nothing_near(values: Values, held: f32) -> bool {
    held == 0.0 && values.has_scale() && !values.has_zero()
}

/// 0 where nothing is held, else which half of an octave, from 2^-20 to 2^11.
#[inline]
fn class(held: f32) -> usize {
    if held == 0.0 {
        return 0;
    }
    let half_octave = (held.abs().to_bits() >> 22) as i32 - (107 << 1);
    (half_octave.clamp(0, 62) + 1) as usize
}

/// Where on its ladder what is held lies: levels in one line, from the lowest to the highest.
struct Place {
    /// The nearest level's number.
    number: i64,
    /// How it is told apart by [`Steps`].
    context: usize,
    /// Whether it lies below zero: steps are told towards zero or away from it.
    negative: bool,
}

impl Place {
    #[inline]
    fn new(values: Values, ladder: &Ladder, held: f32) -> Self {
        let index = ladder.nearest(held.abs());
        let context = match values {
            Values::F32 | Values::F16 => 0,
            Values::Int8 => (u32::BITS - index.leading_zeros()) as usize,
            _ => index as usize,
        };
        let negative = held < 0.0;
        Self { number: number(values, Level::new(negative, index)), context, negative }
    }

    /// How far `level` lies from here, positive away from zero.
    #[inline]
    fn step(&self, values: Values, level: Level) -> i64 {
        let step = number(values, level) - self.number;
        if self.negative { -step } else { step }
    }

    /// The level so far from here.
    #[inline]
    fn level(&self, values: Values, step: i64) -> Option<Level> {
        let number = self.number + if self.negative { -step } else { step };
        let negative = number < 0;
        let index = match (negative, values.has_zero()) {
            (false, _) => number,
            (true, true) => -number,
            (true, false) => -1 - number,
        };
        let index = u32::try_from(index).ok()?;
        (index >> values.index_bits() == 0).then(|| Level::new(negative, index))
    }
}

/// A level's place in line.
#[inline]
fn number(values: Values, level: Level) -> i64 {
    let index = i64::from(level.index());
    match (level.is_negative(), values.has_zero()) {
        (false, _) => index,
        (true, true) => -index,
        (true, false) => -1 - index,
    }
}

/// A question about a step.
#[derive(Clone, Copy)]
enum Question {
    /// Is there one?
    Any,
    /// Away from zero?
    Away,
    /// Has its size more bits than so many?
    Longer(u32),
    /// This bit of its size.
    Bit(u32),
}

impl Question {
    fn of(self, step: i64) -> bool {
        let size = step.unsigned_abs();
        match self {
            Self::Any => step != 0,
            Self::Away => step > 0,
            Self::Longer(bits) => size >> bits != 0,
            Self::Bit(bit) => size >> bit & 1 == 1,
        }
    }
}

/// The model of steps: whether there is one by where it starts and how large the last ones were, its
/// direction, its size by bit length and then bit by bit, of which only the highest two are modelled.
struct Steps {
    any: Vec<Chance>,
    away: Vec<Chance>,
    longer: Vec<Chance>,
    high: Vec<Chance>,
    /// How large the last steps were, in units of 1/16, at most 4.
    recent: usize,
    pace: &'static [i32; 256],
}

/// Contexts of [`Place`].
const PLACES: usize = 8;
/// Classes of `recent`.
const RECENT: usize = 5;
/// Most bits of a step: `f32` has levels of 31 bits and a sign.
const LENGTHS: usize = 33;

impl Steps {
    fn new() -> Self {
        let even = |count: usize| vec![Chance::new(EVEN); count];
        Self {
            any: even(PLACES * RECENT),
            away: even(PLACES * RECENT),
            longer: even(RECENT * LENGTHS),
            high: even(LENGTHS),
            recent: 0,
            pace: &PACE,
        }
    }

    /// Codes a step from `place` through `bit`, which codes or decodes one bit and returns it.
    #[inline]
    fn code<E>(
        &mut self,
        place: &Place,
        mut bit: impl FnMut(Question, Probability) -> Result<bool, E>,
    ) -> Result<i64, E> {
        let pace = self.pace;
        let mut ask = |chance: &mut Chance, question: Question| {
            let answer = bit(question, chance.one)?;
            chance.learn(answer, 200, pace);
            Ok(answer)
        };
        let recent = (self.recent / 16).min(RECENT - 1);
        let at = place.context * RECENT + recent;
        let mut step = 0;
        if ask(&mut self.any[at], Question::Any)? {
            let away = ask(&mut self.away[at], Question::Away)?;
            let mut length = 1;
            while length < LENGTHS as u32
                && ask(
                    &mut self.longer[recent * LENGTHS + length as usize - 1],
                    Question::Longer(length),
                )?
            {
                length += 1;
            }
            let mut size = 1_i64;
            for place in (0..length - 1).rev() {
                let highest = place + 2 == length;
                let bit = if highest {
                    ask(&mut self.high[length as usize - 1], Question::Bit(place))?
                } else {
                    ask(&mut Chance::new(EVEN), Question::Bit(place))?
                };
                size = size << 1 | i64::from(bit);
            }
            step = if away { size } else { -size };
        }
        let size = step.unsigned_abs().min(8) as usize;
        self.recent = (self.recent * 7 + size * 16) / 8;
        Ok(step)
    }
}

#[cfg(test)]
mod tests;
