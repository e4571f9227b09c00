//! The tick: opens rounds, watches deadlines, and takes a frozen round to the next.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::Terms;
use gossamer_protocol::ids::{RoundId, RunId};

use tracing::Instrument as _;

use super::fold::Frozen;
use super::steps::Act;
use super::{Coordinator, CoordinatorError, Run};
use crate::advance::{self, Closing, Outcome, Training};
use crate::audit::{Actor, Event as Told, Head};
use crate::clock::Timestamp;
use crate::problem::told;
use crate::round::{Effect, Phase, Round, oldest};
use crate::snapshot::SnapshotError;
use crate::state::ServerState;
use crate::status::Status;
use crate::store::{Kind, PublishRow, Publishing, RoundRow, StatusRow, StoreError};
use crate::telemetry::TRACES;

/// How often a sign of life is given and old nonces are forgotten.
const BEAT: Duration = Duration::from_secs(1);
const HOUR_MS: u64 = 3_600_000;
/// Without a sign of life for so long, no process serves.
const GONE: Duration = Duration::from_secs(5);

impl Coordinator {
    /// Takes over from a process that served this store and is gone: its open attempts get back the
    /// time in between, and what it left half done is dropped. To be called before anybody is served.
    ///
    /// # Errors
    /// The store's.
    pub async fn take_over(&self) -> Result<(), CoordinatorError> {
        self.apart(|this| async move { this.within(None).take_over_all().await }).await
    }

