//! Sole owner of the open rounds: it feeds events to [`Round`] and carries its effects out.
//!
//! The store alone is believed; what is in memory is a copy of a run's row and what hangs on it, at a
//! version that every step counts up. A step decides on the copy, then holds the row: where it is at a
//! later version, another process went on, and the step decides anew with what came since. An effect is
//! durable before anybody hears of it, and before the copy changes. After a store that failed the copy is
//! marked, since it may or may not have been changed, and looked after again. What writes runs in a task
//! of its own, to its end, even where its caller goes away.
//!
//! - `projects`: what a handle sees. `clients`: tokens, enrolment, revocation, nonces.
//!   `client_keys`: those that follow one another. `certificates`: those that clients show. `runs`: runs and what they published.
//! - `evaluations`: how well snapshots do, and when that is enough.
//! - `health`: whether the server can do its work. `keys`: the server's keys, which follow one another.
//! - `operators`: who may use the admin API. `sightings`: what was seen of clients, in memory.
//! - `differences`: snapshots for clients that hold an earlier one. `inclusion`: that an update was
//!   counted. `restore`: a run carried here. `retention`: what
//!   nobody needs. `rollback`: back to an earlier adapter. `simulated`: what only
//!   a simulator asks for.
//! - `tags`: names for adapters, and canaries.
//! - `steps`: a run's copy, and what changes it. `rounds`: check-in and upload. `fold`: the sum of a
//!   round. `close`: the tick, and from one round to the next.

mod certificates;
mod client_keys;
mod clients;
mod close;
mod differences;
mod error;
mod evaluations;
mod fold;
mod health;
mod inclusion;
mod keys;
mod operators;
mod projects;
mod restore;
mod retention;
mod rollback;
mod rounds;
mod runs;
mod sightings;
mod simulated;
mod steps;
mod tags;
#[cfg(test)]
pub(crate) mod tests;
mod uploads;

mod view;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use bytes::Bytes;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{ClientId, RunId};
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::message::Signed;
use gossamer_protocol::sign::{PublicKey, SigningKey};
use gossamer_protocol::sparse::Support;
use tokio::sync::{Mutex, Notify, watch};
use tracing::Instrument as _;

pub use clients::{ClientState, ClientView};
use differences::Differences;
pub use error::CoordinatorError;
pub use fold::Folding;
pub use health::{Health, disk_free};
pub use keys::Keyring;
pub use restore::Published;
pub use retention::Pruned;
pub use rounds::Admission;
pub use sightings::Sighting;
use sightings::Sightings;
pub use simulated::Peers;
pub use uploads::Uploaded;
pub use view::RunView;

use crate::advance::Lineage;
use crate::attestation::Verifier;
use crate::audit::{Actor, Event as Told, Note};
use crate::clock::{Clock, Timestamp};
use crate::metrics::Metrics;
use crate::project::{ProjectName, Scope};
use crate::round::Round;
use crate::state::ServerState;
use crate::status::Status;
use crate::store::{Member, RunRow, StatusRow, Store};

/// The aggregator itself, without a network. A cheap handle; what is done through it is noted as its
/// actor's, and it sees what is in its scope.
#[derive(Clone)]
pub struct Coordinator(Arc<Shared>, Actor, Scope);

struct Shared {
    store: Store,
    keys: RwLock<keys::Keys>,
    clock: Arc<dyn Clock>,
    fleet: RwLock<Fleet>,
    runs: RwLock<Runs>,
    /// One tick at a time; holds when the last sign of life was given.
    ticking: Mutex<Timestamp>,
    /// One difference between snapshots is made at a time.
    differencing: Mutex<()>,
    /// What closed rounds accepted.
    counted: Mutex<inclusion::Counted>,
    /// Whom to ask who may enrol.
    verifier: RwLock<Option<Arc<dyn Verifier>>>,
    folding: RwLock<Folding>,
    /// Who folds with this process, where a simulation has several.
    peers: RwLock<Option<Arc<dyn Peers>>>,
    /// When frames that were not accepted were last dropped.
    dropped_refused: AtomicU64,
    /// Rounds of a run that are kept; 0: all.
    retention: AtomicU32,
    /// When it was last looked for others.
    retained_at: AtomicU64,
    /// Rung where a tick has something to do at once.
    due: Notify,
    sightings: std::sync::Mutex<Sightings>,
    metrics: Metrics,
    /// What was last found, and when.
    health: Mutex<Option<(Instant, Health)>>,
    /// When the last tick that did not fail began.
    ticked: std::sync::Mutex<Option<u64>>,
    /// Counted up where an operator may see something new.
    changes: watch::Sender<u64>,
}

