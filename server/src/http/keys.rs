//! `GET /v1/keys`: by which statements the server's keys follow one another. `POST /v1/key`: a client's next one.

use axum::Json;
use axum::extract::{Request, State};
use gossamer_protocol::message::Enrolled;
use gossamer_protocol::rotation::{NewKey, Rotation};

use super::auth::Claim;
use super::problem::Refusal;
use super::{App, auth, body};

pub(crate) async fn list(
    State(app): State<App>,
    request: Request,
) -> Result<Json<Vec<Rotation>>, Refusal> {
    auth::caller(&app, &request.into_parts().0).await?;
    Ok(Json(app.coordinator.rotations()))
}

pub(crate) async fn change(
    State(app): State<App>,
    request: Request,
) -> Result<Json<Enrolled>, Refusal> {
    let (parts, body) = request.into_parts();
    let claim = Claim::read(&app, &parts).await?;
    let _underway = app.enter(claim.client())?;
    let read = app.bodies.read_message(&parts.headers, body).await?;
    let caller = claim.prove(&app, &parts, &read.bytes).await?;
    let new: NewKey = body::message(&read.bytes)?;
    Ok(Json(caller.coordinator.change_key(caller.client, caller.key, &new).await?))
}
