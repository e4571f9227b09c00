//! The four bodies: entries to bytes and back.

use std::io::BufRead;

use super::bits::{BitReader, BitWriter};
use super::levels::{self, Block, Ladder, Level};
use super::model::{Magnitudes, Map};
use super::range::{EVEN, Probability, RangeDecoder, RangeEncoder};
use super::scale::Scale;
use super::{Body, CodecError, Encoded, Options, Parts, Shape};
use crate::layout::{Part, TensorSpec};
use crate::manifest::{Coding, Values};
use crate::sparse::{Sparse, Support};

/// A block closes at its tensor's end once it has so many entries.
const BLOCK_MIN: usize = 256;
/// Largest Rice parameter.
const RICE_MAX: u32 = 27;

/// Entries as they are coded.
struct Quantised {
    values: Values,
    /// Rank in the domain of each entry; empty where the whole domain is sent.
    ranks: Vec<u32>,
    levels: Vec<Level>,
    blocks: Vec<(usize, Block)>,
    /// Block, rank in it, remainder.
    outliers: Vec<(usize, u8, half::f16)>,
}

/// Codes `sparse`, whose entries lie in the domain.
///
/// # Errors
/// [`CodecError::Value`] for a value that is not finite or over the limit, [`CodecError::Outside`] for
/// an entry that is not in the domain.
pub fn encode(
    shape: Shape<'_>,
    sparse: &Sparse,
    mut options: Options,
) -> Result<Encoded, CodecError> {
    let limit = options.limit;
    // NaN fails the comparison too.
    let good = |v: &f32| v.abs() <= limit;
    if let Some(rank) = sparse.values().iter().position(|v| !good(v)) {
        return Err(CodecError::Value { rank, value: sparse.values()[rank], limit });
    }
    let quantised = quantise(shape, sparse, &mut options)?;
    let k = quantised.levels.len();
    let whole = k == shape.len();
    let mut best = if whole {
        packed(&quantised, Body::DensePacked)
    } else {
        packed(&quantised, Body::RicePacked)
    };
    if options.coding == Coding::Smallest {
        let body = if whole { Body::DenseModelled } else { Body::MapModelled };
        let other = modelled(shape, &quantised, body);
        if other.bytes.len() < best.bytes.len() {
            best = other;
        }
    }
    Ok(best)
}

fn quantise(
    shape: Shape<'_>,
    sparse: &Sparse,
    options: &mut Options,
) -> Result<Quantised, CodecError> {
    let ranks = ranks(shape, sparse.support())?;
    let values = options.values;
    let mut out = Quantised {
        values,
        levels: Vec::with_capacity(sparse.values().len()),
        blocks: Vec::new(),
        outliers: Vec::new(),
        ranks,
    };
    let mut outliers = Vec::new();
    let mut close = |from: usize, to: usize, out: &mut Quantised| {
        let entries = &sparse.values()[from..to];
        let (limit, dice) = (options.limit, &mut options.dice);
        let block = levels::quantise(values, entries, limit, dice, &mut out.levels, &mut outliers);
        let place = out.blocks.len();
        out.outliers.extend(outliers.drain(..).map(|(rank, rest)| (place, rank, rest)));
        out.blocks.push((to - from, block));
    };
    let mut from = 0;
    let mut to = 0;
    for (_, range) in shape.layout.tensors() {
        let end = match sparse.support() {
            Support::All => range.end,
            Support::Indices(indices) => {
                to + indices[to..].partition_point(|&index| (index as usize) < range.end)
            }
        };
        to = end;
        while to - from >= values.block() {
            close(from, from + values.block(), &mut out);
            from += values.block();
        }
        if to - from >= BLOCK_MIN {
            close(from, to, &mut out);
            from = to;
        }
    }
    if to > from {
        close(from, to, &mut out);
    }
    Ok(out)
}

