//! A federation in this process: the deployed aggregator, and a client for each of the fleet.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use gossamer_client::client::{Client, Contribution, Event, Outcome, Shared, Watch};
use gossamer_client::state::State;
use gossamer_client::train::Control;
use gossamer_client::transport::Transport;
use gossamer_client::transport::metered::{Meter, Traffic};
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Snapshot, Terms};
use gossamer_protocol::ids::{ClientId, RoundId, RunId};
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::message::{Enrolled, Enrolment, Record};
use gossamer_protocol::sign::{Purpose, SigningKey};
use gossamer_server::clock::{ManualClock, Timestamp};
use gossamer_server::coordinator::{self, Coordinator, CoordinatorError};
use gossamer_server::status::Status;
use gossamer_server::store::Store;
use tokio::task::JoinSet;

use super::checkpoint::Saved;
use super::timed::Permit;
use super::timed_round::Timing;
use super::{Change, EngineError, Laboratory};
use crate::ranks::Folding;
use crate::scenario::MethodSpec;
use crate::transport::InProcess;

/// A repetition under way.
pub(super) struct Run<'a> {
    pub(super) lab: &'a Laboratory,
    pub(super) coordinator: Coordinator,
    pub(super) id: RunId,
    pub(super) manifest: Arc<Manifest>,
    key: Arc<SigningKey>,
    /// The manifest as signed, and its signature.
    signed: [Bytes; 2],
    method: String,
    seed: u64,
    pub(super) meter: Arc<Meter>,
    /// What time it is to the aggregator.
    pub(super) clock: Arc<ManualClock>,
    /// Where time passes.
    pub(super) timing: Option<Timing>,
    /// What each client that took part remembers, by its place.
    pub(super) memories: Mutex<BTreeMap<usize, Arc<State>>>,
    /// Read once for all clients.
    shared: Arc<Shared>,
    /// What the clients of the open round trained, by their place, where that is asked for.
    pub(super) trained: Arc<Trained>,
}

/// Changes kept until the round ends.
#[derive(Default)]
pub(super) struct Trained {
    /// Whether they are.
    pub(super) wanted: AtomicBool,
    deltas: Mutex<BTreeMap<usize, Vec<f32>>>,
}

impl Trained {
    /// Most values kept: what a product error is not worth.
    pub(super) const VALUES_MAX: usize = 1 << 27;

    fn hear(&self, at: usize, delta: &[f32]) {
        if self.wanted.load(Ordering::Relaxed) {
            self.lock().insert(at, delta.to_vec());
        }
    }