impl std::fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Coordinator({})", self.public_key())
    }
}

/// Everyone enrolled.
#[derive(Default)]
struct Fleet {
    members: HashMap<ClientId, Member>,
    /// By project, in rising order: cohorts are drawn from it.
    ids: BTreeMap<ProjectName, Vec<ClientId>>,
    /// Each with its project.
    revoked: HashMap<ClientId, Scope>,
    /// The last revocation in it.
    revocation: u64,
    /// The audit entry of the last enrolment in it.
    enrolment: u64,
}

impl Fleet {
    fn insert(&mut self, client: ClientId, member: Member) {
        if self.revoked.contains_key(&client) {
            return;
        }
        let project = member.project.clone();
        if self.members.insert(client, member).is_none() {
            let ids = self.ids.entry(project).or_default();
            let place = ids.partition_point(|id| *id < client);
            ids.insert(place, client);
        }
    }

    fn revoke(&mut self, client: ClientId) {
        let project = self.members.remove(&client).map(|member| member.project);
        let ids = project.as_ref().and_then(|project| self.ids.get_mut(project));
        if let Some(ids) = ids
            && let Ok(place) = ids.binary_search(&client)
        {
            ids.remove(place);
        }
        self.revoked.insert(client, project);
    }

    /// The clients of a project, in rising order.
    fn of(&self, project: &ProjectName) -> &[ClientId] {
        self.ids.get(project).map_or(&[], Vec::as_slice)
    }
}

#[derive(Default)]
struct Runs {
    /// Oldest first.
    order: Vec<RunId>,
    by_id: HashMap<RunId, Arc<Run>>,
}

/// A run in memory.
struct Run {
    id: RunId,
    /// Whose it is: its clients are this project's.
    project: ProjectName,
    /// Of the signed manifest.
    digest: Digest,
    manifest: Arc<Manifest>,
    signed: Signed,
    linears: Option<Vec<u8>>,
    status: RwLock<StatusRow>,
    open: Mutex<Open>,
    differences: std::sync::Mutex<Differences>,
    /// Leftovers of a process before this one are dropped at the first tick.
    swept: AtomicBool,
    /// Unfinished uploads are dropped once the run is over.
    cleared: AtomicBool,
    /// Bytes of snapshots and differences handed out in the open round, by this process.
    bytes_down: AtomicU64,
}

/// The part of a run that moves.
struct Open {
    /// The version that this is.
    version: u64,
    round: Round,
    /// Digest of the record this round starts from.
    record: Digest,
    snapshot: Digest,
    snapshot_bytes: Bytes,
    /// The support clients share, where they share one.
    shared: Option<Arc<Support>>,
    state: Digest,
    /// The state's contents, once needed.
    state_cached: Option<Arc<ServerState>>,
    /// A step was begun and not known to be stored: look whether it was.
    dirty: bool,
}

impl Run {
    fn status(&self) -> StatusRow {
        self.status.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_status(&self, status: StatusRow) {
        *self.status.write().unwrap_or_else(PoisonError::into_inner) = status;
    }

    fn is(&self, status: Status) -> bool {
        self.status.read().unwrap_or_else(PoisonError::into_inner).status == status
    }

    fn is_over(&self) -> bool {
        self.status.read().unwrap_or_else(PoisonError::into_inner).status.is_over()
    }

    fn lineage(&self) -> Lineage<'_> {
        Lineage { run: self.id, digest: self.digest, manifest: &self.manifest }
    }
}

