//! One method from one seed, round by round.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gossamer_client::client::{Client, Contribution, Event, Outcome, Shared, Watch};
use gossamer_client::train::{Control, Evaluation};
use gossamer_client::transport::metered::{Meter, Traffic};
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Snapshot, Terms};
use gossamer_protocol::ids::{ClientId, RoundId, RunId};
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::message::{JoinToken, Record};
use gossamer_protocol::sign::{Purpose, SigningKey};
use gossamer_server::clock::{ManualClock, Timestamp};
use gossamer_server::coordinator::{Coordinator, CoordinatorError};
use gossamer_server::store::Store;
use tokio::task::JoinSet;

use super::{Change, EngineError, Laboratory, OnRow};
use crate::report::RoundRow;
use crate::scenario::MethodSpec;
use crate::transport::InProcess;

/// What one repetition came to.
#[derive(Clone, Debug)]
pub struct Repetition {
    /// One row for each round, and one for the start.
    pub rows: Vec<RoundRow>,
    /// The signed record of the last snapshot: equal records, equal adapters.
    pub last_record: Digest,
    /// Every byte that moved.
    pub traffic: Traffic,
    /// The server's own adapter at the end, shape `[n]`.
    pub theta: Vec<f32>,
    /// The run's terms.
    pub manifest: Manifest,
}

/// A repetition under way.
struct Run<'a> {
    lab: &'a Laboratory,
    coordinator: Coordinator,
    id: RunId,
    manifest: Arc<Manifest>,
    key: Arc<SigningKey>,
    meter: Arc<Meter>,
    clients: Vec<Arc<Client>>,
    /// Read once for all clients.
    shared: Arc<Shared>,
}

pub(super) async fn run(
    lab: &Laboratory,
    method: &MethodSpec,
    seed: u64,
    on_row: OnRow,
) -> Result<Repetition, EngineError> {
    let run = Run::open(lab, method, seed).await?;
    let rounds = lab.scenario.rounds;
    let mut rows = Vec::new();
    let mut push = |row: RoundRow| {
        on_row(&row);
        rows.push(row);
    };
    let (received, own) = run.evaluate(0).await?;
    let start = RoundRow {
        method: method.name.clone(),
        seed,
        round: 0,
        train_loss: f64::NAN,
        heldout_loss: Some(received.mean()),
        server_loss: Some(own.mean()),
        heldout_accuracy: received.accuracy(),
        server_accuracy: own.accuracy(),
        upload_bytes: 0,
        download_bytes: 0,
        control_bytes: run.meter.traffic().control(),
        accepted: 0,
        wall_s: 0.0,
    };
    push(start.clone());
    for round in 1..=rounds {
        let (began, before) = (Instant::now(), run.meter.traffic());
        let contributions = run.round(round - 1).await?;
        let moved = run.meter.traffic().since(before);
        let wall_s = began.elapsed().as_secs_f64();
        let losses: f64 = contributions.iter().map(|c| f64::from(c.loss)).sum();
        let evaluated = match lab.scenario.eval.is_due(round, rounds) {
            true => Some(run.evaluate(round).await?),
            false => None,
        };
        let (received, own) = evaluated.unzip();
        push(RoundRow {
            round,
            train_loss: losses / contributions.len() as f64,
            heldout_loss: received.as_ref().map(Evaluation::mean),
            server_loss: own.as_ref().map(Evaluation::mean),
            heldout_accuracy: received.as_ref().and_then(Evaluation::accuracy),
            server_accuracy: own.as_ref().and_then(Evaluation::accuracy),
            upload_bytes: moved.updates,
            download_bytes: moved.snapshots,
            control_bytes: moved.control(),
            accepted: contributions.len() as u32,
            wall_s,
            ..start.clone()
        });
    }
    let last = run.coordinator.record(run.id, RoundId(rounds)).await?;
    let theta = run.coordinator.theta(run.id, RoundId(rounds)).await?;
    Ok(Repetition {
        rows,
        last_record: Digest::of(&last.bytes),
        traffic: run.meter.traffic(),
        theta,
        manifest: run.manifest.as_ref().clone(),
    })
}