    /// Those of the round, by the client's place.
    pub(super) fn take(&self) -> BTreeMap<usize, Vec<f32>> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Vec<f32>>> {
        self.deltas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Run<'a> {
    /// Starts the aggregator, creates the run, or goes on with the one that was `saved`; the fleet is enrolled.
    pub(super) async fn open(
        lab: &'a Laboratory,
        method: &MethodSpec,
        seed: u64,
        saved: Option<&Saved>,
    ) -> Result<Self, EngineError> {
        let manifest = lab.manifest(method, seed)?;
        let secret = Digest::of(format!("gossamer/v1/sim/server\0{seed}").as_bytes()).0;
        let key = Arc::new(SigningKey::from_seed(&secret));
        // Time goes on where a repetition is taken up again.
        let passed = saved.and_then(|saved| saved.rows.last()?.virtual_s).unwrap_or(0.0);
        let clock = Arc::new(ManualClock::at(Timestamp((passed * 1000.0).round() as u64)));
        let store = Store::in_memory().await.map_err(CoordinatorError::from)?;
        let coordinator = Coordinator::open(store, SigningKey::from_seed(&secret), clock.clone());
        let coordinator = coordinator.await?;
        coordinator.enrol_all(lab.fleet.ids());
        let threads = NonZeroU32::try_from(u32::try_from(lab.n_threads.get()).unwrap_or(u32::MAX));
        let threads = threads.unwrap_or(NonZeroU32::MIN);
        coordinator.set_folding(coordinator::Folding { threads, ..Default::default() });
        if !lab.ranks.is_alone() {
            let fleet = lab.fleet.clone();
            let place = Arc::new(move |client| fleet.place(client));
            coordinator.fold_with(Arc::new(Folding::new(lab.ranks.clone(), place)));
        }
        let id = match saved {
            None => coordinator.create_run(&manifest).await?,
            Some(saved) => {
                coordinator.restore_run(&manifest, &saved.published, &saved.state).await?
            }
        };
        let signed = coordinator.manifest(id).await?;
        let fleet = lab.scenario.fleet.as_ref();
        let timing = fleet.map(|spec| Timing::new(lab, spec, &manifest, seed));
        let run = Self {
            lab,
            clock,
            timing,
            coordinator,
            id,
            manifest: Arc::new(manifest),
            key,
            signed: [signed.bytes.into(), signed.signature.to_string().into()],
            method: method.name.clone(),
            seed,
            meter: Arc::default(),
            memories: Mutex::default(),
            shared: Arc::default(),
            trained: Arc::default(),
        };
        match saved {
            Some(saved) => run.remember(saved)?,
            None => run.enrolments()?,
        }
        Ok(run)
    }
}

impl Run<'_> {
    /// Keeps what a client trained where that is wanted, and tells the laboratory's listener.
    fn watch(&self, at: usize) -> Watch {
        let (hear, trained) = (self.lab.on_change.clone(), self.trained.clone());
        let client = self.lab.fleet.name(at);
        let (method, seed, manifest) = (self.method.clone(), self.seed, self.manifest.clone());
        Arc::new(move |event| {
            if let Event::Trained { round, delta } = event {
                trained.hear(at, delta);
                if let Some(hear) = &hear {
                    hear(&Change {
                        method: &method,
                        seed,
                        round: round.0,
                        client: &client,
                        layout: &manifest.layout,
                        delta,
                    });
                }
            }
            Control::Continue
        })
    }

    /// Meters each client's enrolment, which all are equally long.
    fn enrolments(&self) -> Result<(), EngineError> {
        if self.lab.ranks.rank() > 0 {
            return Ok(());
        }
        // A token's secret is 32 characters.
        let key = SigningKey::from_seed(&[0; 32]);
        let asked = Enrolment::new(&"0".repeat(32), &key);
        let answer = Enrolled { client: ClientId::of(&key.public().0) };
        let length = |json: Result<Vec<u8>, serde_json::Error>| {
            json.map(|json| json.len() as u64 * self.lab.fleet.len() as u64)
        };
        let control_up = length(serde_json::to_vec(&asked)).map_err(|_| EngineError::Thread)?;
        let control_down = length(serde_json::to_vec(&answer)).map_err(|_| EngineError::Thread)?;
        self.meter.set(Traffic { control_up, control_down, ..Traffic::default() });
        Ok(())
    }

    /// What the client at `at` remembers.
    pub(super) fn memory(&self, at: usize) -> Arc<State> {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        memories.entry(at).or_insert_with(|| Arc::new(State::memory())).clone()
    }

    /// Makes the client at `at` for a round; idle ones are not in memory, but for what they remember.
    pub(super) async fn client(
        &self,
        at: usize,
        round: u64,
        permit: Option<&Permit>,
    ) -> Result<Client, EngineError> {
        let seed = self.lab.fleet.seed(at);
        let id = ClientId::of(&SigningKey::from_seed(&seed).public().0);
        let way = InProcess::new(self.coordinator.clone(), id);
        let way: Box<dyn Transport> = match (&self.timing, permit) {
            (Some(timing), Some(permit)) => Box::new(timing.transport(way, at, permit.clone())),
            _ => Box::new(way),
        };
        let failed =
            |source| EngineError::Client { client: self.lab.fleet.name(at), round, source };
        let memory = self.memory(at);
        // Who took part has the manifest, of which there is one for all.
        let folder = format!("runs/{}", self.id);
        if memory.read(&format!("{folder}/seen")).map_err(|e| failed(e.into()))?.is_some() {
            let names = [format!("{folder}/manifest"), format!("{folder}/manifest.sig")];
            for (name, bytes) in names.iter().zip(&self.signed) {
                memory.write(name, bytes.clone()).map_err(|e| failed(e.into()))?;
            }
        }
        let client = Client::builder("in-process")
            .enrolled(self.key.public())
            .identity(seed)
            .watch(self.watch(at))
            .state(memory)
            .base(self.lab.base.clone())
            .meter(self.meter.clone())
            .shared(self.shared.clone())
            .threads(self.lab.trainings.clone())
            .transport(way);
        client.connect().await.map_err(|e| failed(e.into()))
    }

