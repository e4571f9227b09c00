//! Reading a body: bounded in bytes, and in the time between two pieces.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use gossamer_protocol::problem::ProblemType;
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;

use super::problem::Refusal;

/// Most bytes of a JSON message.
const MESSAGE_MAX: usize = 1 << 14;
/// Most bytes read only so that a refusal gets through.
const DRAIN_MAX: u64 = 1 << 22;

/// Reads a whole body of at most `limit` bytes; memory grows with what arrives.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    pause: Duration,
) -> Result<Bytes, Refusal> {
    let too_large = |got: u64| {
        let detail = format!("a body of {got} bytes is over the limit of {limit}");
        Refusal::new(ProblemType::TooLarge, detail)
    };
    if let Some(announced) = announced(headers).filter(|&announced| announced > limit as u64) {
        return Err(too_large(announced));
    }
    let mut body = body;
    let mut whole = BytesMut::new();
    while let Some(piece) = next(&mut body, pause).await? {
        let got = whole.len() + piece.len();
        if got > limit {
            return Err(too_large(got as u64));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// Reads and forgets a body that was refused by its address. Closing a connection on a client that
/// still sends would lose the refusal, and the client would try the same again.
pub(crate) async fn drain(headers: &HeaderMap, mut body: Body, pause: Duration) {
    let Some(mut left) = announced(headers).filter(|&announced| announced <= DRAIN_MAX) else {
        return;
    };
    while let Ok(Some(piece)) = next(&mut body, pause).await {
        left = left.saturating_sub(piece.len() as u64);
        if left == 0 {
            return;
        }
    }
}

async fn next(body: &mut Body, pause: Duration) -> Result<Option<Bytes>, Refusal> {
    let bad = |detail: &str| Refusal::new(ProblemType::BadRequest, detail);
    loop {
        let frame = tokio::time::timeout(pause, body.frame()).await;
        match frame.map_err(|_| bad("the body stalled"))? {
            None => return Ok(None),
            Some(Err(_)) => return Err(bad("the body broke off")),
            // Trailers say nothing here.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a JSON message's bytes: few, so the whole of them gets no longer than a pause.
pub(crate) async fn read_message(
    headers: &HeaderMap,
    body: Body,
    pause: Duration,
) -> Result<Bytes, Refusal> {
    let read = tokio::time::timeout(pause, read(headers, body, MESSAGE_MAX, pause)).await;
    read.map_err(|_| Refusal::new(ProblemType::BadRequest, "the body stalled"))?
}

/// Parses a JSON message.
pub(crate) fn message<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes)
        .map_err(|e| Refusal::new(ProblemType::BadRequest, format!("the body is malformed: {e}")))
}
