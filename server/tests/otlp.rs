//! Traces, as a collector reads them; and a collector that is no good costs nothing.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::Value;

/// A server process, and a client that trusts it.
struct Server {
    child: Child,
    url: String,
    http: reqwest::Client,
}

impl Server {
    fn start(dir: &Path, otlp: &str) -> Self {
        let program = env!("CARGO_BIN_EXE_gossamer-server");
        let mut init = Command::new(program);
        init.args(["init", "s", "--listen", "127.0.0.1:0"]).current_dir(dir);
        let made = init.output().expect("it starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut serve = Command::new(program);
        serve.args(["serve", "s", "--json", "--otlp", otlp]).stdout(Stdio::piped());
        let mut child = serve.current_dir(dir).spawn().expect("it starts");
        let mut line = String::new();
        let said = child.stdout.take().expect("piped");
        BufReader::new(said).read_line(&mut line).expect("it says where");
        let said: Value = serde_json::from_str(&line).expect("JSON");
        let url = format!("https://{}", said["listening"].as_str().expect("an address"));
        let _ = rustls::crypto::ring::default_provider().install_default();
        let ca = std::fs::read(dir.join("s/tls/ca.pem")).expect("there");
        let ca = reqwest::Certificate::from_pem(&ca).expect("a certificate");
        let http = reqwest::Client::builder().tls_certs_only([ca]).build().expect("a client");
        Self { child, url, http }
    }

    async fn get(&self, path: &str, traceparent: Option<&str>) -> u16 {
        let mut request = self.http.get(format!("{}{path}", self.url));
        if let Some(traceparent) = traceparent {
            request = request.header("traceparent", traceparent);
        }
        request.send().await.expect("an answer").status().as_u16()
    }

    /// Ends it as a service manager does.
    fn stop(mut self) {
        let id = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().expect("told");
        assert!(self.child.wait().expect("ends").success());
    }
}

/// A collector: its address, and what it was told.
async fn collector() -> (String, Arc<Mutex<Vec<ExportTraceServiceRequest>>>) {
    let heard: Arc<Mutex<Vec<_>>> = Arc::default();
    let keep = heard.clone();
    let take = move |body: Bytes| async move {
        keep.lock().expect("whole").push(ExportTraceServiceRequest::decode(body).expect("OTLP"));
        StatusCode::OK
    };
    let router = axum::Router::new().route("/v1/traces", post(take));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address: SocketAddr = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://{address}"), heard)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The example of W3C Trace Context, section 3.2.4.
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_told_of_requests_in_the_traces_they_are_of() {
    let dir = tempfile::tempdir().expect("a directory");
    let (url, heard) = collector().await;
    let server = Server::start(dir.path(), &url);
    assert_eq!(server.get("/healthz", Some(PARENT)).await, 200);
    assert_eq!(server.get("/readyz", None).await, 200);
    assert_eq!(server.get("/nowhere", Some("00-nonsense")).await, 404);
    // Its caller does not want it traced.
    let unwanted = PARENT.replace("-01", "-00");
    let run = "/v1/runs/00000000000000000000000000000000/manifest";
    assert_eq!(server.get(run, Some(&unwanted)).await, 401);
    tokio::task::spawn_blocking(|| server.stop()).await.expect("ends");

    let heard = heard.lock().expect("whole");
    let resources: Vec<_> = heard.iter().flat_map(|told| &told.resource_spans).collect();
    for told in &resources {
        let attributes = &told.resource.as_ref().expect("whose they are").attributes;
        let named = attributes.iter().find(|of| of.key == "service.name").expect("named");
        let name = named.value.as_ref().and_then(|value| value.value.clone());
        assert!(matches!(name, Some(Any::StringValue(name)) if name == "gossamer-server"));
    }
    let spans: Vec<&Span> = resources
        .iter()
        .flat_map(|told| &told.scope_spans)
        .flat_map(|scope| &scope.spans)
        .collect();
    let mut names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["GET /healthz", "GET /readyz", "GET none"]);
    let of = |name| *spans.iter().find(|span| span.name == name).expect("there");
    let (taken_up, own, other) = (of("GET /healthz"), of("GET /readyz"), of("GET none"));
    assert_eq!(hex(&taken_up.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(hex(&taken_up.parent_span_id), "00f067aa0ba902b7");
    for span in [own, other] {
        assert!(span.parent_span_id.is_empty() && span.trace_id.iter().any(|&byte| byte != 0));
        assert_ne!(span.trace_id, taken_up.trace_id);
    }
    assert_ne!(own.trace_id, other.trace_id);
    let status = other.attributes.iter().find(|of| of.key == "http.response.status_code");
    let status = status.and_then(|of| of.value.as_ref()?.value.clone());
    assert!(matches!(status, Some(Any::IntValue(404))), "{status:?}");
    assert!(spans.iter().all(|span| span.end_time_unix_nano >= span.start_time_unix_nano));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_no_good_neither_slows_nor_stops_a_server() {
    // One never answers, the other is not there.
    let bind = || tokio::net::TcpListener::bind("127.0.0.1:0");
    let deaf = bind().await.expect("a port");
    let gone = bind().await.expect("a port").local_addr().expect("bound");
    for place in [deaf.local_addr().expect("bound"), gone] {
        let dir = tempfile::tempdir().expect("a directory");
        let server = Server::start(dir.path(), &format!("http://{place}"));
        let began = Instant::now();
        // More than the queue of spans takes.
        for _ in 0..40 {
            let asked = (0..64).map(|_| server.get("/healthz", None));
            let told = futures_util::future::join_all(asked).await;
            assert!(told.iter().all(|&status| status == 200));
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
        let began = Instant::now();
        tokio::task::spawn_blocking(|| server.stop()).await.expect("ends");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}

#[test]
fn an_address_that_is_none_is_told() {
    let program = env!("CARGO_BIN_EXE_gossamer-server");
    for bad in ["localhost:4318", "ftp://x", "http://", "http://a b"] {
        let output = Command::new(program).args(["serve", "nowhere", "--otlp", bad]).output();
        let output = output.expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("otlp.endpoint") && said.lines().count() == 1, "{said}");
    }
}
