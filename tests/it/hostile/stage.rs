//! The server as a process of its own, raw signed requests to it, and what can be seen of it.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use gossamer_client::transport::https::Https;
use gossamer_client::transport::{Slot, Transport as _};
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Snapshot, Terms};
use gossamer_protocol::ids::{ClientId, RoundId, RunId};
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::message::{
    Answer, Assignment, CheckIn, Enrolment, JoinToken, Record, accepted_digest,
};
use gossamer_protocol::request::{Authorization, Request};
use gossamer_protocol::sign::{Purpose, SigningKey};
use gossamer_server::config::Config;
use gossamer_server::coordinator::RunView;
use gossamer_server::setup;
use gossamer_tests::{Process, identity, unlimited};
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING};
use reqwest::{Body, Method, Response, StatusCode};
use tempfile::TempDir;

use super::target::{Case, Sent, Target};

/// Everything about a run that a refusal must leave as it is, and what the store holds beside rows.
#[derive(Debug, PartialEq)]
pub(super) struct State {
    pub(super) runs: Vec<RunView>,
    pub(super) cohorts: Vec<Vec<ClientId>>,
    pub(super) records: Vec<Vec<u8>>,
    pub(super) files: BTreeSet<(String, u64)>,
}

/// The server as a process of its own, and one client that is in every cohort.
pub(super) struct Stage {
    dir: TempDir,
    pub(super) server: Process,
    url: String,
    key: Arc<SigningKey>,
    pub(super) client: ClientId,
    https: Https,
    raw: reqwest::Client,
    nonces: Cell<u128>,
}

