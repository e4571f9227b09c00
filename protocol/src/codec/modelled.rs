//! Modelled bodies: positions, magnitudes and headers through the range coder.

use std::convert::Infallible;
use std::io::BufRead;

use super::block::{Reading, header, outliers};
use super::levels::Level;
use super::model::{Magnitudes, Map};
use super::quantised::{Quantised, Sink};
use super::range::{EVEN, Probability, RangeDecoder, RangeEncoder};
use super::{Body, CodecError, Encoded, Parts, Shape};
use crate::layout::{Part, TensorSpec};
use crate::manifest::Values;
use crate::sparse::Support;

pub(super) fn encode(shape: Shape<'_>, quantised: &Quantised<'_>, body: Body) -> Encoded {
    let values = quantised.values;
    let whole = body == Body::DenseModelled;
    let mut coder = Coder::new();
    let mut magnitudes = Magnitudes::new();
    let mut length = values.block();
    let mut blocks = quantised.blocks();
    let (mut ranks, mut levels) = (quantised.ranks().iter().peekable(), [].iter());
    let Ok(()) = walk(shape, Map::new(), |rank, column, map| -> Result<(), Infallible> {
        let near = map.surroundings(column);
        if !whole {
            let sent = ranks.next_if_eq(&&rank).is_some();
            coder.bit(sent, map.chance(column, None), Spent::Positions);
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
            levels = entries.levels.iter();
        }
        let Some(&level) = levels.next() else { return Ok(()) };
        coder.raw(level.is_negative().into(), 1, Spent::Values);
        code_index(values, level.index(), near, &mut magnitudes, &mut coder);
        learn(map, column, values, level, whole);
        Ok(())
    });
    let parts = coder.parts();
    Encoded { body, k: quantised.len() as u32, bytes: coder.range.finish(), parts }
}

/// Decodes `k` entries; see [`super::decode`].
pub(super) fn decode<R: BufRead>(
    shape: Shape<'_>,
    body: Body,
    values: Values,
    k: usize,
    mut coder: RangeDecoder<R>,
    limit: f32,
    sink: &mut impl Sink,
) -> Result<(), CodecError> {
    let whole = body == Body::DenseModelled;
    let mut magnitudes = Magnitudes::new();
    let mut block = Reading::new(values);
    let (mut done, mut left) = (0, 0);
    walk(shape, Map::new(), |rank, column, map| {
        let near = map.surroundings(column);
        if !whole {
            let chance = map.chance(column, None);
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
            sink.block(&block);
            left = block.length;
        }
        let negative = coder.bit(EVEN)?;
        let level = Level::new(negative, read_index(values, near, &mut magnitudes, &mut coder)?);
        let value = block.value(level, block.length - left);
        block.check(level, value, done, limit)?;
        sink.entry(rank, level, value);
        left -= 1;
        done += 1;
        learn(map, column, values, level, whole);
        Ok(())
    })?;
    if done != k {
        return Err(CodecError::Count { got: k, expected: done });
    }
    coder.end()
}

/// What bits are spent on.
#[derive(Clone, Copy)]
pub(super) enum Spent {
    Positions,
    Values,
    Scales,
    Outliers,
}

/// Codes, and counts what that spends.
pub(super) struct Coder {
    pub(super) range: RangeEncoder,
    /// Bits spent on each, but for `chances`.
    bits: [f64; 4],
    /// The product of the chances of the latest: one logarithm is enough for many.
    chances: [f64; 4],
}

impl Coder {
    pub(super) fn new() -> Self {
        Self { range: RangeEncoder::new(), bits: [0.0; 4], chances: [1.0; 4] }
    }

    #[inline]
    pub(super) fn bit(&mut self, bit: bool, one: Probability, on: Spent) {
        self.range.bit(bit, one);
        let chance = if bit { u32::from(one) } else { 65_536 - u32::from(one) };
        let product = &mut self.chances[on as usize];
        *product *= f64::from(chance) / 65_536.0;
        // A chance is 2^-16 at least.
        if *product < 1e-300 {
            self.bits[on as usize] -= product.log2();
            *product = 1.0;
        }
    }

