//! The training of one round: on threads of its own, saved, paused while a gate is closed, gone on with.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gossamer_protocol::digest::{Digest, Hasher};
use gossamer_protocol::frame::{Origin, Snapshot, Terms, Update};
use gossamer_protocol::message::Assignment;
use gossamer_protocol::select::SelectError;
use gossamer_protocol::select::tier::{self, Part};
use gossamer_protocol::sparse::{Sparse, Support};

use super::encode::{self, Made, Residual, Whose};
use super::gate::Need;
use super::round::Pending;
use super::saving::{Pace, Saving};
use super::scaffold::Controls;
use super::shared::RunTerms;
use super::{App, Client, ClientError, Deadline, Event};
use crate::data::TrainingTask;
use crate::model::BaseModel;
use crate::state::{State, StateError};
use crate::train::caught;
use crate::train::{Control, Footprint, Job, Team, TeamError, TrainError, Trained, Work};

/// Says on its drop that nobody waits for the training any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// All that a training needs, from its start or from where it was saved, to its end or to a closed gate.
struct Sitting {
    base: BaseModel,
    terms: Arc<RunTerms>,
    snapshot: Arc<Snapshot>,
    origin: Origin,
    task: Arc<dyn TrainingTask>,
    app: App,
    state: Arc<State>,
    saving: Saving,
    footprint: Footprint,
    residual: Option<Bytes>,
    control: Option<Bytes>,
    nobody_waits: Arc<AtomicBool>,
}

/// How a sitting ended.
enum Ended {
    Made(Made),
    /// It is saved; this was lacking, and the gate is asked again after so long.
    Paused(Need, Duration),
}

impl Client {
    /// Trains, and makes the frame that travels.
    pub(super) async fn train(
        &self,
        assignment: &Assignment,
        terms: &Arc<RunTerms>,
        base: BaseModel,
        snapshot: Arc<Snapshot>,
        task: &Arc<dyn TrainingTask>,
        deadline: Deadline,
    ) -> Result<Pending, ClientError> {
        let run = assignment.run;
        let residual = match terms.manifest.method.upload.feedback {
            Some(_) => self.state.read(&format!("runs/{run}/residual"))?,
            None => None,
        };
        let control = match terms.manifest.method.scaffold {
            Some(_) => self.state.read(&format!("runs/{run}/control"))?,
            None => None,
        };
        let footprint = self.footprint(&base, &terms.manifest, task.as_ref())?;
        let stop = StopOnDrop(Arc::default());
        let sitting = Arc::new(Sitting {
            base,
            terms: terms.clone(),
            snapshot,
            origin: self.origin(assignment),
            task: task.clone(),
            app: self.app.clone(),
            state: self.state.clone(),
            saving: self.saving,
            footprint,
            residual,
            control,
            nobody_waits: stop.0.clone(),
        });
        let Made { frame, predicted, residual, control } = loop {
            let thread = sitting.clone();
            match self.on_threads(move || thread.sit()).await?? {
                Ended::Made(made) => break made,
                Ended::Paused(need, retry) => {
                    self.opened(assignment.round, deadline, Some((need, retry))).await?;
                }
            }
        };
        drop(stop);
        let (slot, frame) = (self.slot(assignment), Bytes::from(frame));
        if let Some(residual) = residual {
            self.state.write(&format!("runs/{run}/residual.next"), residual.to_bytes())?;
        }
        if let Some(control) = control {
            self.state.write(&format!("runs/{run}/control.next"), control)?;
        }
        self.state.write(&format!("runs/{run}/update"), frame.clone())?;
        self.state.remove(&sitting.name())?;
        Ok(Pending { slot, snapshot: assignment.snapshot, frame, predicted: Some(predicted) })
    }
}

impl Client {
    /// Does `work` on as many threads as a training has, once they are free.
    pub(super) async fn on_threads<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ClientError> {
        let (turn, size) = match &self.threads {
            Some(threads) => (threads.share().await, threads.size()),
            None => (None, NonZeroUsize::MIN),
        };
        let work = move || {
            // Held until the threads are free, also where nobody waits for it any more.
            let _turn = turn;
            let refused = |e: TeamError| ClientError::Thread { message: e.to_string() };
            Ok(Team::new(size).map_err(refused)?.run(work))
        };
        let done = tokio::task::spawn_blocking(work).await;
        let thread = |message| ClientError::Thread { message };
        done.map_err(|e| match e.try_into_panic() {
            Ok(panic) => thread(caught::message(&*panic)),
            Err(cancelled) => thread(cancelled.to_string()),
        })?
    }
}

impl Sitting {
    /// The saved training's name in the state.
    fn name(&self) -> String {
        format!("runs/{}/training", self.origin.run)
    }

    fn sit(&self) -> Result<Ended, ClientError> {
        let ended = self.work();
        if let Err(ClientError::Train(TrainError::NonFinite { .. })) = ended {
            // From here it can only fail again; from the start it may not, where a bit had flipped.
            self.state.remove(&self.name())?;
        }
        ended
    }

