//! `POST /v1/check-in`: what can I do?

use axum::Json;
use axum::extract::{Request, State};
use gossamer_protocol::message::{Answer, CheckIn};

use super::auth::Claim;
use super::problem::Refusal;
use super::{App, body};

pub(crate) async fn check_in(
    State(app): State<App>,
    request: Request,
) -> Result<Json<Answer>, Refusal> {
    let (parts, body) = request.into_parts();
    let claim = Claim::read(&app, &parts).await?;
    let _underway = app.enter(claim.client())?;
    let read = app.bodies.read_message(&parts.headers, body).await?;
    let caller = claim.prove(&app, &parts, &read.bytes).await?;
    let check_in: CheckIn = body::message(&read.bytes)?;
    Ok(Json(caller.coordinator.check_in(caller.client, &check_in).await?))
}
