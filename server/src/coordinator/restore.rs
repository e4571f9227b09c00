//! A run carried to another aggregator of the same key: what was published goes out, and comes in again
//! checked. Updates of the round that was open do not go along; it begins anew.

use bytes::Bytes;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{RoundId, RunId};
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::message::{Record, Signed};
use gossamer_protocol::sign::Purpose;

use super::{Coordinator, CoordinatorError};
use crate::state::ServerState;
use crate::store::{Kind, PublishRow};

/// One published round.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// Its record, as signed.
    pub record: Signed,
    /// The snapshot's frame.
    pub snapshot: Bytes,
}

impl Coordinator {
    /// What round `round` was published with.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownRun`], [`CoordinatorError::UnknownRound`], and the store's.
    pub async fn published(
        &self,
        run: RunId,
        round: RoundId,
    ) -> Result<Published, CoordinatorError> {
        let run = self.find(run).await?;
        let record = self.stored_record(&run, round).await?.signed;
        let snapshot = self.snapshot_of(&run, round).await?;
        Ok(Published { record, snapshot })
    }

    /// The server's own state that round `round` starts from, as stored. Private: not for clients.
    ///
    /// # Errors
    /// As for [`published`](Self::published).
    pub async fn state_bytes(&self, run: RunId, round: RoundId) -> Result<Bytes, CoordinatorError> {
        let run = self.find(run).await?;
        self.state_of(&run, round).await
    }

    /// Starts a run where `published`, its rounds from 0, and the last one's `state` leave it.
    ///
    /// # Errors
    /// [`CoordinatorError::Restore`] at the first round that is not what its record says, or whose record
    /// this aggregator's key did not sign, and where the run is here and has gone on. [`CoordinatorError::Manifest`], and
    /// the store's.
    pub async fn restore_run(
        &self,
        manifest: &Manifest,
        published: &[Published],
        state: &[u8],
    ) -> Result<RunId, CoordinatorError> {
        let digest = Digest::of(&manifest.to_bytes()?);
        let run = RunId::of(digest);
        let mut records = Vec::with_capacity(published.len());
        let mut parent = None;
        for (at, Published { record, snapshot }) in published.iter().enumerate() {
            let round = RoundId(at as u64);
            let off = |why| CoordinatorError::Restore { round, why };
            if !self.is_signed(Purpose::Record, record) {
                return Err(off("its record is not signed by this aggregator"));
            }
            let opened = serde_json::from_slice::<Record>(&record.bytes);
            let opened = opened.map_err(|_| off("its record is malformed"))?;
            let ours = opened.run == run && opened.manifest == digest && opened.round == round;
            let checks = [
                (ours, "its record is another run's, or another round's"),
                (opened.parent == parent, "its record does not follow the one before"),
                (opened.snapshot == Digest::of(snapshot), "its snapshot is damaged"),
            ];
            if let Some((_, why)) = checks.into_iter().find(|(sound, _)| !sound) {
                return Err(off(why));
            }
            parent = Some(Digest::of(&record.bytes));
            records.push(opened);
        }
        let Some(last) = records.last() else {
            return Err(CoordinatorError::Restore { round: RoundId(0), why: "it is missing" });
        };
        if last.state != Digest::of(state) || last.round.0 > manifest.rounds {
            let why = "the state behind it is damaged";
            return Err(CoordinatorError::Restore { round: last.round, why });
        }
        ServerState::decode(state)?;

        let objects = self.0.store.objects();
        objects.put(Kind::StateOf(run, last.round), Bytes::copy_from_slice(state)).await?;
        for round in published {
            objects.put(Kind::Snapshot, round.snapshot.clone()).await?;
        }
        // Not made anew of the manifest: of a run that started from an adapter, that does not come along.
        let (first, begins) = (&records[0], published[0].record.clone());
        self.add_run(manifest, None, first, begins, last.round == first.round).await?;
        if self.run(run).await?.round != RoundId(0) {
            let why = "the run is here already, and has gone on";
            return Err(CoordinatorError::Restore { round: last.round, why });
        }
        let (end, last) = (last.round, last.round.0 >= manifest.rounds);
        let chain: Vec<(Record, Signed)> =
            records.into_iter().zip(published.iter().map(|round| round.record.clone())).collect();
        let add = move |this: Self| async move {
            let mut rows = Vec::with_capacity(chain.len());
            // The first went in with the run.
            for (record, signed) in &chain[1..] {
                let (round, snapshot, state) = (record.round, record.snapshot, record.state);
                let oldest = round;
                rows.push(PublishRow {
                    run,
                    round,
                    record: signed,
                    snapshot,
                    state,
                    state_kept: round == end,
                    last,
                    why: "",
                    oldest,
                });
            }
            Ok(this.0.store.restore_rounds(&rows).await?)
        };
        self.apart(add).await?;
        let here = self.find(run).await?;
        // Whoever uses the round next reads it from the store.
        here.open.lock().await.dirty = true;
        if let Some(row) = self.0.store.run_row(run).await? {
            here.set_status(row.status);
        }
        self.0.due.notify_one();
        Ok(run)
    }
}
