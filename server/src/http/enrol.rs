//! `POST /v1/enrol`: a token becomes a client.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use gossamer_protocol::message::{Enrolled, Enrolment};

use super::peer::Peer;
use super::problem::Refusal;
use super::{App, body};

/// The one route without a signed header: the body proves the key. 201, or 200 where a lost reply is
/// asked for again.
pub(crate) async fn enrol(
    State(app): State<App>,
    request: Request,
) -> Result<(StatusCode, Json<Enrolled>), Refusal> {
    let (parts, body) = request.into_parts();
    let _working = app.enrolments.try_acquire().map_err(|_| super::busy())?;
    let read = app.bodies.read_message(&parts.headers, body).await?;
    let enrolment: Enrolment = body::message(&read.bytes)?;
    let shown = Peer::behind(&parts.extensions).shown()?;
    let (enrolled, new) = app.coordinator.enrolling(&enrolment, shown).await?;
    Ok((if new { StatusCode::CREATED } else { StatusCode::OK }, Json(enrolled)))
}
