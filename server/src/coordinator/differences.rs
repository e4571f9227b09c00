//! A round's snapshot for clients that hold an earlier one.
//!
//! Made when the first client asks, from two stored snapshots, and kept while the round is open: a round
//! has as many as there are rounds that its clients come from. A pure function of the two, so any
//! aggregator makes the same.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use gossamer_protocol::frame::{Snapshot, Terms};
use gossamer_protocol::ids::{RoundId, RunId};
use tokio::sync::OnceCell;

use super::close::blocking;
use super::{Coordinator, CoordinatorError, Run};

/// Differences start from this many rounds back at most: who was away for longer gets the snapshot.
const ROUNDS_MAX: u64 = 64;
/// What a run's may take in memory: of longer snapshots fewer are kept.
const BYTES_MAX: usize = 64 << 20;

/// How many rounds back differences start from, of a snapshot of so many bytes.
pub(super) fn rounds_back(bytes: usize) -> u64 {
    ROUNDS_MAX.min((BYTES_MAX / bytes.max(1)) as u64)
}

/// Those of a run's open round.
#[derive(Default)]
pub(super) struct Differences {
    round: RoundId,
    /// By the round that is held; `None` where the snapshot itself is no longer.
    made: BTreeMap<RoundId, Arc<OnceCell<Option<Bytes>>>>,
}

impl Differences {
    /// The place for the one from `held` to `round`; those of other rounds are forgotten.
    fn place(&mut self, round: RoundId, held: RoundId) -> Arc<OnceCell<Option<Bytes>>> {
        if self.round != round {
            *self = Self { round, made: BTreeMap::new() };
        }
        self.made.entry(held).or_default().clone()
    }
}

impl Coordinator {
    /// The snapshot that `round` starts from, as a difference to that of round `held`.
    ///
    /// # Errors
    /// [`CoordinatorError::NoDifference`] where the snapshot itself is to be fetched;
    /// [`CoordinatorError::UnknownRun`], and the store's.
    pub async fn difference(
        &self,
        run: RunId,
        round: RoundId,
        held: RoundId,
    ) -> Result<Bytes, CoordinatorError> {
        let run = self.find(run).await?;
        let (now, frame) = {
            let open = self.lock(&run).await?;
            (open.round.id(), open.snapshot_bytes.clone())
        };
        let none = CoordinatorError::NoDifference { round, held };
        let never = !Terms::new(&run.manifest, run.id, round).has_differences();
        if never || round != now || held >= round || round.0 - held.0 > rounds_back(frame.len()) {
            return Err(none);
        }
        let place = {
            let mut made = run.differences.lock().unwrap_or_else(PoisonError::into_inner);
            made.place(round, held)
        };
        let made = place.get_or_try_init(|| self.make_difference(&run, round, held, frame)).await?;
        made.clone().ok_or(none)
    }

    async fn make_difference(
        &self,
        run: &Arc<Run>,
        round: RoundId,
        held: RoundId,
        frame: Bytes,
    ) -> Result<Option<Bytes>, CoordinatorError> {
        // One at a time: each takes a core, and the adapter's size in memory.
        let _turn = self.0.differencing.lock().await;
        let before = match self.snapshot_of(run, held).await {
            Err(CoordinatorError::Gone { .. }) => return Ok(None),
            before => before?,
        };
        let run = run.clone();
        blocking(move || {
            let terms = |round| Terms::new(&run.manifest, run.id, round);
            let before = Snapshot::decode(&before, &terms(held))?;
            let made = before.difference(&frame, &terms(round))?;
            Ok(made.filter(|made| made.len() < frame.len()).map(Bytes::from))
        })
        .await?
    }
}
