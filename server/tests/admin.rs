//! The admin API over real HTTPS: what the command line does, for who holds a token.

mod fixtures;
#[path = "fixtures/https.rs"]
mod https;

use std::time::Duration;

use fixtures::{id, key, linear, manifest};
use futures_util::StreamExt as _;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::message::{Enrolment, JoinToken};
use gossamer_protocol::problem::ProblemType as P;
use gossamer_server::certificate::Certificate;
use gossamer_server::operator::Role;
use https::{TestServer, config, problem, update_path};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const GET: Method = Method::GET;
const POST: Method = Method::POST;

/// What `run manifest` prints, for the small run.
fn new_run() -> Value {
    let manifest: Value =
        serde_json::from_slice(&manifest().to_bytes().expect("valid")).expect("JSON");
    let l = linear();
    json!({ "manifest": manifest, "linears": { l.name: [l.d_in, l.d_out] } })
}

/// Client `b` does its part in the open round.
async fn work(server: &TestServer, b: u8) -> usize {
    let task = server.task(b).await;
    let path = format!("/v1/runs/{}/objects/{}", task.run, task.snapshot);
    let snapshot = server.send(b, GET, &path, b"").await.bytes().await.expect("a body");
    let frame = fixtures::frame(&manifest(), &task, &snapshot, id(&key(b)));
    let sent = server.send(b, Method::PUT, &update_path(&task, b), &frame).await;
    assert_eq!(sent.status(), StatusCode::OK);
    frame.len()
}

#[tokio::test]
async fn a_run_from_its_creation_to_its_adapter() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = TestServer::start(dir.path(), &config()).await;
    let eva = server.token("eva", Role::Operator).await;
    for b in 0..2 {
        server.enrol(b).await;
    }
    let made = server.api(&eva, POST, "/v1/runs", Some(new_run())).await;
    assert_eq!(made.status(), StatusCode::CREATED);
    let made: Value = made.json().await.expect("JSON");
    let run = made["run"].as_str().expect("an id").to_owned();
    let again = server.api(&eva, POST, "/v1/runs", Some(new_run())).await;
    assert_eq!(again.status(), StatusCode::OK, "the same manifest is the same run");

    let at = |rest: &str| format!("/v1/runs/{run}{rest}");
    let paused = server.got(&eva, POST, &at("/pause"), None).await;
    assert_eq!(paused["status"], "paused");
    let back = problem(server.api(&eva, POST, &at("/rollback"), Some(json!({ "round": 0 }))).await);
    assert_eq!(back.await.kind, P::Conflict, "it is at round 0");
    assert_eq!(server.got(&eva, POST, &at("/resume"), None).await["status"], "running");
    let mut bytes = 0;
    for _ in 0..2 {
        bytes = work(&server, 0).await + work(&server, 1).await;
    }
    let mut shown = Value::Null;
    for _ in 0..200 {
        shown = server.got(&eva, GET, &at(""), None).await;
        if shown["status"] == "complete" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((&shown["status"], &shown["round"]), (&json!("complete"), &json!(2)));
    assert_eq!(shown["manifest"]["name"], "test");

    let rounds = server.got(&eva, GET, &at("/rounds"), None).await;
    assert_eq!(rounds.as_array().map(Vec::len), Some(2), "{rounds}");
    assert_eq!((&rounds[1]["accepted"], &rounds[1]["bytes_up"]), (&json!(2), &json!(bytes)));
    // Both updates of `fixtures::update` say so many examples, and this loss.
    assert_eq!((&rounds[1]["examples"], &rounds[1]["loss"]), (&json!(8), &json!(2.0)));
    let snapshot: Value = server.got(&eva, GET, &at("/rounds?from=0&limit=1"), None).await;
    assert_eq!(snapshot.as_array().map(Vec::len), Some(1));
    assert!(rounds[0]["bytes_down"].as_u64() > Some(0), "{rounds}");

    let config = server.got(&eva, GET, &at("/adapter/adapter_config.json"), None).await;
    assert_eq!(config["peft_type"], "LORA");
    let weights = server.api(&eva, GET, &at("/adapter/adapter_model.safetensors"), None).await;
    let weights = weights.bytes().await.expect("a body");
    assert!(safetensors::SafeTensors::deserialize(&weights).is_ok());
    let none = problem(server.api(&eva, GET, &at("/adapter/passwd"), None).await).await;
    assert!(none.detail.contains("adapter_config.json"), "{none}");

    // Another run from that adapter, which its manifest then names.
    let mut warm = new_run();
    (warm["manifest"]["name"], warm["from"]) = (json!("warm"), json!({ "run": run, "round": 2 }));
    let made = server.got(&eva, POST, "/v1/runs", Some(warm.clone())).await;
    let at_warm = format!("/v1/runs/{}", made["run"].as_str().expect("an id"));
    let shown = server.got(&eva, GET, &at_warm, None).await;
    assert_eq!(shown["manifest"]["start"].as_str().map(str::len), Some(64), "{shown}");
    let begins = format!("{at_warm}/adapter/adapter_model.safetensors?round=0");
    let begins = server.api(&eva, GET, &begins, None).await.bytes().await.expect("a body");
    assert_eq!(begins, weights, "the very adapter");
    for (field, value, expected) in [
        ("round", json!(9), P::UnknownRound),
        ("run", json!("00000000000000000000000000000000"), P::UnknownRun),
    ] {
        let mut bad = warm.clone();
        bad["from"][field] = value;
        let refused = problem(server.api(&eva, POST, "/v1/runs", Some(bad)).await).await;
        assert_eq!(refused.kind, expected, "{refused}");
    }
    let mut bad = warm;
    bad["manifest"]["base"]["digest"] = json!(Digest::of(b"other").to_string());
    let refused = problem(server.api(&eva, POST, "/v1/runs", Some(bad)).await).await;
    assert!(refused.detail.contains("same base model"), "{refused}");

    let over = problem(server.api(&eva, POST, &at("/abort"), None).await).await;
    assert_eq!((over.kind, over.status), (P::RunOver, 410));
    let over = problem(server.api(&eva, POST, "/v1/runs", Some(new_run())).await).await;
    assert_eq!(over.kind, P::RunOver);

    let mut bad = new_run();
    bad["manifest"]["rounds"] = json!(0);
    for (body, expected) in [
        (bad, "rounds"),
        (json!({ "manifest": 7 }), "manifest"),
        (json!({}), "manifest"),
        (json!({ "manifest": {}, "file": "x" }), "file"),
    ] {
        let refused = problem(server.api(&eva, POST, "/v1/runs", Some(body)).await).await;
        assert_eq!(refused.kind, P::BadRequest);
        assert!(refused.detail.contains(expected), "{refused}");
    }
    server.close().await;
}

