//! The tick: opens rounds, watches deadlines, and takes a frozen round to the next.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Origin, Terms};
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::sparse::Support;

use super::{Coordinator, CoordinatorError, Run};
use crate::advance::{self, AdvanceError, Closing, Combining, Outcome, Training};
use crate::audit::{Actor, Event as Told, Head};
use crate::clock::Timestamp;
use crate::problem::told;
use crate::round::{Effect, Event};
use crate::snapshot::SnapshotError;
use crate::state::ServerState;
use crate::status::Status;
use crate::store::{Kind, PublishRow, RoundRow, StatusRow};

/// Updates in memory at a time while a round is closed: so many, of so many bytes at most.
const PIECE: usize = 64;
const PIECE_BYTES: usize = 1 << 26;
/// How often a sign of life is given and old nonces are forgotten.
const BEAT: Duration = Duration::from_secs(1);

impl Coordinator {
    /// Takes over from a process that served this store and is gone: its open attempts get back the
    /// time in between, and what it left half done is dropped. To be called before anybody is served.
    ///
    /// # Errors
    /// The store's.
    pub async fn take_over(&self) -> Result<(), CoordinatorError> {
        self.apart(|this| async move { this.take_over_all().await }).await
    }

    async fn take_over_all(&self) -> Result<(), CoordinatorError> {
        let now = self.now();
        let alive = self.0.store.alive().await?.unwrap_or(now);
        let away = alive.until(now);
        let serving = Told::Serving { version: env!("CARGO_PKG_VERSION") };
        self.0.store.note(&self.own_note(serving)).await?;
        for run in self.all().into_iter().filter(|run| !run.is_over()) {
            let mut open = self.lock(&run).await?;
            self.step(&run, &mut open, Event::TakenOver { away }, now).await?;
        }
        let (store, keep) = (self.0.store.clone(), self.0.store.kept_frames().await?);
        let dropped = blocking(move || store.objects().drop_other_updates(&keep)).await?;
        match dropped {
            Ok(0) => {}
            Ok(frames) => tracing::info!(frames, "dropped what a process before this one left"),
            Err(error) => tracing::warn!(error = %told(&error), "leftovers cannot be dropped"),
        }
        Ok(())
    }

    /// Does what is due: takes up new runs and changed statuses, opens rounds, ends attempts whose
    /// deadline is past, closes rounds and publishes what comes of them.
    ///
    /// Everything that is due is done on return. A run that fails does not hold up the others.
    ///
    /// # Errors
    /// The first [`CoordinatorError`]; what failed is tried again at the next tick.
    pub async fn tick(&self) -> Result<(), CoordinatorError> {
        self.apart(|this| async move { this.tick_all().await }).await
    }

    async fn tick_all(&self) -> Result<(), CoordinatorError> {
        let mut beat = self.0.ticking.lock().await;
        let now = self.now();
        let mut first = self.refresh().await;
        // Backwards too: a clock that was put right must not silence it.
        if beat.until(now) >= BEAT || now < *beat {
            *beat = now;
            first = first.and(self.beat(now).await);
        }
        for run in self.all() {
            let done = self.tick_run(&run).await;
            if let Err(error) = &done {
                tracing::error!(run = %run.id, error = %told(error), "tick failed");
            }
            first = first.and(done);
        }
        if first.is_ok() {
            *self.0.ticked.lock().unwrap_or_else(PoisonError::into_inner) = Some(now.0);
        } else {
            self.0.metrics.tick_failures.inc();
        }
        first
    }

    async fn beat(&self, now: Timestamp) -> Result<(), CoordinatorError> {
        self.0.store.set_alive(now).await?;
        self.0.store.forget_nonces(now).await?;
        if let Some(note) = self.refusals_due(now) {
            self.0.store.note(&note).await?;
        }
        if let Some(Head { seq, hash }) = self.0.store.sign_audit(&self.0.key).await? {
            // Whoever collects logs elsewhere keeps it out of reach of who can write to the store.
            tracing::info!(seq, %hash, "audit log");
        }
        Ok(())
    }

    /// Notices what another process did: revocations, new runs, pauses, aborts.
    async fn refresh(&self) -> Result<(), CoordinatorError> {
        self.refresh_fleet().await?;
        for (id, status) in self.0.store.statuses().await? {
            match self.find(id) {
                Ok(run) if run.status() != status => {
                    run.set_status(status);
                    self.changed();
                }
                Ok(_) => {}
                Err(_) => {
                    if let Some(row) = self.0.store.run_row(id).await? {
                        self.load(row).await?;
                        self.changed();
                    }
                }
            }
        }
        Ok(())
    }

