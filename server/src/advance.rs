//! From one round to the next: a pure function of the accepted set, the manifest and the state.
//!
//! ```text
//! frames -> decode, check -> combine -> delta -> optimiser step -> snapshot
//! ```
//!
//! Neither clock nor order of arrival goes in, so any replica comes to the same bytes, before or
//! after a crash.

use std::collections::BTreeMap;
use std::ops::Range;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::fold::FoldError;
use gossamer_protocol::frame::{FrameError, Origin, Snapshot, Terms, Update};
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::layout::Part;
use gossamer_protocol::manifest::{Manifest, Scaffold};
use gossamer_protocol::message::{RECORD_VERSION, Record, accepted_digest};
use gossamer_protocol::sparse::Support;

use crate::aggregate::{self, AggregateError, Aggregator, Start, Worth};
use crate::optimizer;
use crate::snapshot::{self, SnapshotError};
use crate::state::ServerState;

/// Why a round cannot be closed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AdvanceError {
    /// An accepted update no longer decodes: the store is damaged.
    #[error("accepted update does not decode")]
    Frame(#[from] FrameError),
    /// An accepted update no longer fits.
    #[error("accepted update does not fit")]
    Aggregate(#[from] AggregateError),
    /// The step left what can be sent.
    #[error(transparent)]
    Diverged(#[from] SnapshotError),
}

/// A published snapshot, ready to be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The server's state.
    pub state: ServerState,
    /// Its bytes.
    pub state_bytes: Vec<u8>,
    /// The snapshot's frame.
    pub snapshot: Vec<u8>,
    /// The record of both, not yet signed.
    pub record: Record,
}

/// A run's identity: what every record repeats.
#[derive(Clone, Copy, Debug)]
pub struct Lineage<'a> {
    /// The run.
    pub run: RunId,
    /// Digest of the signed manifest.
    pub digest: Digest,
    /// The manifest.
    pub manifest: &'a Manifest,
}

impl Lineage<'_> {
    /// Snapshot 0, of the adapter `theta`, or else of the seeded start.
    ///
    /// # Errors
    /// [`SnapshotError`] where even that cannot be sent.
    pub fn start(&self, theta: Option<Vec<f32>>) -> Result<Outcome, SnapshotError> {
        let state = ServerState::start(self.manifest, theta);
        self.outcome(state, RoundId(0), None, Attempt(0), &BTreeMap::new(), &[])
    }

    /// The snapshot after `closing` took the step `delta` (`None`: nobody reported).
    ///
    /// # Errors
    /// [`SnapshotError`] where the step diverged.
    pub fn next(
        &self,
        mut state: ServerState,
        delta: Option<&[f32]>,
        closing: &Closing<'_>,
    ) -> Result<Outcome, SnapshotError> {
        if let Some(delta) = delta {
            state.steps += 1;
            let controls = self.controls(&state.theta, delta, closing.accepted.len());
            let rule = optimizer::of(&self.manifest.optimizer);
            rule.step(state.steps, &mut state.theta, delta, &mut state.slots);
            for (place, control) in controls {
                state.theta[place].copy_from_slice(&control);
            }
        }
        let Closing { round, parent, attempt, accepted, staleness } = *closing;
        self.outcome(state, round.next(), Some(parent), attempt, accepted, staleness)
    }

    /// The snapshot after a round in which nobody was counted and the operator went back to `state`.
    ///
    /// # Errors
    /// [`SnapshotError`] where it cannot be sent as `round`'s.
    pub fn back(
        &self,
        state: ServerState,
        round: RoundId,
        parent: Digest,
    ) -> Result<Outcome, SnapshotError> {
        self.outcome(state, round.next(), Some(parent), Attempt(0), &BTreeMap::new(), &[])
    }

    /// SCAFFOLD's control variates after a round: `c + |S| / N mean(dc_k)`, whatever the optimiser. Source:
    /// arXiv:1910.06378, equation 5.
    fn controls(&self, theta: &[f32], delta: &[f32], sent: usize) -> Vec<(Range<usize>, Vec<f32>)> {
        let Some(Scaffold { clients }) = self.manifest.method.scaffold else { return Vec::new() };
        let share = sent as f64 / f64::from(clients);
        let stepped = |place: Range<usize>| {
            let pairs = theta[place.clone()].iter().zip(&delta[place.clone()]);
            let next = pairs.map(|(&c, &mean)| (f64::from(c) + share * f64::from(mean)) as f32);
            (place, next.collect())
        };
        let tensors = self.manifest.layout.tensors();
        let controls = tensors.filter(|(tensor, _)| tensor.part == Part::Control);
        controls.map(|(_, place)| stepped(place)).collect()
    }

    fn outcome(
        &self,
        mut state: ServerState,
        round: RoundId,
        parent: Option<Digest>,
        attempt: Attempt,
        accepted: &BTreeMap<ClientId, Digest>,
        staleness: &[u32],
    ) -> Result<Outcome, SnapshotError> {
        let snapshot = snapshot::take(self.manifest, self.run, round, &mut state)?;
        let state_bytes = state.encode();
        let record = Record {
            version: RECORD_VERSION,
            run: self.run,
            round,
            parent,
            manifest: self.digest,
            snapshot: Digest::of(&snapshot),
            snapshot_bytes: snapshot.len() as u64,
            state: Digest::of(&state_bytes),
            attempt,
            // A cohort has at most 2^14 clients.
            accepted: accepted.len() as u32,
            accepted_set: accepted_digest(accepted),
            staleness: staleness.to_vec(),
        };
        Ok(Outcome { state, state_bytes, snapshot, record })
    }
}

