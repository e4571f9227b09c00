//! The contract over real HTTPS.

mod fixtures;
#[path = "fixtures/https.rs"]
mod https;

use std::time::Duration;

use fixtures::{id, key, manifest};
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Terms, Update};
use gossamer_protocol::ids::RoundId;
use gossamer_protocol::manifest::{MANIFEST_VERSION, Manifest};
use gossamer_protocol::message::{Assignment, Enrolled, Enrolment, Receipt, Record, Signed};
use gossamer_protocol::problem::ProblemType as P;
use gossamer_protocol::request::LIFETIME_MS;
use gossamer_protocol::sign::{PublicKey, Purpose, Signature};
use https::{TestServer, authorization, config, now_ms, problem, update_path};
use reqwest::{Method, Response, StatusCode};

async fn signed(response: Response, key: &PublicKey, purpose: Purpose) -> Signed {
    assert_eq!(response.status(), StatusCode::OK);
    let signature = response.headers()["gossamer-signature"].to_str().expect("text");
    let signature: Signature = signature.parse().expect("a signature");
    let bytes = response.bytes().await.expect("a body").to_vec();
    key.verify(purpose, &bytes, &signature).expect("the server's");
    Signed { bytes, signature }
}

fn object_path(task: &Assignment) -> String {
    format!("/v1/runs/{}/objects/{}", task.run, task.snapshot)
}

/// A frame for `task`, downloading the snapshot.
async fn frame(server: &TestServer, manifest: &Manifest, task: &Assignment, b: u8) -> Vec<u8> {
    let snapshot = server.send(b, Method::GET, &object_path(task), b"").await;
    let snapshot = snapshot.bytes().await.expect("a body");
    assert_eq!(Digest::of(&snapshot), task.snapshot);
    fixtures::frame(manifest, task, &snapshot, id(&key(b)))
}

#[tokio::test]
async fn a_whole_run_of_each_version() {
    for version in 1..=MANIFEST_VERSION {
        whole_run(&Manifest { version, ..manifest() }).await;
    }
}

async fn whole_run(manifest: &Manifest) {
    let dir = tempfile::tempdir().expect("a directory");
    let server = TestServer::start(dir.path(), &config()).await;
    let public = server.operator.public_key();
    for b in 0..3 {
        server.enrol(b).await;
    }
    let run = server.operator.create_run(manifest).await.expect("a run");
    let mut parent = None;
    for round in 0..manifest.rounds {
        let first = server.task(0).await;
        assert_eq!(server.task(0).await.snapshot, first.snapshot, "the same task again");
        for b in [0, 1] {
            let task = server.task(b).await;
            assert_eq!((task.run, task.round), (run, RoundId(round)));
            let path = format!("/v1/runs/{run}/records/{round}");
            let record = server.send(b, Method::GET, &path, b"").await;
            let record = signed(record, &public, Purpose::Record).await;
            let told: Record = record.open(&public, Purpose::Record).expect("a record");
            assert_eq!((told.snapshot, told.parent), (task.snapshot, parent));
            let bytes = frame(&server, manifest, &task, b).await;
            assert_eq!(bytes[4..6], manifest.version.to_le_bytes(), "as it was created");
            let path = update_path(&task, b);
            let receipt = server.send(b, Method::PUT, &path, &bytes).await;
            let receipt = signed(receipt, &public, Purpose::Receipt).await;
            let told: Receipt = receipt.open(&public, Purpose::Receipt).expect("a receipt");
            assert_eq!(told.update, Digest::of(&bytes));
            let again = server.send(b, Method::PUT, &path, &bytes).await;
            assert_eq!(signed(again, &public, Purpose::Receipt).await, receipt);
            if b == 1 {
                parent = Some(Digest::of(&record.bytes));
            }
        }
    }
    let path = format!("/v1/runs/{run}/manifest");
    let bytes = signed(server.send(2, Method::GET, &path, b"").await, &public, Purpose::Manifest);
    assert_eq!(Manifest::from_bytes(&bytes.await.bytes), Ok(manifest.clone()));
    server.close().await;
}

