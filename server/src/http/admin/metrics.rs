//! `GET /metrics`: for a viewer, or for anybody where the configuration says so.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};

use super::Admin;
use super::server::Clients;
use crate::http::problem::Refusal;
use crate::metrics::{CONTENT_TYPE, Now};

pub(super) async fn metrics(State(admin): State<Admin>) -> Result<Response, Refusal> {
    let runs = admin.coordinator.runs().await?;
    let Clients { enrolled, revoked, here } = Clients::of(&admin);
    let disk_free = admin.coordinator.disk_free();
    let now = Now { runs: &runs, enrolled, revoked, here, disk_free };
    let text = admin.coordinator.metrics().text(&now);
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}
