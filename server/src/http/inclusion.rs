//! `GET /v1/runs/{run}/rounds/{round}/inclusion`: that the caller's update is counted, once the round is closed.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use gossamer_protocol::ids::{RoundId, RunId};
use gossamer_protocol::inclusion::Inclusion;

use super::problem::Refusal;
use super::records::address;
use super::{App, auth};

pub(crate) async fn inclusion(
    State(app): State<App>,
    at: Result<Path<(RunId, RoundId)>, PathRejection>,
    request: Request,
) -> Result<Json<Inclusion>, Refusal> {
    let caller = auth::caller(&app, &request.into_parts().0).await?;
    let (run, round) = address(at)?;
    Ok(Json(caller.coordinator.inclusion(run, round, caller.client).await?))
}
