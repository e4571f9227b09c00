//! Servers that are killed and frozen at random while clients go on, and what must have come of it.
//!
//! Client `i` sends the basis vector `e_i` (times 2^-4) in every round, and every round wants all clients.
//! So each coordinate of a round's step tells how often that client's update was counted: once.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gossamer_client::transport::https::Https;
use gossamer_client::transport::retry::Retrying;
use gossamer_client::transport::{Slot, Transport, TransportError};
use gossamer_protocol::density::Density;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Origin, Terms, Update};
use gossamer_protocol::ids::{ClientId, RoundId, RunId};
use gossamer_protocol::layout::{BaseLinear, Layout};
use gossamer_protocol::manifest::{
    Base, Cohort, LocalOptimizer, Lora, MANIFEST_VERSION, Manifest, Method, Selection,
    ServerOptimizer, Training,
};
use gossamer_protocol::message::{
    Answer, Assignment, CheckIn, Enrolled, Enrolment, JoinToken, Receipt, Record, Signed,
    accepted_digest,
};
use gossamer_protocol::rng::Stream;
use gossamer_protocol::sign::{PublicKey, Purpose, SigningKey};
use gossamer_protocol::sparse::{Sparse, Support};
use gossamer_server::clock::SystemClock;
use gossamer_server::config::{Config, Store as Where};
use gossamer_server::coordinator::Coordinator;
use gossamer_server::setup;
use gossamer_server::store::Store;
use gossamer_services::{ACCESS_KEY, BUCKET, Postgres, REGION, S3, SECRET_KEY};

use crate::{Process, impatient};

/// What each client's one entry is.
const VALUE: f32 = 0.0625;
/// Parameters, and so the most clients.
const PARAMETERS: usize = 128;
/// When a killed server must answer again, at the latest.
const BACK: Duration = Duration::from_secs(5);

/// What is to be endured.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// Servers: one over a directory, or several that share Postgres and S3.
    pub servers: usize,
    /// Rounds.
    pub rounds: u64,
    /// Clients, all of them in every round.
    pub clients: usize,
    /// Longest pause between two disturbances, in milliseconds.
    pub pause_ms: u64,
    /// Draws who is disturbed, when and how.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Endured {
    /// Updates that clients have a receipt for.
    pub acknowledged: usize,
    /// Of those, how many are in no accepted set.
    pub lost: usize,
    /// Coordinates of rounds' steps that are not once their client's update.
    pub miscounted: usize,
    /// Servers killed.
    pub kills: u32,
    /// Servers frozen for longer than their leases, and woken.
    pub freezes: u32,
    /// Whether the last record is that of a server that nobody disturbed.
    pub same: bool,
    /// How long killed servers took to answer a client again, from the start of their process, rising; of every
    /// fourth, since the others may be killed before they do.
    pub back: Vec<Duration>,
    /// How long it took.
    pub took: Duration,
}

/// The run: a basis vector up, everything down.
#[must_use]
fn manifest(trial: &Trial) -> Manifest {
    let targets = vec!["q_proj".to_owned()];
    let linear = BaseLinear { name: "m.q_proj".into(), d_in: 64, d_out: 64 };
    let share = |share: f64| Density::try_from(share).expect("a share");
    let all = u32::try_from(trial.clients).expect("few");
    Manifest {
        version: MANIFEST_VERSION,
        name: "endure".into(),
        seed: 1,
        rounds: trial.rounds,
        base: Base { name: "none".into(), digest: Digest::of(b"none") },
        layout: Layout::lora(&[linear], &targets, 1, false).expect("valid"),
        head: None,
        lora: Lora::new(1, 2.0, targets),
        method: Method::sparse(share(1.0), share(1.0 / PARAMETERS as f64)),
        training: Training {
            steps: 1,
            batch: 1,
            context: 8,
            optimizer: LocalOptimizer::Sgd { lr: 0.1, momentum: 0.0 },
            clip: None,
            proximal: 0.0,
        },
        cohort: Cohort {
            goal: all,
            ask: all,
            min: all,
            enrolled_min: all,
            deadline_s: 3_600,
            selection: Selection::Seeded,
            retry_s: 0.02,
            buffered: None,
            participation: None,
        },
        optimizer: ServerOptimizer::Sgd { lr: 1.0, momentum: 0.0 },
        stop: None,
        evaluation: None,
        start: None,
    }
}

fn key(client: usize) -> SigningKey {
    SigningKey::from_seed(&Digest::of(format!("endure {client}").as_bytes()).0)
}

fn id(client: usize) -> ClientId {
    ClientId::of(&key(client).public().0)
}

