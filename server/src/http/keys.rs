//! `GET /v1/keys`: by which statements the server's keys follow one another.

use axum::Json;
use axum::extract::{Request, State};
use gossamer_protocol::rotation::Rotation;

use super::problem::Refusal;
use super::{App, auth};

pub(crate) async fn list(
    State(app): State<App>,
    request: Request,
) -> Result<Json<Vec<Rotation>>, Refusal> {
    auth::caller(&app, &request.into_parts().0).await?;
    Ok(Json(app.coordinator.rotations()))
}