    async fn tick_run(&self, run: &Arc<Run>) -> Result<(), CoordinatorError> {
        if !run.swept.load(Ordering::Relaxed) {
            let round = self.lock(run).await?.round.id();
            let swept = self.try_sweep(run, round).await;
            run.swept.store(swept, Ordering::Relaxed);
        }
        while !run.is_over() {
            let effects = {
                let mut open = self.lock(run).await?;
                self.open_if_due(run, &mut open, self.now()).await?
            };
            if !effects.contains(&Effect::Close) {
                break;
            }
            self.close(run).await?;
        }
        if run.is_over() && !run.cleared.load(Ordering::Relaxed) {
            self.clear(run.id, RoundId(u64::MAX)).await?;
            run.cleared.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes the next snapshot of a frozen round and publishes it.
    async fn close(&self, run: &Arc<Run>) -> Result<(), CoordinatorError> {
        let began = Instant::now();
        let frozen = {
            let open = self.lock(run).await?;
            Frozen {
                round: open.round.id(),
                attempt: open.round.attempt(),
                parent: open.record,
                asked: open.round.asked().len(),
                accepted: open.round.accepted().clone(),
                made_for: open.round.made_for().clone(),
                snapshot: open.snapshot,
                shared: open.shared.clone(),
                state: open.state,
                state_cached: open.state_cached.clone(),
            }
        };
        let (round, accepted) = (frozen.round, frozen.accepted.len());
        let asked = frozen.asked;
        let (outcome, training) = match self.outcome(run, frozen).await {
            Err(CoordinatorError::Snapshot(diverged)) => {
                let note = told(&diverged);
                tracing::error!(run = %run.id, %round, note, "run aborted");
                self.acting(Actor::Server)
                    .end(run, StatusRow { status: Status::Aborted, note })
                    .await?;
                return Ok(());
            }
            outcome => outcome?,
        };
        self.publish(run, outcome, asked, training).await?;
        self.0.metrics.closed.inc();
        self.0.metrics.update_bytes.inc_by(training.bytes);
        self.0.metrics.close_seconds.observe(began.elapsed().as_secs_f64());
        let view = self.run(run.id).await?;
        tracing::info!(
            run = %run.id, %round, attempt = %view.attempt, accepted,
            snapshot = %view.snapshot, bytes = view.snapshot_bytes, "round closed"
        );
        self.try_sweep(run, round.next()).await;
        Ok(())
    }

    /// The pure part, a piece of the accepted set at a time, away from the async threads.
    async fn outcome(
        &self,
        run: &Arc<Run>,
        frozen: Frozen,
    ) -> Result<(Outcome, Training), CoordinatorError> {
        let state = match &frozen.state_cached {
            Some(state) => ServerState::clone(state),
            None => self.read_state(frozen.state).await?,
        };
        let mut combining = Combining::new(&run.manifest);
        // In client order, though the sum would be the same in any.
        let frames: Vec<(ClientId, Digest)> =
            frozen.accepted.iter().map(|(&client, &digest)| (client, digest)).collect();
        let longest = Terms::new(&run.manifest, run.id, frozen.round).update_len_max();
        for piece in frames.chunks((PIECE_BYTES / longest).clamp(1, PIECE)) {
            let made = |&(client, _): &(ClientId, Digest)| {
                let attempt = frozen.made_for.get(&client).copied().unwrap_or(frozen.attempt);
                let (round, snapshot) = (frozen.round, frozen.snapshot);
                Origin { run: run.id, round, attempt, client, snapshot }
            };
            let origins: Vec<Origin> = piece.iter().map(made).collect();
            let get = |&(_, frame)| self.0.store.objects().get(Kind::Update, frame);
            let piece: Vec<Bytes> = try_join_all(piece.iter().map(get)).await?;
            let (run, shared) = (run.clone(), frozen.shared.clone());
            let round = frozen.round;
            combining = blocking(move || {
                let terms = Terms::new(&run.manifest, run.id, round);
                for (frame, origin) in piece.iter().zip(&origins) {
                    combining.add(frame, &terms, origin, shared.as_deref())?;
                }
                Ok::<_, AdvanceError>(combining)
            })
            .await??;
        }
        let run = run.clone();
        let outcome = blocking(move || {
            let Frozen { round, parent, attempt, accepted, .. } = &frozen;
            let closing = Closing { round: *round, parent: *parent, attempt: *attempt, accepted };
            let training = combining.training();
            let delta = combining.finish();
            let outcome = run.lineage().next(state, delta.as_deref(), &closing)?;
            Ok::<_, SnapshotError>((outcome, training))
        });
        Ok(outcome.await??)
    }

    /// Objects first, then the one transaction that makes them the run's next snapshot.
    async fn publish(
        &self,
        run: &Arc<Run>,
        outcome: Outcome,
        asked: usize,
        training: Training,
    ) -> Result<(), CoordinatorError> {
        let Outcome { state, state_bytes, snapshot, record } = outcome;
        let objects = self.0.store.objects();
        let snapshot_bytes = Bytes::from(snapshot);
        objects.put(Kind::State, state_bytes.into()).await?;
        objects.put(Kind::Snapshot, snapshot_bytes.clone()).await?;
        let terms = Terms::new(&run.manifest, run.id, record.round);
        let shared = advance::shared_support(&snapshot_bytes, &terms)?.map(Arc::new);
        let signed = self.sign_record(&record);
        let last = record.round.0 >= run.manifest.rounds;

        let mut open = self.lock(run).await?;
        open.dirty = true;
        let row = PublishRow {
            run: run.id,
            round: record.round,
            record: &signed,
            snapshot: record.snapshot,
            state: record.state,
            last,
        };
        let note = self.own_note(Told::RoundClosed {
            run: run.id,
            round: open.round.id(),
            attempt: record.attempt,
            accepted: record.accepted,
            record: Digest::of(&signed.bytes),
            last,
        });
        let closed = RoundRow {
            round: open.round.id(),
            closed_ms: note.at.0,
            attempt: record.attempt,
            asked: asked as u64,
            accepted: record.accepted,
            examples: training.examples,
            loss: training.loss(),
            bytes_up: training.bytes,
            bytes_down: run.bytes_down.load(Ordering::Relaxed),
        };
        self.0.store.publish(&row, &closed, &note).await?;
        run.bytes_down.fetch_sub(closed.bytes_down, Ordering::Relaxed);
        // Nothing refuses it: the round is frozen, and only here does it go on.
        let gone_on = open.round.step(Event::Published, self.now()).is_ok();
        open.record = Digest::of(&signed.bytes);
        open.snapshot = record.snapshot;
        open.snapshot_bytes = snapshot_bytes;
        open.shared = shared;
        open.state = record.state;
        open.state_cached = (!last).then(|| Arc::new(state));
        open.dirty = !gone_on;
        drop(open);
        if last {
            let row = self.0.store.run_row(run.id).await?;
            run.set_status(row.map_or_else(|| run.status(), |row| row.status));
        }
        self.changed();
        Ok(())
    }

    /// Sweeps; what cannot be dropped is no reason for a round to stand still.
    async fn try_sweep(&self, run: &Run, round: RoundId) -> bool {
        let swept = self.sweep(run, round).await;
        if let Err(error) = &swept {
            tracing::warn!(run = %run.id, error = %told(error), "cannot drop what is not needed");
        }
        swept.is_ok()
    }

    /// Drops what rounds before `round` no longer need: counted frames, unfinished uploads.
    async fn sweep(&self, run: &Run, round: RoundId) -> Result<(), CoordinatorError> {
        let store = &self.0.store;
        let frames = store.counted_frames(run.id, round).await?;
        for frame in &frames {
            store.objects().drop(Kind::Update, *frame).await?;
        }
        if !frames.is_empty() {
            store.forget_frames(run.id, round).await?;
        }
        self.clear(run.id, round).await
    }

    async fn clear(&self, run: RunId, before: RoundId) -> Result<(), CoordinatorError> {
        let store = self.0.store.clone();
        Ok(blocking(move || store.staging().drop_before(run, before)).await??)
    }
}

/// A frozen round, as closing needs it.
struct Frozen {
    round: RoundId,
    attempt: Attempt,
    parent: Digest,
    asked: usize,
    accepted: BTreeMap<ClientId, Digest>,
    made_for: BTreeMap<ClientId, Attempt>,
    snapshot: Digest,
    shared: Option<Arc<Support>>,
    state: Digest,
    state_cached: Option<Arc<ServerState>>,
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CoordinatorError> {
    // It does not panic; what remains is a runtime that is going down.
    tokio::task::spawn_blocking(work).await.map_err(|_| CoordinatorError::Stopping)
}
