//! `GET /metrics`: for a viewer of all projects, or for anybody where the configuration says so.

use axum::Extension;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};

use gossamer_protocol::ids::RoundId;

use super::server::Clients;
use super::{Admin, auth};
use crate::http::problem::Refusal;
use crate::metrics::{CONTENT_TYPE, Now};
use crate::operator::Operator;

pub(super) async fn metrics(
    State(admin): State<Admin>,
    caller: Option<Extension<Operator>>,
) -> Result<Response, Refusal> {
    // Where it is open to all, nobody was asked who it is.
    if let Some(Extension(operator)) = caller {
        auth::must_see_all(&operator)?;
    }
    let mut runs = Vec::new();
    for view in admin.coordinator.runs().await? {
        let last = RoundId(view.round.0.saturating_sub(1));
        let closed = admin.coordinator.rounds(view.run, last, 1).await?.pop();
        runs.push((view, closed));
    }
    let Clients { enrolled, revoked, here } = Clients::of(&admin.coordinator);
    let disk_free = admin.coordinator.disk_free();
    let now = Now { runs: &runs, enrolled, revoked, here, disk_free };
    let text = admin.coordinator.metrics().text(&now);
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}
