//! One client's training between its snapshot and its update, on one thread, perhaps beside other clients'.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gossamer_protocol::digest::{Digest, Hasher};
use gossamer_protocol::frame::{Origin, Snapshot, Terms, Update};
use gossamer_protocol::select::SelectError;
use gossamer_protocol::select::tier::{self, Part};
use gossamer_protocol::sparse::{Sparse, Support};

use super::encode::{self, Made, Residual, Whose};
use super::gate::Need;
use super::saving::{Pace, Saving};
use super::scaffold::Controls;
use super::shared::RunTerms;
use super::{App, ClientError, Event};
use crate::data::TrainingTask;
use crate::model::BaseModel;
use crate::state::{State, StateError};
use crate::train::{Control, Footprint, Job, Passes, Progress, TrainError, Trained, Work};

/// All that a training needs, from its start or from where it was saved, to its end or to a closed gate.
pub(super) struct Sitting {
    pub(super) base: BaseModel,
    pub(super) terms: Arc<RunTerms>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) origin: Origin,
    pub(super) task: Arc<dyn TrainingTask>,
    pub(super) app: App,
    pub(super) state: Arc<State>,
    pub(super) saving: Saving,
    pub(super) footprint: Footprint,
    pub(super) residual: Option<Bytes>,
    pub(super) control: Option<Bytes>,
    pub(super) nobody_waits: Arc<AtomicBool>,
}

/// How a sitting ended.
pub(super) enum Ended {
    Made(Made),
    /// It is saved; this was lacking, and the gate is asked again after so long.
    Paused(Need, Duration),
}

/// A sitting with what its training borrows.
struct Seat<'a> {
    sitting: &'a Sitting,
    theta: Vec<f32>,
    /// The snapshot's support, where the update's depends on it.
    shared: Option<Support>,
    trainable: Option<Support>,
    controls: Option<Controls>,
}

/// A training under way.
struct Running<'a> {
    sitting: &'a Sitting,
    work: Work<'a>,
    start: Instant,
    pace: Pace,
}

/// How a training ended.
enum Over {
    Trained(Trained),
    Paused(Need, Duration),
}

impl Sitting {
    /// The saved training's name in the state.
    pub(super) fn name(&self) -> String {
        format!("runs/{}/training", self.origin.run)
    }

    /// Whether somebody waits for it.
    pub(super) fn is_awaited(&self) -> bool {
        !self.nobody_waits.load(Ordering::Relaxed)
    }

    /// Whether both may go through the same passes.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.terms.digest == other.terms.digest
            && self.base.is(&other.base)
            && self.footprint == other.footprint
    }

    /// How many like it go through a pass.
    pub(super) fn most(&self) -> usize {
        Passes::clients(&self.terms.manifest)
    }

    pub(super) fn sit(&self) -> Result<Ended, ClientError> {
        let mut ended = Self::all(&[self]);
        ended.pop().expect("one sitting has one end")
    }

    /// Each one's end, in order; they are alike. What one fails of is nothing to the others.
    pub(super) fn together(sittings: &[Arc<Self>]) -> Vec<Result<Ended, ClientError>> {
        let sittings: Vec<&Self> = sittings.iter().map(|sitting| &**sitting).collect();
        Self::all(&sittings)
    }

    fn all(sittings: &[&Self]) -> Vec<Result<Ended, ClientError>> {
        let seats: Vec<_> = sittings.iter().map(|sitting| sitting.seat()).collect();
        let started = seats.iter().map(|seat| seat.as_ref().ok().map(Seat::start)).collect();
        let footprint = sittings.first().map(|first| first.footprint).unwrap_or_default();
        let over = to_end(Passes::new(footprint), started);
        let ended = seats.into_iter().zip(over).zip(sittings);
        ended
            .map(|((seat, over), sitting)| {
                let seat = seat?;
                let ended = over.expect("each seat has its training").and_then(|over| match over {
                    Over::Trained(trained) => seat.made(trained).map(Ended::Made),
                    Over::Paused(need, retry) => Ok(Ended::Paused(need, retry)),
                });
                if let Err(ClientError::Train(TrainError::NonFinite { .. })) = ended {
                    // From here it can only fail again; from the start it may not, where a bit had flipped.
                    sitting.state.remove(&sitting.name())?;
                }
                ended
            })
            .collect()
    }

    fn seat(&self) -> Result<Seat<'_>, ClientError> {
        let Origin { run, round, client, .. } = self.origin;
        let manifest = &self.terms.manifest;
        let off = |e: SelectError| ClientError::Update(e.into());
        let Part { theta, own } = tier::part(manifest, client, &self.snapshot).map_err(off)?;
        let terms = Terms::new(manifest, run, round);
        let shared = terms.needs_support().then(|| self.snapshot.values.support().clone());
        let trainable = encode::trainable(&terms, shared.as_ref(), own);
        let controls = Controls::of(manifest, &theta, self.control.as_deref());
        let trainable = trainable.or_else(|| controls.as_ref().map(Controls::trained));
        Ok(Seat { sitting: self, theta, shared, trainable, controls })
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

