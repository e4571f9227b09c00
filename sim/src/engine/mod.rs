//! Runs a scenario: every method and seed on the deployed aggregator and the deployed client code.
//!
//! Replaced are the transport ([`crate::transport::InProcess`]), the clock and the data; all else is
//! what devices and operators run. A repetition is a pure function of scenario, method and seed:
//! threads, and what else runs beside, change nothing but the time it takes.

use std::num::NonZeroUsize;
use std::sync::Arc;

use gossamer_client::client::Threads;
use gossamer_client::model::BaseModel;
use gossamer_client::train::Passes;
use gossamer_protocol::digest::{Digest, Hasher};
use gossamer_protocol::layout::Layout;
use gossamer_protocol::manifest::Manifest;
use gossamer_server::coordinator::CoordinatorError;
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::dataset::Dataset;
use crate::partition::{self, ClientText, Split};
use crate::ranks::{self, Ranks, RanksError};
use crate::report::RoundRow;
use crate::scenario::{Data, FleetSpec, MethodSpec, Scenario};
use crate::trace::Trace;

mod buffered;
#[cfg(test)]
mod buffered_tests;
pub(crate) mod checkpoint;
mod devices;
mod error;
mod evaluation;
mod federation;
mod fleet;
mod product_error;
mod repetition;
mod saving;
mod tiers;
#[cfg(test)]
mod tiers_tests;
mod timed;
mod timed_round;
mod together;

pub use checkpoint::CheckpointError;
use checkpoint::Checkpoints;
pub use error::EngineError;
pub use evaluation::Heldout;
pub use fleet::identity;
pub use repetition::Repetition;

/// Hears every row as it is made.
pub type OnRow = Arc<dyn Fn(&RoundRow) + Send + Sync>;

/// A trained change, before anything is selected or rounded.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// The method.
    pub method: &'a str,
    /// The seed.
    pub seed: u64,
    /// The round it starts from.
    pub round: u64,
    /// The client's name.
    pub client: &'a str,
    /// The adapter's tensors.
    pub layout: &'a Layout,
    /// Local minus received, shape `[n]`.
    pub delta: &'a [f32],
}

/// Hears every trained change.
pub type OnChange = Arc<dyn Fn(&Change<'_>) + Send + Sync>;

/// A scenario with its model and text loaded and dealt.
#[derive(Clone)]
pub struct Laboratory {
    scenario: Arc<Scenario>,
    base: BaseModel,
    split: Arc<Split>,
    heldout: Arc<Heldout>,
    fleet: Arc<fleet::Fleet>,
    on_change: Option<OnChange>,
    /// This process, among those that simulate this together.
    ranks: Ranks,
    /// What the fleet was measured to do.
    trace: Option<Arc<Trace>>,
    /// Threads that compute.
    n_threads: NonZeroUsize,
    /// What its clients train on.
    trainings: Threads,
    /// Room for clients at work, and for what else computes: [`PLACES`] a thread, and as many more: while some
    /// train, others fetch, deliver and come to wait, so that a whole pass is ready for the next free thread.
    room: Arc<Semaphore>,
}

/// Room of a thread: clients who train in one pass share it, who is alone in a pass takes it all.
const PLACES: u32 = 64;

/// What simulations on so many threads run in.
///
/// # Errors
/// Where the system has no threads.
pub fn runtime(threads: NonZeroUsize) -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.get())
        // One may wait for other ranks. More would only keep more memory: an allocator's heap each.
        .max_blocking_threads(threads.get() + 1)
        .enable_all()
        .build()
}

/// Reads a scenario's text, deals it, and holds out what nobody trains on; loads no model.
///
/// # Errors
/// [`EngineError`] where text is missing, or cannot be dealt as the scenario asks.
pub fn split(scenario: &Scenario) -> Result<Split, EngineError> {
    let dataset = match &scenario.data {
        Data::Rows(rows) => Dataset::load(rows, &scenario.heldout.only)?,
        Data::Languages(names) => Dataset::languages(names)?,
    };
    let shards = partition::deal(&dataset, &scenario.partition)?;
    let seed = scenario.partition.seed;
    let split = partition::hold_out(&dataset, &shards, &scenario.heldout, seed)?;
    scenario.check_against(scenario.registered.unwrap_or(split.train.len()))?;
    Ok(split)
}

impl Laboratory {
    /// Loads the base and the text, deals the text, and makes every client's training set.
    ///
    /// # Errors
    /// [`EngineError`] at the first thing that is off.
    pub fn open(scenario: Scenario, threads: NonZeroUsize) -> Result<Self, EngineError> {
        let split = split(&scenario)?;
        Self::of(scenario, split, threads)
    }

    /// As [`open`](Self::open), on what learning rates are tuned by; see [`Split::for_tuning`].
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_tuning(scenario: Scenario, threads: NonZeroUsize) -> Result<Self, EngineError> {
        let split = split(&scenario)?.for_tuning(scenario.head.is_some())?;
        Self::of(scenario, split, threads)
    }

    fn of(scenario: Scenario, split: Split, threads: NonZeroUsize) -> Result<Self, EngineError> {
        let base = crate::base::load(&scenario.base)?;
        let heldout = Heldout::new(&base, &split, &scenario)?;
        let registered = scenario.registered.unwrap_or(split.train.len());
        scenario.check_registered(split.train.len())?;
        let fleet = fleet::Fleet::new(&base, &split.train, scenario.head, registered)?;
        let trace = match scenario.fleet.as_ref().and_then(|spec| spec.trace.as_ref()) {
            None => None,
            Some(path) => {
                let names: Vec<String> = (0..fleet.len()).map(|at| fleet.name(at)).collect();
                Some(Arc::new(Trace::load(path, &names)?))
            }
        };
        Ok(Self {
            scenario: Arc::new(scenario),
            base,
            split: Arc::new(split),
            heldout: Arc::new(heldout),
            fleet: Arc::new(fleet),
            on_change: None,
            ranks: Ranks::default(),
            trace,
            n_threads: threads,
            trainings: Threads::new(threads),
            room: Arc::new(Semaphore::new(2 * threads.get() * PLACES as usize)),
        })
    }