#[tokio::test]
async fn who_asks_is_proven_and_never_twice() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = TestServer::start(dir.path(), &config()).await;
    server.enrol(0).await;
    let run = server.operator.create_run(&manifest()).await.expect("a run");
    server.task(0).await; // so the server has noticed the run
    let path = format!("/v1/runs/{run}/manifest");
    let kind = |server: &TestServer, header: Option<String>| {
        let request = server.http.get(server.url(&path));
        let request = header.into_iter().fold(request, |r, h| r.header("authorization", h));
        async move {
            let answer = request.send().await.expect("an answer");
            if answer.status().is_success() { None } else { Some(problem(answer).await.kind) }
        }
    };
    let sign = |path: &str, expires| authorization(&key(0), &Method::GET, path, b"", expires);
    let good = now_ms() + LIFETIME_MS;
    assert_eq!(kind(&server, None).await, Some(P::Unsigned));
    assert_eq!(kind(&server, Some("Bearer x".into())).await, Some(P::Unsigned));
    assert_eq!(kind(&server, Some(sign("/v1/else", good))).await, Some(P::BadSignature));
    let put = authorization(&key(0), &Method::PUT, &path, b"", good);
    assert_eq!(kind(&server, Some(put)).await, Some(P::BadSignature));
    assert_eq!(kind(&server, Some(sign(&path, now_ms() - 1))).await, Some(P::Expired));
    let far = now_ms() + 10 * LIFETIME_MS;
    assert_eq!(kind(&server, Some(sign(&path, far))).await, Some(P::Expired));
    let stranger = authorization(&key(9), &Method::GET, &path, b"", good);
    assert_eq!(kind(&server, Some(stranger)).await, Some(P::UnknownClient));

    let once = sign(&path, good);
    assert_eq!(kind(&server, Some(once.clone())).await, None);
    assert_eq!(kind(&server, Some(once.clone())).await, Some(P::Replayed));
    server.close().await;
    server = TestServer::serve(dir.path()).await;
    assert_eq!(kind(&server, Some(once)).await, Some(P::Replayed), "after a restart too");
    assert_eq!(kind(&server, Some(sign(&path, good))).await, None);
    server.close().await;
}

#[tokio::test]
async fn refusals_are_problems() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = TestServer::start(dir.path(), &config()).await;
    let manifest = manifest();
    for b in 0..3 {
        server.enrol(b).await;
    }
    server.operator.create_run(&manifest).await.expect("a run");
    let task = server.task(0).await;
    server.task(1).await;
    let good = frame(&server, &manifest, &task, 0).await;
    let path = update_path(&task, 0);

    let none = server.http.get(server.url("/v1/nothing")).send().await.expect("an answer");
    assert_eq!(problem(none).await.kind, P::NoRoute);
    let method = server.http.delete(server.url("/v1/enrol")).send().await.expect("an answer");
    assert_eq!(problem(method).await.kind, P::Method);
    let health = server.http.get(server.url("/healthz")).send().await.expect("an answer");
    assert_eq!(health.status(), StatusCode::OK);
    let enrol = server.http.post(server.url("/v1/enrol")).body("{\"secret\":1}");
    assert_eq!(problem(enrol.send().await.expect("an answer")).await.kind, P::BadRequest);
    let unknown = Enrolment::new("guess", &key(9));
    let enrol = server.http.post(server.url("/v1/enrol")).json(&unknown);
    assert_eq!(problem(enrol.send().await.expect("an answer")).await.kind, P::BadToken);

    let put = |b, path: &str, body: &[u8]| {
        let sent = server.signed(&key(b), &Method::PUT, path, body).send();
        async move { problem(sent.await.expect("an answer")).await }
    };
    let terms = Terms::new(&manifest, task.run, task.round);
    let long = vec![0; terms.update_len_max() + 1];
    assert_eq!(put(0, &path, &long).await.kind, P::TooLarge);
    let pieces = long.chunks(7).map(|piece| Ok::<_, std::io::Error>(piece.to_vec()));
    let pieces = futures_util::stream::iter(pieces.collect::<Vec<_>>());
    let unannounced = server.signed(&key(0), &Method::PUT, &path, &long);
    let unannounced = unannounced.body(reqwest::Body::wrap_stream(pieces)).send();
    assert_eq!(problem(unannounced.await.expect("an answer")).await.kind, P::TooLarge);
    assert_eq!(put(1, &path, &good).await.kind, P::NotYours);
    assert_eq!(put(2, &update_path(&task, 2), &good).await.kind, P::NotInCohort);
    assert_eq!(put(0, &path.replace("/rounds/0", "/rounds/9"), &good).await.kind, P::UnknownRound);
    assert_eq!(put(0, &path.replace("/rounds/0", "/rounds/x"), &good).await.kind, P::BadRequest);
    let elsewhere = path.replace(&task.run.to_string(), &"0".repeat(32));
    assert_eq!(put(0, &elsewhere, &good).await.kind, P::UnknownRun);
    assert_eq!(put(0, &path, &good[1..]).await.kind, P::BadFrame);
    let tampered = server.signed(&key(0), &Method::PUT, &path, &good).body(long[..9].to_vec());
    assert_eq!(problem(tampered.send().await.expect("an answer")).await.kind, P::BadSignature);

    assert!(server.send(0, Method::PUT, &path, &good).await.status().is_success());
    let other = Update { loss: 9.0, ..fixtures::update(&manifest, &task, b"", id(&key(0))) };
    let other = other.encode(&terms, None).expect("in range");
    assert_eq!(put(0, &path, &other).await.kind, P::Conflict);
    let late = server.task(1).await;
    let bytes = frame(&server, &manifest, &late, 1).await;
    assert!(
        server.send(1, Method::PUT, &update_path(&late, 1), &bytes).await.status().is_success()
    );
    while server.task(2).await.round == RoundId(0) {}
    let refused = put(2, &update_path(&task, 2), &good).await;
    assert_eq!((refused.kind, refused.status), (P::StaleRound, 410));
    assert!(refused.retry_ms.is_some());
    server.close().await;
}