#[tokio::test]
async fn tokens_have_quotas_and_clients_are_revoked_for_good() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = TestServer::start(dir.path(), &config()).await;
    let eva = server.token("eva", Role::Operator).await;
    let body = json!({ "count": 1, "quota": 2, "ttl_s": 60 });
    let made = server.got(&eva, POST, "/v1/enrolment-tokens", Some(body)).await;
    let token = JoinToken::decode(made["tokens"][0].as_str().expect("text")).expect("a token");
    let enrol = |b: u8| {
        let enrolment = Enrolment::new(&token.secret, &key(b));
        server.http.post(server.url("/v1/enrol")).json(&enrolment).send()
    };
    for (b, status) in [(0, 201), (1, 201), (0, 200), (2, 403)] {
        assert_eq!(enrol(b).await.expect("an answer").status(), status, "client {b}");
    }
    let listed = server.got(&eva, GET, "/v1/enrolment-tokens", None).await;
    assert_eq!((&listed[0]["used"], &listed[0]["quota"]), (&json!(2), &json!(2)));
    let hash = Digest::of(format!("gossamer/v1/token\0{}", token.secret).as_bytes());
    assert_eq!(listed[0]["token"], json!(hash.to_string()));

    // A second one, voided before it is used.
    let body = json!({ "ttl_s": 60 });
    let made = server.got(&eva, POST, "/v1/enrolment-tokens", Some(body)).await;
    let other = JoinToken::decode(made["tokens"][0].as_str().expect("text")).expect("a token");
    let hash = Digest::of(format!("gossamer/v1/token\0{}", other.secret).as_bytes());
    let path = format!("/v1/enrolment-tokens/{hash}");
    server.got(&eva, Method::DELETE, &path, None).await;
    let gone = problem(server.api(&eva, Method::DELETE, &path, None).await).await;
    assert_eq!((gone.kind, gone.status), (P::UnknownName, 404));
    let enrolment = Enrolment::new(&other.secret, &key(3));
    let sent = server.http.post(server.url("/v1/enrol")).json(&enrolment).send().await;
    assert_eq!(problem(sent.expect("an answer")).await.kind, P::BadToken);
    for (body, expected) in [
        (json!({ "ttl_s": 0 }), "ttl_s"),
        (json!({ "ttl_s": 60, "quota": 0 }), "quota"),
        (json!({ "ttl_s": 60, "count": 1_001 }), "count"),
        (json!({ "ttl_s": 60, "colour": 1 }), "colour"),
    ] {
        let refused = server.api(&eva, POST, "/v1/enrolment-tokens", Some(body)).await;
        let refused = problem(refused).await;
        assert!(refused.detail.contains(expected), "{refused}");
    }

    // Client 0 is there, and then it is not.
    server.check_in(0).await;
    let client = id(&key(0));
    let path = format!("/v1/clients/{client}/revoke");
    let revoked = server.got(&eva, POST, &path, Some(json!({ "reason": "lost" }))).await;
    assert_eq!((&revoked["state"], &revoked["reason"]), (&json!("revoked"), &json!("lost")));
    let refused = problem(server.send(0, POST, "/v1/check-in", b"{}").await).await;
    assert_eq!((refused.kind, refused.status), (P::Revoked, 403));
    let refused = problem(enrol(0).await.expect("an answer")).await;
    assert_eq!(refused.kind, P::Revoked, "not with a token either");
    server.check_in(1).await;

    let clients = server.got(&eva, GET, "/v1/clients?limit=10", None).await;
    let find = |b: u8| {
        let client = json!(id(&key(b)).to_string());
        clients.as_array().expect("a list").iter().find(|c| c["client"] == client).expect("there")
    };
    assert_eq!((&find(0)["state"], &find(1)["state"]), (&json!("revoked"), &json!("enrolled")));
    assert!(find(1)["seen_ms"].as_u64() > Some(0));
    assert_eq!(clients.as_array().map(Vec::len), Some(2));
    let nobody = format!("/v1/clients/{}", id(&key(9)));
    assert_eq!(problem(server.api(&eva, GET, &nobody, None).await).await.kind, P::UnknownClient);
    let page = problem(server.api(&eva, GET, "/v1/clients?limit=0", None).await).await;
    assert!(page.detail.contains("expected 1 to 1000"), "{page}");
    server.close().await;
}