/// Each entry's rank in the domain.
fn ranks(shape: Shape<'_>, support: &Support) -> Result<Vec<u32>, CodecError> {
    match (shape.domain, support) {
        (Support::All, Support::All) => Ok(Vec::new()),
        (Support::All, Support::Indices(indices)) => Ok(indices.clone()),
        (Support::Indices(domain), Support::All) => {
            let missing = (0..).zip(domain).find(|&(index, &here)| index != here);
            let n = shape.layout.n();
            match missing {
                None if domain.len() == n => Ok(Vec::new()),
                None => Err(CodecError::Outside(domain.len() as u32)),
                Some((index, _)) => Err(CodecError::Outside(index)),
            }
        }
        (Support::Indices(domain), Support::Indices(indices)) => {
            let mut places = (0_u32..).zip(domain);
            let rank = |&index: &u32| {
                places
                    .by_ref()
                    .find(|&(_, &here)| here >= index)
                    .filter(|&(_, &here)| here == index)
                    .map(|(rank, _)| rank)
                    .ok_or(CodecError::Outside(index))
            };
            indices.iter().map(rank).collect()
        }
    }
}

fn packed(quantised: &Quantised, body: Body) -> Encoded {
    let Quantised { values, levels, blocks, .. } = quantised;
    let mut parts = Parts::default();
    let mut writer = BitWriter::default();
    let mut outliers = quantised.outliers.iter().peekable();
    let index_bits = values.index_bits();
    let (mut from, mut next, mut length) = (0, 0, values.block());
    for (place, &(count, block)) in blocks.iter().enumerate() {
        let start = writer.len();
        for (bits, width) in length_bits(count, &mut length) {
            writer.put(bits, width);
        }
        if values.has_floor() {
            writer.put(block.floor.0.into(), 8);
        }
        if values.has_scale() {
            writer.put(block.scale.0.into(), 8);
        }
        let headed = writer.len();
        parts.scales += headed - start;
        if body == Body::RicePacked {
            let ranks = &quantised.ranks[from..from + count];
            let low = rice_parameter(ranks, next);
            writer.put(low.into(), 5);
            for &rank in ranks {
                let gap = rank - next;
                next = rank + 1;
                writer.unary(gap >> low);
                writer.put(u64::from(gap) & ((1 << low) - 1), low);
            }
        }
        let placed = writer.len();
        parts.positions += placed - headed;
        for level in &levels[from..from + count] {
            writer.put(u64::from(level.index) << 1 | u64::from(level.negative), index_bits + 1);
        }
        let valued = writer.len();
        parts.values += valued - placed;
        if *values == Values::Fp4 {
            let of_block = quantised.outliers.iter().filter(|o| o.0 == place).count();
            writer.put(of_block as u64, 8);
            while let Some((_, rank, rest)) = outliers.next_if(|o| o.0 == place) {
                writer.put((*rank).into(), 8);
                writer.put(rest.to_bits().into(), 16);
            }
        }
        parts.outliers += writer.len() - valued;
        from += count;
    }
    Encoded { body, k: levels.len() as u32, bytes: writer.finish(), parts }
}

/// A block's length as bits and width: one bit where it is that of the block before, else ten more.
fn length_bits(count: usize, before: &mut usize) -> impl Iterator<Item = (u64, u32)> {
    let same = count == *before;
    *before = count;
    let explicit = (!same).then_some((count as u64 - 1, 10));
    std::iter::once((u64::from(same), 1)).chain(explicit)
}

/// The parameter with the fewest bits for these gaps.
fn rice_parameter(ranks: &[u32], next: u32) -> u32 {
    let (Some(&last), count) = (ranks.last(), ranks.len() as u64) else { return 0 };
    // Near log2 of the mean gap; the best is there or beside.
    let sum = u64::from(last + 1 - next) - count;
    let guess = (sum / count.max(1) + 1).ilog2().min(RICE_MAX);
    let cost = |low: u32| {
        let mut before = next;
        let mut bits = count * u64::from(low + 1);
        for &rank in ranks {
            bits += u64::from((rank - before) >> low);
            before = rank + 1;
        }
        bits
    };
    (guess.saturating_sub(1)..=(guess + 1).min(RICE_MAX))
        .min_by_key(|&low| cost(low))
        .unwrap_or(guess)
}

