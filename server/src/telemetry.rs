//! Logs on stderr, and traces over OTLP where a collector is named.
//!
//! A trace's spans are those of the target `gossamer_traces`: a request (with the trace that its `traceparent` names,
//! W3C Trace Context) and the closing of a round. They wait in a queue that has an end, and a thread of its own sends them: a
//! collector that is slow or gone costs spans, never a request.

use std::io::IsTerminal as _;
use std::time::Duration;

use axum::http::HeaderMap;
use bytes::Bytes;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{HeaderExtractor, HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider,
};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::Otlp;

/// The target of spans that are traced: they are no part of the log.
pub(crate) const TRACES: &str = "gossamer_traces";

/// How often spans are sent.
const EVERY: Duration = Duration::from_secs(1);
/// How long a collector may take, and how long the end waits for it.
const PATIENCE: Duration = Duration::from_secs(5);
const END: Duration = Duration::from_secs(2);

/// Why no traces can be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// No address of a collector.
    #[error("otlp.endpoint: expected http://HOST:PORT or https://HOST:PORT, not {0:?}")]
    Endpoint(String),
    /// The client cannot be set up.
    #[error("cannot set up the way to the collector")]
    Client(#[from] reqwest::Error),
    /// Nor the exporter.
    #[error("cannot set up the exporter")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// Sends what is left where it is dropped.
#[derive(Debug)]
pub struct Telemetry(Option<SdkTracerProvider>);

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = &self.0 {
            // Whatever the collector does, the process ends.
            let _ = provider.shutdown_with_timeout(END);
        }
    }
}

/// Starts logging to stderr, as JSON lines or as text, and tracing to where `otlp` says. To be called once, within
/// the runtime that requests to the collector are to run on.
///
/// # Errors
/// [`TelemetryError`] where the collector's address is none.
pub fn start(json: bool, otlp: &Otlp) -> Result<Telemetry, TelemetryError> {
    let provider = provider(otlp)?;
    let env = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "warn,gossamer_server=info".into())
        .and(filter_fn(|of| of.target() != TRACES));
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let log = if json { log.json().with_filter(env).boxed() } else { log.with_filter(env).boxed() };
    let traces = provider.as_ref().map(|provider| {
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("gossamer"));
        let layer = layer.with_location(false).with_threads(false).with_target(false);
        layer.with_filter(filter_fn(|of| of.is_span() && of.target() == TRACES))
    });
    tracing_subscriber::registry().with(log).with(traces).init();
    Ok(Telemetry(provider))
}

fn provider(otlp: &Otlp) -> Result<Option<SdkTracerProvider>, TelemetryError> {
    let Some(endpoint) = &otlp.endpoint else { return Ok(None) };
    let base = endpoint.trim_end_matches('/');
    let known = ["http://", "https://"].into_iter().find_map(|scheme| base.strip_prefix(scheme));
    if known.is_none_or(|host| host.is_empty() || host.contains(['?', '#', '@', ' '])) {
        return Err(TelemetryError::Endpoint(endpoint.clone()));
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(Way::new()?)
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(PATIENCE)
        .with_endpoint(format!("{base}/v1/traces"))
        .build()?;
    let batches = BatchConfigBuilder::default().with_scheduled_delay(EVERY).build();
    let batches = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
    let service = Resource::builder_empty().with_service_name(otlp.service.clone()).build();
    // A caller that traces decides for its own trace; of the others, the share.
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(otlp.share)));
    let provider = SdkTracerProvider::builder()
        .with_span_processor(batches)
        .with_sampler(sampler)
        .with_resource(service)
        .build();
    Ok(Some(provider))
}

/// Makes `span` one of the trace that a request's headers name, if they do.
pub(crate) fn adopt(span: &tracing::Span, headers: &HeaderMap) {
    if span.is_disabled() || !headers.contains_key("traceparent") {
        return;
    }
    let parent = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
    // A span that is not traced has no parent to be set.
    let _ = span.set_parent(parent);
}

/// Requests to the collector, on the server's own runtime: the thread that asks for them has none.
#[derive(Debug)]
struct Way {
    http: reqwest::Client,
    runtime: tokio::runtime::Handle,
    lost: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Way {
    fn new() -> Result<Self, TelemetryError> {
        // It stays whichever was chosen first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(PATIENCE)
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        let runtime = tokio::runtime::Handle::current();
        Ok(Self { http, runtime, lost: Default::default() })
    }
}

#[async_trait::async_trait]
impl HttpClient for Way {
    async fn send_bytes(
        &self,
        request: axum::http::Request<Bytes>,
    ) -> Result<axum::http::Response<Bytes>, HttpError> {
        let (http, lost) = (self.http.clone(), self.lost.clone());
        let asked = self.runtime.spawn(async move {
            let answer = async {
                let answer = http.execute(request.try_into()?).await?;
                let status = answer.status();
                let bytes = answer.bytes().await?;
                Ok::<_, reqwest::Error>((status, bytes))
            };
            let answer = answer.await;
            let failed = match &answer {
                Ok((status, _)) if status.is_success() => None,
                Ok((status, _)) => Some(format!("it answers {status}")),
                Err(error) => Some(crate::problem::told(error)),
            };
            // Told once, not each second.
            let was_lost = lost.swap(failed.is_some(), std::sync::atomic::Ordering::Relaxed);
            match failed {
                Some(error) if !was_lost => {
                    tracing::warn!(error, "the collector of traces does not take them");
                }
                None if was_lost => tracing::info!("the collector of traces takes them again"),
                _ => {}
            }
            answer
        });
        let (status, bytes) = asked.await??;
        let mut response = axum::http::Response::new(bytes);
        *response.status_mut() = status;
        Ok(response)
    }
}