impl Stage {
    /// Makes the runs, starts the server and enrols the client.
    pub(super) async fn set(manifests: &[(&'static str, Manifest)]) -> (Self, Vec<RunId>) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let limits = unlimited();
        let config =
            Config { dir: dir.path().into(), listen, limits, tick_ms: 20, ..Config::default() };
        setup::init(dir.path(), &[], &config).await.expect("a new folder");
        let coordinator = setup::coordinator(dir.path()).await.expect("a whole folder");
        let mut runs = Vec::new();
        for (name, manifest) in manifests {
            runs.push(coordinator.create_run(manifest).await.expect(name));
        }
        let secret = coordinator.new_token(Duration::from_secs(600)).await.expect("stored");
        coordinator.store().close().await;

        let mut command = Command::new(env!("CARGO_BIN_EXE_server-cli"));
        let command = command.arg("serve").arg(dir.path()).arg("--json").stdout(Stdio::piped());
        let command = command.env("RUST_LOG", "warn");
        let mut server = Process(command.spawn().expect("serves"));
        let mut line = String::new();
        let stdout = server.0.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("says where");
        let told: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let url = format!("https://{}", told["listening"].as_str().expect("an address"));

        let key = Arc::new(SigningKey::from_seed(&identity(0)));
        let token = gossamer_server::join_token(&config, secret).expect("a whole folder");
        let token = JoinToken::decode(&token.encode()).expect("a token");
        let https = Https::new(&url, token.ca.as_deref(), key.clone()).expect("https");
        let enrolled = https.enrol(&Enrolment::new(&token.secret, &key)).await.expect("enrols");
        let ca = std::fs::read(config.path(&config.tls.ca)).expect("there");
        let ca = reqwest::Certificate::from_pem(&ca).expect("a certificate");
        let raw = reqwest::Client::builder().https_only(true).tls_certs_only([ca]);
        let raw = raw.build().expect("a client");
        let (client, nonces) = (enrolled.client, Cell::new(0));
        (Self { dir, server, url, key, client, https, raw, nonces }, runs)
    }

    /// What the client is asked in `run`, and what it starts from.
    pub(super) async fn target(
        &self,
        name: &'static str,
        manifest: Manifest,
        run: RunId,
    ) -> Target {
        let Assignment { round, attempt, snapshot, snapshot_bytes, .. } = loop {
            match self.https.check_in(&CheckIn { run: Some(run) }).await.expect("is answered") {
                Answer::Train(assignment) => break assignment,
                Answer::Wait { retry_ms, .. } => {
                    tokio::time::sleep(Duration::from_millis(retry_ms)).await;
                }
                Answer::Over { reason } => panic!("over: {reason}"),
            }
        };
        let frame = self.https.object(run, snapshot, 0..snapshot_bytes).await.expect("there");
        let terms = Terms::new(&manifest, run, round);
        let shared = Snapshot::decode(&frame, &terms).expect("the server's own");
        let shared = shared.values.support().clone();
        let slot = Slot { run, round, attempt, client: self.client };
        Target { name, manifest, slot, snapshot, snapshot_frame: frame.into(), shared }
    }

    /// Sends `body` signed; `content` is the same, as it is handed to the connection.
    async fn request(
        &self,
        target: &Target,
        method: Method,
        headers: &[(&'static str, &str)],
        body: &[u8],
        content: Body,
    ) -> Response {
        let Slot { run, round, attempt, client } = target.slot;
        let path = format!("/v1/runs/{run}/rounds/{round}/attempts/{attempt}/updates/{client}");
        let signed = Request { method: method.as_str(), path: &path, body: Digest::of(body) };
        let nonce = self.nonces.replace(self.nonces.get() + 1).to_le_bytes();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let expires = now.as_millis() as u64 + 60_000;
        let authorization = Authorization::sign(&self.key, &signed, nonce, expires);
        let request = self.raw.request(method, format!("{}{path}", self.url));
        let request = request.header(AUTHORIZATION, authorization.to_string());
        let request = headers.iter().fold(request, |r, (name, value)| r.header(*name, *value));
        request.body(content).send().await.expect("is answered")
    }

    pub(super) async fn send(&self, target: &Target, case: &Case) -> Response {
        let body = Bytes::from(case.body.clone());
        let encoding = CONTENT_ENCODING.as_str();
        match &case.sent {
            Sent::Put => self.request(target, Method::PUT, &[], &body, body.clone().into()).await,
            Sent::Encoded(told) => {
                let headers = [(encoding, *told)];
                self.request(target, Method::PUT, &headers, &body, body.clone().into()).await
            }
            Sent::Zeros { count, announced } => {
                let whole = Bytes::from([&body[..], &vec![0; *count]].concat());
                let content = if *announced {
                    whole.clone().into()
                } else {
                    // A file is read as it goes, so its length is not told.
                    let path = self.dir.path().join("flood");
                    std::fs::write(&path, &whole).expect("written");
                    let file = tokio::fs::File::open(&path).await.expect("written");
                    std::fs::remove_file(&path).expect("there");
                    file.into()
                };
                self.request(target, Method::PUT, &[], &whole, content).await
            }
            Sent::Part { digest, length, offset, begun } => {
                let told = |offset| {
                    [
                        ("upload-digest", &**digest),
                        ("upload-length", length),
                        ("upload-offset", offset),
                    ]
                };
                if *begun > 0 {
                    let first = body.slice(..*begun);
                    let (headers, content) = (told("0"), first.clone().into());
                    let answer = self.request(target, Method::PATCH, &headers, &first, content);
                    assert_eq!(answer.await.status(), StatusCode::ACCEPTED, "{}", case.name);
                }
                let rest = body.slice(*begun..);
                let mut headers = told(offset).to_vec();
                headers.retain(|(_, value)| !value.is_empty());
                self.request(target, Method::PATCH, &headers, &rest, rest.clone().into()).await
            }
        }
    }

    /// As another process sees it that only looks.
    pub(super) async fn state(&self, runs: &[RunId]) -> State {
        let coordinator = setup::coordinator(self.dir.path()).await.expect("a whole folder");
        let (mut cohorts, mut records) = (Vec::new(), Vec::new());
        for &run in runs {
            cohorts.push(coordinator.cohort(run).await.expect("there"));
            records.push(coordinator.record(run, RoundId(0)).await.expect("there").bytes);
            coordinator.record(run, RoundId(1)).await.expect_err("no round was closed");
        }
        let views = coordinator.runs().await.expect("there");
        coordinator.store().close().await;
        State { runs: views, cohorts, records, files: self.files() }
    }

    /// The store's objects and unfinished uploads, with their lengths.
    pub(super) fn files(&self) -> BTreeSet<(String, u64)> {
        let mut found = BTreeSet::new();
        for folder in ["objects", "staging"] {
            list(&self.dir.path().join(folder), &mut found);
        }
        found
    }

    /// Resident bytes of the server: at most so far, and now. Nothing where the system does not say.
    pub(super) fn memory(&self) -> Option<(u64, u64)> {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.server.0.id())).ok()?;
        let field = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
        };
        Some((field("VmHWM:")?, field("VmRSS:")?))
    }

    /// The good update is taken, and closes the round.
    pub(super) async fn good(&self, target: &Target) {
        let (name, frame) = (target.name, Bytes::from(target.good()));
        self.https.upload(&target.slot, &frame).await.expect(name);
        let update = Digest::of(&frame);
        let mut tries = 0..500;
        let signed = loop {
            match self.https.record(target.slot.run, RoundId(1)).await {
                Ok(signed) => break signed,
                Err(error) => assert!(tries.next().is_some(), "{name}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let server = setup::signing_key(self.dir.path()).expect("there").public();
        let record: Record = signed.open(&server, Purpose::Record).expect("its own");
        let accepted = BTreeMap::from([(self.client, update)]);
        assert_eq!(
            (record.accepted, record.accepted_set),
            (1, accepted_digest(&accepted)),
            "{name}"
        );
    }
}

fn list(folder: &Path, found: &mut BTreeSet<(String, u64)>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let entry = entry.expect("can be read");
        let kind = entry.metadata().expect("there");
        if kind.is_dir() {
            list(&entry.path(), found);
        } else {
            found.insert((entry.path().display().to_string(), kind.len()));
        }
    }
}