    pub(super) fn raw(&mut self, bits: u32, count: u32, on: Spent) {
        self.range.raw(bits, count);
        self.bits[on as usize] += f64::from(count);
    }

    pub(super) fn parts(&self) -> Parts {
        let of =
            |on: Spent| (self.bits[on as usize] - self.chances[on as usize].log2()).round() as u64;
        Parts {
            positions: of(Spent::Positions),
            values: of(Spent::Values),
            scales: of(Spent::Scales),
            outliers: of(Spent::Outliers),
        }
    }
}

pub(super) fn code_index(
    values: Values,
    index: u32,
    near: usize,
    model: &mut Magnitudes,
    coder: &mut Coder,
) {
    let mut unary = |index: u32, most: u32, coder: &mut Coder| {
        let Ok(_) = model.unary(near, most, |rung, one| {
            coder.bit(rung < index, one, Spent::Values);
            Ok::<_, Infallible>(rung < index)
        });
    };
    match values {
        Values::F32 | Values::F16 => coder.raw(index, values.index_bits(), Spent::Values),
        Values::Int8 => {
            let length = u32::BITS - index.leading_zeros();
            unary(length, 7, coder);
            if length > 1 {
                coder.raw(index & ((1 << (length - 1)) - 1), length - 1, Spent::Values);
            }
        }
        _ => unary(index, (1 << values.index_bits()) - 1, coder),
    }
}

pub(super) fn read_index<R: BufRead>(
    values: Values,
    near: usize,
    model: &mut Magnitudes,
    coder: &mut RangeDecoder<R>,
) -> Result<u32, CodecError> {
    match values {
        Values::F32 | Values::F16 => coder.raw(values.index_bits()),
        Values::Int8 => {
            let length = model.unary(near, 7, |_, one| coder.bit(one))?;
            match length {
                0 | 1 => Ok(length),
                _ => Ok(1 << (length - 1) | coder.raw(length - 1)?),
            }
        }
        _ => model.unary(near, (1 << values.index_bits()) - 1, |_, one| coder.bit(one)),
    }
}

/// Tells the model what was sent: an entry of a small magnitude is 1, another 2.
#[inline]
pub(super) fn learn(map: &mut Map, column: usize, values: Values, level: Level, whole: bool) {
    let class = match values {
        Values::F32 | Values::F16 => 1,
        Values::Int8 => 1 + u8::from(level.index() > 15),
        _ => 1 + u8::from(level.index() > 0),
    };
    if whole { map.note(column, class) } else { map.learn(column, class) }
}

/// Visits the domain tensor by tensor, row by row: rank in the domain, column, model.
pub(super) fn walk<E>(
    shape: Shape<'_>,
    mut map: Map,
    mut visit: impl FnMut(u32, usize, &mut Map) -> Result<(), E>,
) -> Result<(), E> {
    let mut rank = 0;
    for (tensor, range) in shape.layout.tensors() {
        let width = tensor.shape[1];
        map.tensor(width, part(tensor));
        match shape.domain {
            Support::All => {
                for row in 0..tensor.shape[0] {
                    if row > 0 {
                        map.row();
                    }
                    for column in 0..width {
                        visit(rank, column, &mut map)?;
                        rank += 1;
                    }
                }
            }
            Support::Indices(domain) => {
                let mut row = 0;
                while let Some(&index) =
                    domain.get(rank as usize).filter(|&&i| (i as usize) < range.end)
                {
                    let place = index as usize - range.start;
                    while row < place / width {
                        map.row();
                        row += 1;
                    }
                    visit(rank, place % width, &mut map)?;
                    rank += 1;
                }
            }
        }
    }
    Ok(())
}

fn part(tensor: &TensorSpec) -> usize {
    match tensor.part {
        Part::LoraA => 0,
        Part::LoraB | Part::Weight | Part::LoraR => 1,
        Part::Head | Part::Control => 2,
    }
}
