//! `PUT /v1/runs/{run}/rounds/{round}/evaluations/{client}`: how well a snapshot does on what a client holds
//! out.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use gossamer_protocol::ids::{ClientId, RoundId, RunId};
use gossamer_protocol::message::Measured;

use super::auth::Claim;
use super::problem::Refusal;
use super::records::address;
use super::{App, body};

type EvaluationPath = Result<Path<(RunId, RoundId, ClientId)>, PathRejection>;

pub(crate) async fn put(
    State(app): State<App>,
    at: EvaluationPath,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let (run, round, client) = address(at)?;
    let (parts, body) = request.into_parts();
    let claim = Claim::read(&app, &parts).await?;
    let _underway = app.enter(claim.client())?;
    let read = app.bodies.read_message(&parts.headers, body).await?;
    let caller = claim.prove(&app, &parts, &read.bytes).await?.client;
    let measured: Measured = body::message(&read.bytes)?;
    app.coordinator.measured(caller, run, round, client, &measured).await?;
    Ok(StatusCode::NO_CONTENT)
}
