//! What strangers and slow or greedy clients can take, and that it ends.

mod fixtures;
#[path = "fixtures/https.rs"]
mod https;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fixtures::key;
use gossamer_protocol::message::Enrolment;
use gossamer_protocol::problem::ProblemType as P;
use gossamer_server::clock::{Clock, SystemClock, Timestamp};
use gossamer_server::config::Config;
use gossamer_server::coordinator::Coordinator;
use gossamer_server::http::serve::ServeError;
use gossamer_server::setup;
use gossamer_server::store::Store;
use https::{TestServer, config, problem};
use reqwest::{Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Long enough for a machine that does much else, short of a test that hangs.
const SOON: Duration = Duration::from_secs(8);
/// As many short waits.
const TRIES: usize = 100;

#[tokio::test]
async fn slow_and_many_connections_are_bounded() {
    let dir = tempfile::tempdir().expect("a directory");
    let tight = Config {
        connections_max: 1,
        handshake_timeout_s: 1,
        header_timeout_s: 1,
        shutdown_timeout_s: 1,
        ..config()
    };
    let server = TestServer::start(dir.path(), &tight).await;
    // Holds the one place, without a handshake.
    let mut silent = tokio::net::TcpStream::connect(server.address).await.expect("connects");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let health = || server.http.get(server.url("/v1/enrol")).send();
    let busy = problem(health().await.expect("an answer")).await;
    assert_eq!((busy.kind, busy.status), (P::Busy, 503));
    assert!(busy.retry_ms.is_some());
    // The handshake's time is up.
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(5), silent.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "a silent connection is closed");

    // A head that never ends.
    let mut stream = server.tls().await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n").await.expect("sent");
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "a dribbled head is cut off");
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));

    // Neither a head nor HTTP/2's preface.
    for begun in [&b""[..], b"PRI * HT"] {
        let mut stream = server.tls().await;
        stream.write_all(begun).await.expect("sent");
        let ended = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut [0; 9])).await;
        assert!(ended.is_ok(), "silence after {} bytes is cut off", begun.len());
    }
    server.close().await;
}

#[tokio::test]
async fn a_dribbled_body_is_given_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = TestServer::start(dir.path(), &Config { body_timeout_s: 1, ..config() }).await;
    server.enrol(0).await;
    // A task, so that an upload's bytes are read.
    server.operator.create_run(&fixtures::manifest()).await.expect("a run");
    let path = https::update_path(&server.task(0).await, 0);
    let header = https::authorization(&key(0), &Method::PUT, &path, b"", https::now_ms() + 60_000);
    let head = format!(
        "PUT {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: {header}\r\n\
         content-length: 90\r\n\r\n"
    );
    let mut stream = server.tls().await;
    stream.write_all(head.as_bytes()).await.expect("sent");
    let (mut answer, mut sent) = ([0; 12], 0);
    let answered = loop {
        tokio::select! {
            got = stream.read_exact(&mut answer) => break got.is_ok(),
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        // Each byte comes well within the pause between two pieces.
        if sent == 50 || stream.write_all(b"x").await.is_err() {
            break false;
        }
        sent += 1;
    };
    assert!(answered, "after {sent} bytes");
    assert_eq!(&answer, b"HTTP/1.1 400");
    assert!(sent < 20, "{sent}");
    server.close().await;
}

#[tokio::test]
async fn bodies_share_a_bounded_memory() {
    let dir = tempfile::tempdir().expect("a directory");
    let tight = Config { bodies_bytes_max: 2 << 10, shutdown_timeout_s: 1, ..config() };
    let server = TestServer::start(dir.path(), &tight).await;
    for b in 0..3 {
        server.enrol(b).await;
    }
    let mut held = Vec::new();
    let busy = problem(crowd(&server, 2, &mut held, &[0, 1]).await).await;
    assert_eq!((busy.kind, busy.status), (P::Busy, 503));
    assert!(busy.retry_ms.is_some());
    drop(held);
    let mut answers = StatusCode::SERVICE_UNAVAILABLE;
    for _ in 0..TRIES {
        if answers == StatusCode::SERVICE_UNAVAILABLE {
            tokio::time::sleep(Duration::from_millis(20)).await;
            answers = server.send(2, Method::POST, "/v1/check-in", b"{}").await.status();
        }
    }
    assert_eq!(answers, StatusCode::OK);
    server.close().await;
}

#[tokio::test]
async fn strangers_and_one_client_leave_places_to_the_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let few = Config { requests_max: 12, shutdown_timeout_s: 1, ..config() };
    let server = TestServer::start(dir.path(), &few).await;
    server.enrol(0).await;
    server.enrol(1).await;
    let guess = || server.http.post(server.url("/v1/enrol")).json(&Enrolment::new("x", &key(9)));
    let (mut held, mut refused) = (Vec::new(), P::BadToken);
    while refused == P::BadToken && held.len() < TRIES {
        let mut stream = server.tls().await;
        let head = b"POST /v1/enrol HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n";
        stream.write_all(head).await.expect("sent");
        held.push(stream);
        tokio::time::sleep(Duration::from_millis(20)).await;
        refused = problem(guess().send().await.expect("an answer")).await.kind;
    }
    assert_eq!(refused, P::Busy);
    server.check_in(0).await;
    held.clear();

    let busy = problem(crowd(&server, 0, &mut held, &[0]).await).await;
    assert_eq!(busy.kind, P::Busy);
    server.check_in(1).await;
    server.close().await;
}

/// More and more check-ins of `others` are begun and not ended, until client `b` is turned away.
async fn crowd(
    server: &TestServer,
    b: u8,
    held: &mut Vec<TlsStream<TcpStream>>,
    others: &[u8],
) -> reqwest::Response {
    for turn in 0..TRIES {
        held.push(server.begun(others[turn % others.len()]).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let answer = server.send(b, Method::POST, "/v1/check-in", b"{}").await;
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
            return answer;
        }
    }
    panic!("{TRIES} did not crowd it");
}

/// The system's clock, until it is told to fail.
struct Failing(AtomicBool);

impl Clock for Failing {
    fn now(&self) -> Timestamp {
        assert!(!self.0.load(Ordering::SeqCst), "the clock fails, as this test wants");
        SystemClock.now()
    }
}

#[tokio::test]
async fn a_server_that_cannot_tick_does_not_serve_on() {
    let dir = tempfile::tempdir().expect("a directory");
    setup::init(dir.path(), &[], &config()).await.expect("a directory");
    let clock = Arc::new(Failing(AtomicBool::new(false)));
    let store = Store::open(dir.path()).await.expect("a store");
    let key = setup::signing_key(dir.path()).expect("a key");
    let coordinator = Coordinator::open(store, key, clock.clone()).await.expect("opens");
    let server = TestServer::over(coordinator, dir.path()).await;
    server.enrol(0).await;
    clock.0.store(true, Ordering::SeqCst);
    let ended = tokio::time::timeout(SOON, server.ended()).await.expect("it ends");
    assert!(matches!(ended, Err(ServeError::Task(_))), "{ended:?}");
}
