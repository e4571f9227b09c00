//! Every route of the admin API: the router and `/openapi.json` are made of this list, and a test asks each for its
//! role.

use axum::routing::{MethodRouter, delete, get, post, put};
use gossamer_protocol::problem::ProblemType as P;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::{
    Admin, clients, dashboard, events, log, metrics, openapi, operators, projects, runs, server,
    tags, tokens,
};
use crate::coordinator::{ClientView, Health, Pruned, RunView};
use crate::http::health::alive;
use crate::operator::{Operator, Role};
use crate::project::Project;
use crate::store::{Entry, RoundRow, TokenRow};
use crate::tag::{Adapter, Tag};

/// The schema of a type.
pub(crate) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// A route.
pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    /// What its caller must be; none: anybody.
    pub(crate) role: Option<Role>,
    pub(crate) handler: fn() -> MethodRouter<Admin>,
    /// What it does, in a few words.
    pub(crate) does: &'static str,
    /// The parameters behind a `?`.
    pub(crate) query: Option<SchemaOf>,
    /// The body it takes.
    pub(crate) takes: Option<SchemaOf>,
    /// What it gives where it does what was asked.
    pub(super) gives: &'static [Gives],
    /// What it refuses besides callers below its role.
    pub(super) refuses: &'static [P],
}

/// An answer: its status, its type, and its schema where it is JSON.
pub(super) struct Gives(pub(super) u16, pub(super) &'static str, pub(super) Option<SchemaOf>);

const JSON: &str = "application/json";

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

impl Gives {
    const fn json<T: JsonSchema>(status: u16) -> Self {
        Self(status, JSON, Some(of::<T>))
    }
}

impl Route {
    const fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(of::<T>);
        self
    }

    const fn takes<T: JsonSchema>(mut self) -> Self {
        self.takes = Some(of::<T>);
        self
    }

    const fn gives(mut self, gives: &'static [Gives]) -> Self {
        self.gives = gives;
        self
    }

    const fn refuses(mut self, refuses: &'static [P]) -> Self {
        self.refuses = refuses;
        self
    }
}

const fn route(
    method: &'static str,
    path: &'static str,
    role: Role,
    handler: fn() -> MethodRouter<Admin>,
    does: &'static str,
) -> Route {
    Route { role: Some(role), ..open(method, path, handler, does) }
}

const fn open(
    method: &'static str,
    path: &'static str,
    handler: fn() -> MethodRouter<Admin>,
    does: &'static str,
) -> Route {
    let (query, takes, gives, refuses) = (None, None, &[], &[]);
    Route { method, path, role: None, handler, does, query, takes, gives, refuses }
}

use Role::{Admin as A, Operator as O, Viewer as V};

/// The one route that the configuration may open.
pub(crate) const METRICS: &str = "/metrics";

const NO_RUN: &[P] = &[P::BadRequest, P::UnknownRun];
const NO_CHANGE: &[P] = &[P::BadRequest, P::UnknownRun, P::RunOver];
const NO_NAME: &[P] = &[P::BadRequest, P::UnknownName];
const NO_BODY: &[P] = &[P::BadRequest, P::TooLarge, P::UnknownName];

