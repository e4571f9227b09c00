//! Which coordinates may travel: a function of the manifest, the round and the client, so that it takes
//! no bytes. What travels of it is the sender's choice.

use std::ops::Range;

use super::{is_head, tier};
use crate::density::Density;
use crate::ids::{ClientId, RoundId};
use crate::layout::{Part, TensorSpec};
use crate::manifest::{Combine, Coverage, Manifest, Scope};
use crate::rng::Stream;
use crate::sparse::Support;

/// Coordinates of one stripe; stripes are dealt to segments in turn.
const STRIPE: usize = 256;

/// What `client` may send in `round`. `shared` is the snapshot's support, where only that may travel.
///
/// A task head is left out of segments and random shares: it has a density of its own.
#[must_use]
pub fn of(
    manifest: &Manifest,
    round: RoundId,
    client: ClientId,
    shared: Option<&Support>,
) -> Support {
    let (layout, method) = (&manifest.layout, &manifest.method);
    let select = &method.upload.select;
    if method.train == Coverage::Support {
        return shared.cloned().unwrap_or(Support::All);
    }
    let segments = u64::from(select.segments.0);
    let own = tier::first_components(manifest, client);
    let all = !method.takes_turns() && !method.combine.changes_weights();
    let plain = all && segments == 1 && own.is_none();
    if plain && select.random.is_none() {
        return shared.cloned().unwrap_or(Support::All);
    }
    let turn = turn(round, client, segments);
    let mut dice = select.random.map(|density| {
        let stream = Stream::new(manifest.seed, "random-support", &[&round.0.to_le_bytes()]);
        // Of 2^32 words so many stand for "yes".
        (stream, (f64::from(density) * 4_294_967_296.0) as u64)
    });
    let mut shared = shared.and_then(Support::indices).map(|indices| indices.iter().peekable());
    let mut indices = Vec::new();
    for (tensor, range) in layout.tensors() {
        let waits = !has_turn(manifest, round, tensor);
        let head = is_head(tensor.part);
        for index in range {
            let drawn = match &mut dice {
                // One word for every coordinate, so that a coordinate's draw is its own.
                Some((stream, below)) => u64::from(stream.word()) < *below,
                None => true,
            };
            let given = match &mut shared {
                Some(indices) => indices.next_if_eq(&&(index as u32)).is_some(),
                None => true,
            };
            let striped = (index / STRIPE) as u64 % segments == turn;
            let owned = own.as_ref().is_none_or(|own| own[index]);
            if given && owned && !waits && (head || (drawn && striped)) {
                indices.push(index as u32);
            }
        }
    }
    Support::Indices(indices)
}

/// Whether `tensor` is sent in `round`: under an alternation A and B take turns, B first; with a core B is
/// sent in the first round, A in the second, and then the core; a weight's change behind factors is the
/// aggregator's alone; all else always.
#[must_use]
pub fn has_turn(manifest: &Manifest, round: RoundId, tensor: &TensorSpec) -> bool {
    if tensor.part == Part::Weight && manifest.method.combine.changes_weights() {
        return false;
    }
    if manifest.method.combine == Combine::Core {
        return match tensor.part {
            Part::LoraB => round.0 == 0,
            Part::LoraA => round.0 == 1,
            Part::LoraR => round.0 > 1,
            Part::Head | Part::Weight | Part::Control => true,
        };
    }
    let Some(alternation) = manifest.method.alternate else { return true };
    let is_even = (round.0 / alternation.rounds).is_multiple_of(2);
    match tensor.part {
        Part::LoraA => !is_even,
        Part::LoraB => is_even,
        Part::Head | Part::Weight | Part::Control | Part::LoraR => true,
    }
}

/// Which segment a client sends: the next one each round, clients spread by their names.
fn turn(round: RoundId, client: ClientId, segments: u64) -> u64 {
    let name = u32::from_le_bytes([client.0[0], client.0[1], client.0[2], client.0[3]]);
    (round.0 % segments + u64::from(name) % segments) % segments
}

/// Entries of `domain` that `density` lets travel: the adapter's and a head's share of their own, under
/// [`Scope::Tensor`] each tensor's.
#[must_use]
pub fn share(manifest: &Manifest, domain: &Support, density: Density, scope: Scope) -> usize {
    let count = |ranges: &[Range<usize>]| -> usize {
        match domain {
            Support::All => ranges.iter().map(Range::len).sum(),
            Support::Indices(indices) => {
                let below = |end: usize| indices.partition_point(|&index| (index as usize) < end);
                ranges.iter().map(|range| below(range.end) - below(range.start)).sum()
            }
        }
    };
    let of_group = |(ranges, density): (Vec<Range<usize>>, Density)| match scope {
        Scope::Tensor => ranges.chunks(1).map(|range| density.count(count(range))).sum(),
        Scope::Global | Scope::Floor(_) => density.count(count(&ranges)),
    };
    groups(manifest, density).map(of_group).sum::<usize>()
}

/// Tensors that compete with each other, and their density: the adapter's, then a head's.
pub(super) fn groups(
    manifest: &Manifest,
    density: Density,
) -> impl Iterator<Item = (Vec<Range<usize>>, Density)> {
    let ranges = |head: bool| -> Vec<Range<usize>> {
        let of = manifest.layout.tensors().filter(|(tensor, _)| is_head(tensor.part) == head);
        of.map(|(_, range)| range).collect()
    };
    [(ranges(false), density), (ranges(true), manifest.method.head_density)]
        .into_iter()
        .filter(|(ranges, _)| !ranges.is_empty())
}
