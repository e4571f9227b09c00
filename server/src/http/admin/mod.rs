//! The admin API, on a listener of its own: what the command line does, for who holds a token.
//!
//! A file per resource. [`routes`] is the one list of routes; each names the role it needs, and is
//! refused without it before its handler runs.

mod auth;
mod clients;
mod dashboard;
mod events;
mod log;
mod metrics;
mod openapi;
mod operators;
mod projects;
pub(crate) mod routes;
mod runs;
mod server;
mod tags;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::HeaderMap;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use gossamer_protocol::problem::ProblemType;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, watch};
use tracing::Instrument as _;

use super::body::{self, Limits};
use super::count::{self, Counting};
use super::problem::Refusal;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::coordinator::Coordinator;
pub(crate) use runs::NewRun;

/// What handlers share.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) coordinator: Coordinator,
    pub(crate) config: Arc<Config>,
    /// When this process began to serve.
    pub(crate) started: Timestamp,
    /// A permit for each request worked on.
    requests: Arc<Semaphore>,
    /// A permit for each event stream.
    streams: Arc<Semaphore>,
    bodies: Limits,
    /// True once the server is told to stop: streams end then.
    closing: watch::Receiver<bool>,
}

impl Admin {
    /// `coordinator` within the limits of `config`, until `closing`.
    pub(crate) fn new(
        coordinator: Coordinator,
        config: &Config,
        closing: watch::Receiver<bool>,
    ) -> Self {
        let pause = Duration::from_secs(config.body_timeout_s.into());
        Self {
            started: coordinator.now(),
            coordinator,
            requests: Arc::new(Semaphore::new(config.admin.requests_max as usize)),
            streams: Arc::new(Semaphore::new(config.admin.streams_max as usize)),
            bodies: Limits::new(pause, config.bodies_bytes_max),
            config: Arc::new(config.clone()),
            closing,
        }
    }

    /// Reads a JSON message of at most `limit` bytes.
    async fn message<T: DeserializeOwned>(
        &self,
        headers: &HeaderMap,
        body: Body,
        limit: usize,
    ) -> Result<T, Refusal> {
        let held = self.bodies.read(headers, body, limit).await?;
        body::message(&held.bytes)
    }
}

/// Every route in [`routes::ROUTES`].
pub(crate) fn router(admin: Admin) -> Router {
    let counting = Counting(admin.coordinator.clone(), "admin");
    let mut router = Router::new();
    for route in routes::ROUTES {
        let mut handler = (route.handler)();
        let opened = route.path == routes::METRICS && admin.config.admin.metrics_open;
        if let Some(role) = route.role.filter(|_| !opened) {
            let guard = middleware::from_fn_with_state((admin.clone(), role), auth::must_be);
            handler = handler.route_layer(guard);
        }
        router = router.route(route.path, handler);
    }
    router
        .fallback(|| async { Refusal::new(ProblemType::NoRoute, "see /openapi.json") })
        .method_not_allowed_fallback(|| async {
            Refusal::new(ProblemType::Method, "the route has other methods")
        })
        .layer(middleware::from_fn_with_state(admin.clone(), limit))
        .layer(middleware::from_fn_with_state(counting, count::count))
        .with_state(admin)
}

/// Turns requests away while too many are worked on; what was begun is ended, as for clients.
async fn limit(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let Ok(working) = admin.requests.try_acquire_owned() else {
        return super::busy().into_response();
    };
    let work = async move {
        let _working = working;
        next.run(request).await
    };
    let work = tokio::spawn(work.in_current_span());
    match work.await {
        Ok(response) => response,
        Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
        Err(_) => super::busy().into_response(),
    }
}

/// The parameters behind a `?`.
fn query<T>(asked: Result<Query<T>, QueryRejection>) -> Result<T, Refusal> {
    match asked {
        Ok(Query(asked)) => Ok(asked),
        Err(e) => Err(Refusal::new(ProblemType::BadRequest, e.body_text())),
    }
}

/// Rows that one answer holds at most.
const PAGE_MAX: u32 = 1_000;

/// How many rows were asked for: 1 to [`PAGE_MAX`].
fn page(limit: Option<u32>, usual: u32) -> Result<u32, Refusal> {
    let limit = limit.unwrap_or(usual);
    if (1..=PAGE_MAX).contains(&limit) {
        return Ok(limit);
    }
    let detail = format!("limit: expected 1 to {PAGE_MAX}, not {limit}");
    Err(Refusal::new(ProblemType::BadRequest, detail))
}

/// How long something is good for: a second to ten years.
fn ttl(seconds: u64) -> Result<Duration, Refusal> {
    const MAX: u64 = 10 * 366 * 86_400;
    if (1..=MAX).contains(&seconds) {
        return Ok(Duration::from_secs(seconds));
    }
    let detail = format!("ttl_s: expected 1 to {MAX} seconds, not {seconds}");
    Err(Refusal::new(ProblemType::BadRequest, detail))
}

#[cfg(test)]
mod tests;
