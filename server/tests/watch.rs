//! What those who watch a server are told: metrics, readiness, the log.

mod fixtures;
#[path = "fixtures/https.rs"]
mod https;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use fixtures::{id, key, manifest};
use gossamer_protocol::problem::ProblemType as P;
use gossamer_server::config::{Admin, Config};
use gossamer_server::operator::Role;
use https::{TestServer, config, problem, update_path};
use reqwest::{Method, StatusCode};
use serde_json::Value;

/// The samples of an OpenMetrics text, after checking its form.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let body = text.strip_suffix("# EOF\n").expect("it ends as OpenMetrics does");
    let (mut kinds, mut helped, mut found) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
    for line in body.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped.push(help.split(' ').next().expect("a name").to_owned());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("name and kind");
            assert_eq!(helped.last().map(String::as_str), Some(name), "HELP comes first");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
        } else {
            let (sample, value) = line.rsplit_once(' ').expect("sample and value");
            let name = sample.split('{').next().expect("a name");
            let fits = kinds.iter().any(|(family, kind)| {
                let suffixes: &[&str] = match kind.as_str() {
                    "counter" => &["_total"],
                    "gauge" => &[""],
                    "info" => &["_info"],
                    "histogram" => &["_bucket", "_sum", "_count"],
                    other => panic!("a {other}"),
                };
                suffixes.iter().any(|suffix| name == format!("{family}{suffix}"))
            });
            assert!(fits, "{name} is of no family");
            assert!(name.starts_with("gossamer_"), "{name}");
            let value = value.parse().expect("a number");
            assert!(found.insert(sample.to_owned(), value).is_none(), "{sample} twice");
        }
    }
    found
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = TestServer::start(dir.path(), &config()).await;
    let eva = server.token("eva", Role::Viewer).await;
    for b in 0..2 {
        server.enrol(b).await;
    }
    let run = server.operator.create_run(&manifest()).await.expect("a run");
    let mut bytes = 0;
    for b in 0..2 {
        let task = server.task(b).await;
        let path = format!("/v1/runs/{}/objects/{}", task.run, task.snapshot);
        let snapshot = server.send(b, Method::GET, &path, b"").await.bytes().await.expect("a body");
        let frame = fixtures::frame(&manifest(), &task, &snapshot, id(&key(b)));
        bytes += frame.len();
        if b == 0 {
            let mut bad = frame.clone();
            bad[0] ^= 1;
            let refused = server.send(b, Method::PUT, &update_path(&task, b), &bad).await;
            assert_eq!(problem(refused).await.kind, P::BadFrame);
            bytes += bad.len();
        }
        let sent = server.send(b, Method::PUT, &update_path(&task, b), &frame).await;
        assert_eq!(sent.status(), StatusCode::OK);
    }
    let refused = problem(server.api("x", Method::GET, "/metrics", None).await).await;
    assert_eq!(refused.kind, P::NoOperator);

    let mut told = BTreeMap::new();
    for _ in 0..200 {
        let answer = server.api(&eva, Method::GET, "/metrics", None).await;
        let kind = answer.headers()["content-type"].to_str().expect("text").to_owned();
        assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
        told = samples(&answer.text().await.expect("a body"));
        if told["gossamer_rounds_closed_total"] == 1.0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let update = "/v1/runs/{run}/rounds/{round}/attempts/{attempt}/updates/{client}";
    let put = |status: u16| {
        format!(
            "gossamer_http_requests_total{{listener=\"clients\",method=\"PUT\",\
             route=\"{update}\",status=\"{status}\"}}"
        )
    };
    let at = |name: &str| format!("{name}{{listener=\"clients\",route=\"{update}\"");
    let one_run = |name: &str| format!("gossamer_run_{name}{{run=\"{run}\",name=\"test\"}}");
    for (sample, value) in [
        (put(200), 2.0),
        (put(400), 1.0),
        (at("gossamer_http_request_bytes_total") + "}", bytes as f64),
        (at("gossamer_http_request_seconds_count") + "}", 3.0),
        (at("gossamer_http_request_seconds_bucket").replacen('{', "{le=\"+Inf\",", 1) + "}", 3.0),
        ("gossamer_refusals_total{reason=\"bad-frame\"}".into(), 1.0),
        ("gossamer_refusals_total{reason=\"no-operator\"}".into(), 1.0),
        ("gossamer_updates_accepted_total".into(), 2.0),
        ("gossamer_round_close_seconds_count".into(), 1.0),
        ("gossamer_clients{state=\"enrolled\"}".into(), 2.0),
        ("gossamer_clients{state=\"here\"}".into(), 2.0),
        ("gossamer_runs{state=\"running\"}".into(), 1.0),
        (one_run("round"), 1.0),
        (one_run("rounds"), 2.0),
        (one_run("goal"), 2.0),
        // As `fixtures::update` says.
        (one_run("loss"), 2.0),
    ] {
        assert_eq!(told.get(&sample), Some(&value), "{sample} in {told:#?}");
    }
    let buckets: Vec<f64> = told
        .iter()
        .filter(|(sample, _)| sample.starts_with("gossamer_round_close_seconds_bucket"))
        .map(|(_, value)| *value)
        .collect();
    assert_eq!(buckets.len(), 16);
    assert!(told["gossamer_process_resident_bytes"] > 1e6);
    assert!(told["gossamer_disk_free_bytes"] > 1e6);
    server.close().await;
}

