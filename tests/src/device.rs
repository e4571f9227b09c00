//! Devices that send without training, and a run for them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gossamer_client::transport::{Slot, Transport, TransportError};
use gossamer_protocol::density::Density;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{FrameError, Origin, Terms, Update};
use gossamer_protocol::ids::ClientId;
use gossamer_protocol::layout::{BaseLinear, Layout};
use gossamer_protocol::manifest::{
    Base, Coding, Cohort, LocalOptimizer, Lora, MANIFEST_VERSION, Manifest, Method, Selection,
    ServerOptimizer, Training,
};
use gossamer_protocol::message::{Answer, Assignment, CheckIn, Enrolment};
use gossamer_protocol::sign::SigningKey;
use gossamer_protocol::sparse::{Sparse, Support};

/// A device: its id and its way to the aggregator.
pub struct Device<T> {
    /// Its id.
    pub id: ClientId,
    /// Its way.
    pub transport: T,
}

/// The key of device `n`.
#[must_use]
pub fn key(n: usize) -> Arc<SigningKey> {
    Arc::new(SigningKey::from_seed(&Digest::of(format!("device {n}").as_bytes()).0))
}

impl<T: Transport> Device<T> {
    /// Enrols the holder of `key`.
    ///
    /// # Errors
    /// The transport's.
    pub async fn enrol(
        transport: T,
        secret: &str,
        key: &SigningKey,
    ) -> Result<Self, TransportError> {
        let id = transport.enrol(&Enrolment::new(secret, key)).await?.client;
        Ok(Self { id, transport })
    }

    /// Asks until there is a task; `None` where the run is over.
    ///
    /// # Errors
    /// The transport's, where trying again would not help.
    pub async fn task(&self) -> Result<Option<Assignment>, TransportError> {
        loop {
            let pause = match self.transport.check_in(&CheckIn { run: None }).await {
                Ok(Answer::Train(task)) => return Ok(Some(task)),
                Ok(Answer::Over { .. }) => return Ok(None),
                Ok(Answer::Wait { retry_ms, .. }) => Duration::from_millis(retry_ms.min(100)),
                Err(error) if error.is_transient() => {
                    error.retry_after().unwrap_or(Duration::from_millis(50))
                }
                Err(error) => return Err(error),
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Where an answer to `task` goes.
    #[must_use]
    pub fn slot(&self, task: &Assignment) -> Slot {
        let Assignment { run, round, attempt, .. } = *task;
        Slot { run, round, attempt, client: self.id }
    }

    /// The frame of `values`, every entry as it is.
    ///
    /// # Errors
    /// [`FrameError`] where they are not the layout's.
    pub fn frame(
        &self,
        manifest: &Manifest,
        task: &Assignment,
        values: Vec<f32>,
    ) -> Result<Bytes, FrameError> {
        let Assignment { run, round, attempt, snapshot, .. } = *task;
        let n = values.len();
        let delta = Sparse::new(n, Support::All, values).expect("as many as there are");
        let origin = Origin { run, round, attempt, client: self.id, snapshot };
        let update = Update { origin, examples: 1, loss: 1.0, delta };
        Ok(update.encode(&Terms::new(manifest, run, round), None)?.into())
    }
}

/// A run of `parameters` (a multiple of 16), all of them sent as they are, 4 bytes each, by all of `clients`; the
/// adapter moves by their mean.
///
/// # Panics
/// Where there are too many parameters for a layout.
#[must_use]
pub fn dense(name: &str, parameters: usize, clients: u32, rounds: u64) -> Manifest {
    let targets = vec!["q_proj".to_owned()];
    let side = parameters / 16;
    let linear = BaseLinear { name: "m.q_proj".into(), d_in: side, d_out: side };
    let whole = Density::try_from(1.0).expect("a share");
    Manifest {
        version: MANIFEST_VERSION,
        name: name.into(),
        seed: 1,
        rounds,
        base: Base { name: "b".into(), digest: Digest::of(b"b") },
        layout: Layout::lora(&[linear], &targets, 8, false).expect("a layout"),
        head: None,
        lora: Lora::new(8, 16.0, targets),
        method: Method { coding: Coding::Packed, ..Method::sparse(whole, whole) },
        training: Training {
            steps: 1,
            batch: 1,
            context: 8,
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
            selection: Selection::FirstCome,
            retry_s: 0.05,
            buffered: None,
            participation: None,
        },
        optimizer: ServerOptimizer::Sgd { lr: 1.0, momentum: 0.0 },
        stop: None,
        evaluation: None,
        start: None,
    }
}