/// Counts what the range coder spends.
struct Coder {
    range: RangeEncoder,
    spent: f64,
}

impl Coder {
    fn bit(&mut self, bit: bool, one: Probability) -> Result<bool, std::convert::Infallible> {
        self.range.bit(bit, one);
        let chance = f64::from(one) / 65_536.0;
        self.spent -= if bit { chance } else { 1.0 - chance }.log2();
        Ok(bit)
    }

    fn raw(&mut self, bits: u32, count: u32) {
        self.range.raw(bits, count);
        self.spent += f64::from(count);
    }

    fn take(&mut self) -> f64 {
        std::mem::take(&mut self.spent)
    }
}

fn modelled(shape: Shape<'_>, quantised: &Quantised, body: Body) -> Encoded {
    let Quantised { values, levels, blocks, .. } = quantised;
    let mut coder = Coder { range: RangeEncoder::new(), spent: 0.0 };
    let mut spent = [0.0; 4];
    let mut magnitudes = Magnitudes::new();
    let mut entry = 0;
    let mut blocks = blocks.iter().enumerate();
    let (mut left, mut length, mut place) = (0, values.block(), 0);
    let mut outliers = quantised.outliers.iter().peekable();
    let mut ranks = quantised.ranks.iter();
    let mut next = ranks.next();
    let whole = body == Body::DenseModelled;
    let walk: Result<(), CodecError> = walk(shape, |rank, column, map| {
        let sent = whole || next == Some(&rank);
        let near = map.surroundings(column);
        if !whole {
            let chance = map.chance(column);
            let Ok(_) = coder.bit(sent, chance);
        }
        spent[0] += coder.take();
        if !sent {
            if !whole {
                map.learn(column, 0);
            }
            return Ok(());
        }
        next = ranks.next();
        if left == 0
            && let Some((this, &(count, block))) = blocks.next()
        {
            for (bits, width) in length_bits(count, &mut length) {
                coder.raw(bits as u32, width);
            }
            if values.has_floor() {
                coder.raw(block.floor.0.into(), 8);
            }
            if values.has_scale() {
                coder.raw(block.scale.0.into(), 8);
            }
            (left, place) = (count, this);
            spent[2] += coder.take();
            if *values == Values::Fp4 {
                let of_block = quantised.outliers.iter().filter(|o| o.0 == place).count();
                coder.raw(of_block as u32, 8);
                while let Some((_, rank, rest)) = outliers.next_if(|o| o.0 == place) {
                    coder.raw((*rank).into(), 8);
                    coder.raw(rest.to_bits().into(), 16);
                }
                spent[3] += coder.take();
            }
        }
        let level = levels[entry];
        coder.raw(level.negative.into(), 1);
        code_index(*values, level.index, near, &mut magnitudes, &mut coder);
        spent[1] += coder.take();
        entry += 1;
        left -= 1;
        learn(map, column, *values, level, whole);
        Ok(())
    });
    debug_assert!(walk.is_ok());
    let bits = spent.map(|bits| bits.round() as u64);
    let parts = Parts { positions: bits[0], values: bits[1], scales: bits[2], outliers: bits[3] };
    Encoded { body, k: levels.len() as u32, bytes: coder.range.finish(), parts }
}

fn code_index(values: Values, index: u32, near: usize, model: &mut Magnitudes, coder: &mut Coder) {
    match values {
        Values::F32 | Values::F16 => coder.raw(index, values.index_bits()),
        Values::Int8 => {
            let length = u32::BITS - index.leading_zeros();
            let Ok(_) = model.unary(near, 7, |rung, one| coder.bit(rung < length, one));
            if length > 1 {
                coder.raw(index & ((1 << (length - 1)) - 1), length - 1);
            }
        }
        _ => {
            let most = (1 << values.index_bits()) - 1;
            let Ok(_) = model.unary(near, most, |rung, one| coder.bit(rung < index, one));
        }
    }
}

