//! Every route of the admin API: the router is made of this list, and a test asks each for its role.

use axum::routing::{MethodRouter, delete, get, post};

use super::{
    Admin, clients, dashboard, events, log, metrics, openapi, operators, runs, server, tokens,
};
use crate::http::health::alive;
use crate::operator::Role;

/// A route.
pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    /// What its caller must be; none: anybody.
    pub(crate) role: Option<Role>,
    pub(crate) handler: fn() -> MethodRouter<Admin>,
    /// What it does, in a few words.
    pub(crate) does: &'static str,
}

const fn route(
    method: &'static str,
    path: &'static str,
    role: Role,
    handler: fn() -> MethodRouter<Admin>,
    does: &'static str,
) -> Route {
    Route { method, path, role: Some(role), handler, does }
}

const fn open(
    method: &'static str,
    path: &'static str,
    handler: fn() -> MethodRouter<Admin>,
    does: &'static str,
) -> Route {
    Route { method, path, role: None, handler, does }
}

use Role::{Admin as A, Operator as O, Viewer as V};

/// The one route that the configuration may open.
pub(super) const METRICS: &str = "/metrics";

/// All of them.
#[rustfmt::skip]
pub(crate) const ROUTES: &[Route] = &[
    open("GET", "/", || get(dashboard::page), "The dashboard"),
    open("GET", "/dashboard/style.css", || get(dashboard::style), "Its style"),
    open("GET", "/dashboard/app.js", || get(dashboard::script), "Its script"),
    open("GET", "/dashboard/icon.svg", || get(dashboard::icon), "Its icon"),
    open("GET", "/healthz", || get(alive), "Whether the process answers"),
    open("GET", "/readyz", || get(server::ready), "Whether the server can do its work: asked of the store and the disk"),
    route("GET", METRICS, V, || get(metrics::metrics), "Metrics as OpenMetrics text; open to all where the configuration says so"),
    open("GET", "/openapi.json", || get(openapi::document), "This API, as OpenAPI 3.1"),
    route("GET", "/v1/server", V, || get(server::show), "What this server is, and who asks"),
    route("GET", "/v1/events", V, || get(events::events), "What changes, as server-sent events"),
    route("GET", "/v1/runs", V, || get(runs::list), "Every run, oldest first"),
    route("POST", "/v1/runs", O, || post(runs::create), "Create a run"),
    route("GET", "/v1/runs/{run}", V, || get(runs::show), "A run, with its manifest"),
    route("GET", "/v1/runs/{run}/rounds", V, || get(runs::rounds), "What came of each closed round"),
    route("POST", "/v1/runs/{run}/pause", O, || post(runs::pause), "Ask nobody anew"),
    route("POST", "/v1/runs/{run}/resume", O, || post(runs::resume), "Go on with a paused run"),
    route("POST", "/v1/runs/{run}/abort", O, || post(runs::abort), "End a run for good"),
    route("GET", "/v1/runs/{run}/adapter/{file}", O, || get(runs::adapter), "A file of the latest adapter, as PEFT keeps it"),
    route("GET", "/v1/clients", V, || get(clients::list), "Clients by id"),
    route("GET", "/v1/clients/{client}", V, || get(clients::show), "A client, and what it did in each run"),
    route("POST", "/v1/clients/{client}/revoke", O, || post(clients::revoke), "Revoke a client for good"),
    route("GET", "/v1/enrolment-tokens", O, || get(tokens::list), "Enrolment tokens, by their hashes"),
    route("POST", "/v1/enrolment-tokens", O, || post(tokens::create), "Make enrolment tokens"),
    route("DELETE", "/v1/enrolment-tokens/{token}", O, || delete(tokens::revoke), "Void an enrolment token"),
    route("GET", "/v1/operators", A, || get(operators::list), "Operators by name"),
    route("POST", "/v1/operators", A, || post(operators::create), "Make an operator"),
    route("DELETE", "/v1/operators/{name}", A, || delete(operators::revoke), "Void an operator's token"),
    route("GET", "/v1/audit", V, || get(log::list), "The audit log, latest first"),
];
