//! `GET /v1/server`: what this server is, and who asks.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use gossamer_protocol::sign::PublicKey;
use schemars::JsonSchema;
use serde::Serialize;

use super::Admin;
use super::auth::{Caller, acting};
use crate::coordinator::{Coordinator, Health};
use crate::http::health;
use crate::operator::Operator;

/// A client is here while it was heard of within so long.
const HERE_MS: u64 = 5 * 60_000;

#[derive(Serialize, JsonSchema)]
pub(super) struct Server {
    version: &'static str,
    #[schemars(with = "String")]
    server_key: PublicKey,
    /// Unix time in milliseconds at which this process began to serve.
    started_ms: u64,
    now_ms: u64,
    pub(super) clients: Clients,
    operator: Operator,
}

/// How many clients there are.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct Clients {
    pub(super) enrolled: usize,
    pub(super) revoked: usize,
    /// Heard of in the last five minutes.
    pub(super) here: usize,
}

impl Clients {
    /// Those that `coordinator` sees.
    pub(super) fn of(coordinator: &Coordinator) -> Self {
        Self {
            enrolled: coordinator.fleet_len(),
            revoked: coordinator.revoked_len(),
            here: coordinator.seen_within(HERE_MS),
        }
    }
}

pub(super) async fn ready(State(admin): State<Admin>) -> (StatusCode, Json<Health>) {
    health::ready(&admin.coordinator, &admin.config).await
}

pub(super) async fn show(State(admin): State<Admin>, caller: Caller) -> Json<Server> {
    Json(Server {
        version: env!("CARGO_PKG_VERSION"),
        server_key: admin.coordinator.public_key(),
        started_ms: admin.started.0,
        now_ms: admin.coordinator.now().0,
        clients: Clients::of(&acting(&admin, &caller)),
        operator: caller.0,
    })
}
