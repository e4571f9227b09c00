//! The dashboard in a real browser, during a run over real HTTPS.
//!
//! Needs Debian's `chromium-driver`; without, it says NOT RUN, and fails where `CI` is set. Pictures
//! are left in `GOSSAMER_SCREENSHOTS`, or cargo's temporary folder.

#[path = "fixtures/browser.rs"]
mod browser;
mod fixtures;
#[path = "fixtures/https.rs"]
mod https;

use std::path::PathBuf;

use browser::Browser;
use fixtures::{id, key, manifest};
use gossamer_protocol::manifest::Manifest;
use gossamer_server::operator::Role;
use https::{TestServer, config, update_path};
use reqwest::{Method, StatusCode};

const ROUNDS: u64 = 8;

fn terms() -> Manifest {
    Manifest { rounds: ROUNDS, name: "dutch letters".into(), ..manifest() }
}

/// Client `b` does its part in the open round.
async fn work(server: &TestServer, b: u8) {
    let task = server.task(b).await;
    let path = format!("/v1/runs/{}/objects/{}", task.run, task.snapshot);
    let snapshot = server.send(b, Method::GET, &path, b"").await.bytes().await.expect("a body");
    let frame = fixtures::frame(&terms(), &task, &snapshot, id(&key(b)));
    let sent = server.send(b, Method::PUT, &update_path(&task, b), &frame).await;
    assert_eq!(sent.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_is_seen_to_finish_without_reloading() {
    let Some(browser) = Browser::start().await else {
        let told = "there is no chromedriver: install Debian's chromium-driver";
        assert!(std::env::var_os("CI").is_none(), "{told}");
        eprintln!("NOT RUN: {told}");
        return;
    };
    let pictures = std::env::var_os("GOSSAMER_SCREENSHOTS").map(PathBuf::from);
    let pictures = pictures.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    std::fs::create_dir_all(&pictures).expect("a folder");

    let dir = tempfile::tempdir().expect("a directory");
    let server = TestServer::start(dir.path(), &config()).await;
    let eva = server.token("eva", Role::Operator).await;
    for b in 0..4 {
        server.enrol(b).await;
    }
    server.operator.create_run(&terms()).await.expect("a run");

    browser.screen(1280, 900, "light").await;
    browser.open(&server.admin_url("/")).await;
    browser.until("document.activeElement.id === 'token'").await;
    browser.shoot(&pictures.join("dashboard-login.png")).await;
    browser.keys("gossamer-operator-wrong\n").await;
    browser.until("document.getElementById('refused').textContent.includes('unknown')").await;
    browser.keys(&format!("{eva}\n")).await;
    let rounds = |n: u64| {
        format!("document.querySelector('.progress')?.textContent === '{n} of {ROUNDS} rounds'")
    };
    browser.until(&rounds(0)).await;
    browser.until("document.getElementById('link').textContent === 'Live'").await;
    browser.eval("window.loaded = 'once'").await;
    for round in 0..ROUNDS - 2 {
        for b in [0, 1] {
            work(&server, b).await;
        }
        browser.until(&rounds(round + 1)).await;
    }
    browser.until("document.querySelectorAll('#closed tr').length === 6").await;
    browser
        .until("document.getElementById('said').textContent.includes('round 5 closed, 6 of 8')")
        .await;
    browser.until("document.getElementById('audit').innerText.includes('closed round 5')").await;
    assert_eq!(browser.eval("window.loaded").await, "once", "never reloaded");
    work(&server, 0).await;
    browser.until("document.getElementById('runs').innerText.includes('1 of 2 updates')").await;

    // A client meets a refusal, and is revoked by hand.
    let bad = server.send(2, Method::POST, "/v1/check-in", b"{").await;
    assert_eq!(bad.status(), StatusCode::BAD_REQUEST);
    let client = id(&key(2)).to_string();
    browser.until("document.getElementById('clients').innerText.includes('bad request')").await;
    browser.eval(&format!("document.querySelector('[data-key=\"{client}\"]').click()")).await;
    browser.until("document.getElementById('ask').open").await;
    browser.eval("document.getElementById('reason').focus()").await;
    browser.keys("sends nonsense").await;
    browser.eval("document.getElementById('ask-yes').click()").await;
    browser.until("document.getElementById('clients').innerText.includes('sends nonsense')").await;
    browser.until("document.getElementById('audit').innerText.includes('sends nonsense')").await;

    for (name, width, height, scheme) in [
        ("desktop-light", 1280, 900, "light"),
        ("desktop-dark", 1280, 900, "dark"),
        ("phone-light", 390, 844, "light"),
        ("phone-dark", 390, 844, "dark"),
    ] {
        browser.screen(width, height, scheme).await;
        let wide = browser.eval("document.documentElement.scrollWidth - innerWidth").await;
        assert!(wide.as_i64() <= Some(0), "{name}: {wide} pixels too wide");
        browser.shoot(&pictures.join(format!("dashboard-{name}.png"))).await;
    }
    eprintln!("pictures are in {}", pictures.display());

    // Its token is voided: it is told, and nothing of it is kept.
    server.operator.revoke_operator(&"eva".parse().expect("a name")).await.expect("revoked");
    browser.until("!document.getElementById('login').hidden").await;
    assert!(browser.eval("sessionStorage.getItem('token')").await.is_null());
    let complaints: Vec<String> = browser.complaints().await;
    let others: Vec<&String> =
        complaints.iter().filter(|told| !told.contains("status of 401")).collect();
    assert!(others.is_empty(), "{others:#?}");
    server.close().await;
}
