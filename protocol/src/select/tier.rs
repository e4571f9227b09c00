//! A client's part of a round's snapshot where clients are in tiers: a function of manifest, client and
//! snapshot, so that both ends come to the same.
//!
//! One snapshot goes to all, that of the largest tier; a client of a smaller one leaves the rest out. So
//! tiers save uploads and work on the device, but no download.

use std::ops::Range;

use super::{SelectError, is_head, top_k};
use crate::density::Density;
use crate::frame::Snapshot;
use crate::ids::ClientId;
use crate::layout::{Layout, Pair, pairs};
use crate::manifest::{Manifest, Reference, Tier, TierRanks};
use crate::sparse::Support;

/// The tier of `client`; `None` where there are none.
#[must_use]
pub fn of(manifest: &Manifest, client: ClientId) -> Option<&Tier> {
    let tiers = &manifest.method.tiers;
    let name = u32::from_le_bytes([client.0[0], client.0[1], client.0[2], client.0[3]]);
    tiers.get(name as usize % tiers.len().max(1))
}

/// What a client starts from, and which entries are its own to train and send; `None`: all.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The adapter, shape `[n]`.
    pub theta: Vec<f32>,
    /// Its own entries.
    pub own: Option<Support>,
}

/// `client`'s part of `snapshot`.
///
/// # Errors
/// [`SelectError::NonFinite`] at a NaN or an infinity.
pub fn part(
    manifest: &Manifest,
    client: ClientId,
    snapshot: &Snapshot,
) -> Result<Part, SelectError> {
    let mut theta = snapshot.theta(manifest);
    let layout = &manifest.layout;
    let own = match of(manifest, client) {
        None | Some(Tier { rank: None, density: None }) => None,
        Some(Tier { density: Some(density), .. }) => {
            let kept = largest(layout, snapshot, *density)?;
            let missing = match snapshot.reference {
                Reference::Weights => vec![0.0; layout.n()],
                Reference::Change => layout.init(manifest.seed),
            };
            let places = kept.iter().zip(theta.iter_mut().zip(missing));
            places.filter(|(kept, _)| !**kept).for_each(|(_, (value, missing))| *value = missing);
            None
        }
        Some(Tier { rank: Some(rank), .. }) => {
            let kept = components(layout, *rank, |pair| match manifest.method.tier_ranks {
                TierRanks::First => first(pair, *rank),
                TierRanks::Norm => longest(pair, *rank, &theta),
            });
            let places = kept.iter().zip(&mut theta);
            places.filter(|(kept, _)| !**kept).for_each(|(_, value)| *value = 0.0);
            let indices = (0_u32..).zip(&kept).filter(|(_, kept)| **kept);
            Some(Support::Indices(indices.map(|(index, _)| index).collect()))
        }
    };
    Ok(Part { theta, own })
}

/// The entries that a client of `client`'s tier trains, where the tier's rank alone says which.
pub(super) fn first_components(manifest: &Manifest, client: ClientId) -> Option<Vec<bool>> {
    let rank = of(manifest, client)?.rank?;
    let first = |pair: &Pair| first(pair, rank);
    (manifest.method.tier_ranks == TierRanks::First)
        .then(|| components(&manifest.layout, rank, first))
}

/// Which rows of A and which columns of B.
type Chosen = [Vec<bool>; 2];

fn first(pair: &Pair, rank: usize) -> Chosen {
    let chosen: Vec<bool> = (0..pair.rank).map(|at| at < rank).collect();
    [chosen.clone(), chosen]
}

fn longest(pair: &Pair, rank: usize, theta: &[f32]) -> Chosen {
    [pair.norms_a(theta), pair.norms_b(theta)].map(|norms| {
        let mut order: Vec<usize> = (0..norms.len()).collect();
        // Stable: of equal ones the first.
        order.sort_by(|&i, &j| norms[j].total_cmp(&norms[i]));
        let mut chosen = vec![false; norms.len()];
        order.iter().take(rank).for_each(|&at| chosen[at] = true);
        chosen
    })
}

/// The entries of the components that `choose` gives of each linear, and all that is no factor.
fn components(layout: &Layout, rank: usize, choose: impl Fn(&Pair) -> Chosen) -> Vec<bool> {
    let mut kept = vec![true; layout.n()];
    for pair in pairs(layout).iter().filter(|pair| pair.rank > rank) {
        let [rows, columns] = choose(pair);
        if !pair.a.is_empty() {
            for (row, chosen) in kept[pair.a.clone()].chunks_mut(pair.d_in).zip(rows) {
                row.fill(chosen);
            }
        }
        for row in kept[pair.b.clone()].chunks_mut(pair.rank) {
            row.copy_from_slice(&columns);
        }
    }
    kept
}

