//! What ranks tell each other in a round.

use std::collections::BTreeMap;

use gossamer_client::client::{Contribution, chain};
use gossamer_protocol::message::Receipt;
use gossamer_server::coordinator::Admission;
use serde::{Deserialize, Serialize};

use super::EngineError;
use super::federation::Run;
use crate::ranks::RanksError;

/// What one rank's clients did.
#[derive(Serialize, Deserialize)]
struct Told {
    done: Vec<Done>,
    /// The first in the fleet that failed.
    failed: Option<Failed>,
}

#[derive(Serialize, Deserialize)]
struct Done {
    at: usize,
    receipt: Receipt,
    examples: u32,
    /// An `f32`'s bits.
    loss: u32,
    entries: usize,
    update_bytes: u64,
    predicted_bytes: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Failed {
    at: usize,
    diverged: bool,
    why: String,
}

impl Done {
    fn of(at: usize, contribution: &Contribution) -> Self {
        let Contribution { receipt, examples, loss, entries, .. } = contribution;
        let Contribution { update_bytes, predicted_bytes, .. } = *contribution;
        let (receipt, loss) = (receipt.clone(), loss.to_bits());
        let (examples, entries) = (*examples, *entries);
        Self { at, receipt, examples, loss, entries, update_bytes, predicted_bytes }
    }

    fn contribution(self) -> (usize, Contribution) {
        let Self { at, receipt, examples, loss, entries, update_bytes, predicted_bytes } = self;
        let loss = f32::from_bits(loss);
        let of = Contribution { receipt, examples, loss, entries, update_bytes, predicted_bytes };
        (at, of)
    }
}

impl Run<'_> {
    /// All ranks' updates of `round`, in the order of the fleet, each counted by each rank's aggregator; or of
    /// several failures, on all ranks, the one of the first in the fleet.
    pub(super) async fn all_done(
        &self,
        round: u64,
        mut done: Vec<(usize, Contribution)>,
        failure: Option<(usize, EngineError)>,
    ) -> Result<Vec<(usize, Contribution)>, EngineError> {
        let ranks = &self.lab.ranks;
        let told = Told {
            done: done.iter().map(|(at, done)| Done::of(*at, done)).collect(),
            failed: failure.as_ref().map(|(at, error)| Failed {
                at: *at,
                diverged: error.is_divergence(),
                why: chain(error),
            }),
        };
        let all = match ranks.is_alone() {
            true => Vec::new(),
            false => ranks.gather(&told).await?,
        };
        let failed = all.iter().enumerate();
        let failed = failed.filter_map(|(rank, told)| told.failed.as_ref().map(|f| (rank, f)));
        match (failed.min_by_key(|(_, failed)| failed.at), failure) {
            (None, None) => {}
            (Some((rank, failed)), own) if own.as_ref().is_none_or(|own| own.0 != failed.at) => {
                let why = failed.why.clone();
                return Err(match failed.diverged {
                    true => EngineError::Diverged { round, why },
                    false => RanksError::Failed { rank, why }.into(),
                });
            }
            (_, Some((_, own))) => return Err(own),
            (Some(_), None) => {}
        }
        for (rank, told) in all.into_iter().enumerate() {
            if rank == ranks.rank() {
                continue;
            }
            for (at, theirs) in told.done.into_iter().map(Done::contribution) {
                let Receipt { run, round, attempt, client, update } = theirs.receipt;
                let to = Admission { run, round, attempt, client };
                self.coordinator.accepted_by_peer(to, update).await?;
                done.push((at, theirs));
            }
        }
        done.sort_by_key(|(at, _)| *at);
        Ok(done)
    }

    /// What all ranks' clients of the round trained, by their place in the fleet, where that was kept.
    pub(super) async fn all_trained(&self) -> Result<BTreeMap<usize, Vec<f32>>, EngineError> {
        let mut all = self.trained.take();
        if !self.lab.ranks.is_alone() {
            let n = self.manifest.layout.n();
            let mut bytes = Vec::new();
            for (at, delta) in &all {
                bytes.extend((*at as u64).to_le_bytes());
                bytes.extend(delta.iter().flat_map(|value| value.to_le_bytes()));
            }
            for (rank, bytes) in self.lab.ranks.bytes(bytes).await?.into_iter().enumerate() {
                let each = bytes.chunks(8 + 4 * n).map(|one| {
                    let (at, delta) = one.split_first_chunk()?;
                    let delta = delta.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value));
                    Some((u64::from_le_bytes(*at) as usize, delta.collect()))
                });
                let each: Option<BTreeMap<usize, Vec<f32>>> = each.collect();
                all.extend(each.ok_or(RanksError::Unreadable(rank))?);
            }
        }
        Ok(all)
    }
}