/// The command line revokes beside a server that runs.
#[tokio::test]
async fn another_process_revokes() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = TestServer::start(dir.path(), &config()).await;
    server.enrol(0).await;
    server.check_in(0).await;
    server.operator.revoke(id(&key(0)), "by hand").await.expect("revoked");
    let mut refused = None;
    for _ in 0..100 {
        let answer = server.send(0, POST, "/v1/check-in", b"{}").await;
        if answer.status() != StatusCode::OK {
            refused = Some(problem(answer).await.kind);
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(refused, Some(P::Revoked));
    server.close().await;
}

#[tokio::test]
async fn operators_make_operators_and_the_log_names_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = TestServer::start(dir.path(), &config()).await;
    let root = server.token("root", Role::Admin).await;
    let body = json!({ "name": "eva", "role": "viewer", "ttl_s": 3600 });
    let made = server.got(&root, POST, "/v1/operators", Some(body.clone())).await;
    let eva = made["token"].as_str().expect("a token").to_owned();
    let taken = problem(server.api(&root, POST, "/v1/operators", Some(body)).await).await;
    assert_eq!((taken.kind, taken.status), (P::NameTaken, 409));
    let shown = server.got(&eva, GET, "/v1/server", None).await;
    assert_eq!(
        (&shown["operator"]["name"], &shown["operator"]["role"]),
        (&json!("eva"), &json!("viewer"))
    );
    let refused = problem(server.api(&eva, POST, "/v1/runs", Some(new_run())).await).await;
    assert_eq!((refused.kind, refused.status), (P::Forbidden, 403));
    let listed = server.got(&root, GET, "/v1/operators", None).await;
    assert_eq!(listed.as_array().map(Vec::len), Some(2));
    assert!(!listed.to_string().contains(&eva[20..]), "a token is told once");
    server.got(&root, Method::DELETE, "/v1/operators/eva", None).await;
    let gone = server.api(&eva, GET, "/v1/server", None).await;
    assert_eq!(gone.headers()["www-authenticate"], "Bearer");
    assert_eq!(problem(gone).await.kind, P::NoOperator);

    let log = server.got(&root, GET, "/v1/audit?limit=2", None).await;
    let (last, first) = (&log[0]["entry"], &log[1]["entry"]);
    assert_eq!(
        (&last["action"], &last["actor"]),
        (&json!("operator-revoked"), &json!("operator:root"))
    );
    assert_eq!((&first["action"], &first["name"]), (&json!("operator-added"), &json!("eva")));
    let before = format!("/v1/audit?limit=1&before={}", last["seq"]);
    assert_eq!(server.got(&root, GET, &before, None).await[0]["entry"], *first);
    server.close().await;
}

