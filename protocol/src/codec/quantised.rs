//! Entries as an encoder codes them: cut into blocks, each with its levels.

use std::borrow::Cow;

use super::assign::{Outlier, assign};
use super::block::Reading;
use super::fit::fit;
use super::levels::{Block, Level};
use super::{CodecError, Options, Shape};
use crate::manifest::Values;
use crate::sparse::{Sparse, Support};

/// A block closes at its tensor's end once it has so many entries.
const BLOCK_MIN: usize = 256;

/// Entries as they are coded.
pub(super) struct Quantised<'a> {
    pub(super) values: Values,
    /// Whether all coordinates of the domain are sent.
    pub(super) whole: bool,
    /// Rank in the domain of each entry; empty where all coordinates are sent.
    ranks: Cow<'a, [u32]>,
    levels: Vec<Level>,
    /// Number of entries, what they share, number of outliers.
    blocks: Vec<(usize, Block, usize)>,
    outliers: Vec<Outlier>,
}

/// One block's part of them.
pub(super) struct Entries<'a> {
    pub(super) block: Block,
    /// Empty where all coordinates are sent.
    pub(super) ranks: &'a [u32],
    pub(super) levels: &'a [Level],
    pub(super) outliers: &'a [Outlier],
}

/// Takes what a decoder reads.
pub(super) trait Sink {
    /// A block begins, with its header and what is sent beside its levels.
    fn block(&mut self, _block: &Reading) {}

    /// An entry: its rank in the domain, its level, its value.
    fn entry(&mut self, rank: u32, level: Level, value: f32);

    /// Entries that follow one another.
    #[inline]
    fn entries(&mut self, ranks: &[u32], levels: &[u32], values: &[f32]) {
        for ((&rank, &level), &value) in ranks.iter().zip(levels).zip(values) {
            self.entry(rank, Level(level), value);
        }
    }
}

/// Keeps entries as they are coded, so that they can be coded in another way.
impl Sink for Quantised<'_> {
    fn block(&mut self, block: &Reading) {
        let before = self.outliers.len();
        self.outliers.extend(block.outliers());
        self.blocks.push((block.length, block.block, self.outliers.len() - before));
    }

    fn entry(&mut self, rank: u32, level: Level, _value: f32) {
        if !self.whole {
            self.ranks.to_mut().push(rank);
        }
        self.levels.push(level);
    }
}

impl<'a> Quantised<'a> {
    /// Nothing yet; a decoder fills it. `whole`: all coordinates are sent.
    pub(super) fn empty(values: Values, whole: bool) -> Self {
        let (levels, blocks, outliers) = (Vec::new(), Vec::new(), Vec::new());
        Self { values, whole, ranks: Cow::default(), levels, blocks, outliers }
    }

    /// Quantises `sparse`, whose values are within the limit.
    ///
    /// # Errors
    /// [`CodecError::Outside`] for an entry that is not in the domain.
    pub(super) fn new(
        shape: Shape<'_>,
        sparse: &'a Sparse,
        options: &mut Options,
    ) -> Result<Self, CodecError> {
        let ranks = ranks(shape, sparse.support())?;
        let mut out = Self {
            values: options.values,
            whole: sparse.values().len() == shape.len(),
            ranks,
            levels: Vec::with_capacity(sparse.values().len()),
            blocks: Vec::new(),
            outliers: Vec::new(),
        };
        let most = options.values.block();
        let (mut from, mut to) = (0, 0);
        for (_, range) in shape.layout.tensors() {
            to = match sparse.support() {
                Support::All => range.end,
                Support::Indices(indices) => {
                    to + indices[to..].partition_point(|&index| (index as usize) < range.end)
                }
            };
            while to - from >= most {
                out.close(&sparse.values()[from..from + most], options);
                from += most;
            }
            if to - from >= BLOCK_MIN {
                out.close(&sparse.values()[from..to], options);
                from = to;
            }
        }
        if to > from {
            out.close(&sparse.values()[from..to], options);
        }
        Ok(out)
    }

    /// Appends a block of `entries`.
    fn close(&mut self, entries: &[f32], options: &mut Options) {
        let block = fit(self.values, entries, options.limit);
        let before = self.outliers.len();
        let (limit, dice) = (options.limit, &mut options.dice);
        let (levels, outliers) = (&mut self.levels, &mut self.outliers);
        assign(self.values, block, entries, limit, dice, levels, outliers);
        self.blocks.push((entries.len(), block, self.outliers.len() - before));
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.levels.len()
    }

    /// Rank in the domain of each entry; empty where all coordinates are sent.
    pub(super) fn ranks(&self) -> &[u32] {
        &self.ranks
    }

    /// Block by block.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Entries<'_>> {
        let (mut ranks, mut levels) = (&self.ranks[..], &self.levels[..]);
        let mut outliers = &self.outliers[..];
        self.blocks.iter().map(move |&(count, block, beside)| Entries {
            block,
            ranks: ranks.split_off(..count.min(ranks.len())).unwrap_or_default(),
            levels: levels.split_off(..count).unwrap_or_default(),
            outliers: outliers.split_off(..beside).unwrap_or_default(),
        })
    }
}

/// Each entry's rank in the domain.
fn ranks<'a>(shape: Shape<'_>, support: &'a Support) -> Result<Cow<'a, [u32]>, CodecError> {
    match (shape.domain, support) {
        (Support::All, Support::All) => Ok(Cow::default()),
        (Support::All, Support::Indices(indices)) => Ok(Cow::Borrowed(indices)),
        (Support::Indices(domain), Support::All) => {
            let missing = (0..).zip(domain).find(|&(index, &here)| index != here);
            let n = shape.layout.n();
            match missing {
                None if domain.len() == n => Ok(Cow::default()),
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
