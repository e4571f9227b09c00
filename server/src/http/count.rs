//! Counts each request, on whichever listener, and traces it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::body::{Body, HttpBody as _};
use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt as _;
use tracing::Instrument as _;

use crate::coordinator::Coordinator;
use crate::metrics;
use crate::telemetry::{TRACES, adopt};

/// Who counts, and for which listener.
#[derive(Clone)]
pub(crate) struct Counting(pub(crate) Coordinator, pub(crate) &'static str);

/// The outermost layer.
pub(crate) async fn count(
    State(Counting(coordinator, listener)): State<Counting>,
    request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let method = name(request.method());
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("none", MatchedPath::as_str).to_owned();
    let read = Arc::new(AtomicU64::new(0));
    let counted = read.clone();
    let request = request.map(|body| {
        Body::new(body.map_frame(move |frame| {
            if let Some(data) = frame.data_ref() {
                counted.fetch_add(data.len() as u64, Ordering::Relaxed);
            }
            frame
        }))
    });
    let span = tracing::info_span!(
        target: TRACES,
        "request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        listener,
        http.request.method = method,
        http.route = route,
        http.response.status_code = tracing::field::Empty,
    );
    adopt(&span, request.headers());
    let response = next.run(request).instrument(span.clone()).await;
    // Signed: OTLP has no other integers.
    span.record("http.response.status_code", i64::from(response.status().as_u16()));
    coordinator.metrics().answered(metrics::Request {
        listener,
        method,
        route,
        status: response.status().as_u16(),
        took: began.elapsed(),
        bytes_in: read.load(Ordering::Relaxed),
        // A stream of events has no length before its end.
        bytes_out: response.body().size_hint().exact().unwrap_or(0),
    });
    response
}

/// Anybody may make up a method, so only those that routes take have their names.
fn name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}
