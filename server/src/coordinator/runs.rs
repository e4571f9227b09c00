//! Runs, and what they published.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{FrameError, Snapshot, Terms};
use gossamer_protocol::ids::{RoundId, RunId};
use gossamer_protocol::layout::BaseLinear;
use gossamer_protocol::manifest::{Manifest, Reference, start_digest};
use gossamer_protocol::message::{Record, Signed};
use gossamer_protocol::peft::Files;
use gossamer_protocol::sign::Purpose;

use super::{Coordinator, CoordinatorError, Run};
use crate::advance::Lineage;
use crate::audit::Event as Told;
use crate::export;
use crate::state::ServerState;
use crate::status::Status;
use crate::store::{Kind, PublishRow, RecordRow, RoundRow, RunRow, StatusRow, StoreError};

/// Whether the downloads of the first rounds have all of the adapter that a run starts from: what they left out,
/// no client would ever see.
fn is_carried(
    manifest: &Manifest,
    run: RunId,
    theta: &[f32],
    snapshot: &[u8],
) -> Result<bool, FrameError> {
    let sent = match manifest.method.download.of {
        Reference::Weights => vec![0.0; theta.len()],
        Reference::Change => manifest.layout.init(manifest.seed),
    };
    let changed = |&index: &usize| theta[index] != sent[index];
    let first = Snapshot::decode(snapshot, &Terms::new(manifest, run, RoundId(0)))?;
    let missing = match first.values.support().indices() {
        None => false,
        Some(there) => (0..theta.len())
            .filter(changed)
            .any(|index| there.binary_search(&(index as u32)).is_err()),
    };
    // The first round may be dense where the others are not.
    let second = Terms::new(manifest, run, RoundId(1)).download_entries();
    Ok(!missing && (0..theta.len()).filter(changed).count() <= second)
}

impl Coordinator {
    /// Starts a run of this handle's project. The same manifest again is the same run.
    ///
    /// # Errors
    /// [`CoordinatorError::Manifest`] where a field is out of range, [`CoordinatorError::RunTaken`] where another
    /// project has it, and the store's.
    pub async fn create_run(&self, manifest: &Manifest) -> Result<RunId, CoordinatorError> {
        self.create_run_on(manifest, None).await
    }

    /// As [`create_run`](Self::create_run), keeping the base model's linears: an FFA-LoRA adapter
    /// is exported with the frozen A, whose shapes the layout does not have.
    ///
    /// # Errors
    /// As for [`create_run`](Self::create_run).
    pub async fn create_run_on(
        &self,
        manifest: &Manifest,
        linears: Option<&[BaseLinear]>,
    ) -> Result<RunId, CoordinatorError> {
        self.create_run_from(manifest, linears, None).await
    }

    /// As [`create_run_on`](Self::create_run_on), of an adapter of shape `[n]`, which the manifest's `start`
    /// names.
    ///
    /// # Errors
    /// As for [`create_run`](Self::create_run), and [`CoordinatorError::Start`] where `start` is not what the
    /// manifest names, or more than the first downloads carry.
    pub async fn create_run_from(
        &self,
        manifest: &Manifest,
        linears: Option<&[BaseLinear]>,
        start: Option<Vec<f32>>,
    ) -> Result<RunId, CoordinatorError> {
        let bytes = manifest.to_bytes()?;
        let digest = Digest::of(&bytes);
        let run = RunId::of(digest);
        if start.as_deref().map(start_digest) != manifest.start {
            return Err(CoordinatorError::Start("it is not the one that the manifest names"));
        }
        let outcome = Lineage { run, digest, manifest }.start(start.clone())?;
        if let Some(theta) = start
            && !is_carried(manifest, run, &theta, &outcome.snapshot)?
        {
            let why = "it differs from the seeded start in more entries than a download has: give the seed it was \
                       trained with, or a density of 1";
            return Err(CoordinatorError::Start(why));
        }
        let store = &self.0.store;
        // Of one that is there, they may have been removed.
        if store.run_row(run).await?.is_none() {
            let kind = Kind::StateOf(run, RoundId(0));
            store.objects().put(kind, outcome.state_bytes.into()).await?;
            store.objects().put(Kind::Snapshot, outcome.snapshot.into()).await?;
        }
        let record = self.sign_record(&outcome.record);
        self.add_run(manifest, linears, &outcome.record, record, true).await
    }

