//! To the aggregator without a wire: its own coordinator, called in process.
//!
//! This is all that a simulated client has in place of HTTPS. What the coordinator refuses comes back
//! as the same problem; what it answers is the same signed bytes.

use std::ops::Range;

use bytes::Bytes;
use gossamer_client::transport::{Slot, Transport, TransportError};
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{ClientId, RoundId, RunId};
use gossamer_protocol::inclusion::Inclusion;
use gossamer_protocol::message::{Answer, CheckIn, Enrolled, Enrolment, Measured, Signed};
use gossamer_server::coordinator::{Coordinator, CoordinatorError};

/// One client's way to a coordinator in this process.
#[derive(Clone)]
pub struct InProcess {
    coordinator: Coordinator,
    /// Who speaks; over HTTPS the signature tells.
    caller: ClientId,
}

impl InProcess {
    /// Speaks to `coordinator` as `caller`.
    #[must_use]
    pub fn new(coordinator: Coordinator, caller: ClientId) -> Self {
        Self { coordinator, caller }
    }
}

fn refused(error: CoordinatorError) -> TransportError {
    TransportError::Refused(error.problem())
}

#[async_trait::async_trait]
impl Transport for InProcess {
    async fn enrol(&self, enrolment: &Enrolment) -> Result<Enrolled, TransportError> {
        self.coordinator.enrol(enrolment).await.map_err(refused)
    }

    async fn check_in(&self, ask: &CheckIn) -> Result<Answer, TransportError> {
        self.coordinator.check_in(self.caller, ask).await.map_err(refused)
    }

    async fn manifest(&self, run: RunId) -> Result<Signed, TransportError> {
        self.coordinator.manifest(run).await.map_err(refused)
    }

    async fn record(&self, run: RunId, round: RoundId) -> Result<Signed, TransportError> {
        self.coordinator.record(run, round).await.map_err(refused)
    }

    async fn object(
        &self,
        run: RunId,
        of: Digest,
        range: Range<u64>,
    ) -> Result<Bytes, TransportError> {
        let bytes = self.coordinator.object(run, of).await.map_err(refused)?;
        let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(bytes.len());
        Ok(bytes.slice(at(range.start)..at(range.end)))
    }

    async fn difference(
        &self,
        run: RunId,
        round: RoundId,
        held: RoundId,
        _: u64,
    ) -> Result<Bytes, TransportError> {
        self.coordinator.difference(run, round, held).await.map_err(refused)
    }

    async fn upload(&self, slot: &Slot, frame: &Bytes) -> Result<Signed, TransportError> {
        let Slot { run, round, attempt, client } = *slot;
        let sent =
            self.coordinator.submit(self.caller, run, round, attempt, client, frame.clone()).await;
        sent.map_err(refused)
    }

    async fn measured(&self, slot: &Slot, measured: &Measured) -> Result<(), TransportError> {
        let Slot { run, round, client, .. } = *slot;
        let told = self.coordinator.measured(self.caller, run, round, client, measured).await;
        told.map_err(refused)
    }

    async fn inclusion(&self, run: RunId, round: RoundId) -> Result<Inclusion, TransportError> {
        self.coordinator.inclusion(run, round, self.caller).await.map_err(refused)
    }
}
