//! Headers of blocks, which packed and modelled bodies write alike.

use super::CodecError;
use super::assign::Outlier;
use super::levels::{Block, Ladder, Level};
use super::scale::Scale;
use crate::manifest::Values;

/// A block's length, floor and scale as numbers and their widths in bits. `before` is the length of the
/// block before, at first that of a full one.
pub(super) fn header(
    values: Values,
    count: usize,
    block: Block,
    before: &mut usize,
) -> impl Iterator<Item = (u32, u32)> {
    let same = count == *before;
    *before = count;
    let length = (!same).then_some((count as u32 - 1, 10));
    let floor = values.has_floor().then_some((block.floor.0.into(), 8));
    let scale = values.has_scale().then_some((block.scale.0.into(), 8));
    [Some((same.into(), 1)), length, floor, scale].into_iter().flatten()
}

/// `fp4`'s outliers of one block as numbers and their widths in bits.
pub(super) fn outliers(outliers: &[Outlier]) -> impl Iterator<Item = (u32, u32)> {
    let each = |&(rank, rest): &Outlier| [(rank.into(), 8), (rest.to_bits().into(), 16)];
    std::iter::once((outliers.len() as u32, 8)).chain(outliers.iter().flat_map(each))
}

const MINUS_ZERO: Level = Level(1);

/// A block's entries, while they are read.
pub(super) struct Reading {
    values: Values,
    /// Whether index 0 is zero, which has no sign.
    has_zero: bool,
    /// Entries of the block.
    pub(super) length: usize,
    pub(super) block: Block,
    pub(super) ladder: Ladder,
    outliers: Vec<(u8, f32)>,
}

impl Reading {
    pub(super) fn new(values: Values) -> Self {
        let block = Block::default();
        let ladder = Ladder::new(values, block);
        Self {
            values,
            has_zero: values.has_zero(),
            length: values.block(),
            block,
            ladder,
            outliers: Vec::new(),
        }
    }

    /// Reads a header through `raw`, which gives the next number of so many bits; `left` entries are to
    /// come.
    pub(super) fn open(
        &mut self,
        left: usize,
        mut raw: impl FnMut(u32) -> Result<u32, CodecError>,
    ) -> Result<(), CodecError> {
        if raw(1)? == 0 {
            self.length = 1 + raw(10)? as usize;
        }
        if self.length > left || self.length > self.values.block() {
            return Err(CodecError::Block(self.length));
        }
        let mut block = Block::default();
        if self.values.has_floor() {
            block.floor = Scale(raw(8)? as u8);
        }
        if self.values.has_scale() {
            block.scale = Scale(raw(8)? as u8);
        }
        self.block = block;
        self.ladder = Ladder::new(self.values, block);
        Ok(())
    }

    /// Reads outliers: ranks rise within the block.
    pub(super) fn read_outliers(
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

    /// What is sent beside the levels of this block.
    pub(super) fn outliers(&self) -> impl Iterator<Item = Outlier> {
        // They were read from as many bits.
        self.outliers.iter().map(|&(rank, rest)| (rank, half::f16::from_f32(rest)))
    }

    /// The values of `levels`, the first of the block, and what is sent beside. Not checked.
    pub(super) fn values(&self, levels: &[u32], values: &mut [f32]) {
        self.ladder.values(levels, values);
        for &(rank, rest) in &self.outliers {
            if let Some(value) = values.get_mut(usize::from(rank)) {
                *value += rest;
            }
        }
    }

    /// The value of the entry at `rank` of the block. Not checked.
    pub(super) fn value(&self, level: Level, rank: usize) -> f32 {
        let value = self.ladder.value(level);
        let beside = self.outliers.iter().find(|o| usize::from(o.0) == rank);
        beside.map_or(value, |(_, rest)| value + rest)
    }

    /// Entries before the first that [`check`](Self::check) refuses.
    pub(super) fn good(&self, levels: &[u32], values: &[f32], limit: f32) -> usize {
        let good = |(&level, &value): (&u32, &f32)| self.allows(Level(level), value, limit);
        let mut entries = levels.iter().zip(values);
        // All of them first, which needs no branch, and only then which.
        if entries.clone().fold(true, |all, entry| all & good(entry)) {
            return values.len();
        }
        entries.position(|entry| !good(entry)).unwrap_or(values.len())
    }

    #[inline]
    fn allows(&self, level: Level, value: f32, limit: f32) -> bool {
        // One value, one code: minus zero is never written where zero can be. NaN fails the comparison too.
        (value.abs() <= limit) & !(self.has_zero & (level == MINUS_ZERO))
    }

    /// Checks the value that `level` stands for, of entry number `rank` of all.
    ///
    /// # Errors
    /// [`CodecError::NegativeZero`], and [`CodecError::Value`] over the limit.
    #[inline]
    pub(super) fn check(
        &self,
        level: Level,
        value: f32,
        rank: usize,
        limit: f32,
    ) -> Result<(), CodecError> {
        if self.allows(level, value, limit) {
            return Ok(());
        }
        Err(refused(self.has_zero && level == MINUS_ZERO, rank, value, limit))
    }
}

#[cold]
fn refused(signed_zero: bool, rank: usize, value: f32, limit: f32) -> CodecError {
    if signed_zero { CodecError::NegativeZero } else { CodecError::Value { rank, value, limit } }
}