/// The frame of client `n` for its task.
fn frame(manifest: &Manifest, task: &Assignment, n: usize) -> Bytes {
    let Assignment { run, round, attempt, snapshot, .. } = *task;
    let terms = Terms::new(manifest, run, round);
    let index = u32::try_from(n).expect("few");
    let delta = Sparse::new(PARAMETERS, Support::Indices(vec![index]), vec![VALUE]);
    let update = Update {
        origin: Origin { run, round, attempt, client: id(n), snapshot },
        examples: 1,
        loss: 1.0,
        delta: delta.expect("one entry"),
    };
    update.encode(&terms, None).expect("in range").into()
}

/// The doors of all servers: whoever finds one shut knocks at the next.
struct Doors {
    doors: Vec<Https>,
    at: AtomicUsize,
}

macro_rules! knock {
    ($self:ident, |$door:ident| $call:expr) => {{
        let at = $self.at.load(Ordering::Relaxed);
        let $door = &$self.doors[at % $self.doors.len()];
        let answer = $call.await;
        if answer.as_ref().is_err_and(TransportError::is_transient) {
            $self.at.store(at + 1, Ordering::Relaxed);
        }
        answer
    }};
}

#[async_trait::async_trait]
impl Transport for Doors {
    async fn enrol(&self, enrolment: &Enrolment) -> Result<Enrolled, TransportError> {
        knock!(self, |door| door.enrol(enrolment))
    }

    async fn check_in(&self, ask: &CheckIn) -> Result<Answer, TransportError> {
        knock!(self, |door| door.check_in(ask))
    }

    async fn manifest(&self, run: RunId) -> Result<Signed, TransportError> {
        knock!(self, |door| door.manifest(run))
    }

    async fn record(&self, run: RunId, round: RoundId) -> Result<Signed, TransportError> {
        knock!(self, |door| door.record(run, round))
    }

    async fn object(
        &self,
        run: RunId,
        of: Digest,
        range: std::ops::Range<u64>,
    ) -> Result<Bytes, TransportError> {
        knock!(self, |door| door.object(run, of, range.clone()))
    }

    async fn difference(
        &self,
        run: RunId,
        round: RoundId,
        held: RoundId,
        most: u64,
    ) -> Result<Bytes, TransportError> {
        knock!(self, |door| door.difference(run, round, held, most))
    }

    async fn upload(&self, slot: &Slot, frame: &Bytes) -> Result<Signed, TransportError> {
        knock!(self, |door| door.upload(slot, frame))
    }
}

/// The servers' directories, and what they share.
struct Site {
    program: PathBuf,
    dirs: Vec<tempfile::TempDir>,
    addresses: Vec<SocketAddr>,
    shared: Option<(Postgres, S3, String)>,
}

impl Site {
    async fn new(trial: &Trial, program: &Path) -> Self {
        let shared = (trial.servers > 1).then(|| (Postgres::start(), S3::start()));
        let shared = shared.map(|(postgres, s3)| {
            let url = postgres.database();
            (postgres, s3, url)
        });
        let store = match &shared {
            None => Where::default(),
            Some((_, s3, url)) => Where {
                database: Some(url.clone()),
                objects: Some(format!("s3://{BUCKET}/endure")),
                endpoint: Some(s3.endpoint()),
                // Small enough that rounds are folded in parts, short enough that leases end.
                fold_part: std::num::NonZeroU32::new(3).expect("not 0"),
                fold_lease_s: std::num::NonZeroU32::new(1).expect("not 0"),
                fold_threads: std::num::NonZeroU32::new(2).expect("not 0"),
            },
        };
        let first = tempfile::tempdir().expect("a temporary folder");
        let config = Config { dir: first.path().to_owned(), store, ..Config::default() };
        setup::init(first.path(), &[], &config).await.expect("a new folder");
        let mut dirs = vec![first];
        for _ in 1..trial.servers {
            let dir = tempfile::tempdir().expect("a temporary folder");
            copy(dirs[0].path(), dir.path());
            dirs.push(dir);
        }
        let addresses = dirs.iter().map(|_| free_port()).collect();
        Self { program: program.to_owned(), dirs, addresses, shared }
    }

    /// A coordinator beside the servers.
    async fn coordinator(&self) -> Coordinator {
        let dir = self.dirs[0].path();
        let places = Config::load(dir).expect("written").places();
        let store = match &self.shared {
            None => Store::open_at(&places).await,
            Some((_, s3, _)) => Store::open_with(&places, s3.place("endure")).await,
        };
        let key = setup::signing_key(dir).expect("written");
        let opened = Coordinator::open(store.expect("a store"), key, Arc::new(SystemClock)).await;
        opened.expect("a whole store")
    }

    fn spawn(&self, server: usize) -> Process {
        let mut command = Command::new(&self.program);
        command.arg(self.dirs[server].path()).arg(self.addresses[server].to_string());
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command.env("AWS_REGION", REGION);
        Process(command.spawn().expect("the aggregator starts"))
    }

