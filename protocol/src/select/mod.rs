//! Which entries travel.
//!
//! ```text
//! domain (known to both ends) -> score -> the best k of each scope -> support
//! ```
//!
//! A [`Selector`] scores entries; `top_k` takes the best of what competes. All are linear in `n`, draw
//! nothing but from named streams, and break ties to the lower coordinate: the same input gives the same
//! support.

pub mod domain;
mod importance;
mod magnitude;
mod rank_wise;
pub mod tier;
mod top_k;

use std::borrow::Cow;
use std::ops::Range;

use crate::density::Density;
use crate::layout::{Layout, Part};
use crate::manifest::{Manifest, Ranking, Scope, Select};
use crate::sparse::Support;
pub use top_k::top_k;

/// A vector no selection can rank.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectError {
    /// A NaN or an infinity.
    #[error("entry {index} is {value}")]
    NonFinite {
        /// Its place.
        index: usize,
        /// What it is.
        value: f32,
    },
}

/// What entries are ranked by.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// The tensors.
    pub layout: &'a Layout,
    /// The change to be sent, shape `[n]`.
    pub delta: &'a [f32],
    /// The adapter it is a change of, shape `[n]`.
    pub theta: &'a [f32],
}

/// Scores entries: the larger, the sooner sent.
pub trait Selector: Send + Sync {
    /// One score for each entry, shape `[n]`; their magnitude counts.
    fn scores<'a>(&self, scene: &Scene<'a>) -> Cow<'a, [f32]>;
}

/// The selector of a ranking.
#[must_use]
pub fn selector(by: Ranking) -> &'static dyn Selector {
    match by {
        Ranking::Magnitude => &magnitude::Magnitude,
        Ranking::Importance => &importance::Importance,
        Ranking::RankWise => &rank_wise::RankWise,
    }
}

/// The entries of `domain` that travel: `density` of it, by `rule`; of a task head its own share.
///
/// # Errors
/// [`SelectError::NonFinite`] at a NaN or an infinity.
pub fn select(
    manifest: &Manifest,
    rule: &Select,
    density: Density,
    domain: &Support,
    scene: &Scene<'_>,
) -> Result<Support, SelectError> {
    if let Some(index) = scene.delta.iter().position(|v| !v.is_finite()) {
        return Err(SelectError::NonFinite { index, value: scene.delta[index] });
    }
    let n = scene.layout.n();
    if domain::share(manifest, domain, density, rule.scope) == domain.count(n) {
        return Ok(domain.clone());
    }
    let scores = selector(rule.by).scores(scene);
    let plain = rule.scope == Scope::Global && *domain == Support::All && !has_head(scene.layout);
    if plain {
        return top_k(&scores, density.count(n));
    }
    let mut kept = Vec::new();
    for (ranges, density) in domain::groups(manifest, density) {
        match rule.scope {
            Scope::Global => best(&scores, domain, &ranges, density, 0.0, &mut kept)?,
            Scope::Floor(floor) => best(&scores, domain, &ranges, density, floor, &mut kept)?,
            Scope::Tensor => {
                for range in ranges {
                    best(&scores, domain, &[range], density, 0.0, &mut kept)?;
                }
            }
        }
    }
    kept.sort_unstable();
    Ok(Support::Indices(kept))
}

fn has_head(layout: &Layout) -> bool {
    layout.tensors().any(|(tensor, _)| is_head(tensor.part))
}

/// Whether a tensor belongs to the task head.
pub(crate) fn is_head(part: Part) -> bool {
    match part {
        Part::LoraA | Part::LoraB | Part::LoraR | Part::Weight | Part::Control => false,
        Part::Head => true,
    }
}

/// Appends the best `density` of the domain's coordinates in `ranges`; of each range at least `floor`
/// times its even share.
fn best(
    scores: &[f32],
    domain: &Support,
    ranges: &[Range<usize>],
    density: Density,
    floor: f32,
    kept: &mut Vec<u32>,
) -> Result<(), SelectError> {
    let places: Vec<Vec<u32>> = ranges.iter().map(|range| within(domain, range)).collect();
    let total = places.iter().map(Vec::len).sum();
    let mut left = density.count(total);
    let mut rest = Vec::new();
    for places in &places {
        let least = if floor > 0.0 {
            (f64::from(floor) * density.count(places.len()) as f64) as usize
        } else {
            0
        };
        let least = least.min(left);
        let sure = pick(scores, places, least)?;
        left -= sure.len();
        let mut sent = sure.iter().peekable();
        rest.extend(places.iter().filter(|&place| sent.next_if_eq(&place).is_none()));
        kept.extend(sure);
    }
    kept.extend(pick(scores, &rest, left)?);
    Ok(())
}

/// The `k` of `places` with the best scores, rising.
fn pick(scores: &[f32], places: &[u32], k: usize) -> Result<Vec<u32>, SelectError> {
    if k == 0 {
        return Ok(Vec::new());
    }
    let found: Vec<f32> = places.iter().map(|&place| scores[place as usize]).collect();
    Ok(match top_k(&found, k)? {
        Support::All => places.to_vec(),
        Support::Indices(ranks) => ranks.into_iter().map(|rank| places[rank as usize]).collect(),
    })
}

/// The domain's coordinates in `range`.
fn within(domain: &Support, range: &Range<usize>) -> Vec<u32> {
    match domain {
        Support::All => (range.start as u32..range.end as u32).collect(),
        Support::Indices(indices) => {
            let from = indices.partition_point(|&index| (index as usize) < range.start);
            let to = indices.partition_point(|&index| (index as usize) < range.end);
            indices[from..to].to_vec()
        }
    }
}

#[cfg(test)]
mod tests;
