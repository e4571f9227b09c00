//! Back to an earlier round's adapter, by a record that follows the last one: the chain only ever grows.

use std::sync::Arc;

use bytes::Bytes;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{Attempt, RoundId, RunId};

use super::close::blocking;
use super::{Coordinator, CoordinatorError, Run};
use crate::audit::Event as Told;
use crate::round::Phase;
use crate::state::ServerState;
use crate::status::Status;
use crate::store::{Kind, PublishRow, RoundRow};

impl Coordinator {
    /// Makes the adapter and the optimiser's state that round `to` started from those of the next round.
    /// The round that is on ends without an update; who was asked in it is told that it is over. Gives the
    /// round that now begins.
    ///
    /// # Errors
    /// [`CoordinatorError::Rollback`] where the run is not paused, updates of the round that is on have receipts
    /// and so must be counted, `to` is not before it, or no round is left. [`CoordinatorError::UnknownRun`],
    /// [`CoordinatorError::UnknownRound`], and the store's.
    pub async fn roll_back(&self, run: RunId, to: RoundId) -> Result<RoundId, CoordinatorError> {
        let run = self.find(run).await?;
        self.apart(move |this| async move { this.back(&run, to).await }).await
    }

    async fn back(&self, run: &Arc<Run>, to: RoundId) -> Result<RoundId, CoordinatorError> {
        let (round, parent, phase, sent) = {
            let open = self.lock(run).await?;
            let round = &open.round;
            (round.id(), open.record, round.phase(), round.accepted().len())
        };
        let checks = [
            (run.status().status == Status::Paused, "pause the run first"),
            (
                sent == 0 && phase != Phase::Frozen,
                "updates of the round that is on have receipts and must be counted: resume the run until it closes",
            ),
            (to < round, "there is nothing to go back to: name a round before the one that is on"),
            (round.0 + 1 < run.manifest.rounds, "going back takes a round, and none would be left"),
        ];
        if let Some((_, why)) = checks.into_iter().find(|(sound, _)| !sound) {
            return Err(CoordinatorError::Rollback(why));
        }
        let state = ServerState::decode(&self.state_of(run, to).await?)?;
        let of = run.clone();
        let outcome = blocking(move || of.lineage().back(state, round, parent)).await??;
        let objects = self.0.store.objects();
        objects
            .put(Kind::StateOf(run.id, outcome.record.round), outcome.state_bytes.into())
            .await?;
        objects.put(Kind::Snapshot, Bytes::from(outcome.snapshot)).await?;
        let (record, signed) = (&outcome.record, self.sign_record(&outcome.record));
        let next = record.round;
        let row = PublishRow {
            run: run.id,
            round: next,
            record: &signed,
            snapshot: record.snapshot,
            state: record.state,
            state_kept: true,
            last: false,
            why: "",
            oldest: next,
        };
        let record = Digest::of(&signed.bytes);
        let note = self.note(Told::RolledBack { run: run.id, round, to, record }).of(&run.project);
        let closed = RoundRow {
            round,
            closed_ms: note.at.0,
            attempt: Attempt(0),
            asked: 0,
            accepted: 0,
            examples: 0,
            loss: None,
            bytes_up: 0,
            bytes_down: 0,
            evaluation: None,
        };
        let done = self.0.store.roll_back(&row, &closed, &note).await?;
        // Whoever uses the run next reads it from the store.
        run.open.lock().await.dirty = true;
        self.changed();
        if !done {
            return Err(CoordinatorError::Rollback("the run went on meanwhile: look again"));
        }
        tracing::warn!(run = %run.id, %round, %to, "rolled back");
        Ok(next)
    }

    /// The round that started from the best snapshot: that of the lowest loss on what clients hold out or, in
    /// a run without an evaluation, in training. None before one was measured.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownRun`], and the store's.
    pub async fn best_round(&self, run: RunId) -> Result<Option<(RoundId, f64)>, CoordinatorError> {
        let evaluates = self.find(run).await?.manifest.evaluation.is_some();
        let rows = self.rounds(run, RoundId(0), u32::MAX).await?;
        let loss = |row: &RoundRow| match evaluates {
            true => row.evaluation.map(|evaluated| evaluated.loss),
            false => row.loss,
        };
        let measured = rows.iter().filter_map(|row| Some((row.round, loss(row)?)));
        // The first of equals.
        Ok(measured.min_by(|a, b| a.1.total_cmp(&b.1)))
    }
}