impl Coordinator {
    /// Takes up where `store` left off. `key` signs manifests, records and receipts.
    ///
    /// # Errors
    /// [`CoordinatorError`] where the store cannot be read or is damaged.
    pub async fn open(
        store: Store,
        key: SigningKey,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CoordinatorError> {
        Self::open_with(store, key, None, clock).await
    }

    /// As [`open`](Self::open), with the secrets of keys that follow `key`, or that it follows, in `ring`.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub async fn open_with(
        store: Store,
        key: SigningKey,
        ring: Option<Arc<dyn Keyring>>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CoordinatorError> {
        let mut fleet = Fleet::default();
        for (entry, client, member) in store.enrolled(None).await? {
            fleet.insert(client, member);
            fleet.enrolment = fleet.enrolment.max(entry);
        }
        for (seq, client) in store.revoked(0).await? {
            fleet.revoke(client);
            fleet.revocation = seq;
        }
        let rows = store.run_rows().await?;
        let shared = Arc::new(Shared {
            store,
            keys: RwLock::new(keys::Keys::new(key, ring)),
            clock,
            fleet: RwLock::new(fleet),
            runs: RwLock::default(),
            ticking: Mutex::default(),
            differencing: Mutex::default(),
            counted: Mutex::default(),
            verifier: RwLock::default(),
            folding: RwLock::default(),
            peers: RwLock::default(),
            dropped_refused: AtomicU64::new(0),
            retention: AtomicU32::new(0),
            retained_at: AtomicU64::new(0),
            due: Notify::new(),
            sightings: std::sync::Mutex::default(),
            metrics: Metrics::default(),
            health: Mutex::default(),
            ticked: std::sync::Mutex::default(),
            changes: watch::Sender::new(0),
        });
        let coordinator = Self(shared, Actor::Local, None);
        coordinator.refresh_keys().await?;
        for row in rows {
            coordinator.load(row).await?;
        }
        Ok(coordinator)
    }

    /// A handle on the same coordinator through which `actor` acts.
    #[must_use]
    pub fn acting(&self, actor: Actor) -> Self {
        Self(self.0.clone(), actor, self.2.clone())
    }

    /// How large rounds are folded from now on, where processes share the store.
    pub fn set_folding(&self, folding: Folding) {
        *self.0.folding.write().unwrap_or_else(PoisonError::into_inner) = folding;
    }

    fn folding(&self) -> Folding {
        *self.0.folding.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the audit log is to say of what this handle's actor does now.
    fn note(&self, event: Told) -> Note {
        Note { at: self.now(), actor: self.1.clone(), project: self.2.clone(), event }
    }

    /// What it is to say of what the server does by itself.
    fn own_note(&self, event: Told) -> Note {
        Note { at: self.now(), actor: Actor::Server, project: None, event }
    }

    /// The key that signs now, which new clients pin.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.key().public()
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Counts up where an operator may see something new.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn changed(&self) {
        self.0.changes.send_modify(|changes| *changes += 1);
    }

    /// The store behind it.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Waits until a tick has something to do before its time.
    pub async fn due(&self) {
        self.0.due.notified().await;
    }

    /// Brings a stored run into memory.
    async fn load(&self, row: RunRow) -> Result<Arc<Run>, CoordinatorError> {
        let manifest = Manifest::from_bytes(&row.manifest.bytes)?;
        let open = self.read_open(row.id, &manifest).await?;
        let run = Arc::new(Run {
            id: row.id,
            project: row.project,
            digest: Digest::of(&row.manifest.bytes),
            manifest: Arc::new(manifest),
            signed: row.manifest,
            linears: row.linears,
            status: RwLock::new(row.status),
            open: Mutex::new(open),
            differences: std::sync::Mutex::default(),
            swept: AtomicBool::new(false),
            cleared: AtomicBool::new(false),
            bytes_down: AtomicU64::new(0),
        });
        let mut runs = self.0.runs.write().unwrap_or_else(PoisonError::into_inner);
        // Whoever loaded it first keeps it: two copies of a round would each go its own way.
        if let Some(there) = runs.by_id.get(&run.id) {
            return Ok(there.clone());
        }
        runs.order.push(run.id);
        runs.by_id.insert(run.id, run.clone());
        Ok(run)
    }

    /// Runs `work` to its end even where the caller goes away. sqlx drops the connection of a query
    /// that is cancelled while the query runs on: a row could then appear after the round was read.
    async fn apart<T, F>(&self, work: impl FnOnce(Self) -> F) -> Result<T, CoordinatorError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, CoordinatorError>> + Send + 'static,
    {
        match tokio::spawn(work(self.clone()).in_current_span()).await {
            Ok(done) => done,
            Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
            Err(_) => Err(CoordinatorError::Stopping),
        }
    }

    /// A run that this handle sees; where it is not in memory yet, another process may have made it.
    async fn find(&self, run: RunId) -> Result<Arc<Run>, CoordinatorError> {
        let found = match self.known(run) {
            Some(known) => Some(known),
            None if self.0.store.is_shared() => match self.0.store.run_row(run).await? {
                Some(row) => Some(self.load(row).await?),
                None => None,
            },
            None => None,
        };
        found.filter(|run| self.sees_run(run)).ok_or(CoordinatorError::UnknownRun(run))
    }

    fn known(&self, run: RunId) -> Option<Arc<Run>> {
        let runs = self.0.runs.read().unwrap_or_else(PoisonError::into_inner);
        runs.by_id.get(&run).cloned()
    }

    /// All runs that this handle sees, oldest first.
    fn all(&self) -> Vec<Arc<Run>> {
        let runs = self.0.runs.read().unwrap_or_else(PoisonError::into_inner);
        let all = runs.order.iter().filter_map(|id| runs.by_id.get(id).cloned());
        all.filter(|run| self.sees_run(run)).collect()
    }
}