    /// Each server's, to client `n`.
    fn each(&self, n: usize, ca: Option<&str>) -> Vec<Https> {
        let key = Arc::new(key(n));
        let door = |address: &SocketAddr| {
            let url = format!("https://{address}");
            Https::new(&url, ca, key.clone()).expect("an address")
        };
        self.addresses.iter().map(door).collect()
    }

    fn doors(&self, n: usize, token: &JoinToken) -> Retrying {
        let doors = Doors { doors: self.each(n, token.ca.as_deref()), at: AtomicUsize::new(n) };
        Retrying::new(Box::new(doors), impatient(), n as u64)
    }
}

/// A copy of a server's directory but for what it keeps: what an operator takes to another machine.
fn copy(from: &Path, to: &Path) {
    for name in ["config.toml", "keys/server.key", "tls/ca.pem", "tls/server.pem", "tls/server.key"]
    {
        let place = to.join(name);
        std::fs::create_dir_all(place.parent().expect("within")).expect("made");
        std::fs::copy(from.join(name), place).expect("copied");
    }
}

/// A free port, which stays free between two lives of a server.
fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("bound")
}

/// One client, until the run is over.
async fn work(
    transport: Retrying,
    n: usize,
    secret: String,
    manifest: Arc<Manifest>,
    server: PublicKey,
    receipts: Arc<Mutex<Vec<Receipt>>>,
) {
    transport.enrol(&Enrolment::new(&secret, &key(n))).await.expect("enrols in the end");
    loop {
        match transport.check_in(&CheckIn::default()).await.expect("answered in the end") {
            Answer::Over { .. } => return,
            Answer::Wait { retry_ms, .. } => {
                tokio::time::sleep(Duration::from_millis(retry_ms.min(50))).await;
            }
            Answer::Train(task) => {
                let frame = frame(&manifest, &task, n);
                let Assignment { run, round, attempt, .. } = task;
                let slot = Slot { run, round, attempt, client: id(n) };
                match transport.upload(&slot, &frame).await {
                    Ok(receipt) => {
                        let receipt = receipt.open(&server, Purpose::Receipt).expect("signed");
                        receipts.lock().unwrap_or_else(PoisonError::into_inner).push(receipt);
                    }
                    Err(TransportError::Refused(problem)) => {
                        tracing::debug!(?problem, "refused for good");
                    }
                    Err(error) => panic!("client {n}: {error}"),
                }
            }
        }
    }
}