/// The `density` largest of the snapshot's values, of the adapter's tensors together; a head whole.
fn largest(
    layout: &Layout,
    snapshot: &Snapshot,
    density: Density,
) -> Result<Vec<bool>, SelectError> {
    let mut values = vec![0.0; layout.n()];
    snapshot.values.add_to(&mut values);
    let mut kept = vec![true; layout.n()];
    let heads: Vec<Range<usize>> =
        layout.tensors().filter(|(t, _)| is_head(t.part)).map(|(_, range)| range).collect();
    let adapter = heads.first().map_or(layout.n(), |head| head.start);
    if let Support::Indices(indices) = top_k(&values[..adapter], density.count(adapter))? {
        kept[..adapter].fill(false);
        indices.into_iter().for_each(|index| kept[index as usize] = true);
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{RoundId, RunId};
    use crate::layout::BaseLinear;
    use crate::manifest::Lora;
    use crate::sparse::Sparse;

    const FIRST: ClientId = ClientId([0; 16]);
    const SECOND: ClientId = ClientId([1; 16]);

    /// `A = [[1, 2], [3, 4], [9, 0]]`, `B = [[5, 0, 6]]`.
    const THETA: [f32; 9] = [1.0, 2.0, 3.0, 4.0, 9.0, 0.0, 5.0, 0.0, 6.0];

    fn setting(tiers: &[Tier], ranks: TierRanks) -> (Manifest, Snapshot) {
        let mut manifest = crate::manifest::tests::manifest();
        let linear = BaseLinear { name: "m.q_proj".into(), d_in: 2, d_out: 1 };
        manifest.lora = Lora::new(3, 3.0, vec!["q_proj".to_owned()]);
        manifest.layout = manifest.lora.layout(&[linear]).expect("valid");
        (manifest.method.tiers, manifest.method.tier_ranks) = (tiers.to_vec(), ranks);
        manifest.to_bytes().expect("sound");
        let values = Sparse::gather(&THETA, Support::All).expect("fits");
        let reference = Reference::Weights;
        (manifest, Snapshot { run: RunId([1; 16]), round: RoundId(0), reference, values })
    }

    fn rank(rank: usize) -> Tier {
        Tier { rank: Some(rank), density: None }
    }

    #[test]
    fn a_tier_goes_by_the_name() {
        let (manifest, _) = setting(&[rank(1), rank(3)], TierRanks::First);
        assert_eq!(of(&manifest, FIRST), Some(&rank(1)));
        // 0x01010101 is odd.
        assert_eq!(of(&manifest, SECOND), Some(&rank(3)));
        let (manifest, _) = setting(&[], TierRanks::First);
        assert_eq!(of(&manifest, SECOND), None);
    }

    /// HetLoRA's truncation: the first rows of A, the first columns of B, 0 for the others.
    #[test]
    fn a_smaller_rank_is_the_first_components() {
        let (manifest, snapshot) = setting(&[rank(2), rank(3)], TierRanks::First);
        let Part { theta, own } = part(&manifest, FIRST, &snapshot).expect("finite");
        assert_eq!(theta, [1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 5.0, 0.0, 0.0]);
        assert_eq!(own, Some(Support::Indices(vec![0, 1, 2, 3, 6, 7])));
        let Part { theta, own } = part(&manifest, SECOND, &snapshot).expect("finite");
        assert_eq!(theta, THETA);
        assert_eq!(own, Some(Support::Indices((0..9).collect())));
    }

    /// Rows of A have lengths 2.2, 5 and 9, columns of B 5, 0 and 6: rows 2 and 1, columns 2 and 0.
    #[test]
    fn by_norm_factors_are_chosen_apart() {
        let (manifest, snapshot) = setting(&[rank(2), rank(3)], TierRanks::Norm);
        let Part { theta, own } = part(&manifest, FIRST, &snapshot).expect("finite");
        assert_eq!(theta, [0.0, 0.0, 3.0, 4.0, 9.0, 0.0, 5.0, 0.0, 6.0]);
        assert_eq!(own, Some(Support::Indices(vec![2, 3, 4, 5, 6, 8])));
        assert_eq!(first_components(&manifest, FIRST), None);
    }

    /// FLASC's tiers: a third of nine entries, the largest; all are trained.
    #[test]
    fn a_smaller_density_starts_from_the_largest() {
        let third = Tier { rank: None, density: Some((1.0 / 3.0).try_into().expect("a share")) };
        let (manifest, snapshot) = setting(&[third, Tier::default()], TierRanks::First);
        let Part { theta, own } = part(&manifest, FIRST, &snapshot).expect("finite");
        assert_eq!(theta, [0.0, 0.0, 0.0, 0.0, 9.0, 0.0, 5.0, 0.0, 6.0]);
        assert_eq!(own, None);
        assert_eq!(part(&manifest, SECOND, &snapshot).expect("finite").theta, THETA);
    }
}