impl<'a> Run<'a> {
    /// Starts the aggregator, creates the run and enrols the fleet.
    async fn open(
        lab: &'a Laboratory,
        method: &MethodSpec,
        seed: u64,
    ) -> Result<Self, EngineError> {
        let manifest = lab.manifest(method, seed)?;
        let secret = Digest::of(format!("gossamer/v1/sim/server\0{seed}").as_bytes()).0;
        let key = Arc::new(SigningKey::from_seed(&secret));
        let clock = Arc::new(ManualClock::at(Timestamp(0)));
        let store = Store::in_memory().await.map_err(CoordinatorError::from)?;
        let coordinator = Coordinator::open(store, SigningKey::from_seed(&secret), clock).await?;
        let id = coordinator.create_run(&manifest).await?;
        let mut run = Self {
            lab,
            coordinator,
            id,
            manifest: Arc::new(manifest),
            key,
            meter: Arc::default(),
            clients: Vec::new(),
            shared: Arc::default(),
        };
        for member in &lab.fleet.members {
            let watch = run.watch(method, seed, &member.name);
            let client = run.enrol(&member.seed, watch).await;
            let client = client.map_err(|source| EngineError::Client {
                client: member.name.clone(),
                round: 0,
                source,
            })?;
            run.clients.push(Arc::new(client));
        }
        Ok(run)
    }

    /// Tells the laboratory's listener what a client trained.
    fn watch(&self, method: &MethodSpec, seed: u64, client: &str) -> Watch {
        let Some(hear) = self.lab.on_change.clone() else {
            return Arc::new(|_| Control::Continue);
        };
        let (method, client) = (method.name.clone(), client.to_owned());
        let manifest = self.manifest.clone();
        Arc::new(move |event| {
            if let Event::Trained { round, delta } = event {
                hear(&Change {
                    method: &method,
                    seed,
                    round: round.0,
                    client: &client,
                    layout: &manifest.layout,
                    delta,
                });
            }
            Control::Continue
        })
    }

    async fn enrol(
        &self,
        seed: &[u8; 32],
        watch: Watch,
    ) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
        let secret = self.coordinator.new_token(Duration::from_secs(3600)).await?;
        let token = JoinToken { secret, server_key: self.key.public(), ca: None };
        let id = ClientId::of(&SigningKey::from_seed(seed).public().0);
        let client = Client::builder("in-process")
            .token(token.encode())
            .identity(*seed)
            .watch(watch)
            .base(self.lab.base.clone())
            .meter(self.meter.clone())
            .shared(self.shared.clone())
            .transport(Box::new(InProcess::new(self.coordinator.clone(), id)))
            .connect()
            .await?;
        Ok(client)
    }

    /// Lets the cohort of `round` do its work and closes the round.
    async fn round(&self, round: u64) -> Result<Vec<Contribution>, EngineError> {
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
        while let Some(finished) = work.join_next().await {
            let (at, outcome) = finished.map_err(|_| EngineError::Thread)?;
            let failed = |source: Box<dyn std::error::Error + Send + Sync>| EngineError::Client {
                client: self.lab.fleet.members[at].name.clone(),
                round,
                source,
            };
            match outcome {
                Ok(Outcome::Delivered(contribution)) => done.push((at, contribution)),
                Ok(other) => return Err(off(format!("a client of the cohort was told {other:?}"))),
                Err(error) => return Err(failed(error.into())),
            }
        }
        self.coordinator.tick().await?;
        // In the order of the fleet, so that the mean loss has one value.
        done.sort_by_key(|(at, _)| *at);
        let view = self.coordinator.run(self.id).await?;
        if view.round != RoundId(round + 1) {
            return Err(off(format!("{} updates did not close it", done.len())));
        }
        Ok(done.into_iter().map(|(_, contribution)| contribution).collect())
    }

    /// How well the adapter does that clients of `round` receive, and the aggregator's own.
    async fn evaluate(&self, round: u64) -> Result<(Evaluation, Evaluation), EngineError> {
        if round == 0 {
            self.coordinator.tick().await?;
        }
        let off = |why: String| EngineError::Round { round, why };
        let signed = self.coordinator.record(self.id, RoundId(round)).await?;
        let record: Record =
            signed.open(&self.key.public(), Purpose::Record).map_err(|e| off(e.to_string()))?;
        let frame = self.coordinator.object(self.id, record.snapshot).await?;
        let terms = Terms::new(&self.manifest, self.id, RoundId(round));
        let snapshot = Snapshot::decode(&frame, &terms).map_err(|e| off(e.to_string()))?;
        let received = snapshot.theta(&self.manifest);
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