    async fn take_over_all(&self) -> Result<(), CoordinatorError> {
        let now = self.now();
        let last = self.0.store.alive().await?;
        let away = last.map_or(Duration::ZERO, |last| last.until(now));
        let serving = Told::Serving { version: env!("CARGO_PKG_VERSION") };
        self.0.store.note(&self.own_note(serving)).await?;
        // Beside a process that serves, nothing is to be taken over; of several that begin, one does.
        if self.0.store.is_shared() {
            let gone = away >= GONE || last.is_none();
            let ours = match last {
                Some(last) if gone => self.0.store.take_over(last, now).await?,
                _ => gone,
            };
            if !ours {
                return Ok(());
            }
        }
        for run in self.all().into_iter().filter(|run| !run.is_over()) {
            let mut open = self.lock(&run).await?;
            self.step(&run, &mut open, &Act::TakenOver(away), now).await?;
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
        self.apart(|this| async move { this.within(None).tick_all().await }).await
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
        self.retain(now).await;
        if first.is_ok() {
            *self.0.ticked.lock().unwrap_or_else(PoisonError::into_inner) = Some(now.0);
        } else {
            self.0.metrics.tick_failures.inc();
        }
        first
    }

    async fn beat(&self, now: Timestamp) -> Result<(), CoordinatorError> {
        self.0.store.set_alive(now).await?;
        self.refresh_keys().await?;
        self.tell_lacking();
        self.0.store.forget_nonces(now).await?;
        self.drop_refused(now).await?;
        if let Some(note) = self.refusals_due(now) {
            self.0.store.note(&note).await?;
        }
        let Some(key) = self.believed_key() else { return Ok(()) };
        if let Some(Head { seq, hash }) = self.0.store.sign_audit(&key).await? {
            // Whoever collects logs elsewhere keeps it out of reach of who can write to the store.
            tracing::info!(seq, %hash, "audit log");
        }
        Ok(())
    }

    /// Drops frames that were stored and then not accepted, where processes share the store: once an hour,
    /// and only what no attempt can still be waiting for. Alone, that is done when the process begins.
    async fn drop_refused(&self, now: Timestamp) -> Result<(), CoordinatorError> {
        let last = self.0.dropped_refused.load(Ordering::Relaxed);
        if !self.0.store.is_shared() || now.0 < last.saturating_add(HOUR_MS) {
            return Ok(());
        }
        self.0.dropped_refused.store(now.0, Ordering::Relaxed);
        let runs = self.all();
        let deadlines = runs.iter().map(|run| u64::from(run.manifest.cohort.deadline_s) * 1_000);
        let age = 24 * HOUR_MS + 2 * deadlines.max().unwrap_or(0);
        let before = Timestamp(now.0.saturating_sub(age));
        let keep = self.0.store.kept_frames().await?;
        let frames = self.0.store.objects().drop_updates_before(&keep, before).await?;
        if frames > 0 {
            tracing::info!(frames, "dropped what was stored and not accepted");
        }
        Ok(())
    }

    /// Notices what another process did: revocations, new runs, pauses, aborts.
    pub(super) async fn refresh(&self) -> Result<(), CoordinatorError> {
        self.refresh_fleet().await?;
        for (id, status) in self.0.store.statuses().await? {
            match self.known(id) {
                Some(run) if run.status() != status => {
                    run.set_status(status);
                    self.changed();
                }
                Some(_) => {}
                None => {
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
                self.step(run, &mut open, &Act::Tick, self.now()).await?
            };
            if !effects.contains(&Effect::Close) {
                break;
            }
            let (round, accepted) = (tracing::field::Empty, tracing::field::Empty);
            let span =
                tracing::info_span!(target: TRACES, "close round", run = %run.id, round, accepted);
            if !self.close(run).instrument(span).await? {
                break;
            }
        }
        if run.is_over() && !run.cleared.load(Ordering::Relaxed) {
            self.clear(run.id, RoundId(u64::MAX)).await?;
            run.cleared.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes the next snapshot of a frozen round and publishes it; false where that has to wait for other
    /// processes.
    async fn close(&self, run: &Arc<Run>) -> Result<bool, CoordinatorError> {
        let began = Instant::now();
        let frozen = {
            let open = self.lock(run).await?;
            if open.round.phase() != Phase::Frozen {
                // Another process was faster.
                return Ok(true);
            }
            Frozen {
                round: open.round.clone(),
                parent: open.record,
                snapshot: open.snapshot,
                shared: open.shared.clone(),
                state: open.state,
                state_cached: open.state_cached.clone(),
            }
        };
        let closing = frozen.round.clone();
        let (round, accepted) = (closing.id(), closing.accepted().len());
        let span = tracing::Span::current();
        span.record("round", round.0 as i64).record("accepted", accepted as i64);
        let (outcome, training) = match self.outcome(run, frozen).await {
            Err(CoordinatorError::Snapshot(diverged)) => {
                let note = told(&diverged);
                tracing::error!(run = %run.id, %round, note, "run aborted");
                self.acting(Actor::Server)
                    .end(run, StatusRow { status: Status::Aborted, note })
                    .await?;
                return Ok(true);
            }
            // Dropped once counted: another process was faster.
            Err(CoordinatorError::Store(StoreError::Missing(_)))
                if self.is_past(run, round).await? =>
            {
                return Ok(true);
            }
            outcome => match outcome? {
                Some(outcome) => outcome,
                None => return Ok(false),
            },
        };
        if !self.publish(run, outcome, &closing, training).await? {
            return Ok(true);
        }
        self.0.metrics.closed.inc();
        self.0.metrics.update_bytes.inc_by(training.bytes);
        self.0.metrics.close_seconds.observe(began.elapsed().as_secs_f64());
        let view = self.run(run.id).await?;
        tracing::info!(
            run = %run.id, %round, attempt = %view.attempt, accepted,
            snapshot = %view.snapshot, bytes = view.snapshot_bytes, "round closed"
        );
        self.try_sweep(run, round.next()).await;
        Ok(true)
    }

    /// Whether the run has gone on from `round`.
    async fn is_past(&self, run: &Run, round: RoundId) -> Result<bool, CoordinatorError> {
        Ok(self.lock(run).await?.round.id() > round)
    }

    /// The pure part: what follows from the frozen round; none where other processes are still at it.
    async fn outcome(
        &self,
        run: &Arc<Run>,
        frozen: Frozen,
    ) -> Result<Option<(Outcome, Training)>, CoordinatorError> {
        let folding = tracing::info_span!(target: TRACES, "fold");
        let Some(combining) = self.combine(run, &frozen).instrument(folding).await? else {
            return Ok(None);
        };
        let state = match &frozen.state_cached {
            Some(state) => ServerState::clone(state),
            None => self.read_state(run, frozen.round.id(), frozen.state).await?,
        };
        let run = run.clone();
        let outcome = blocking(move || {
            let Frozen { round, parent, .. } = &frozen;
            let closing = Closing {
                round: round.id(),
                parent: *parent,
                attempt: round.attempt(),
                accepted: round.accepted(),
                staleness: &round.staleness(),
            };
            let training = combining.training();
            let delta = combining.finish();
            let outcome = run.lineage().next(state, delta.as_deref(), &closing)?;
            Ok::<_, SnapshotError>(Some((outcome, training)))
        });
        Ok(outcome.await??)
    }

    /// Objects first, then the one transaction that makes them the run's next snapshot; false where another
    /// process did that.
    async fn publish(
        &self,
        run: &Arc<Run>,
        outcome: Outcome,
        frozen: &Round,
        training: Training,
    ) -> Result<bool, CoordinatorError> {
        let round = frozen.id();
        let Outcome { state, state_bytes, snapshot, record } = outcome;
        let objects = self.0.store.objects();
        let snapshot_bytes = Bytes::from(snapshot);
        objects.put(Kind::StateOf(run.id, record.round), state_bytes.into()).await?;
        objects.put(Kind::Snapshot, snapshot_bytes.clone()).await?;
        let terms = Terms::new(&run.manifest, run.id, record.round);
        let shared = advance::shared_support(&snapshot_bytes, &terms)?.map(Arc::new);
        let signed = self.sign_record(&record);
        let closed = RoundRow {
            round,
            closed_ms: self.now().0,
            attempt: record.attempt,
            asked: frozen.asked().len() as u64,
            accepted: record.accepted,
            examples: training.examples,
            loss: training.loss(),
            bytes_up: training.bytes,
            bytes_down: run.bytes_down.load(Ordering::Relaxed),
            evaluation: match run.manifest.evaluation {
                Some(_) => self.0.store.evaluated(run.id, round).await?,
                None => None,
            },
        };
        let why = self.stopped_by(run, &closed).await?;
        let last = record.round.0 >= run.manifest.rounds || why.is_some();

        let mut open = run.open.lock().await;
        open.dirty = true;
        let row = PublishRow {
            run: run.id,
            round: record.round,
            record: &signed,
            snapshot: record.snapshot,
            state: record.state,
            state_kept: true,
            last,
            why: why.as_deref().unwrap_or_default(),
            oldest: oldest(&run.manifest.cohort, record.round),
        };
        let note = self.own_note(Told::RoundClosed {
            run: run.id,
            round,
            attempt: record.attempt,
            accepted: record.accepted,
            record: Digest::of(&signed.bytes),
            last,
            why: why.clone().unwrap_or_default(),
        });
        let note = note.of(&run.project);
        let (version, status) = match self.0.store.publish(&row, &closed, &note).await? {
            Publishing::Now { version, status } => (version, status),
            Publishing::Before => {
                // The same bytes, since they are a function of what was frozen.
                let there = self.0.store.record(run.id, record.round).await?;
                return match there {
                    Some(there) if there.signed.bytes == signed.bytes => Ok(false),
                    _ => Err(CoordinatorError::Diverged { run: run.id, round }),
                };
            }
        };
        run.bytes_down.fetch_sub(closed.bytes_down, Ordering::Relaxed);
        let resting = self.resting(run.id, &run.manifest, record.round).await?;
        open.version = version;
        open.round = frozen.next().resting(resting);
        open.record = Digest::of(&signed.bytes);
        open.snapshot = record.snapshot;
        open.snapshot_bytes = snapshot_bytes;
        open.shared = shared;
        open.state = record.state;
        open.state_cached = (!last).then(|| Arc::new(state));
        open.dirty = false;
        run.set_status(status);
        self.changed();
        Ok(true)
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
        if store.is_shared() {
            for partial in store.merged(run.id, round).await? {
                store.objects().drop(Kind::Partial, partial).await?;
            }
            store.forget_folds(run.id, round).await?;
        }
        self.clear(run.id, oldest(&run.manifest.cohort, round)).await
    }

    async fn clear(&self, run: RunId, before: RoundId) -> Result<(), CoordinatorError> {
        Ok(self.0.store.staging().drop_before(run, before).await?)
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CoordinatorError> {
    // It does not panic; what remains is a runtime that is going down.
    tokio::task::spawn_blocking(work).await.map_err(|_| CoordinatorError::Stopping)
}