#[tokio::test]
async fn events_tell_of_a_round_that_closes_and_end_with_the_token() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = TestServer::start(dir.path(), &config()).await;
    let eva = server.token("eva", Role::Viewer).await;
    for b in 0..2 {
        server.enrol(b).await;
    }
    let answer = server.api(&eva, GET, "/v1/events", None).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut stream = answer.bytes_stream();
    let run = server.operator.create_run(&manifest()).await.expect("a run");
    for b in 0..2 {
        work(&server, b).await;
    }
    let mut told = String::new();
    let wanted = ["event: runs\ndata: []", "\"round\":1,", "\"action\":\"round-closed\""];
    let all = async {
        while !wanted.iter().all(|wanted| told.contains(wanted)) {
            let piece = stream.next().await.expect("it goes on").expect("a piece");
            told.push_str(std::str::from_utf8(&piece).expect("text"));
        }
    };
    let all = tokio::time::timeout(Duration::from_secs(20), all).await;
    assert!(all.is_ok(), "{told}");
    assert!(told.contains(&run.to_string()));
    server.operator.revoke_operator(&"eva".parse().expect("a name")).await.expect("revoked");
    let ended = async { while stream.next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("it ends");
    server.close().await;
}

#[tokio::test]
async fn it_is_not_where_clients_are_and_not_served_unless_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = TestServer::start(dir.path(), &config()).await;
    let eva = server.token("eva", Role::Admin).await;
    let asked = server.http.get(server.url("/v1/runs")).bearer_auth(&eva).send().await;
    assert_eq!(problem(asked.expect("an answer")).await.kind, P::NoRoute);
    let asked = problem(server.api(&eva, POST, "/v1/check-in", None).await).await;
    assert_eq!(asked.kind, P::NoRoute);
    assert_eq!(problem(server.api(&eva, POST, "/v1/audit", None).await).await.kind, P::Method);
    // An open stream does not hold up the end.
    let stream = server.api(&eva, GET, "/v1/events", None).await;
    let began = std::time::Instant::now();
    server.close().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(stream);
}

#[tokio::test]
async fn operators_show_certificates_where_the_configuration_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut terms = CertificateParams::new(Vec::new()).expect("no names");
    terms.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(terms, KeyPair::generate().expect("a key"));
    let ca = ca.expect("signed");
    std::fs::create_dir(dir.path().join("tls")).expect("made");
    std::fs::write(dir.path().join("tls/operators.pem"), ca.pem()).expect("written");
    let mut config = config();
    config.admin.client_ca = Some("tls/operators.pem".into());
    let server = TestServer::start(dir.path(), &config).await;
    let found = gossamer_server::doctor::examine(dir.path()).await;
    let found = found.iter().find(|finding| finding.check == "CA of operators").expect("looked at");
    assert_eq!(found.state, gossamer_server::doctor::State::Good, "{found:?}");

    let eva = server.token("eva", Role::Operator).await;
    let refused = server.api(&eva, GET, "/v1/runs", None).await;
    assert_eq!(problem(refused).await.kind, P::NoCertificate);
    for open in ["/healthz", "/readyz", "/"] {
        assert_eq!(server.api("", GET, open, None).await.status(), StatusCode::OK, "{open}");
    }
    let key = KeyPair::generate().expect("a key");
    let mut terms = CertificateParams::new(Vec::new()).expect("no names");
    terms.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let eva_pem = terms.signed_by(&key, &ca).expect("signed").pem() + &key.serialize_pem();
    let trusted = std::fs::read(dir.path().join("tls/ca.pem")).expect("there");
    let http = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&trusted).expect("a CA")])
        .identity(reqwest::Identity::from_pem(eva_pem.as_bytes()).expect("both"))
        .build()
        .expect("a client");
    let ask = async |method: Method, path: &str, token: &str| {
        let asked = http.request(method, server.admin_url(path)).bearer_auth(token);
        asked.send().await.expect("an answer")
    };
    assert_eq!(ask(GET, "/v1/runs", &eva).await.status(), StatusCode::OK);
    let refused = ask(GET, "/v1/runs", "a guess").await;
    assert_eq!(problem(refused).await.kind, P::NoOperator, "it takes both");

    // Clients are on the other listener, and show none; one that is bound can be freed.
    let client = id(&fixtures::key(0));
    let shown = Certificate { fingerprint: Digest::of(b"a"), names: Digest::of(b"b") };
    let secret = server.operator.new_token(Duration::from_secs(60)).await.expect("a token");
    let enrolment = Enrolment::new(&secret, &fixtures::key(0));
    server.operator.enrolling(&enrolment, Some(shown)).await.expect("enrols, and is bound");
    let path = format!("/v1/clients/{client}");
    let view: Value = ask(GET, &path, &eva).await.json().await.expect("JSON");
    assert_eq!(view["certificate"], shown.fingerprint.to_string());
    let view = ask(Method::DELETE, &format!("{path}/certificate"), &eva).await;
    assert_eq!(view.status(), StatusCode::OK);
    let view: Value = view.json().await.expect("JSON");
    assert_eq!(view.get("certificate"), None);
    let nobody = format!("/v1/clients/{}/certificate", id(&fixtures::key(9)));
    let refused = ask(Method::DELETE, &nobody, &eva).await;
    assert_eq!(problem(refused).await.kind, P::UnknownClient);
    server.close().await;
}