/// A frozen round.
#[derive(Clone, Copy, Debug)]
pub struct Closing<'a> {
    /// The round.
    pub round: RoundId,
    /// Digest of its record.
    pub parent: Digest,
    /// The attempt that was on when it froze.
    pub attempt: Attempt,
    /// What was accepted.
    pub accepted: &'a BTreeMap<ClientId, Digest>,
    /// How late each of those was, in their order; nothing where rounds are not buffered.
    pub staleness: &'a [u32],
}

/// Decodes and sums updates; a piece at a time, so that a large cohort needs little memory.
pub struct Combining {
    rule: Box<dyn Aggregator>,
    training: Training,
}

/// What the updates of a round say of their training: for people to look at, nothing is computed
/// from it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Training {
    /// Sequences trained on.
    pub examples: u64,
    /// Bytes of the frames.
    pub bytes: u64,
    /// The sum of each update's loss times its examples.
    weighed: f64,
}

impl Training {
    /// `examples u64 | bytes u64 | weighed f64`, little-endian.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let Self { examples, bytes, weighed } = self;
        [examples.to_le_bytes(), bytes.to_le_bytes(), weighed.to_le_bytes()].concat()
    }

    /// Adds [`to_bytes`](Self::to_bytes) of other updates.
    fn merge(&mut self, bytes: &[u8]) -> Result<(), AdvanceError> {
        let &[examples, bytes, weighed] = bytes.as_chunks::<8>().0 else {
            return Err(AggregateError::Fold(FoldError::Bytes).into());
        };
        self.examples += u64::from_le_bytes(examples);
        self.bytes += u64::from_le_bytes(bytes);
        self.weighed += f64::from_le_bytes(weighed);
        Ok(())
    }

    /// Mean training loss in nats a token, weighed by examples; none where nobody reported.
    #[must_use]
    pub fn loss(&self) -> Option<f64> {
        (self.examples > 0).then(|| self.weighed / self.examples as f64)
    }
}

impl Combining {
    /// Nothing summed yet. `start`: what the round started from, where the manifest's rule looks at products.
    ///
    /// # Errors
    /// [`AdvanceError::Aggregate`] where that is missing.
    pub fn new(manifest: &Manifest, start: Option<Start>) -> Result<Self, AdvanceError> {
        let rule = aggregate::of(manifest, start)?;
        Ok(Self { rule, training: Training::default() })
    }

    /// Adds one accepted frame, made from the snapshot of so many rounds ago.
    ///
    /// # Errors
    /// [`AdvanceError`] where it is not what was accepted.
    pub fn add(
        &mut self,
        frame: &[u8],
        terms: &Terms<'_>,
        origin: &Origin,
        shared: Option<&Support>,
        staleness: u32,
    ) -> Result<(), AdvanceError> {
        let update = Update::decode(frame, terms, origin, shared)?;
        self.add_decoded(&update, frame.len(), staleness)
    }

    /// Adds one that is decoded, from a frame of so many `bytes`.
    ///
    /// # Errors
    /// As for [`add`](Self::add).
    pub(crate) fn add_decoded(
        &mut self,
        update: &Update,
        bytes: usize,
        staleness: u32,
    ) -> Result<(), AdvanceError> {
        let worth = Worth { examples: update.examples, staleness };
        self.rule.add(update.origin.client, &update.delta, worth)?;
        self.training.examples += u64::from(update.examples);
        self.training.bytes += bytes as u64;
        self.training.weighed += f64::from(update.loss) * f64::from(update.examples);
        Ok(())
    }

    /// What was added so far, for [`merge`](Self::merge): `examples u64 | bytes u64 | weighed f64`,
    /// little-endian, and the rule's own.
    #[must_use]
    pub fn partial(&self) -> Vec<u8> {
        [self.training.to_bytes(), self.rule.partial()].concat()
    }

    /// Adds a [`partial`](Self::partial) sum of other updates of the round.
    ///
    /// # Errors
    /// [`AdvanceError`] where it is none; then nothing changed.
    pub fn merge(&mut self, partial: &[u8]) -> Result<(), AdvanceError> {
        let head = partial.split_at_checked(24).ok_or(AggregateError::Fold(FoldError::Bytes))?;
        self.rule.merge(head.1)?;
        self.training.merge(head.0)
    }

    /// The sum as numbers that may be added place by place to those of other updates; none where the rule has no
    /// such sum.
    #[must_use]
    pub fn words(&self) -> Option<Vec<i64>> {
        self.rule.words()
    }

    /// Takes the [sum](Self::words) of several in place of its own, and what each said of its training.
    ///
    /// # Errors
    /// [`AdvanceError`] where that is no such sum.
    pub(crate) fn set(&mut self, words: &[i64], trained: &[Vec<u8>]) -> Result<(), AdvanceError> {
        self.rule.set_words(words)?;
        self.training = Training::default();
        trained.iter().try_for_each(|bytes| self.training.merge(bytes))
    }

    /// What the updates say of their training.
    #[must_use]
    pub fn training(&self) -> Training {
        self.training
    }

    /// The combined delta.
    #[must_use]
    pub fn finish(self) -> Option<Vec<f32>> {
        self.rule.finish()
    }
}

/// The support that clients of a round share with the server, from its snapshot's frame.
///
/// # Errors
/// [`FrameError`] where the frame is not this round's.
pub fn shared_support(snapshot: &[u8], terms: &Terms<'_>) -> Result<Option<Support>, FrameError> {
    if !terms.needs_support() {
        return Ok(None);
    }
    Ok(Some(Snapshot::decode(snapshot, terms)?.values.support().clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_weighs_by_its_examples() {
        assert_eq!(Training::default().loss(), None);
        // One sequence at 2 nats, three at 4.
        let training = Training { examples: 4, bytes: 0, weighed: 1.0 * 2.0 + 3.0 * 4.0 };
        assert_eq!(training.loss(), Some(3.5));
    }
}
