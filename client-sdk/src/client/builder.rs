//! Describes a client before it is connected.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use gossamer_protocol::ids::{ClientId, RunId};
use gossamer_protocol::message::{Enrolment, JoinToken};
use gossamer_protocol::rotation::Trust;
use gossamer_protocol::sign::{PublicKey, SigningKey};

use super::app::App;
use super::enrolled::{Server, identity, is_changing};
use super::gate::{Gate, Open};
use super::rekey::rotate;
use super::trust::follow;
use super::{Attester, Client, ClientError, Saving, Shared, Threads, Watch};
use crate::model::BaseModel;
use crate::state::State;
use crate::train::{Control, Footprint};
use crate::transport::Transport;
use crate::transport::certificate::ClientCertificate;
use crate::transport::https::Https;
use crate::transport::metered::{Meter, Metered};
use crate::transport::retry::{Backoff, Retrying};
use crate::transport::signer::Signer;

/// A client to be; made by [`Client::builder`].
pub struct Builder {
    url: String,
    token: Option<String>,
    state_dir: Option<PathBuf>,
    state: Option<Arc<State>>,
    seed: Option<[u8; 32]>,
    bases: Vec<BaseModel>,
    run: Option<RunId>,
    backoff: Backoff,
    app: App,
    saving: Saving,
    footprint: Footprint,
    memory_max: Option<u64>,
    threads: Option<Threads>,
    prove: bool,
    certificate: Option<ClientCertificate>,
    attester: Option<Arc<dyn Attester>>,
    meter: Arc<Meter>,
    transport: Option<Box<dyn Transport>>,
    shared: Arc<Shared>,
    enrolled: Option<PublicKey>,
}

impl Builder {
    pub(super) fn new(url: String) -> Self {
        Self {
            url,
            token: None,
            state_dir: None,
            state: None,
            seed: None,
            bases: Vec::new(),
            run: None,
            backoff: Backoff::default(),
            app: App { watch: Arc::new(|_| Control::Continue), gate: Arc::new(Open) },
            saving: Saving::default(),
            footprint: Footprint::default(),
            memory_max: None,
            threads: None,
            prove: false,
            certificate: None,
            attester: None,
            meter: Arc::default(),
            transport: None,
            shared: Arc::new(Shared::alone()),
            enrolled: None,
        }
    }