fn read_index<R: BufRead>(
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
fn learn(map: &mut Map, column: usize, values: Values, level: Level, whole: bool) {
    let class = match values {
        Values::F32 | Values::F16 => 1,
        Values::Int8 => 1 + u8::from(level.index > 15),
        _ => 1 + u8::from(level.index > 0),
    };
    if whole { map.note(column, class) } else { map.learn(column, class) }
}

/// Visits the domain tensor by tensor, row by row: rank in the domain, column, model.
fn walk<E>(
    shape: Shape<'_>,
    mut visit: impl FnMut(u32, usize, &mut Map) -> Result<(), E>,
) -> Result<(), E> {
    let mut map = Map::new();
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
        Part::LoraB => 1,
        Part::Head => 2,
    }
}

/// Decodes `k` entries from `source`, which has `len` bytes, and gives each coordinate, in rising order,
/// with its value.
///
/// Reserves nothing that grows with `k`: what it needs beside `entry`'s own memory is a block and a few
/// rows of the widest tensor.
///
/// # Errors
/// [`CodecError`] at the first thing that is off; entries before it were given.
#[expect(clippy::too_many_arguments, reason = "the fields of one frame")]
pub fn decode<R: BufRead>(
    shape: Shape<'_>,
    body: Body,
    values: Values,
    k: usize,
    len: u64,
    source: R,
    limit: f32,
    entry: &mut impl FnMut(u32, f32),
) -> Result<(), CodecError> {
    if body.is_dense() && k != shape.len() {
        return Err(CodecError::Count { got: k, expected: shape.len() });
    }
    // Every entry's sign takes a bit, in every body.
    if k as u64 > 8 * (len + 4) {
        return Err(CodecError::TooFew { k, bytes: len });
    }
    match body {
        Body::DensePacked | Body::RicePacked => {
            unpack(shape, body, values, k, BitReader::new(source), limit, entry)
        }
        Body::DenseModelled | Body::MapModelled => {
            unmodel(shape, body, values, k, RangeDecoder::new(source)?, limit, entry)
        }
    }
}

#[inline]
fn in_range(value: f32, limit: f32, rank: usize) -> Result<(), CodecError> {
    // NaN fails the comparison too.
    if value.abs() <= limit { Ok(()) } else { Err(CodecError::Value { rank, value, limit }) }
}

/// A block's entries, while they are read.
struct Reading {
    left: usize,
    length: usize,
    ladder: Ladder,
    outliers: Vec<(u8, f32)>,
}

impl Reading {
    fn new(values: Values) -> Self {
        Self {
            left: 0,
            length: values.block(),
            ladder: Ladder::new(values, Block::default()),
            outliers: Vec::new(),
        }
    }

    fn open(
        &mut self,
        values: Values,
        left: usize,
        mut raw: impl FnMut(u32) -> Result<u32, CodecError>,
    ) -> Result<(), CodecError> {
        if raw(1)? == 0 {
            self.length = 1 + raw(10)? as usize;
        }
        if self.length > left || self.length > values.block() {
            return Err(CodecError::Block(self.length));
        }
        let mut block = Block::default();
        if values.has_floor() {
            block.floor = Scale(raw(8)? as u8);
        }
        if values.has_scale() {
            block.scale = Scale(raw(8)? as u8);
        }
        self.left = self.length;
        self.ladder = Ladder::new(values, block);
        Ok(())
    }

    /// Reads outliers: ranks rise within the block.
    fn read_outliers(
        &mut self,
        mut raw: impl FnMut(u32) -> Result<u32, CodecError>,
    ) -> Result<(), CodecError> {
        self.outliers.clear();
        for _ in 0..raw(8)? {
            let (rank, rest) = (raw(8)? as u8, half::f16::from_bits(raw(16)? as u16).to_f32());
            let rises = self.outliers.last().is_none_or(|&(before, _)| before < rank);
            if !rises || usize::from(rank) >= self.length || !rest.is_finite() {
                return Err(CodecError::Outlier);
            }
            self.outliers.push((rank, rest));
        }
        Ok(())
    }

