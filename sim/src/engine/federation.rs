//! A federation in this process: the deployed aggregator, and a client for each of the fleet.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gossamer_client::client::{Client, Contribution, Event, Outcome, Shared, Watch};
use gossamer_client::state::State;
use gossamer_client::train::{Control, Evaluation};
use gossamer_client::transport::Transport;
use gossamer_client::transport::metered::Meter;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Snapshot, Terms};
use gossamer_protocol::ids::{ClientId, RoundId, RunId};
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::message::{JoinToken, Record};
use gossamer_protocol::sign::{Purpose, SigningKey};
use gossamer_server::clock::{ManualClock, Timestamp};
use gossamer_server::coordinator::{Coordinator, CoordinatorError};
use gossamer_server::status::Status;
use gossamer_server::store::Store;
use tokio::task::JoinSet;

use super::checkpoint::Saved;
use super::timed_round::Timing;
use super::{Change, EngineError, Laboratory};
use crate::scenario::MethodSpec;
use crate::transport::InProcess;

/// A repetition under way.
pub(super) struct Run<'a> {
    pub(super) lab: &'a Laboratory,
    pub(super) coordinator: Coordinator,
    pub(super) id: RunId,
    pub(super) manifest: Arc<Manifest>,
    key: Arc<SigningKey>,
    pub(super) meter: Arc<Meter>,
    pub(super) clients: Vec<Arc<Client>>,
    /// What time it is to the aggregator.
    pub(super) clock: Arc<ManualClock>,
    /// Where time passes.
    pub(super) timing: Option<Timing>,
    /// What each client remembers.
    pub(super) memories: Vec<Arc<State>>,
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

    /// Those of the round, in the order of the fleet.
    pub(super) fn take(&self) -> Vec<Vec<f32>> {
        std::mem::take(&mut *self.lock()).into_values().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Vec<f32>>> {
        self.deltas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Run<'a> {
    /// Starts the aggregator, creates the run, or goes on with the one that was `saved`, and enrols the
    /// fleet.
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
        let id = match saved {
            None => coordinator.create_run(&manifest).await?,
            Some(saved) => {
                coordinator.restore_run(&manifest, &saved.published, &saved.state).await?
            }
        };
        let fleet = lab.scenario.fleet.as_ref();
        let timing = fleet.map(|spec| Timing::new(lab, spec, &manifest, seed));
        let mut run = Self {
            lab,
            clock,
            timing,
            coordinator,
            id,
            manifest: Arc::new(manifest),
            key,
            meter: Arc::default(),
            clients: Vec::new(),
            memories: Vec::new(),
            shared: Arc::default(),
            trained: Arc::default(),
        };
        for (at, member) in lab.fleet.members.iter().enumerate() {
            let watch = run.watch(method, seed, at);
            let memory = Arc::new(State::memory());
            let client = run.enrol(at, watch, memory.clone()).await;
            let client = client.map_err(|source| EngineError::Client {
                client: member.name.clone(),
                round: 0,
                source,
            })?;
            run.clients.push(Arc::new(client));
            run.memories.push(memory);
        }
        if let Some(saved) = saved {
            run.remember(saved).await?;
        }
        Ok(run)
    }
}

impl Run<'_> {
    /// Keeps what a client trained where that is wanted, and tells the laboratory's listener.
    fn watch(&self, method: &MethodSpec, seed: u64, at: usize) -> Watch {
        let (hear, trained) = (self.lab.on_change.clone(), self.trained.clone());
        let client = self.lab.fleet.members[at].name.clone();
        let (method, manifest) = (method.name.clone(), self.manifest.clone());
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

    async fn enrol(
        &self,
        at: usize,
        watch: Watch,
        memory: Arc<State>,
    ) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
        let seed = &self.lab.fleet.members[at].seed;
        let secret = self.coordinator.new_token(Duration::from_secs(3600)).await?;
        let token = JoinToken { secret, server_key: self.key.public(), ca: None };
        let id = ClientId::of(&SigningKey::from_seed(seed).public().0);
        let way = InProcess::new(self.coordinator.clone(), id);
        let way: Box<dyn Transport> = match &self.timing {
            Some(timing) => Box::new(timing.transport(way, at)),
            None => Box::new(way),
        };
        let client = Client::builder("in-process")
            .token(token.encode())
            .identity(*seed)
            .watch(watch)
            .state(memory)
            .base(self.lab.base.clone())
            .meter(self.meter.clone())
            .shared(self.shared.clone())
            .transport(way)
            .connect()
            .await?;
        Ok(client)
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
            let client = self.clients[at].clone();
            let task = self.lab.fleet.members[at].task.clone();
            let threads = self.lab.threads.clone();
            work.spawn(async move {
                let _permit = threads.acquire_owned().await;
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
                    client: self.lab.fleet.members[at].name.clone(),
                    round,
                    source: error.into(),
                },
            };
            if failure.as_ref().is_none_or(|(first, _)| at < *first) {
                failure = Some((at, error));
            }
        }
        if let Some((_, error)) = failure {
            return Err(error);
        }
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

    /// The adapter that clients of `round` receive.
    pub(super) async fn received(&self, round: u64) -> Result<Vec<f32>, EngineError> {
        let off = |why: String| EngineError::Round { round, why };
        let signed = self.coordinator.record(self.id, RoundId(round)).await?;
        let record: Record =
            signed.open(&self.key.public(), Purpose::Record).map_err(|e| off(e.to_string()))?;
        let frame = self.coordinator.object(self.id, record.snapshot).await?;
        let terms = Terms::new(&self.manifest, self.id, RoundId(round));
        let snapshot = Snapshot::decode(&frame, &terms).map_err(|e| off(e.to_string()))?;
        Ok(snapshot.theta(&self.manifest))
    }

    /// How well that does, and the aggregator's own.
    pub(super) async fn evaluate(
        &self,
        round: u64,
    ) -> Result<(Evaluation, Evaluation), EngineError> {
        if round == 0 {
            self.coordinator.tick().await?;
        }
        let received = self.received(round).await?;
        let own = self.coordinator.theta(self.id, RoundId(round)).await?;
        let result = self.evaluate_at(received.clone()).await?;
        let own = if own == received { result } else { self.evaluate_at(own).await? };
        Ok((result, own))
    }

    async fn evaluate_at(&self, theta: Vec<f32>) -> Result<Evaluation, EngineError> {
        let (lab, manifest) = (self.lab.clone(), self.manifest.clone());
        let permit = self.lab.threads.clone().acquire_owned().await;
        let work = move || {
            let _permit = permit;
            lab.heldout.evaluate(&lab.base, &manifest, &theta)
        };
        let evaluation =
            tokio::task::spawn_blocking(work).await.map_err(|_| EngineError::Thread)?;
        Ok(evaluation?)
    }
}
