//! The harness of the end-to-end tests: the real server over real HTTPS, the SDK's own clients, tiny
//! models, temporary stores.

pub mod device;
pub mod endure;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use gossamer_client::client::{Builder, Client, ClientError, Outcome};
use gossamer_client::data::{TextDataset, TrainingTask};
use gossamer_client::model::BaseModel;
use gossamer_client::transport::retry::Backoff;
use gossamer_protocol::density::Density;
use gossamer_protocol::layout::Layout;
use gossamer_protocol::manifest::{
    Cohort, LocalOptimizer, Lora, MANIFEST_VERSION, Manifest, Method, Selection, ServerOptimizer,
    Training, Values,
};
use gossamer_server::config::{Config, Limits, Rate};
use gossamer_server::coordinator::Coordinator;
use gossamer_server::{serve, setup};
use gossamer_sim::scenario::BaseModel as Choice;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The embedded base model.
///
/// # Panics
/// Where the embedded files are no model.
#[must_use]
pub fn base() -> BaseModel {
    gossamer_sim::base::load(&Choice::Tiny).expect("the embedded model is one")
}

/// What client `n` trains on: its own few sentences.
///
/// # Panics
/// Where the languages are gone.
#[must_use]
pub fn task(base: &BaseModel, n: usize) -> Arc<dyn TrainingTask> {
    let all = gossamer_sim::languages::sentences("finnish").expect("there");
    let texts: Vec<String> = all.iter().skip(20 * n).take(20).map(|&t| t.to_owned()).collect();
    Arc::new(TextDataset::new(base, &texts).expect("twenty sentences"))
}

/// Steps until an update of client 0's text is delivered, or nothing can be.
///
/// # Errors
/// What the client was refused with.
///
/// # Panics
/// Where the run is over.
pub async fn deliver(client: &Client, base: &BaseModel) -> Result<(), ClientError> {
    loop {
        match client.step(&task(base, 0)).await? {
            Outcome::Delivered(_) => return Ok(()),
            Outcome::Wait { retry, .. } => tokio::time::sleep(retry).await,
            other => panic!("{other:?}"),
        }
    }
}

/// A small run that all of `clients` clients take part in: a quarter up and down, one step a round.
///
/// # Panics
/// Where the embedded model has no `q_proj`.
#[must_use]
pub fn manifest(base: &BaseModel, clients: u32, rounds: u64) -> Manifest {
    let targets = vec!["q_proj".to_owned(), "v_proj".to_owned()];
    let layout = Layout::lora(&base.linears(), &targets, 2, false).expect("it has them");
    let quarter = Density::try_from(0.25).expect("a share");
    let mut method = Method::sparse(quarter, quarter);
    method.upload.values = Values::Int8;
    Manifest {
        version: MANIFEST_VERSION,
        name: "test".into(),
        seed: 7,
        rounds,
        base: gossamer_sim::base::describe(&Choice::Tiny, base),
        lora: Lora::new(2, 4.0, targets),
        layout,
        head: None,
        method,
        training: Training {
            steps: 1,
            batch: 1,
            context: 16,
            optimizer: LocalOptimizer::Sgd { lr: 0.1, momentum: 0.9 },
            clip: None,
            proximal: 0.0,
        },
        cohort: Cohort {
            goal: clients,
            ask: clients,
            min: clients,
            enrolled_min: clients,
            deadline_s: 600,
            selection: Selection::Seeded,
            retry_s: 0.02,
            buffered: None,
            participation: None,
        },
        optimizer: ServerOptimizer::AdamW {
            lr: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
        },
        stop: None,
        evaluation: None,
        start: None,
    }
}

/// No limit to what a client or an address may take: tests ask far oftener than devices do, all from one address.
#[must_use]
pub fn unlimited() -> Limits {
    let free = Rate { a_second: 0.0, burst: 1 };
    Limits { client: free, project: free, address: free, address_connections: 0 }
}

/// The seed of client `n`'s key.
#[must_use]
pub fn identity(n: usize) -> [u8; 32] {
    gossamer_sim::engine::identity(&format!("client {n}"))
}

/// Impatient enough for tests, and never tired.
#[must_use]
pub fn impatient() -> Backoff {
    let (first, longest) = (Duration::from_millis(10), Duration::from_millis(200));
    Backoff { first, longest, tries: 10_000 }
}

/// The aggregator on a free port of this machine, with its own CA and a temporary store.
pub struct TestServer {
    /// `https://127.0.0.1:PORT`.
    pub url: String,
    /// The coordinator behind it.
    pub coordinator: Coordinator,
    /// Its settings.
    pub config: Config,
    dir: TempDir,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl TestServer {
    /// Starts one.
    ///
    /// # Panics
    /// Where it cannot start.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts one with other settings; what they name is written then.
    ///
    /// # Panics
    /// Where it cannot start.
    pub async fn start_with(set: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let limits = unlimited();
        let mut config =
            Config { dir: dir.path().to_owned(), limits, tick_ms: 20, ..Config::default() };
        setup::init(dir.path(), &[], &config).await.expect("a new folder");
        set(&mut config);
        let coordinator = setup::coordinator(dir.path()).await.expect("a whole folder");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(address).await.expect("a free port");
        let url = format!("https://{}", listener.local_addr().expect("bound"));
        let (stop, stopped) = oneshot::channel::<()>();
        let (served, settings) = (coordinator.clone(), config.clone());
        let serving = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            serve(served, &settings, listener, shutdown).await.expect("serves until it is stopped");
        });
        Self { url, coordinator, config, dir, stop, serving }
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// An enrolment token.
    ///
    /// # Panics
    /// Where the store fails.
    pub async fn token(&self) -> String {
        let secret = self.coordinator.new_token(Duration::from_secs(600)).await.expect("stored");
        gossamer_server::join_token(&self.config, secret).expect("a whole folder").encode()
    }

    /// Client `n`, to be connected.
    pub async fn client(&self, n: usize, base: &BaseModel) -> Builder {
        Client::builder(&self.url)
            .token(self.token().await)
            .identity(identity(n))
            .base(base.clone())
            .backoff(impatient())
    }

    /// Stops it.
    ///
    /// # Panics
    /// Where a task of the server panicked.
    pub async fn close(self) {
        let _ = self.stop.send(());
        self.serving.await.expect("no task of the server panicked");
    }
}

/// A child process that ends with its owner, however that ends.
pub struct Process(pub std::process::Child);

impl Process {
    /// SIGKILL, where there is one.
    ///
    /// # Panics
    /// Where the system has no such child.
    pub fn kill(&mut self) {
        self.0.kill().expect("a child");
        self.0.wait().expect("a child");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
