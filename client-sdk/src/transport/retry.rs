//! Tries again what may succeed later: exponential back-off with full jitter, never sooner than the
//! aggregator asked for. Source of the rule: Brooker, "Exponential Backoff And Jitter", 2015.

use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{RoundId, RunId};
use gossamer_protocol::inclusion::Inclusion;
use gossamer_protocol::message::{Answer, CheckIn, Enrolled, Enrolment, Measured, Signed};
use gossamer_protocol::rng::Stream;
use gossamer_protocol::rotation::{NewKey, Rotation};
use gossamer_protocol::tag::TagName;

use super::{Slot, Transport, TransportError};

/// When to give up, and how long to wait until then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// Mean of the first pause is half of this.
    pub first: Duration,
    /// No pause is longer, unless the aggregator asks for it.
    pub longest: Duration,
    /// Tries at one request, the first included.
    pub tries: u32,
}

impl Default for Backoff {
    /// Nine tries over about a minute.
    fn default() -> Self {
        let longest = Duration::from_secs(15);
        Self { first: Duration::from_millis(500), longest, tries: 9 }
    }
}

impl Backoff {
    /// The pause before try `next` (the second is 1), for a uniform draw `unit` of `[0, 1)`.
    #[must_use]
    pub fn pause(&self, next: u32, unit: f64, asked: Option<Duration>) -> Duration {
        let doubled = self.first.saturating_mul(1 << (next.clamp(1, 21) - 1));
        let jittered = doubled.min(self.longest).mul_f64(unit);
        asked.map_or(jittered, |asked| asked + jittered)
    }
}

/// Repeats what a transport could not do yet.
pub struct Retrying {
    inner: Box<dyn Transport>,
    backoff: Backoff,
    jitter: Mutex<Stream>,
}

impl Retrying {
    /// Wraps `inner`; `seed` draws the jitter, so that a fleet does not move in step.
    #[must_use]
    pub fn new(inner: Box<dyn Transport>, backoff: Backoff, seed: u64) -> Self {
        let jitter = Mutex::new(Stream::new(seed, "retry", &[]));
        Self { inner, backoff, jitter }
    }

    /// Waits, or gives the error back where trying again cannot help or was tried often enough.
    async fn wait(&self, tried: u32, error: TransportError) -> Result<(), TransportError> {
        if !error.is_transient() || tried >= self.backoff.tries {
            return Err(error);
        }
        let unit = match self.jitter.lock() {
            Ok(mut jitter) => jitter.unit_f64(),
            Err(_) => 1.0,
        };
        let pause = self.backoff.pause(tried, unit, error.retry_after());
        tracing::debug!(%error, tried, ?pause, "trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Calls a method of the wrapped transport until it answers.
macro_rules! retry {
    ($self:ident, $call:expr) => {{
        let mut tried = 0;
        loop {
            tried += 1;
            match $call.await {
                Ok(answer) => return Ok(answer),
                Err(error) => $self.wait(tried, error).await?,
            }
        }
    }};
}

#[async_trait::async_trait]
impl Transport for Retrying {
    async fn enrol(&self, enrolment: &Enrolment) -> Result<Enrolled, TransportError> {
        retry!(self, self.inner.enrol(enrolment))
    }

    async fn check_in(&self, ask: &CheckIn) -> Result<Answer, TransportError> {
        retry!(self, self.inner.check_in(ask))
    }

    async fn manifest(&self, run: RunId) -> Result<Signed, TransportError> {
        retry!(self, self.inner.manifest(run))
    }

    async fn record(&self, run: RunId, round: RoundId) -> Result<Signed, TransportError> {
        retry!(self, self.inner.record(run, round))
    }

    async fn object(
        &self,
        run: RunId,
        of: Digest,
        range: Range<u64>,
    ) -> Result<Bytes, TransportError> {
        retry!(self, self.inner.object(run, of, range.clone()))
    }

    async fn difference(
        &self,
        run: RunId,
        round: RoundId,
        held: RoundId,
        most: u64,
    ) -> Result<Bytes, TransportError> {
        retry!(self, self.inner.difference(run, round, held, most))
    }

    async fn upload(&self, slot: &Slot, frame: &Bytes) -> Result<Signed, TransportError> {
        retry!(self, self.inner.upload(slot, frame))
    }

    async fn measured(&self, slot: &Slot, measured: &Measured) -> Result<(), TransportError> {
        retry!(self, self.inner.measured(slot, measured))
    }

    async fn tagged(&self, tag: &TagName) -> Result<Signed, TransportError> {
        retry!(self, self.inner.tagged(tag))
    }

    async fn keys(&self) -> Result<Vec<Rotation>, TransportError> {
        retry!(self, self.inner.keys())
    }

    async fn change_key(&self, new: &NewKey) -> Result<Enrolled, TransportError> {
        retry!(self, self.inner.change_key(new))
    }

    async fn inclusion(&self, run: RunId, round: RoundId) -> Result<Inclusion, TransportError> {
        retry!(self, self.inner.inclusion(run, round))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_honour_the_window() {
        let backoff = Backoff {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(4),
            ..Backoff::default()
        };
        let pause = |next| backoff.pause(next, 0.5, None).as_secs_f64();
        assert_eq!([1, 2, 3, 4, 40].map(pause), [0.5, 1.0, 2.0, 2.0, 2.0]);
        let asked = Duration::from_secs(10);
        assert_eq!(backoff.pause(1, 0.0, Some(asked)), asked);
    }
}