    /// Room for a client of this run.
    fn room(
        &self,
        manifest: &Manifest,
    ) -> impl Future<Output = Option<OwnedSemaphorePermit>> + Send + use<> {
        let of_a_pass = u32::try_from(Passes::clients(manifest)).unwrap_or(PLACES);
        let room = self.room.clone().acquire_many_owned((PLACES / of_a_pass).max(1));
        async move { room.await.ok() }
    }

    /// Does `work` once a thread is free.
    fn on_a_thread<T: Send + 'static, W: FnOnce() -> T + Send + 'static>(
        &self,
        work: W,
    ) -> impl Future<Output = Result<T, EngineError>> + Send + use<T, W> {
        let room = self.room.clone().acquire_many_owned(PLACES);
        async move {
            let room = room.await;
            let work = move || {
                let _room = room;
                work()
            };
            tokio::task::spawn_blocking(work).await.map_err(|_| EngineError::Thread)
        }
    }

    /// Simulates together with other processes.
    ///
    /// # Errors
    /// [`EngineError::Ranks`] where one of them would simulate another thing.
    pub async fn among(mut self, ranks: Ranks) -> Result<Self, EngineError> {
        if !ranks.is_alone() {
            let buffered = |method: &&MethodSpec| self.scenario.cohort(method).buffered.is_some();
            if let Some(method) = self.scenario.methods.iter().find(buffered) {
                return Err(RanksError::Buffered(method.name.clone()).into());
            }
            ranks.agree(&ranks::facts(&self)?).await?;
        }
        self.ranks = ranks;
        Ok(self)
    }

    /// Lets `on_change` hear every trained change; it changes nothing else.
    #[must_use]
    pub fn on_change(mut self, on_change: OnChange) -> Self {
        self.on_change = Some(on_change);
        self
    }

    /// The scenario.
    #[must_use]
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// What is trained on, and what is not.
    #[must_use]
    pub fn split(&self) -> &Split {
        &self.split
    }

    /// Clients that may be asked.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.fleet.len()
    }

    /// What is evaluated.
    #[must_use]
    pub fn heldout(&self) -> &Heldout {
        &self.heldout
    }

    /// The terms of one repetition.
    pub(crate) fn manifest(&self, method: &MethodSpec, seed: u64) -> Result<Manifest, EngineError> {
        let lora = self.scenario.lora(method);
        let (linears, head) = (self.base.linears(), self.scenario.head);
        let layout = method.layout(&lora, &linears, head, self.base.hidden())?;
        let base = crate::base::describe(&self.scenario.base, &self.base);
        let mut manifest = self.scenario.manifest(method, seed, base, layout);
        // Nobody is asked before everybody is there, so that cohorts are drawn from the whole fleet.
        manifest.cohort.enrolled_min = self.fleet.len() as u32;
        Ok(manifest)
    }

    /// Names all that one repetition's rows follow from: its terms, who trains on which text, and what
    /// is evaluated when.
    pub(crate) fn settings(&self, method: &MethodSpec, seed: u64) -> Result<Digest, EngineError> {
        let manifest = self.manifest(method, seed)?.to_bytes().map_err(CoordinatorError::from)?;
        let mut hasher = Hasher::default();
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        part(b"gossamer/v1/sim/settings");
        part(&manifest);
        part(self.scenario.eval.facts().as_bytes());
        if let Some(registered) = self.scenario.registered {
            part(format!("registered {registered}").as_bytes());
        }
        if let Some(fleet) = &self.scenario.fleet {
            // What a trace says counts, not where it lies.
            let spec = FleetSpec { trace: None, ..fleet.clone() };
            part(format!("{spec:?}").as_bytes());
            if let Some(trace) = &self.trace {
                part(format!("{trace:?}").as_bytes());
            }
        }
        let mut clients = |clients: &[ClientText]| {
            part(&(clients.len() as u64).to_le_bytes());
            for client in clients {
                part(client.name.as_bytes());
                part(&(client.documents.len() as u64).to_le_bytes());
                client.documents.iter().for_each(|document| part(document.as_bytes()));
                if self.scenario.head.is_some() {
                    client.labels.iter().for_each(|label| part(&label.to_le_bytes()));
                }
            }
        };
        clients(&self.split.train);
        clients(&self.split.heldout);
        Ok(hasher.finish())
    }

    /// Runs one method from one seed; `on_row` hears every round.
    ///
    /// # Errors
    /// [`EngineError`] at the first thing that fails.
    pub async fn repeat(
        &self,
        method: &MethodSpec,
        seed: u64,
        on_row: OnRow,
    ) -> Result<Repetition, EngineError> {
        repetition::run(self, method, seed, on_row, None).await
    }

    /// The same, keeping checkpoints, and going on from the one that is there.
    pub(crate) async fn repeat_kept(
        &self,
        method: &MethodSpec,
        seed: u64,
        on_row: OnRow,
        keep: Checkpoints,
    ) -> Result<Repetition, EngineError> {
        repetition::run(self, method, seed, on_row, Some(keep)).await
    }
}