impl Seat<'_> {
    fn start(&self) -> Result<Running<'_>, ClientError> {
        let Sitting { base, terms, origin, task, saving, .. } = self.sitting;
        let job = Job {
            base,
            manifest: &terms.manifest,
            theta: &self.theta,
            support: self.trainable.as_ref(),
            client: origin.client,
            round: origin.round,
        };
        let mut work = Work::start(&job, task.as_ref())?;
        if let Some(controls) = &self.controls {
            work = work.corrected(controls.correction());
        }
        self.sitting.restore(&mut work)?;
        let (start, pace) = (Instant::now(), Pace::new(*saving, Duration::ZERO));
        Ok(Running { sitting: self.sitting, work, start, pace })
    }

    /// The frame that travels.
    fn made(self, mut trained: Trained) -> Result<Made, ClientError> {
        let Self { sitting, theta, shared, trainable, mut controls } = self;
        let Origin { run, round, .. } = sitting.origin;
        if let Some(controls) = &mut controls {
            controls.step(&mut trained.delta);
        }
        let control = sitting.app.hear(&Event::Trained { round, delta: &trained.delta })?;
        if control == Control::Stop {
            return Err(ClientError::Stopped);
        }
        let Trained { delta, examples, loss, .. } = trained;
        let nothing = Sparse::gather(&theta, Support::Indices(Vec::new()));
        let nothing = nothing.map_err(|e| ClientError::Update(e.into()))?;
        let update = Update { origin: sitting.origin, examples, loss, delta: nothing };
        let residual = sitting.residual.as_deref();
        let before = residual.and_then(|bytes| Residual::from_bytes(bytes, theta.len()));
        // Control variates travel, but are not trained.
        let own = trainable.as_ref().filter(|_| controls.is_none());
        let whose = Whose { shared: shared.as_ref(), own };
        let terms = Terms::new(&sitting.terms.manifest, run, round);
        let made = encode::make(&terms, update, delta, &theta, whose, before.as_ref())?;
        Ok(Made { control: controls.map(|controls| controls.to_bytes()), ..made })
    }
}

impl Running<'_> {
    /// What is lacking for the next step, once all is saved.
    fn paused(&self) -> Result<Option<Over>, ClientError> {
        let Some((need, retry)) = self.sitting.app.closed()? else { return Ok(None) };
        self.sitting.save(&self.work)?;
        Ok(Some(Over::Paused(need, retry)))
    }

    /// Tells of a step, and saves where it is time to.
    fn stepped(&mut self, progress: Progress) -> Result<(), ClientError> {
        let control = match self.sitting.is_awaited() {
            false => Ok(Control::Stop),
            true => self.sitting.app.hear(&Event::Training(progress)),
        };
        let stopped = !matches!(control, Ok(Control::Continue));
        let began = self.start.elapsed();
        if self.sitting.state.outlives_process() && (self.pace.step(began) || stopped) {
            // A training that cannot be saved is one still.
            if let Err(error) = self.sitting.save(&self.work) {
                tracing::warn!(error = %super::chain(&error), "the training is not saved");
            }
            self.pace.saved(began, self.start.elapsed());
        }
        if control? == Control::Stop { Err(ClientError::Stopped) } else { Ok(()) }
    }
}

/// Steps all at once until each has taken its last step, or lacks something. `None` stays.
fn to_end(
    mut passes: Passes,
    started: Vec<Option<Result<Running<'_>, ClientError>>>,
) -> Vec<Option<Result<Over, ClientError>>> {
    let mut over: Vec<Option<Result<Over, ClientError>>> = Vec::with_capacity(started.len());
    let mut live: Vec<(usize, Running<'_>)> = Vec::with_capacity(started.len());
    for (at, started) in started.into_iter().enumerate() {
        over.push(match started {
            None => None,
            Some(Err(error)) => Some(Err(error)),
            Some(Ok(running)) => {
                live.push((at, running));
                None
            }
        });
    }
    while !live.is_empty() {
        live.retain(|(at, running)| match running.paused() {
            Ok(None) => true,
            Ok(Some(paused)) => {
                over[*at] = Some(Ok(paused));
                false
            }
            Err(error) => {
                over[*at] = Some(Err(error));
                false
            }
        });
        let mut works: Vec<&mut Work<'_>> =
            live.iter_mut().map(|(_, running)| &mut running.work).collect();
        let outcomes = passes.step(&mut works);
        let mut left = Vec::with_capacity(live.len());
        for ((at, mut running), outcome) in live.into_iter().zip(outcomes) {
            over[at] = match outcome {
                Err(error) => Some(Err(error.into())),
                Ok(None) => Some(Ok(Over::Trained(running.work.finish()))),
                Ok(Some(progress)) => match running.stepped(progress) {
                    Err(error) => Some(Err(error)),
                    Ok(()) => {
                        left.push((at, running));
                        None
                    }
                },
            };
        }
        live = left;
    }
    over
}