    /// Adds a run of this handle's project with its first record, whose objects are stored, unless it is there.
    pub(super) async fn add_run(
        &self,
        manifest: &Manifest,
        linears: Option<&[BaseLinear]>,
        first: &Record,
        record: Signed,
        state_kept: bool,
    ) -> Result<RunId, CoordinatorError> {
        let Record { run, round, snapshot, state, .. } = *first;
        let row = RunRow {
            id: run,
            project: self.home(),
            manifest: Signed::new(&self.key(), Purpose::Manifest, manifest.to_bytes()?),
            linears: linears.map(export::linears_to_bytes),
            status: StatusRow { status: Status::Running, note: String::new() },
            round,
        };
        let project = row.project.clone();
        let note = self.note(Told::RunCreated { run, name: manifest.name.clone() }).of(&project);
        let add = move |this: Self| async move {
            let first = PublishRow {
                run,
                round,
                record: &record,
                snapshot,
                state,
                state_kept,
                last: false,
                why: "",
                oldest: round,
            };
            Ok(this.0.store.add_run(&row, &first, &note).await?)
        };
        if self.apart(add).await? {
            tracing::info!(%run, name = %manifest.name, "run created");
        }
        let row = self.0.store.run_row(run).await?.ok_or(StoreError::Row("a run is gone"))?;
        if row.project != project {
            return Err(CoordinatorError::RunTaken(run));
        }
        self.load(row).await?;
        self.changed();
        self.0.due.notify_one();
        Ok(run)
    }

    /// Pauses, resumes or aborts a run; gives the status that stands. What is over stays over.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownRun`], and the store's.
    pub async fn set_status(&self, run: RunId, to: Status) -> Result<Status, CoordinatorError> {
        let note = if to == Status::Aborted { "by the operator" } else { "" };
        self.end(&*self.find(run).await?, StatusRow { status: to, note: note.to_owned() }).await
    }

    pub(super) async fn end(&self, run: &Run, to: StatusRow) -> Result<Status, CoordinatorError> {
        let id = run.id;
        let note = Told::RunStatus { run: id, status: to.status, note: to.note.clone() };
        let note = self.note(note).of(&run.project);
        let set =
            move |this: Self| async move { Ok(this.0.store.set_status(id, &to, &note).await?) };
        let stands = self.apart(set).await?;
        let status = stands.status;
        run.set_status(stands);
        self.changed();
        self.0.due.notify_one();
        Ok(status)
    }

    /// A run's manifest, as signed.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownRun`].
    pub async fn manifest(&self, run: RunId) -> Result<Signed, CoordinatorError> {
        Ok(self.anew(Purpose::Manifest, self.find(run).await?.signed.clone()))
    }

    /// The record of the snapshot that `round` starts from, as signed.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownRun`], [`CoordinatorError::UnknownRound`], and the store's.
    pub async fn record(&self, run: RunId, round: RoundId) -> Result<Signed, CoordinatorError> {
        let run = self.find(run).await?;
        Ok(self.anew(Purpose::Record, self.stored_record(&run, round).await?.signed))
    }

    pub(super) async fn stored_record(
        &self,
        run: &Run,
        round: RoundId,
    ) -> Result<RecordRow, CoordinatorError> {
        let found = self.0.store.record(run.id, round).await?;
        found.ok_or(CoordinatorError::UnknownRound { run: run.id, round })
    }

    /// A snapshot's frame. Nothing else is handed out, least of all the server's state.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownRun`], [`CoordinatorError::UnknownObject`], and the store's.
    pub async fn object(&self, run: RunId, object: Digest) -> Result<Bytes, CoordinatorError> {
        if let Some(bytes) = self.object_at_hand(run, object).await? {
            return Ok(bytes);
        }
        self.must_name(run, object).await?;
        Ok(self.0.store.objects().get(Kind::Snapshot, object).await?)
    }

    /// The same where it is in memory anyway: what nearly everybody asks for.
    pub(crate) async fn object_at_hand(
        &self,
        run: RunId,
        object: Digest,
    ) -> Result<Option<Bytes>, CoordinatorError> {
        let run = self.find(run).await?;
        let open = run.open.lock().await;
        let at_hand = open.snapshot == object && !open.dirty;
        Ok(at_hand.then(|| open.snapshot_bytes.clone()))
    }