    /// The enrolment token that the operator handed over; needed once.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Where identity, enrolment and unfinished work are kept; without it they end with the process.
    #[must_use]
    pub fn state_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(dir.into());
        self
    }

    /// What it remembers, in place of a folder: a simulation's own memory, which it can look into.
    #[must_use]
    pub fn state(mut self, state: Arc<State>) -> Self {
        self.state = Some(state);
        self
    }

    /// The seed of the client's key, where the app keeps it itself (a key store, a simulation).
    #[must_use]
    pub fn identity(mut self, seed: [u8; 32]) -> Self {
        self.seed = Some(seed);
        self
    }

    /// A base model this client can train on; may be called several times.
    #[must_use]
    pub fn base(mut self, base: BaseModel) -> Self {
        self.bases.push(base);
        self
    }

    /// Takes part in this run only.
    #[must_use]
    pub fn only_run(mut self, run: RunId) -> Self {
        self.run = Some(run);
        self
    }

    /// How patiently requests are repeated.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Who hears what happens, and may stop it.
    #[must_use]
    pub fn watch(mut self, watch: Watch) -> Self {
        self.app.watch = watch;
        self
    }

    /// Who says whether the device may work now; without it, always.
    ///
    /// Asked before each round, between any two steps and before an upload. Where it closes in a round,
    /// the training is saved and its memory given back until it opens, or until the round's deadline,
    /// when the round is given up with [`ClientError::Closed`].
    #[must_use]
    pub fn gate(mut self, gate: Arc<dyn Gate>) -> Self {
        self.app.gate = gate;
        self
    }

    /// How a training trades time for memory; without it, not at all.
    #[must_use]
    pub fn footprint(mut self, footprint: Footprint) -> Self {
        self.footprint = footprint;
        self
    }

    /// The most bytes that the base models and a training may take, by [`Memory`](crate::train::Memory)'s
    /// estimate. A training that would take more gets a [smaller footprint](Footprint::within); where none is
    /// small enough, its round is given up before its snapshot is fetched, with [`ClientError::Memory`].
    #[must_use]
    pub fn memory_max(mut self, bytes: u64) -> Self {
        self.memory_max = Some(bytes);
        self
    }

    /// Shares a budget of threads with the other clients of this process; without one each client has one
    /// thread while it trains.
    #[must_use]
    pub fn threads(mut self, threads: Threads) -> Self {
        self.threads = Some(threads);
        self
    }

    /// How often a training is saved to the [state folder](Self::state_dir), so that a process that is
    /// killed goes on from there.
    #[must_use]
    pub fn saving(mut self, saving: Saving) -> Self {
        self.saving = saving;
        self
    }

    /// Asks, once a round that it delivered to is closed, for the proof that its update is counted, and believes
    /// nothing else: told as [`Event::Included`](super::Event::Included), or an error.
    #[must_use]
    pub fn prove_inclusion(mut self) -> Self {
        self.prove = true;
        self
    }

    /// The TLS certificate to show to an aggregator that asks for one. A renewed one for the same names is told to it
    /// by itself.
    #[must_use]
    pub fn certificate(mut self, certificate: ClientCertificate) -> Self {
        self.certificate = Some(certificate);
        self
    }

    /// Who says what the device is, where the aggregator's operator wants to know before it enrols.
    #[must_use]
    pub fn attester(mut self, attester: Arc<dyn Attester>) -> Self {
        self.attester = Some(attester);
        self
    }

    /// Counts bytes on `meter`, which other clients may share.
    #[must_use]
    pub fn meter(mut self, meter: Arc<Meter>) -> Self {
        self.meter = meter;
        self
    }

    /// Another way to the aggregator than HTTPS: the simulator's.
    #[must_use]
    pub fn transport(mut self, transport: Box<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// Shares verified manifests and snapshots with the other clients of this process: a simulation's thousands
    /// then hold and read each only once.
    #[must_use]
    pub fn shared(mut self, shared: Arc<Shared>) -> Self {
        self.shared = shared;
        self
    }

    /// Is enrolled already with the aggregator of this key, whatever the state says; needs no token then.
    #[must_use]
    pub fn enrolled(mut self, server: PublicKey) -> Self {
        self.enrolled = Some(server);
        self
    }

    /// Makes the client, and enrols it where it is not yet.
    ///
    /// # Errors
    /// [`ClientError`] where state, token or connection are no good.
    pub async fn connect(self) -> Result<Client, ClientError> {
        let state = match (self.state, &self.state_dir) {
            (Some(state), _) => state,
            (None, Some(dir)) => Arc::new(State::open(dir)?),
            (None, None) => Arc::new(State::memory()),
        };
        let key = Arc::new(SigningKey::from_seed(&identity(self.seed, &state)?));
        let changing = self.seed.is_none() && is_changing(&state)?;
        let token = self.token.as_deref().map(JoinToken::decode).transpose()?;
        let known = match self.enrolled {
            Some(server) => {
                let (trust, client) = (Trust::pinned(server), ClientId::of(&key.public().0));
                Some(Server { trust, ca: None, client, own: None })
            }
            None => Server::read(&state)?.filter(|known| changing || known.is_of(&key.public())),
        };
        let id = known.as_ref().map_or_else(|| ClientId::of(&key.public().0), |known| known.client);
        let ca = match (&known, &token) {
            (Some(known), _) => known.ca.clone(),
            (None, Some(token)) => token.ca.clone(),
            (None, None) => return Err(ClientError::NoToken),
        };
        let signer = Signer::new(id, key.clone());
        let (transport, signer): (Box<dyn Transport>, _) = match self.transport {
            Some(transport) => (transport, None),
            None => {
                let shown = self.certificate.as_ref();
                let https =
                    Https::with_certificate(&self.url, ca.as_deref(), signer.clone(), shown)?;
                // A key that the app keeps is the app's to change.
                (Box::new(https), self.seed.is_none().then_some(signer))
            }
        };
        let metered = Box::new(Metered::new(transport, self.meter.clone()));
        let jitter = u64::from_le_bytes(id.0[..8].try_into().map_err(|_| ClientError::Random)?);
        let transport = Retrying::new(metered, self.backoff, jitter);

        let server = match (known, token) {
            (Some(known), None) => known,
            (Some(mut known), Some(token)) => {
                // It may be of the same aggregator, by a newer key.
                if !known.trust.knows(&token.server_key)
                    && follow(&transport, &mut known.trust).await?
                    && self.enrolled.is_none()
                {
                    known.keep(&state)?;
                }
                if !known.trust.knows(&token.server_key) {
                    let (enrolled, token) = (known.trust.key, token.server_key);
                    return Err(ClientError::OtherServer { enrolled, token });
                }
                known
            }
            (None, None) => return Err(ClientError::NoToken),
            (None, Some(token)) => {
                let mut enrolment = Enrolment::new(&token.secret, &key);
                if let Some(attester) = self.attester {
                    let made = attester.attest(&enrolment.challenge().0).await;
                    enrolment = enrolment.attested(made.map_err(ClientError::Attestation)?);
                }
                let enrolled = transport.enrol(&enrolment).await?;
                if enrolled.client != id {
                    return Err(ClientError::OtherClient { expected: id, got: enrolled.client });
                }
                let trust = Trust::pinned(token.server_key);
                let server = Server { trust, ca: token.ca, client: id, own: None };
                server.keep(&state)?;
                server
            }
        };
        if let Some(signer) = signer.as_ref().filter(|_| changing) {
            rotate(&transport, signer, &state).await?;
        }
        Ok(Client {
            id,
            signer,
            trust: Mutex::new(server.trust),
            transport,
            meter: self.meter,
            state,
            bases: self.bases,
            run: self.run,
            app: self.app,
            saving: self.saving,
            footprint: self.footprint,
            memory_max: self.memory_max,
            threads: self.threads,
            prove: self.prove,
            terms: Mutex::default(),
            shared: self.shared,
        })
    }
}