    /// What all ranks moved so far.
    pub(super) async fn traffic(&self) -> Result<Traffic, EngineError> {
        let all = self.lab.ranks.gather(&self.meter.traffic()).await?;
        Ok(all.into_iter().fold(Traffic::default(), Traffic::plus))
    }

    /// Lets the cohort of `round` do its work and closes the round.
    pub(super) async fn round(&self, round: u64) -> Result<Vec<Contribution>, EngineError> {
        self.coordinator.tick().await?;
        let view = self.coordinator.run(self.id).await?;
        let cohort = self.coordinator.cohort(self.id).await?;
        let off = |why: String| EngineError::Round { round, why };
        if view.round != RoundId(round) {
            return Err(off(format!("round {} is open", view.round)));
        }
        let mut work = JoinSet::new();
        // Of an over-selected cohort the first `goal` by name deliver, the others drop out: who is
        // fastest on this machine must not decide.
        let goal = self.manifest.cohort.goal as usize;
        for id in cohort.into_iter().take(goal) {
            let at = self.lab.fleet.place(id).ok_or_else(|| off(format!("{id} is no member")))?;
            if !self.lab.ranks.has(at) {
                continue;
            }
            let client = self.client(at, round, None).await?;
            let task = self.lab.fleet.task(at);
            let room = self.lab.room(&self.manifest);
            work.spawn(async move {
                let _room = room.await;
                (at, client.step(&task).await)
            });
        }
        let mut done = Vec::with_capacity(work.len());
        // Of several failures the one of the first in the fleet.
        let mut failure: Option<(usize, EngineError)> = None;
        // All come to their end: a call that is cut off in the middle takes the store in memory with it.
        while let Some(finished) = work.join_next().await {
            let (at, outcome) = finished.map_err(|_| EngineError::Thread)?;
            let error = match outcome {
                Ok(Outcome::Delivered(contribution)) => {
                    done.push((at, contribution));
                    continue;
                }
                Ok(other) => off(format!("a client of the cohort was told {other:?}")),
                Err(error) => EngineError::Client {
                    client: self.lab.fleet.name(at),
                    round,
                    source: error.into(),
                },
            };
            if failure.as_ref().is_none_or(|(first, _)| at < *first) {
                failure = Some((at, error));
            }
        }
        let mut done = self.all_done(round, done, failure).await?;
        self.coordinator.tick().await?;
        // In the order of the fleet, so that the mean loss has one value.
        done.sort_by_key(|(at, _)| *at);
        let view = self.coordinator.run(self.id).await?;
        if view.status == Status::Aborted {
            return Err(EngineError::Diverged { round, why: view.note });
        }
        if view.round != RoundId(round + 1) {
            return Err(off(format!("{} updates did not close it", done.len())));
        }
        Ok(done.into_iter().map(|(_, contribution)| contribution).collect())
    }

    /// What clients of `round` are sent.
    pub(super) async fn snapshot(&self, round: u64) -> Result<Snapshot, EngineError> {
        let off = |why: String| EngineError::Round { round, why };
        let signed = self.coordinator.record(self.id, RoundId(round)).await?;
        let record: Record =
            signed.open(&self.key.public(), Purpose::Record).map_err(|e| off(e.to_string()))?;
        let frame = self.coordinator.object(self.id, record.snapshot).await?;
        let terms = Terms::new(&self.manifest, self.id, RoundId(round));
        Snapshot::decode(&frame, &terms).map_err(|e| off(e.to_string()))
    }
}