    /// The value of the entry at `rank` of the block: its level, and what is sent beside.
    #[inline]
    fn value(&self, rank: usize, level: Level) -> f32 {
        let value = self.ladder.value(level);
        let beside = self.outliers.iter().find(|o| usize::from(o.0) == rank);
        beside.map_or(value, |o| value + o.1)
    }
}

fn unpack<R: BufRead>(
    shape: Shape<'_>,
    body: Body,
    values: Values,
    k: usize,
    mut reader: BitReader<R>,
    limit: f32,
    entry: &mut impl FnMut(u32, f32),
) -> Result<(), CodecError> {
    let domain = shape.domain.indices();
    let size = shape.len() as u64;
    let width = values.index_bits() + 1;
    let mut block = Reading::new(values);
    let mut ranks = [0_u32; 1024];
    let mut codes = [0_u32; 256];
    let (mut done, mut next) = (0, 0_u64);
    while done < k {
        block.open(values, k - done, |count| reader.take(count))?;
        let count = block.length;
        if body == Body::RicePacked {
            let low = reader.take(5)?;
            if low > RICE_MAX {
                return Err(CodecError::Rice(low));
            }
            for rank in &mut ranks[..count] {
                if next >= size {
                    return Err(CodecError::Past);
                }
                let gap = reader.rice(low, size - next)?;
                *rank = (next + gap) as u32;
                next += gap + 1;
            }
        } else {
            for rank in &mut ranks[..count] {
                *rank = next as u32;
                next += 1;
            }
        }
        let mut give = |place: usize, code: u32, block: &Reading| {
            let level = Level { negative: code & 1 == 1, index: code >> 1 };
            levels::check(values, level)?;
            let value = block.value(place, level);
            in_range(value, limit, done + place)?;
            let rank = ranks[place];
            entry(domain.map_or(rank, |domain| domain[rank as usize]), value);
            Ok::<_, CodecError>(())
        };
        if values == Values::Fp4 {
            // Outliers stand behind the levels that they correct.
            for code in &mut codes[..count] {
                *code = reader.take(width)?;
            }
            block.read_outliers(|count| reader.take(count))?;
            for (place, &code) in codes[..count].iter().enumerate() {
                give(place, code, &block)?;
            }
        } else {
            for place in 0..count {
                give(place, reader.take(width)?, &block)?;
            }
        }
        done += count;
    }
    reader.end()
}

fn unmodel<R: BufRead>(
    shape: Shape<'_>,
    body: Body,
    values: Values,
    k: usize,
    mut coder: RangeDecoder<R>,
    limit: f32,
    entry: &mut impl FnMut(u32, f32),
) -> Result<(), CodecError> {
    let domain = shape.domain.indices();
    let whole = body == Body::DenseModelled;
    let mut magnitudes = Magnitudes::new();
    let mut block = Reading::new(values);
    let mut done = 0;
    walk(shape, |rank, column, map| {
        let near = map.surroundings(column);
        if !whole {
            let chance = map.chance(column);
            if !coder.bit(chance)? {
                map.learn(column, 0);
                return Ok(());
            }
            if done == k {
                return Err(CodecError::Count { got: k, expected: k + 1 });
            }
        }
        if block.left == 0 {
            block.open(values, k - done, |count| coder.raw(count))?;
            if values == Values::Fp4 {
                block.read_outliers(|count| coder.raw(count))?;
            }
        }
        let negative = coder.bit(EVEN)?;
        let level =
            Level { negative, index: read_index(values, near, &mut magnitudes, &mut coder)? };
        levels::check(values, level)?;
        let value = block.value(block.length - block.left, level);
        in_range(value, limit, done)?;
        entry(domain.map_or(rank, |domain| domain[rank as usize]), value);
        block.left -= 1;
        done += 1;
        learn(map, column, values, level, whole);
        Ok(())
    })?;
    if done != k {
        return Err(CodecError::Count { got: k, expected: done });
    }
    coder.end()
}