/// How long it takes until the server behind `door` gives a client what it asks for from its store.
async fn back(door: &Https, run: RunId) -> Duration {
    let began = Instant::now();
    loop {
        match door.record(run, RoundId(0)).await {
            Err(error) if error.is_transient() => {}
            // Client 0 may not be enrolled yet, which too is looked up.
            Ok(_) | Err(TransportError::Refused(_)) => return began.elapsed(),
            Err(error) => panic!("a record that is there: {error}"),
        }
        assert!(began.elapsed() < BACK, "a killed server does not answer after {BACK:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Sends a signal, as no safe function does.
fn signal(process: &Process, name: &str) {
    let sent = Command::new("kill").args([name, &process.0.id().to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill {name}");
}

/// Runs a trial with servers that `program` (`aggregator DIR ADDRESS`) is.
///
/// # Panics
/// Where a server ends by itself, or a client is refused what it must not be.
pub async fn endure(trial: Trial, program: &Path) -> Endured {
    assert!(trial.clients <= PARAMETERS, "a coordinate for each client");
    let began = Instant::now();
    let site = Site::new(&trial, program).await;
    let terms = Arc::new(manifest(&trial));
    let coordinator = site.coordinator().await;
    let server = coordinator.public_key();
    let run = coordinator.create_run(&terms).await.expect("a sound manifest");
    let config = Config::load(site.dirs[0].path()).expect("written");
    let receipts: Arc<Mutex<Vec<Receipt>>> = Arc::default();
    let mut working = tokio::task::JoinSet::new();
    let authority = gossamer_server::join_token(&config, String::new()).expect("whole").ca;
    let watched = site.each(0, authority.as_deref());
    for n in 0..trial.clients {
        let secret = coordinator.new_token(Duration::from_secs(3_600)).await.expect("stored");
        let token = gossamer_server::join_token(&config, secret.clone()).expect("whole");
        let (doors, terms, receipts) = (site.doors(n, &token), terms.clone(), receipts.clone());
        working.spawn(work(doors, n, secret, terms, server, receipts));
    }
    coordinator.store().close().await;

    let mut servers: Vec<Process> = (0..trial.servers).map(|server| site.spawn(server)).collect();
    let mut rng = Stream::new(trial.seed, "endure", &[]);
    let (mut kills, mut freezes, mut times) = (0, 0, Vec::new());
    let mut done = 0;
    while done < trial.clients {
        let pause = Duration::from_millis(rng.below(trial.pause_ms));
        let ended = tokio::time::timeout(pause, working.join_next()).await;
        if let Ok(Some(ended)) = ended {
            ended.expect("no client panicked");
            done += 1;
            continue;
        }
        let at = rng.below(servers.len() as u64) as usize;
        let alive = servers[at].0.try_wait().expect("a child").is_none();
        assert!(alive, "server {at} ended by itself after {kills} kills");
        if trial.servers > 1 && rng.below(8) == 0 {
            signal(&servers[at], "-STOP");
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            signal(&servers[at], "-CONT");
            freezes += 1;
        } else {
            servers[at].kill();
            servers[at] = site.spawn(at);
            kills += 1;
            if kills % 4 == 0 {
                times.push(back(&watched[at], run).await);
            }
        }
    }
    times.sort();
    let took = began.elapsed();
    drop(servers);

    let receipts = std::mem::take(&mut *receipts.lock().unwrap_or_else(PoisonError::into_inner));
    let coordinator = site.coordinator().await;
    let (lost, miscounted) = judge(&trial, &coordinator, run, &receipts).await;
    let last = coordinator.record(run, RoundId(trial.rounds)).await.expect("published");
    let same = last.bytes == undisturbed(&trial, &terms).await.bytes;
    coordinator.store().close().await;
    let acknowledged = receipts.len();
    Endured { acknowledged, lost, miscounted, kills, freezes, same, back: times, took }
}

/// Acknowledged updates that are in no accepted set, and entries of steps that are not once their client's.
async fn judge(
    trial: &Trial,
    coordinator: &Coordinator,
    run: RunId,
    receipts: &[Receipt],
) -> (usize, usize) {
    let mut by_round: BTreeMap<RoundId, BTreeMap<ClientId, Digest>> = BTreeMap::new();
    for receipt in receipts {
        let round = by_round.entry(receipt.round).or_default();
        let before = round.insert(receipt.client, receipt.update);
        assert!(before.is_none_or(|update| update == receipt.update), "two receipts differ");
    }
    let (mut lost, mut miscounted) = (0, 0);
    let mut theta = coordinator.theta(run, RoundId(0)).await.expect("published");
    for round in 0..trial.rounds {
        let next = RoundId(round + 1);
        let signed = coordinator.record(run, next).await.expect("published");
        let record: Record =
            signed.open(&coordinator.public_key(), Purpose::Record).expect("signed");
        let known = by_round.remove(&RoundId(round)).unwrap_or_default();
        // A client whose server died before it answered has its receipt from asking again, so all do.
        let whole = record.accepted_set == accepted_digest(&known);
        lost += if whole { 0 } else { known.len().max(record.accepted as usize) };
        let after = coordinator.theta(run, next).await.expect("published");
        let once = VALUE / trial.clients as f32;
        for (at, (before, after)) in theta.iter().zip(&after).enumerate() {
            let expected = if at < trial.clients { once } else { 0.0 };
            miscounted += usize::from((after - before - expected).abs() > once / 100.0);
        }
        theta = after;
    }
    (lost, miscounted)
}

/// The last record of the same run on one server in memory that nobody disturbs.
async fn undisturbed(trial: &Trial, terms: &Manifest) -> Signed {
    let store = Store::in_memory().await.expect("a store");
    let key_of_server = SigningKey::from_seed(&[1; 32]);
    let opened = Coordinator::open(store, key_of_server, Arc::new(SystemClock)).await;
    let coordinator = opened.expect("an empty store");
    let run = coordinator.create_run(terms).await.expect("a sound manifest");
    for n in 0..trial.clients {
        let secret = coordinator.new_token(Duration::from_secs(3_600)).await.expect("stored");
        coordinator.enrol(&Enrolment::new(&secret, &key(n))).await.expect("enrols");
    }
    for _ in 0..trial.rounds {
        coordinator.tick().await.expect("ticks");
        for n in 0..trial.clients {
            let asked = coordinator.check_in(id(n), &CheckIn::default()).await;
            let Ok(Answer::Train(task)) = asked else { panic!("client {n}: {asked:?}") };
            let (frame, Assignment { round, attempt, .. }) = (frame(terms, &task, n), task);
            let sent = coordinator.submit(id(n), run, round, attempt, id(n), frame).await;
            sent.expect("accepted");
        }
    }
    coordinator.tick().await.expect("ticks");
    coordinator.record(run, RoundId(trial.rounds)).await.expect("published")
}
