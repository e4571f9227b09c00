//! The one place where bytes that cross the wire are counted.
//!
//! Counted are the bodies a [`Transport`] carries, as they travel: frames, signed documents and JSON.
//! HTTP and TLS headers are not; they are the same for every method. A body that had to be sent
//! again counts again where the repetition happens above this wrapper.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{RoundId, RunId};
use gossamer_protocol::inclusion::Inclusion;
use gossamer_protocol::message::{Answer, CheckIn, Enrolled, Enrolment, Measured, Signed};
use gossamer_protocol::rotation::{NewKey, Rotation};
use gossamer_protocol::tag::TagName;
use serde::{Deserialize, Serialize};

use super::{Slot, Transport, TransportError};

/// Bytes moved, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Updates' frames, client to server.
    pub updates: u64,
    /// Snapshots' frames, server to client.
    pub snapshots: u64,
    /// Everything else, client to server: enrolments, check-ins.
    pub control_up: u64,
    /// Everything else, server to client: manifests, records, receipts, answers.
    pub control_down: u64,
}

impl Traffic {
    /// What was moved since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            updates: self.updates - before.updates,
            snapshots: self.snapshots - before.snapshots,
            control_up: self.control_up - before.control_up,
            control_down: self.control_down - before.control_down,
        }
    }

    /// What is neither update nor snapshot, both ways.
    #[must_use]
    pub fn control(self) -> u64 {
        self.control_up + self.control_down
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            updates: self.updates + other.updates,
            snapshots: self.snapshots + other.snapshots,
            control_up: self.control_up + other.control_up,
            control_down: self.control_down + other.control_down,
        }
    }
}

/// Running counts; one may be shared by many transports.
#[derive(Debug, Default)]
pub struct Meter {
    updates: AtomicU64,
    snapshots: AtomicU64,
    control_up: AtomicU64,
    control_down: AtomicU64,
}

impl Meter {
    /// What was counted so far.
    pub fn traffic(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            updates: read(&self.updates),
            snapshots: read(&self.snapshots),
            control_up: read(&self.control_up),
            control_down: read(&self.control_down),
        }
    }

    /// Goes on from `traffic`: of a simulation that is taken up again.
    pub fn set(&self, traffic: Traffic) {
        let write = |counter: &AtomicU64, count| counter.store(count, Ordering::Relaxed);
        write(&self.updates, traffic.updates);
        write(&self.snapshots, traffic.snapshots);
        write(&self.control_up, traffic.control_up);
        write(&self.control_down, traffic.control_down);
    }

    fn say<B: Serialize>(&self, body: &B) {
        count(&self.control_up, json_len(body));
    }

    fn hear<B: Serialize>(&self, body: B) -> B {
        count(&self.control_down, json_len(&body));
        body
    }

    fn hear_signed(&self, signed: Signed) -> Signed {
        count(&self.control_down, signed.bytes.len() + signed.signature.to_string().len());
        signed
    }
}

/// Counts what a transport carries.
pub struct Metered {
    inner: Box<dyn Transport>,
    meter: Arc<Meter>,
}

impl Metered {
    /// Counts `inner`'s bytes on `meter`.
    #[must_use]
    pub fn new(inner: Box<dyn Transport>, meter: Arc<Meter>) -> Self {
        Self { inner, meter }
    }
}

fn count(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(bytes as u64, Ordering::Relaxed);
}

fn json_len<B: Serialize>(body: &B) -> usize {
    serde_json::to_vec(body).map_or(0, |json| json.len())
}

#[async_trait::async_trait]
impl Transport for Metered {
    async fn enrol(&self, enrolment: &Enrolment) -> Result<Enrolled, TransportError> {
        self.meter.say(enrolment);
        self.inner.enrol(enrolment).await.map(|answer| self.meter.hear(answer))
    }

    async fn check_in(&self, ask: &CheckIn) -> Result<Answer, TransportError> {
        self.meter.say(ask);
        self.inner.check_in(ask).await.map(|answer| self.meter.hear(answer))
    }

    async fn manifest(&self, run: RunId) -> Result<Signed, TransportError> {
        self.inner.manifest(run).await.map(|signed| self.meter.hear_signed(signed))
    }

    async fn record(&self, run: RunId, round: RoundId) -> Result<Signed, TransportError> {
        self.inner.record(run, round).await.map(|signed| self.meter.hear_signed(signed))
    }

    async fn object(
        &self,
        run: RunId,
        of: Digest,
        range: Range<u64>,
    ) -> Result<Bytes, TransportError> {
        let bytes = self.inner.object(run, of, range).await?;
        count(&self.meter.snapshots, bytes.len());
        Ok(bytes)
    }

    async fn difference(
        &self,
        run: RunId,
        round: RoundId,
        held: RoundId,
        most: u64,
    ) -> Result<Bytes, TransportError> {
        let bytes = self.inner.difference(run, round, held, most).await?;
        count(&self.meter.snapshots, bytes.len());
        Ok(bytes)
    }

    async fn upload(&self, slot: &Slot, frame: &Bytes) -> Result<Signed, TransportError> {
        count(&self.meter.updates, frame.len());
        self.inner.upload(slot, frame).await.map(|signed| self.meter.hear_signed(signed))
    }

    async fn measured(&self, slot: &Slot, measured: &Measured) -> Result<(), TransportError> {
        self.meter.say(measured);
        self.inner.measured(slot, measured).await
    }

    async fn tagged(&self, tag: &TagName) -> Result<Signed, TransportError> {
        self.inner.tagged(tag).await.map(|signed| self.meter.hear_signed(signed))
    }

    async fn keys(&self) -> Result<Vec<Rotation>, TransportError> {
        self.inner.keys().await.map(|chain| self.meter.hear(chain))
    }

    async fn change_key(&self, new: &NewKey) -> Result<Enrolled, TransportError> {
        self.meter.say(new);
        self.inner.change_key(new).await.map(|answer| self.meter.hear(answer))
    }

    async fn inclusion(&self, run: RunId, round: RoundId) -> Result<Inclusion, TransportError> {
        self.inner.inclusion(run, round).await.map(|proof| self.meter.hear(proof))
    }
}