/// All of them.
#[rustfmt::skip]
pub(crate) const ROUTES: &[Route] = &[
    open("GET", "/", || get(dashboard::page), "The dashboard")
        .gives(&[Gives(200, "text/html", None)]),
    open("GET", "/dashboard/style.css", || get(dashboard::style), "Its style")
        .gives(&[Gives(200, "text/css", None)]),
    open("GET", "/dashboard/app.js", || get(dashboard::script), "Its script")
        .gives(&[Gives(200, "text/javascript", None)]),
    open("GET", "/dashboard/icon.svg", || get(dashboard::icon), "Its icon")
        .gives(&[Gives(200, "image/svg+xml", None)]),
    open("GET", "/healthz", || get(alive), "Whether the process answers")
        .gives(&[Gives(200, "", None)]),
    open("GET", "/readyz", || get(server::ready), "Whether the server can do its work: asked of the store and the disk")
        .gives(&[Gives::json::<Health>(200), Gives::json::<Health>(503)]),
    route("GET", METRICS, V, || get(metrics::metrics), "Metrics as OpenMetrics text, for operators of all projects; open to all where the configuration says so")
        .gives(&[Gives(200, "application/openmetrics-text", None)]),
    open("GET", "/openapi.json", || get(openapi::document), "This API, as OpenAPI 3.1")
        .gives(&[Gives::json::<serde_json::Map<String, serde_json::Value>>(200)]),
    route("GET", "/v1/server", V, || get(server::show), "What this server is, and who asks")
        .gives(&[Gives::json::<server::Server>(200)]),
    route("GET", "/v1/events", V, || get(events::events), "What changes, as server-sent events")
        .gives(&[Gives(200, "text/event-stream", None)]),
    route("GET", "/v1/runs", V, || get(runs::list), "Every run, oldest first")
        .gives(&[Gives::json::<Vec<RunView>>(200)]),
    route("POST", "/v1/runs", O, || post(runs::create), "Create a run; 200 where it was there already")
        .takes::<runs::NewRun>().gives(&[Gives::json::<RunView>(201), Gives::json::<RunView>(200)])
        .refuses(&[P::BadRequest, P::TooLarge, P::RunOver, P::UnknownName, P::UnknownRun, P::UnknownRound, P::Gone, P::NameTaken]),
    route("GET", "/v1/runs/{run}", V, || get(runs::show), "A run, with its manifest")
        .gives(&[Gives::json::<runs::RunDetail>(200)]).refuses(NO_RUN),
    route("GET", "/v1/runs/{run}/rounds", V, || get(runs::rounds), "What came of each closed round")
        .query::<runs::Rounds>().gives(&[Gives::json::<Vec<RoundRow>>(200)]).refuses(NO_RUN),
    route("POST", "/v1/runs/{run}/pause", O, || post(runs::pause), "Ask nobody anew")
        .gives(&[Gives::json::<RunView>(200)]).refuses(NO_CHANGE),
    route("POST", "/v1/runs/{run}/resume", O, || post(runs::resume), "Go on with a paused run")
        .gives(&[Gives::json::<RunView>(200)]).refuses(NO_CHANGE),
    route("POST", "/v1/runs/{run}/abort", O, || post(runs::abort), "End a run for good")
        .gives(&[Gives::json::<RunView>(200)]).refuses(NO_CHANGE),
    route("POST", "/v1/runs/{run}/rollback", O, || post(runs::roll_back), "Go back to the adapter that an earlier round of a paused run started from")
        .takes::<runs::Back>().gives(&[Gives::json::<RunView>(200)])
        .refuses(&[P::BadRequest, P::TooLarge, P::UnknownRun, P::UnknownRound, P::Gone, P::Conflict]),
    route("POST", "/v1/runs/{run}/prune", O, || post(runs::prune), "Remove snapshots that nobody needs, or tell which those are")
        .takes::<runs::Prune>().gives(&[Gives::json::<Pruned>(200)])
        .refuses(&[P::BadRequest, P::TooLarge, P::UnknownRun]),
    route("GET", "/v1/runs/{run}/adapter/{file}", O, || get(runs::adapter), "A file of the latest adapter, or of that which a round starts from, as PEFT keeps it")
        .query::<runs::Which>().gives(&[Gives::json::<serde_json::Map<String, serde_json::Value>>(200), Gives(200, "application/octet-stream", None)])
        .refuses(&[P::BadRequest, P::UnknownRun, P::UnknownRound, P::Gone, P::NoRoute]),
    route("GET", "/v1/tags", V, || get(tags::list), "Names for adapters, and their canaries")
        .gives(&[Gives::json::<Vec<Tag>>(200)]),
    route("PUT", "/v1/tags/{tag}", O, || put(tags::set), "Make a tag, or move it, to the adapter that a round starts from")
        .takes::<Adapter>().gives(&[Gives::json::<Tag>(200)])
        .refuses(&[P::BadRequest, P::TooLarge, P::UnknownRun, P::UnknownRound, P::Gone]),
    route("DELETE", "/v1/tags/{tag}", O, || delete(tags::remove), "Drop a tag and its canary")
        .query::<tags::Whose>().gives(&[Gives(204, "", None)]).refuses(NO_NAME),
    route("PUT", "/v1/tags/{tag}/canary", O, || put(tags::set_canary), "Give a share of the clients that ask for a tag another adapter, or change the share")
        .query::<tags::Whose>().takes::<tags::NewCanary>().gives(&[Gives::json::<Tag>(200)])
        .refuses(&[P::BadRequest, P::TooLarge, P::UnknownName, P::UnknownRun, P::UnknownRound, P::Gone]),
    route("DELETE", "/v1/tags/{tag}/canary", O, || delete(tags::end_canary), "Take a canary back")
        .query::<tags::Whose>().gives(&[Gives(204, "", None)]).refuses(NO_NAME),
    route("POST", "/v1/tags/{tag}/promote", O, || post(tags::promote), "Have a tag name what is its canary")
        .query::<tags::Whose>().gives(&[Gives::json::<Tag>(200)]).refuses(NO_NAME),
    route("GET", "/v1/clients", V, || get(clients::list), "Clients by id")
        .query::<clients::Clients>().gives(&[Gives::json::<Vec<ClientView>>(200)]).refuses(&[P::BadRequest]),
    route("GET", "/v1/clients/{client}", V, || get(clients::show), "A client, and what it did in each run")
        .gives(&[Gives::json::<ClientView>(200)]).refuses(&[P::BadRequest, P::UnknownClient]),
    route("POST", "/v1/clients/{client}/revoke", O, || post(clients::revoke), "Revoke a client for good")
        .takes::<clients::Revoke>().gives(&[Gives::json::<ClientView>(200)])
        .refuses(&[P::BadRequest, P::TooLarge, P::UnknownClient]),
    route("DELETE", "/v1/clients/{client}/certificate", O, || delete(clients::free_certificate), "Free a client of its TLS certificate: the next one that it shows is its own")
        .gives(&[Gives::json::<ClientView>(200)]).refuses(&[P::BadRequest, P::UnknownClient]),
    route("GET", "/v1/enrolment-tokens", O, || get(tokens::list), "Enrolment tokens, by their hashes")
        .query::<tokens::Tokens>().gives(&[Gives::json::<Vec<TokenRow>>(200)]).refuses(&[P::BadRequest]),
    route("POST", "/v1/enrolment-tokens", O, || post(tokens::create), "Make enrolment tokens")
        .takes::<tokens::NewTokens>().gives(&[Gives::json::<tokens::Made>(201)]).refuses(NO_BODY),
    route("DELETE", "/v1/enrolment-tokens/{token}", O, || delete(tokens::revoke), "Void an enrolment token")
        .gives(&[Gives(204, "", None)]).refuses(NO_NAME),
    route("GET", "/v1/operators", A, || get(operators::list), "Operators by name")
        .gives(&[Gives::json::<Vec<Operator>>(200)]),
    route("POST", "/v1/operators", A, || post(operators::create), "Make an operator")
        .takes::<operators::NewOperator>().gives(&[Gives::json::<operators::Made>(201)])
        .refuses(&[P::BadRequest, P::TooLarge, P::NameTaken, P::UnknownName]),
    route("DELETE", "/v1/operators/{name}", A, || delete(operators::revoke), "Void an operator's token")
        .query::<operators::Which>().gives(&[Gives(204, "", None)]).refuses(NO_NAME),
    route("GET", "/v1/projects", V, || get(projects::list), "Projects by name")
        .gives(&[Gives::json::<Vec<Project>>(200)]),
    route("POST", "/v1/projects", A, || post(projects::create), "Make a project; for operators of all projects")
        .takes::<projects::NewProject>().gives(&[Gives::json::<Project>(201)])
        .refuses(&[P::BadRequest, P::TooLarge, P::NameTaken]),
    route("GET", "/v1/audit", V, || get(log::list), "The audit log, latest first")
        .query::<log::Log>().gives(&[Gives::json::<Vec<Entry>>(200)]).refuses(&[P::BadRequest]),
];
