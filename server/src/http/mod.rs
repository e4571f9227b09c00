//! The coordinator over HTTP. A file per resource; nothing is decided here.
//!
//! - [`serve`]: the accept loop. `connection`: one connection. `stall`: peers that do not read.
//! - `auth`: who asks. `peer`: with which certificate. `callers`: how many at once. `rates`: how often.
//!   `body`: bounded reading. `problem`: refusals. `count`: metrics. `health`: for load balancers.
//! - `enrol`, `check_in`, `records`, `objects`, `updates`, `inclusion`, `evaluations`, `adapters`, `keys`,
//!   `certificate`: the resources.
//! - `admin`: the admin API, on another listener.

mod adapters;
pub(crate) mod admin;
mod auth;
mod body;
mod callers;
mod certificate;
mod check_in;
mod connection;
mod count;
mod enrol;
mod evaluations;
mod health;
mod inclusion;
mod keys;
mod objects;
mod peer;
mod problem;
mod rates;
mod records;
pub mod serve;
mod stall;
mod updates;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post, put};
use axum::{Json, Router};
use gossamer_protocol::ids::ClientId;
use gossamer_protocol::problem::ProblemType;
use tokio::sync::Semaphore;
use tracing::Instrument as _;

use crate::config::Config;
use crate::coordinator::{Coordinator, Health};
use crate::project::ProjectName;
use auth::Who;
use body::Limits;
use callers::{Callers, REQUESTS_MAX, Underway};
use count::Counting;
use peer::Peer;
use problem::Refusal;
use rates::{Rates, Source};

/// What handlers share.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) coordinator: Coordinator,
    pub(crate) config: Arc<Config>,
    /// A permit for each request worked on.
    pub(crate) requests: Arc<Semaphore>,
    /// A permit for each enrolment worked on. They are a part of the requests: strangers must not
    /// take every place there is.
    pub(crate) enrolments: Arc<Semaphore>,
    /// How many each client has under way.
    pub(crate) callers: Callers<ClientId>,
    /// How often each client may ask.
    pub(crate) client_rates: Arc<Rates<ClientId>>,
    /// How often all clients of one project may.
    pub(crate) project_rates: Arc<Rates<ProjectName>>,
    /// How often all who ask from one address may.
    pub(crate) address_rates: Arc<Rates<Source>>,
    /// What bodies may take.
    pub(crate) bodies: Limits,
}

impl App {
    /// `coordinator` within the limits of `config`.
    pub(crate) fn new(coordinator: Coordinator, config: &Config) -> Self {
        let pause = Duration::from_secs(config.body_timeout_s.into());
        Self {
            coordinator,
            config: Arc::new(config.clone()),
            requests: Arc::new(Semaphore::new(config.requests_max as usize)),
            enrolments: Arc::new(Semaphore::new(config.requests_max.div_ceil(4) as usize)),
            callers: Callers::new(REQUESTS_MAX),
            client_rates: Arc::new(Rates::new(config.limits.client)),
            project_rates: Arc::new(Rates::new(config.limits.project)),
            address_rates: Arc::new(Rates::new(config.limits.address)),
            bodies: Limits::new(pause, config.bodies_bytes_max),
        }
    }

    /// A place for a request of `client`.
    pub(crate) fn enter(&self, client: ClientId) -> Result<Underway<ClientId>, Refusal> {
        self.callers.enter(client).ok_or_else(busy)
    }
}

/// The methods of a route, its path, and what answers.
type Route = (&'static [&'static str], &'static str, fn() -> MethodRouter<App>);

const UPDATE: &str = "/v1/runs/{run}/rounds/{round}/attempts/{attempt}/updates/{client}";
const DIFFERENCE: &str = "/v1/runs/{run}/rounds/{round}/differences/{held}";

/// Every route of clients: the router is made of it, and a test asks each for what is another project's.
#[rustfmt::skip]
const ROUTES: &[Route] = &[
    (&["POST"], "/v1/enrol", || post(enrol::enrol)),
    (&["POST"], "/v1/check-in", || post(check_in::check_in)),
    (&["POST"], "/v1/certificate", || post(certificate::renew)),
    (&["GET"], "/v1/keys", || get(keys::list)),
    (&["POST"], "/v1/key", || post(keys::change)),
    (&["GET"], "/v1/runs/{run}/manifest", || get(records::manifest)),
    (&["GET"], "/v1/runs/{run}/records/{round}", || get(records::record)),
    (&["GET"], "/v1/runs/{run}/objects/{digest}", || get(objects::object)),
    (&["GET"], "/v1/runs/{run}/rounds/{round}/inclusion", || get(inclusion::inclusion)),
    (&["PUT"], "/v1/runs/{run}/rounds/{round}/evaluations/{client}", || put(evaluations::put)),
    (&["GET"], "/v1/adapters/{tag}", || get(adapters::adapter)),
    (&["GET"], DIFFERENCE, || get(objects::difference)),
    (&["PUT", "PATCH", "HEAD"], UPDATE, || put(updates::put).patch(updates::patch).head(updates::head)),
];

/// Every route there is.
pub(crate) fn router(app: App) -> Router {
    let counting = Counting(app.coordinator.clone(), "clients");
    let routes = ROUTES
        .iter()
        .fold(Router::new(), |router, (_, path, handler)| router.route(path, handler()));
    routes
        .fallback(|| async { Refusal::new(ProblemType::NoRoute, "see the documentation") })
        .method_not_allowed_fallback(|| async {
            Refusal::new(ProblemType::Method, "the route has other methods")
        })
        .layer(middleware::from_fn_with_state(app.clone(), limit))
        // Whoever watches a busy server is told so too.
        .route("/healthz", get(health::alive))
        .route("/readyz", get(ready))
        .layer(middleware::from_fn_with_state(counting, count::count))
        .with_state(app)
}

async fn ready(State(app): State<App>) -> (StatusCode, Json<Health>) {
    health::ready(&app.coordinator, &app.config).await
}

/// Counts refusals, and turns requests away while too many are worked on. Work that was begun is ended, in a task of its
/// own: hyper drops the handler of a client that hangs up, at whichever await it is.
async fn limit(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let (coordinator, who) = (app.coordinator.clone(), Who::default());
    request.extensions_mut().insert(who.clone());
    let source = request.extensions().get::<Source>().copied();
    let allowed = source.map_or(Ok(()), |source| app.address_rates.take(source, "address"));
    let peer = Peer::behind(request.extensions());
    let response = match allowed.and_then(|()| peer.shown().map(|_| ())) {
        Ok(()) => work(app, request, next).await,
        Err(refused) => refused.into_response(),
    };
    if let Some(reason) = response.extensions().get::<ProblemType>() {
        let (client, proven) = who.told();
        coordinator.refused(client, proven, *reason);
    }
    response
}

async fn work(app: App, request: Request, next: Next) -> Response {
    let Ok(working) = app.requests.try_acquire_owned() else { return busy().into_response() };
    let work = async move {
        let _working = working;
        next.run(request).await
    };
    let work = tokio::spawn(work.in_current_span());
    match work.await {
        Ok(response) => response,
        Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
        Err(_) => busy().into_response(),
    }
}

/// "Come back in a moment".
pub(crate) fn busy() -> Refusal {
    Refusal::after(ProblemType::Busy, "too many requests at once", Duration::from_millis(1_500))
}

#[cfg(test)]
mod projects_tests;
