//! `/healthz`: the process answers. `/readyz`: it can do its work.

use axum::Json;
use axum::http::StatusCode;

use crate::config::Config;
use crate::coordinator::{Coordinator, Health};

/// A busy server is alive.
pub(crate) async fn alive() -> StatusCode {
    StatusCode::OK
}

/// 200, or 503 and what is wrong: for load balancers, which take it out of their lists.
pub(crate) async fn ready(
    coordinator: &Coordinator,
    config: &Config,
) -> (StatusCode, Json<Health>) {
    let health = coordinator.health(config.disk_free_min_bytes).await;
    let status = if health.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health))
}
