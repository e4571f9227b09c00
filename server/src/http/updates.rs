//! `PUT | PATCH | HEAD /v1/runs/{run}/rounds/{round}/attempts/{attempt}/updates/{client}`.
//!
//! PUT sends a frame whole. PATCH sends it in parts: `upload-digest` names the whole, `upload-length`
//! its length, `upload-offset` where the part begins; HEAD tells where the server stands. The receipt
//! comes with the part that makes it whole. 2xx with a receipt means durable; the same bytes again,
//! the same receipt.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::problem::ProblemType;

use super::auth::Claim;
use super::body::{Held, Share};
use super::callers::Underway;
use super::problem::Refusal;
use super::records::{SignedBytes, address};
use super::{App, auth};
use crate::coordinator::{Admission, Uploaded};

const DIGEST: &str = "upload-digest";
const LENGTH: &str = "upload-length";
const OFFSET: &str = "upload-offset";

type UpdatePath = Result<Path<(RunId, RoundId, Attempt, ClientId)>, PathRejection>;

/// A request whose body is there and whose sender is known.
struct Received {
    to: Admission,
    caller: ClientId,
    body: Held,
    parts: Parts,
    _underway: Underway<ClientId>,
}

/// Takes a whole frame.
pub(crate) async fn put(
    State(app): State<App>,
    at: UpdatePath,
    request: Request,
) -> Result<SignedBytes, Refusal> {
    let Received { to, caller, body, .. } = receive(&app, at, request).await?;
    let Admission { run, round, attempt, client } = to;
    let frame = body.bytes.clone();
    let receipt = app.coordinator.submit(caller, run, round, attempt, client, frame).await?;
    Ok(SignedBytes(receipt))
}

/// Takes the next part of a frame.
pub(crate) async fn patch(
    State(app): State<App>,
    at: UpdatePath,
    request: Request,
) -> Result<Response, Refusal> {
    let Received { to, caller, body, parts, .. } = receive(&app, at, request).await?;
    let whole: Digest = header(&parts.headers, DIGEST)?;
    let (length, offset): (u64, u64) =
        (header(&parts.headers, LENGTH)?, header(&parts.headers, OFFSET)?);
    let part = body.bytes.clone();
    // With the last part the whole comes into memory.
    let mut share = Share::default();
    if offset.saturating_add(part.len() as u64) == length {
        app.bodies.grow(&mut share, usize::try_from(length).unwrap_or(usize::MAX))?;
    }
    Ok(match app.coordinator.append(caller, &to, whole, offset, length, part).await? {
        Uploaded::Partly(stands) => {
            (StatusCode::ACCEPTED, [(OFFSET, HeaderValue::from(stands))]).into_response()
        }
        Uploaded::Accepted(receipt) => SignedBytes(receipt).into_response(),
    })
}

/// Tells how much of a frame has arrived.
pub(crate) async fn head(
    State(app): State<App>,
    at: UpdatePath,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, _) = request.into_parts();
    let caller = auth::caller(&app, &parts).await?.client;
    let to = admission(at)?;
    app.coordinator.admit(caller, &to).await?;
    let stands = app.coordinator.offset(&to, header(&parts.headers, DIGEST)?).await?;
    Ok((StatusCode::NO_CONTENT, [(OFFSET, HeaderValue::from(stands))]).into_response())
}

/// Checks the address and the header, then reads the body, then checks the signature.
async fn receive(app: &App, at: UpdatePath, request: Request) -> Result<Received, Refusal> {
    let (parts, body) = request.into_parts();
    let claim = Claim::read(app, &parts).await?;
    let to = admission(at)?;
    let underway = app.enter(claim.client())?;
    let limit = match app.coordinator.admit(claim.client(), &to).await {
        Ok(limit) => limit,
        Err(refused) => {
            app.bodies.drain(&parts.headers, body).await;
            return Err(refused.into());
        }
    };
    let body = app.bodies.read(&parts.headers, body, limit).await?;
    let caller = claim.prove(app, &parts, &body.bytes).await?.client;
    Ok(Received { to, caller, body, parts, _underway: underway })
}

fn admission(at: UpdatePath) -> Result<Admission, Refusal> {
    let (run, round, attempt, client) = address(at)?;
    Ok(Admission { run, round, attempt, client })
}

fn header<T: std::str::FromStr>(headers: &HeaderMap, name: &'static str) -> Result<T, Refusal> {
    let value = headers.get(HeaderName::from_static(name));
    let value = value.and_then(|value| value.to_str().ok()?.parse().ok());
    let bad = || format!("the header {name} is missing or malformed");
    value.ok_or_else(|| Refusal::new(ProblemType::BadRequest, bad()))
}
