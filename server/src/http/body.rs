//! Reading a body: bounded in bytes, alone and with all others, and in time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use gossamer_protocol::problem::ProblemType;
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::problem::Refusal;

/// Bytes a second below which a body is given up, once its first pause is used up: who sends a byte
/// now and then would hold a place for ever.
const RATE_MIN: u64 = 1 << 10;
/// Memory is shared out in so many bytes.
const GRAIN: usize = 1 << 10;
/// Most bytes of a JSON message.
const MESSAGE_MAX: usize = 1 << 14;
/// Most bytes read only so that a refusal gets through.
const DRAIN_MAX: u64 = 1 << 22;

/// What bodies may take: of time each, of memory all together.
#[derive(Clone)]
pub(crate) struct Limits {
    /// Longest pause between two pieces.
    pause: Duration,
    /// A permit for each [`GRAIN`] bytes.
    memory: Arc<Semaphore>,
    /// How many of them there are.
    grains: usize,
}

/// Bytes in memory, with the permits for them.
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    share: Share,
}

/// Memory that is spoken for.
#[derive(Default)]
pub(crate) struct Share(Option<OwnedSemaphorePermit>);

impl Share {
    fn grains(&self) -> usize {
        self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Held {
    /// Bytes whose last handle gives the memory back.
    pub(crate) fn shared(self) -> Bytes {
        if self.share.0.is_some() { Bytes::from_owner(self) } else { self.bytes }
    }
}

impl Limits {
    pub(crate) fn new(pause: Duration, memory: u64) -> Self {
        let grains = usize::try_from(memory).unwrap_or(usize::MAX).div_ceil(GRAIN);
        let grains = grains.min(u32::MAX as usize).min(Semaphore::MAX_PERMITS);
        Self { pause, memory: Arc::new(Semaphore::new(grains)), grains }
    }

    /// Speaks for `bytes` of memory in all.
    pub(crate) fn grow(&self, share: &mut Share, bytes: usize) -> Result<(), Refusal> {
        let wanted = bytes.div_ceil(GRAIN);
        if wanted > self.grains {
            let detail = format!("{bytes} bytes are over what this server holds in memory");
            return Err(Refusal::new(ProblemType::TooLarge, detail));
        }
        // At most `grains`, which fits.
        let more = wanted.saturating_sub(share.grains()) as u32;
        if more == 0 {
            return Ok(());
        }
        let more = self.memory.clone().try_acquire_many_owned(more);
        let more = more.map_err(|_| super::busy())?;
        match &mut share.0 {
            Some(held) => held.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }

    /// Bytes that were spoken for.
    pub(crate) fn hold(bytes: Bytes, share: Share) -> Held {
        Held { bytes, share }
    }

    /// Reads a whole body of at most `limit` bytes; memory grows with what arrives.
    pub(crate) async fn read(
        &self,
        headers: &HeaderMap,
        body: Body,
        limit: usize,
    ) -> Result<Held, Refusal> {
        let too_large = |got: u64| {
            let detail = format!("a body of {got} bytes is over the limit of {limit}");
            Refusal::new(ProblemType::TooLarge, detail)
        };
        if let Some(announced) = announced(headers).filter(|&announced| announced > limit as u64) {
            return Err(too_large(announced));
        }
        let mut body = Paced::new(body, self.pause);
        let (mut whole, mut share) = (BytesMut::new(), Share::default());
        while let Some(piece) = body.next().await? {
            let got = whole.len() + piece.len();
            if got > limit {
                return Err(too_large(got as u64));
            }
            self.grow(&mut share, got)?;
            whole.extend_from_slice(&piece);
        }
        Ok(Held { bytes: whole.freeze(), share })
    }

    /// Reads a JSON message's bytes: few, so the whole of them gets no longer than a pause.
    pub(crate) async fn read_message(
        &self,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Held, Refusal> {
        let read = tokio::time::timeout(self.pause, self.read(headers, body, MESSAGE_MAX)).await;
        read.map_err(|_| Refusal::new(ProblemType::BadRequest, "the body stalled"))?
    }

    /// Reads and forgets a body that was refused by its address. Closing a connection on a client
    /// that still sends would lose the refusal, and the client would try the same again.
    pub(crate) async fn drain(&self, headers: &HeaderMap, body: Body) {
        let Some(mut left) = announced(headers).filter(|&announced| announced <= DRAIN_MAX) else {
            return;
        };
        let mut body = Paced::new(body, self.pause);
        while let Ok(Some(piece)) = body.next().await {
            left = left.saturating_sub(piece.len() as u64);
            if left == 0 {
                return;
            }
        }
    }
}

/// A body whose sender must keep up.
struct Paced {
    body: Body,
    pause: Duration,
    start: Instant,
    got: u64,
}

impl Paced {
    fn new(body: Body, pause: Duration) -> Self {
        Self { body, pause, start: Instant::now(), got: 0 }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let bad = |detail: &str| Refusal::new(ProblemType::BadRequest, detail);
        loop {
            let due = self.start + self.pause + Duration::from_secs(self.got / RATE_MIN);
            let due = due.min(Instant::now() + self.pause);
            let frame = tokio::time::timeout_at(due, self.body.frame()).await;
            match frame.map_err(|_| bad("the body stalled"))? {
                None => return Ok(None),
                Some(Err(_)) => return Err(bad("the body broke off")),
                // Trailers say nothing here.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.got += data.len() as u64;
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Parses a JSON message.
pub(crate) fn message<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes)
        .map_err(|e| Refusal::new(ProblemType::BadRequest, format!("the body is malformed: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_with_the_last_handle() {
        let limits = Limits::new(Duration::from_secs(1), 2 << 10);
        let mut share = Share::default();
        limits.grow(&mut share, 1).expect("the first grain");
        limits.grow(&mut share, 1_025).expect("and the second");
        let bytes = Limits::hold(Bytes::from_static(b"frame"), share).shared();
        let part = bytes.slice(1..3);
        drop(bytes);
        assert!(limits.grow(&mut Share::default(), 1).is_err(), "a part is held");
        drop(part);
        limits.grow(&mut Share::default(), 2 << 10).expect("all of it is free");
        assert!(limits.grow(&mut Share::default(), (2 << 10) + 1).is_err(), "never so much");
    }
}