    fn work(&self) -> Result<Ended, ClientError> {
        let Origin { run, round, client, .. } = self.origin;
        let manifest = &self.terms.manifest;
        let off = |e: SelectError| ClientError::Update(e.into());
        let Part { theta, own } = tier::part(manifest, client, &self.snapshot).map_err(off)?;
        let terms = Terms::new(manifest, run, round);
        let shared = terms.needs_support().then(|| self.snapshot.values.support().clone());
        let trainable = encode::trainable(&terms, shared.as_ref(), own);
        let mut controls = Controls::of(manifest, &theta, self.control.as_deref());
        let trainable = trainable.or_else(|| controls.as_ref().map(Controls::trained));
        let job = Job {
            base: &self.base,
            manifest,
            theta: &theta,
            support: trainable.as_ref(),
            client,
            round,
        };
        let mut work = Work::start(&job, self.task.as_ref())?.footprint(self.footprint);
        if let Some(controls) = &controls {
            work = work.corrected(controls.correction());
        }
        self.restore(&mut work)?;
        if let Some((need, retry)) = self.to_end(&mut work)? {
            return Ok(Ended::Paused(need, retry));
        }
        let mut trained = work.finish();
        if let Some(controls) = &mut controls {
            controls.step(&mut trained.delta);
        }
        let control = self.app.hear(&Event::Trained { round, delta: &trained.delta })?;
        if control == Control::Stop {
            return Err(ClientError::Stopped);
        }
        let Trained { delta, examples, loss, .. } = trained;
        let nothing = Sparse::gather(&theta, Support::Indices(Vec::new()));
        let nothing = nothing.map_err(|e| ClientError::Update(e.into()))?;
        let update = Update { origin: self.origin, examples, loss, delta: nothing };
        let residual = self.residual.as_deref();
        let before = residual.and_then(|bytes| Residual::from_bytes(bytes, theta.len()));
        // Control variates travel, but are not trained.
        let own = trainable.as_ref().filter(|_| controls.is_none());
        let whose = Whose { shared: shared.as_ref(), own };
        let made = encode::make(&terms, update, delta, &theta, whose, before.as_ref());
        let control = controls.map(|controls| controls.to_bytes());
        made.map(|made| Ended::Made(Made { control, ..made }))
    }

    /// Steps until the last one, or until something is lacking, which is returned.
    fn to_end(&self, work: &mut Work<'_>) -> Result<Option<(Need, Duration)>, ClientError> {
        let start = Instant::now();
        let mut pace = Pace::new(self.saving, Duration::ZERO);
        loop {
            if let Some(closed) = self.app.closed()? {
                self.save(work)?;
                return Ok(Some(closed));
            }
            let Some(progress) = work.step()? else { return Ok(None) };
            let control = match self.nobody_waits.load(Ordering::Relaxed) {
                true => Ok(Control::Stop),
                false => self.app.hear(&Event::Training(progress)),
            };
            let stopped = !matches!(control, Ok(Control::Continue));
            let began = start.elapsed();
            if self.state.outlives_process() && (pace.step(began) || stopped) {
                // A training that cannot be saved is one still.
                if let Err(error) = self.save(work) {
                    tracing::warn!(error = %super::chain(&error), "the training is not saved");
                }
                pace.saved(began, start.elapsed());
            }
            if control? == Control::Stop {
                return Err(ClientError::Stopped);
            }
        }
    }

    fn save(&self, work: &Work<'_>) -> Result<(), StateError> {
        self.state.write(&self.name(), work.save(self.what()))
    }

    /// Goes on from where the same training was saved, by this process or one before.
    fn restore(&self, work: &mut Work<'_>) -> Result<(), ClientError> {
        let Some(bytes) = self.state.read(&self.name())? else { return Ok(()) };
        let round = self.origin.round;
        if let Err(other) = work.restore(&bytes, self.what()) {
            tracing::debug!(%round, %other, "a saved training is not gone on with");
            return Ok(());
        }
        let control = self.app.hear(&Event::Resumed { round, step: work.steps_done() })?;
        if control == Control::Stop { Err(ClientError::Stopped) } else { Ok(()) }
    }

    /// Names the training: a saved one is gone on with only where all of this is equal. The attempt is
    /// not in it: a round tried again from the same snapshot trains the same bytes.
    fn what(&self) -> Digest {
        let Origin { run, round, client, snapshot, .. } = self.origin;
        let mut hasher = Hasher::default();
        hasher.update(b"gossamer/training\0");
        hasher.update(&run.0);
        hasher.update(&self.terms.digest.0);
        hasher.update(&snapshot.0);
        hasher.update(&round.0.to_le_bytes());
        hasher.update(&client.0);
        hasher.update(&(self.task.examples() as u64).to_le_bytes());
        hasher.finish()
    }
}