#[tokio::test]
async fn metrics_may_be_open() {
    let dir = tempfile::tempdir().expect("a directory");
    let admin = Admin { metrics_open: true, ..config().admin };
    let server = TestServer::start(dir.path(), &Config { admin, ..config() }).await;
    let answer = server.http.get(server.admin_url("/metrics")).send().await.expect("an answer");
    samples(&answer.text().await.expect("a body"));
    server.close().await;
}

/// What `/readyz` says, on both listeners.
async fn ready(server: &TestServer) -> (StatusCode, String) {
    // An answer holds for a second.
    tokio::time::sleep(std::time::Duration::from_millis(1_050)).await;
    let mut told = Vec::new();
    for url in [server.url("/readyz"), server.admin_url("/readyz")] {
        let answer = server.http.get(url).send().await.expect("an answer");
        let status = answer.status();
        let health: Value = answer.json().await.expect("JSON");
        assert_eq!(health["ready"], status.is_success());
        told.push((status, health["wrong"].to_string()));
    }
    assert_eq!(told[0], told[1]);
    told.remove(0)
}

#[tokio::test]
async fn readiness_is_asked_of_the_store_and_the_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = TestServer::start(dir.path(), &config()).await;
    assert_eq!(ready(&server).await, (StatusCode::OK, "[]".to_owned()));
    // Objects cannot be written: a file is where their folder was.
    let probes = dir.path().join("objects/probes");
    std::fs::remove_dir_all(&probes).expect("it was probed");
    std::fs::write(&probes, "").expect("written");
    let (status, wrong) = ready(&server).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(wrong.contains("the object directory failed"), "{wrong}");
    for url in [server.url("/healthz"), server.admin_url("/healthz")] {
        let alive = server.http.get(url).send().await.expect("an answer");
        assert_eq!(alive.status(), StatusCode::OK, "the process lives on");
    }
    std::fs::remove_file(&probes).expect("there");
    assert_eq!(ready(&server).await.0, StatusCode::OK, "and it comes back");
    server.close().await;

    let dir = tempfile::tempdir().expect("a directory");
    let much = Config { disk_free_min_bytes: 1 << 62, ..config() };
    let server = TestServer::start(dir.path(), &much).await;
    let (status, wrong) = ready(&server).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(wrong.contains("bytes free, 4611686018427387904 are wanted"), "{wrong}");
    server.close().await;
}

#[test]
fn the_log_can_be_json_and_tells_where_the_audit_log_stands() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let command = |first: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gossamer-server"));
        command.arg(first).arg(&path).env_remove("RUST_LOG");
        command
    };
    assert!(command("init").args(["--listen", "127.0.0.1:0"]).status().expect("runs").success());
    let mut server = command("serve")
        .arg("--log-json")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let lines = BufReader::new(server.stderr.take().expect("piped")).lines();
    // A line that never comes must not hold up the test.
    let server = Arc::new(Mutex::new(server));
    let impatient = server.clone();
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(20));
        let _ = impatient.lock().expect("no panic").kill();
    });
    let mut last = Value::Null;
    for line in lines {
        last = serde_json::from_str(&line.expect("text")).expect("JSON");
        if last["fields"]["message"] == "audit log" {
            break;
        }
    }
    let mut server = server.lock().expect("no panic");
    server.kill().expect("ends");
    server.wait().expect("ends");
    assert_eq!(last["fields"]["seq"], 1, "{last}");
    assert_eq!(last["fields"]["hash"].as_str().map(str::len), Some(64));
}