#[tokio::test]
async fn snapshots_come_whole_or_in_part() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = TestServer::start(dir.path(), &config()).await;
    server.enrol(0).await;
    server.operator.create_run(&manifest()).await.expect("a run");
    let task = server.task(0).await;
    let path = object_path(&task);
    let whole = server.send(0, Method::GET, &path, b"").await;
    assert_eq!(whole.headers()["etag"], format!("\"{}\"", task.snapshot));
    assert!(whole.headers()["cache-control"].to_str().expect("text").contains("immutable"));
    let whole = whole.bytes().await.expect("a body");
    let part = |range: &'static str| {
        let request = server.signed(&key(0), &Method::GET, &path, b"").header("range", range);
        async move { request.send().await.expect("an answer") }
    };
    let rest = part("bytes=10-").await;
    assert_eq!(rest.status(), StatusCode::PARTIAL_CONTENT);
    let expected = format!("bytes 10-{}/{}", whole.len() - 1, whole.len());
    assert_eq!(rest.headers()["content-range"], expected);
    assert_eq!(rest.bytes().await.expect("a body"), whole.slice(10..));
    assert_eq!(part("bytes=0-3").await.bytes().await.expect("a body"), whole.slice(..4));
    assert_eq!(problem(part("bytes=99999-").await).await.kind, P::BadRange);
    let state = server.operator.run(task.run).await.expect("there").state;
    let private = format!("/v1/runs/{}/objects/{state}", task.run);
    let refused = server.send(0, Method::GET, &private, b"").await;
    assert_eq!(problem(refused).await.kind, P::UnknownObject);
    server.close().await;
}

#[tokio::test]
async fn an_upload_is_resumed() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = TestServer::start(dir.path(), &config()).await;
    let (manifest, public) = (manifest(), server.operator.public_key());
    server.enrol(0).await;
    server.operator.create_run(&manifest).await.expect("a run");
    let task = server.task(0).await;
    let bytes = frame(&server, &manifest, &task, 0).await;
    let path = update_path(&task, 0);
    let digest = Digest::of(&bytes).to_string();
    let patch = |server: &TestServer, at: usize, part: &[u8], digest: &str| {
        let request = server.signed(&key(0), &Method::PATCH, &path, part);
        let request = request.header("upload-digest", digest).header("upload-offset", at);
        let request = request.header("upload-length", bytes.len());
        async move { request.send().await.expect("an answer") }
    };
    let stands = |server: &TestServer| {
        let request = server.signed(&key(0), &Method::HEAD, &path, b"");
        let request = request.header("upload-digest", &digest);
        async move {
            let answer = request.send().await.expect("an answer");
            assert_eq!(answer.status(), StatusCode::NO_CONTENT);
            let offset = answer.headers()["upload-offset"].to_str().expect("text");
            offset.parse::<usize>().expect("a number")
        }
    };
    assert_eq!(stands(&server).await, 0);
    let other = server.signed(&key(0), &Method::HEAD, &update_path(&task, 1), b"").send().await;
    assert_eq!(other.expect("an answer").status(), StatusCode::FORBIDDEN, "without a body");
    let first = patch(&server, 0, &bytes[..50], &digest).await;
    assert_eq!(first.status(), StatusCode::ACCEPTED);
    assert_eq!(first.headers()["upload-offset"], "50");
    let gap = patch(&server, 60, &bytes[60..], &digest).await;
    assert_eq!(problem(gap).await.kind, P::WrongOffset);
    server.close().await;
    server = TestServer::serve(dir.path()).await;
    assert_eq!(stands(&server).await, 50, "after a restart too");

    // Another upload of the same client takes the place of the first, and a whole that is not what
    // was announced is refused.
    let wrong = Digest::of(b"x").to_string();
    let refused = patch(&server, 0, &bytes, &wrong).await;
    assert_eq!(problem(refused).await.kind, P::WrongOffset);
    assert_eq!(stands(&server).await, 0);
    let long = patch(&server, 90, &bytes, &digest).await;
    assert_eq!(problem(long).await.kind, P::TooLarge);

    assert_eq!(patch(&server, 0, &bytes[..70], &digest).await.status(), StatusCode::ACCEPTED);
    let last = patch(&server, 70, &bytes[70..], &digest).await;
    let receipt = signed(last, &public, Purpose::Receipt).await;
    let again = server.send(0, Method::PUT, &path, &bytes).await;
    assert_eq!(signed(again, &public, Purpose::Receipt).await, receipt);
    server.close().await;
}

#[tokio::test]
async fn a_lost_enrolment_reply_strands_nobody() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = TestServer::start(dir.path(), &config()).await;
    let secret = server.operator.new_token(Duration::from_secs(60)).await.expect("a token");
    let enrolment = Enrolment::new(&secret, &key(0));
    let mut seen = Vec::new();
    for _ in 0..2 {
        let sent = server.http.post(server.url("/v1/enrol")).json(&enrolment).send().await;
        let answer = sent.expect("an answer");
        seen.push(answer.status());
        let enrolled: Enrolled = answer.json().await.expect("an answer");
        assert_eq!(enrolled.client, id(&key(0)));
    }
    assert_eq!(seen, [StatusCode::CREATED, StatusCode::OK]);
    server.close().await;
}
