//! Virtual time: uploads wait until it is their turn.
//!
//! Every client of a cohort trains and codes for real, then stands before its upload. Once all stand there
//! their frames' lengths are known, and with them when each arrives; in that order they are let through, the
//! clock at each one's time. So the round machine sees what it would see of such a fleet, and a deadline or an
//! over-selected cohort does what it does.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use gossamer_client::transport::{Slot, Transport, TransportError};
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{RoundId, RunId};
use gossamer_protocol::message::{Answer, CheckIn, Enrolled, Enrolment, Measured, Signed};
use gossamer_protocol::problem::{Problem, ProblemType};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::transport::InProcess;

/// The permit that a client computes under, which it gives back while it waits.
pub(super) type Permit = Arc<Mutex<Option<OwnedSemaphorePermit>>>;

/// A client before its upload.
pub(super) struct Waiting {
    /// Its place in the fleet.
    pub(super) at: usize,
    /// Bytes of snapshots that it received for this.
    pub(super) down: u64,
    /// Its frame's.
    pub(super) up: u64,
    /// Whether it gets through. Dropped: it does not.
    pub(super) go: oneshot::Sender<bool>,
}

/// A client's way to the aggregator, with a queue before its uploads.
pub(super) struct Timed {
    inner: InProcess,
    at: usize,
    permit: Permit,
    queue: mpsc::UnboundedSender<Waiting>,
    received: AtomicU64,
}

impl Timed {
    pub(super) fn new(
        inner: InProcess,
        at: usize,
        permit: Permit,
        queue: mpsc::UnboundedSender<Waiting>,
    ) -> Self {
        Self { inner, at, permit, queue, received: AtomicU64::new(0) }
    }

    fn count(&self, bytes: Bytes) -> Bytes {
        self.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        bytes
    }
}

#[async_trait::async_trait]
impl Transport for Timed {
    async fn enrol(&self, enrolment: &Enrolment) -> Result<Enrolled, TransportError> {
        self.inner.enrol(enrolment).await
    }

    async fn check_in(&self, ask: &CheckIn) -> Result<Answer, TransportError> {
        self.inner.check_in(ask).await
    }

    async fn manifest(&self, run: RunId) -> Result<Signed, TransportError> {
        self.inner.manifest(run).await
    }

    async fn record(&self, run: RunId, round: RoundId) -> Result<Signed, TransportError> {
        self.inner.record(run, round).await
    }

    async fn object(
        &self,
        run: RunId,
        of: Digest,
        range: Range<u64>,
    ) -> Result<Bytes, TransportError> {
        self.inner.object(run, of, range).await.map(|bytes| self.count(bytes))
    }

    async fn difference(
        &self,
        run: RunId,
        round: RoundId,
        held: RoundId,
        most: u64,
    ) -> Result<Bytes, TransportError> {
        self.inner.difference(run, round, held, most).await.map(|bytes| self.count(bytes))
    }

    async fn upload(&self, slot: &Slot, frame: &Bytes) -> Result<Signed, TransportError> {
        drop(self.permit.lock().unwrap_or_else(PoisonError::into_inner).take());
        let (go, gone) = oneshot::channel();
        let down = self.received.swap(0, Ordering::Relaxed);
        let waiting = Waiting { at: self.at, down, up: frame.len() as u64, go };
        let queued = self.queue.send(waiting).is_ok();
        if queued && gone.await == Ok(true) {
            return self.inner.upload(slot, frame).await;
        }
        Err(TransportError::Refused(Problem {
            kind: ProblemType::StaleRound,
            title: ProblemType::StaleRound.title().to_owned(),
            status: 410,
            detail: "lost or late in virtual time".to_owned(),
            retry_ms: None,
        }))
    }

    async fn measured(&self, slot: &Slot, measured: &Measured) -> Result<(), TransportError> {
        self.inner.measured(slot, measured).await
    }
}