    /// A snapshot's length in bytes.
    pub(crate) async fn object_len(
        &self,
        run: RunId,
        object: Digest,
    ) -> Result<u64, CoordinatorError> {
        self.must_name(run, object).await?;
        Ok(self.0.store.objects().len(Kind::Snapshot, object).await?)
    }

    async fn must_name(&self, run: RunId, object: Digest) -> Result<(), CoordinatorError> {
        self.find(run).await?;
        match self.0.store.names_snapshot(run, object).await? {
            Some((_, true)) => Ok(()),
            Some((round, false)) => Err(CoordinatorError::Gone { run, round }),
            None => Err(CoordinatorError::UnknownObject { run, object }),
        }
    }

    /// Counts bytes of a snapshot, or a difference, that a client of the open round was handed.
    pub(crate) fn handed_out(&self, run: RunId, bytes: usize) {
        if let Some(run) = self.known(run) {
            run.bytes_down.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// What came of `limit` closed rounds from `from` on, in order.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownRun`], and the store's.
    pub async fn rounds(
        &self,
        run: RunId,
        from: RoundId,
        limit: u32,
    ) -> Result<Vec<RoundRow>, CoordinatorError> {
        self.find(run).await?;
        Ok(self.0.store.rounds(run, from, limit).await?)
    }

    /// The server's dense adapter after `round` rounds, shape `[n]`.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownRun`], [`CoordinatorError::UnknownRound`], and the store's.
    pub async fn theta(&self, run: RunId, round: RoundId) -> Result<Vec<f32>, CoordinatorError> {
        let run = self.find(run).await?;
        Ok(ServerState::decode(&self.state_of(&run, round).await?)?.theta)
    }

    /// The latest adapter that clients receive, as PEFT keeps it.
    ///
    /// Not the server's own copy: what a sparse download leaves out, clients never saw and never
    /// corrected, so in that copy it may have grown without measure.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownRun`], [`CoordinatorError::Export`], and the store's.
    pub async fn export(&self, run: RunId) -> Result<Files, CoordinatorError> {
        let run = self.find(run).await?;
        let (round, frame) = {
            let open = self.lock(&run).await?;
            (open.round.id(), open.snapshot_bytes.clone())
        };
        Self::files(&run, round, &frame)
    }

    /// The adapter that clients receive in `round`, as PEFT keeps it.
    ///
    /// # Errors
    /// As for [`export`](Self::export), and [`CoordinatorError::UnknownRound`].
    pub async fn export_round(
        &self,
        run: RunId,
        round: RoundId,
    ) -> Result<Files, CoordinatorError> {
        let run = self.find(run).await?;
        let frame = self.snapshot_of(&run, round).await?;
        Self::files(&run, round, &frame)
    }

    /// The adapter that clients receive in `round`, shape `[n]`, and the terms that say what of.
    ///
    /// # Errors
    /// As for [`export_round`](Self::export_round).
    pub async fn adapter(
        &self,
        run: RunId,
        round: RoundId,
    ) -> Result<(Arc<Manifest>, Vec<f32>), CoordinatorError> {
        let run = self.find(run).await?;
        let frame = self.snapshot_of(&run, round).await?;
        let snapshot = Snapshot::decode(&frame, &Terms::new(&run.manifest, run.id, round))?;
        Ok((run.manifest.clone(), snapshot.theta(&run.manifest)))
    }

    fn files(run: &Run, round: RoundId, frame: &[u8]) -> Result<Files, CoordinatorError> {
        let snapshot = Snapshot::decode(frame, &Terms::new(&run.manifest, run.id, round))?;
        let theta = snapshot.theta(&run.manifest);
        let linears = run.linears.as_deref().map(export::linears_from_bytes).transpose()?;
        Ok(Files::export(&run.manifest, linears.as_deref(), &theta)?)
    }

    /// The manifest, parsed.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownRun`].
    pub async fn terms(&self, run: RunId) -> Result<Arc<Manifest>, CoordinatorError> {
        Ok(self.find(run).await?.manifest.clone())
    }

    pub(super) async fn read_state(
        &self,
        run: &Run,
        round: RoundId,
        state: Digest,
    ) -> Result<ServerState, CoordinatorError> {
        Ok(ServerState::decode(&self.0.store.state(run.id, round, state).await?)?)
    }
}
