//! How often, and on how many connections, one client and one address may ask.

mod fixtures;
#[path = "fixtures/https.rs"]
mod https;

use fixtures::key;
use gossamer_protocol::problem::ProblemType as P;
use gossamer_server::config::{Config, ConfigError, Limits, Rate};
use https::{TestServer, config, problem};
use reqwest::{Method, StatusCode};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpSocket;

/// No token comes back while a test takes.
fn few(burst: u32) -> Rate {
    Rate { a_second: 1e-3, burst }
}

async fn check_in(server: &TestServer, b: u8) -> reqwest::Response {
    server.send(b, Method::POST, "/v1/check-in", b"{}").await
}

#[tokio::test]
async fn a_client_that_asks_too_often_is_told_when_to_come_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let limits = Limits { client: few(3), ..Limits::default() };
    let server = TestServer::start(dir.path(), &Config { limits, ..config() }).await;
    server.enrol(0).await;
    server.enrol(1).await;
    for _ in 0..3 {
        assert_eq!(check_in(&server, 0).await.status(), StatusCode::OK);
    }
    let refused = check_in(&server, 0).await;
    assert!(refused.headers().contains_key("retry-after"));
    let refused = problem(refused).await;
    assert_eq!((refused.kind, refused.status), (P::RateLimited, 429));
    // One token comes back in a thousand seconds.
    let wait = refused.retry_ms.expect("a time");
    assert!((900_000..=1_000_000).contains(&wait), "{wait} ms");
    assert_eq!(check_in(&server, 1).await.status(), StatusCode::OK, "another has its own");

    // Whoever only names a client, and cannot sign for it, takes none of its tokens.
    for _ in 0..5 {
        let forged = server.signed(&key(1), &Method::POST, "/v1/check-in", b"{}");
        let forged = forged.body("{ }").send().await.expect("an answer");
        assert_eq!(problem(forged).await.kind, P::BadSignature);
    }
    assert_eq!(check_in(&server, 1).await.status(), StatusCode::OK);
    server.close().await;
}

#[tokio::test]
async fn an_address_has_a_rate_and_so_many_connections() {
    let dir = tempfile::tempdir().expect("a directory");
    let limits = Limits { address: few(4), address_connections: 3, ..Limits::default() };
    let server = TestServer::start(dir.path(), &Config { limits, ..config() }).await;
    server.enrol(0).await;
    for _ in 0..3 {
        assert_eq!(check_in(&server, 0).await.status(), StatusCode::OK);
    }
    let refused = problem(check_in(&server, 0).await).await;
    assert_eq!((refused.kind, refused.status), (P::RateLimited, 429));
    // From elsewhere it is served.
    let elsewhere = |last: u8| std::net::IpAddr::from([127, 0, 0, last]);
    let config = Config::load(dir.path()).expect("its configuration");
    let ca = std::fs::read(config.path(&config.tls.ca)).expect("the CA");
    let ca = reqwest::Certificate::from_pem(&ca).expect("a certificate");
    let other = reqwest::Client::builder().tls_certs_only([ca]).local_address(elsewhere(2));
    let other = other.build().expect("a client");
    let health = || other.get(server.url("/v1/nothing")).send();
    assert_eq!(problem(health().await.expect("an answer")).await.kind, P::NoRoute);

    // Three connections that say nothing are kept for a while, a fourth is closed at once.
    let connect = async || {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((elsewhere(3), 0).into()).expect("an address of this machine");
        socket.connect(server.address).await.expect("connects")
    };
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(connect().await);
    }
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let mut fourth = connect().await;
    let mut byte = [0; 1];
    let closed = fourth.read(&mut byte);
    let closed = tokio::time::timeout(std::time::Duration::from_secs(5), closed).await;
    assert_eq!(closed.expect("at once").unwrap_or(0), 0);
    let mut first = held.remove(0);
    let open = first.read(&mut byte);
    let open = tokio::time::timeout(std::time::Duration::from_millis(100), open).await;
    assert!(open.is_err(), "the first three are not");
    assert_eq!(problem(health().await.expect("an answer")).await.kind, P::NoRoute);
    drop((first, held));
    server.close().await;
}

#[test]
fn a_rate_that_is_none_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let load = |text: &str| {
        std::fs::write(dir.path().join("config.toml"), text).expect("written");
        Config::load(dir.path())
    };
    let kept = load("[limits]\nclient = { a_second = 2.5, burst = 7 }").expect("good");
    assert_eq!(kept.limits.client, Rate { a_second: 2.5, burst: 7 });
    assert_eq!(kept.limits.address, Limits::default().address);
    for (text, field) in [
        ("[limits]\nclient = { a_second = -1.0, burst = 7 }", "limits.client.a_second"),
        ("[limits]\naddress = { a_second = nan, burst = 7 }", "limits.address.a_second"),
        ("[limits]\naddress = { a_second = 1e-300, burst = 7 }", "limits.address.a_second"),
    ] {
        match load(text) {
            Err(ConfigError::Rate { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{text}: {other:?}"),
        }
    }
}
