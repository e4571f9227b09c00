//! Keys that follow one another: an aggregator's, whose clients are there, away for long, or lied to, and a client's.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use gossamer_client::client::{Client, ClientError};
use gossamer_client::transport::Transport as _;
use gossamer_client::transport::https::Https;
use gossamer_client::transport::signer::Signer;
use gossamer_client::verify::VerifyError;
use gossamer_protocol::ids::{ClientId, RunId};
use gossamer_protocol::message::{CheckIn, JoinToken};
use gossamer_protocol::problem::ProblemType;
use gossamer_protocol::rotation::{Disbelief, NewKey, Rotation};
use gossamer_protocol::sign::SigningKey;
use gossamer_server::setup;
use gossamer_sim::transport::InProcess;
use gossamer_tests::{TestServer, base, deliver, identity, impatient, manifest};

/// Waits until so many rounds are closed.
async fn closed(server: &TestServer, run: RunId, rounds: u64) {
    for _ in 0..500 {
        if server.coordinator.run(run).await.expect("there").round.0 == rounds {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("round {rounds} never begins");
}

async fn rotate(server: &TestServer, overlap: Duration) -> Rotation {
    let (key, _) = setup::new_key(server.dir()).expect("kept");
    let made = server.coordinator.rotate_key(&key, Duration::ZERO, overlap).await;
    made.expect("rotated")
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_follow_from_wherever_they_are() {
    let (server, base) = (TestServer::start().await, base());
    let run = server.coordinator.create_run(&manifest(&base, 1, 5)).await.expect("sound");
    let first = server.coordinator.public_key();
    let folder = tempfile::tempdir().expect("a folder");
    let builder = async |token: bool| {
        let builder = Client::builder(&server.url).base(base.clone()).backoff(impatient());
        let builder = builder.state_dir(folder.path()).identity(identity(0)).prove_inclusion();
        if token { builder.token(server.token().await) } else { builder }
    };
    let client = builder(true).await.connect().await.expect("enrols");
    deliver(&client, &base).await.expect("round 0");
    assert_eq!(client.trust().key, first);

    // While it is at it: its receipt and its record of before are proven to it with the new key.
    let long = rotate(&server, Duration::from_secs(3_600)).await;
    deliver(&client, &base).await.expect("round 1");
    assert_eq!(client.trust().key, long.to);
    let receipts = |trust: &gossamer_protocol::rotation::Trust| trust.retired.len();
    assert_eq!(receipts(&client.trust()), 1);
    drop(client);

    // Two keys later, of which the first is believed no more: from what it keeps, and with an old token.
    let short = rotate(&server, Duration::from_millis(1)).await;
    let last = rotate(&server, Duration::from_secs(3_600)).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let client = builder(false).await.connect().await.expect("is enrolled");
    assert_eq!(client.trust().key, long.to, "not asked yet");
    deliver(&client, &base).await.expect("round 2");
    assert_eq!(client.trust().key, last.to);
    assert_eq!((short.from, short.to), (long.to, last.from));
    drop(client);
    let kept = std::fs::read(folder.path().join("server.json")).expect("kept");
    let kept: serde_json::Value = serde_json::from_slice(&kept).expect("JSON");
    assert_eq!(kept["key"], last.to.to_string());
    let client = builder(true).await.connect().await.expect("an old token's key is known");
    assert_eq!(client.trust().key, last.to, "it never goes back");

    // A token of the newest key, for whoever enrols now, and for who has not heard of it.
    let newest = rotate(&server, Duration::from_millis(1)).await;
    let secret = server.coordinator.new_token(Duration::from_secs(60)).await.expect("a token");
    let token = setup::join_token_of(&server.config, secret, newest.to).expect("a token").encode();
    drop(client);
    let client = builder(false).await.token(token.clone()).connect().await.expect("follows");
    assert_eq!(client.trust().key, newest.to);
    deliver(&client, &base).await.expect("round 3");

    // A server that has but the key before goes on with it; nobody who followed believes that.
    let name = format!("keys/{}.key", &newest.to.to_string()[..16]);
    std::fs::remove_file(server.dir().join(name)).expect("there");
    let stale = setup::coordinator(server.dir()).await.expect("opens");
    assert_eq!(stale.public_key(), last.to);
    let me = ClientId::of(&SigningKey::from_seed(&identity(0)).public().0);
    drop(client);
    let way = Box::new(InProcess::new(stale, me));
    let client = builder(false).await.transport(way).connect().await.expect("is enrolled");
    let refused = deliver(&client, &base).await.expect_err("an old key's");
    let ClientError::Verify(VerifyError::Signed { source, .. } | VerifyError::Manifest(source)) =
        refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!(source, Disbelief::Retired { key: last.to, until_ms: newest.until_ms });
    drop(client);

    let client = builder(false).await.connect().await.expect("is enrolled");
    deliver(&client, &base).await.expect("round 4");
    closed(&server, run, 5).await;
    let key = server.coordinator.public_key();
    for key in [first, key] {
        server.coordinator.store().verify_audit(&key, None).await.expect("whole");
    }
    server.close().await;
}

/// Client with a folder of its own, whose key is `folder`'s to change.
async fn device(server: &TestServer, folder: &Path) -> Client {
    let builder = Client::builder(&server.url).base(base()).backoff(impatient());
    let builder = builder.state_dir(folder).token(server.token().await);
    builder.connect().await.expect("is enrolled, or enrols")
}

fn kept(folder: &Path, name: &str) -> Option<SigningKey> {
    let text = std::fs::read_to_string(folder.join(name)).ok()?;
    let seed = gossamer_protocol::hex::decode_array(text.trim()).expect("a seed");
    Some(SigningKey::from_seed(&seed))
}

/// What by-hand requests of `client`, signed with `key`, get.
async fn asked(server: &TestServer, client: ClientId, key: SigningKey) -> Option<ProblemType> {
    let token = JoinToken::decode(&server.token().await).expect("a token");
    let signer = Signer::new(client, Arc::new(key));
    let https = Https::new(&server.url, token.ca.as_deref(), signer).expect("an address");
    let answer = https.check_in(&CheckIn::default()).await;
    answer.err().map(|refused| refused.problem().expect("a refusal"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_changes_its_key_whatever_is_lost() {
    let (server, base) = (TestServer::start().await, base());
    let run = server.coordinator.create_run(&manifest(&base, 1, 5)).await.expect("sound");
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path();
    let key = |name| kept(dir, name).expect("kept");
    let client = device(&server, dir).await;
    let id = client.id();
    deliver(&client, &base).await.expect("round 0");
    let first = key("identity.key");
    let changed = client.rotate_key().await.expect("changed");
    assert_eq!((client.id(), key("identity.key").public()), (id, changed));
    assert!(kept(dir, "identity.next").is_none());
    deliver(&client, &base).await.expect("round 1, with the new key");
    assert_eq!(asked(&server, id, first).await, Some(ProblemType::ReplacedKey));
    let stranger = SigningKey::from_seed(&[7; 32]);
    assert_eq!(asked(&server, id, stranger).await, Some(ProblemType::BadSignature));
    drop(client);

    // Killed before the aggregator heard of it, and after, with the answer lost.
    for heard in [false, true] {
        let next = SigningKey::from_seed(&[if heard { 42 } else { 41 }; 32]);
        let seed = gossamer_protocol::hex::encode(&[if heard { 42 } else { 41 }; 32]);
        std::fs::write(dir.join("identity.next"), seed).expect("written");
        if heard {
            let new = NewKey::new(id, &next);
            let old = key("identity.key").public();
            server.coordinator.change_key(id, old, &new).await.expect("changed");
        }
        let client = device(&server, dir).await;
        assert_eq!(client.id(), id);
        assert_eq!(key("identity.key").public(), next.public(), "heard: {heard}");
        assert!(kept(dir, "identity.next").is_none());
        deliver(&client, &base).await.expect("one round more");
    }
    // Killed between the files: the key is the new one, and the rest says the old one's.
    let server_json = std::fs::read(dir.join("server.json")).expect("kept");
    let before = std::fs::read(dir.join("identity.key")).expect("kept");
    let client = device(&server, dir).await;
    client.rotate_key().await.expect("changed");
    drop(client);
    std::fs::write(dir.join("server.json"), server_json).expect("written");
    std::fs::copy(dir.join("identity.key"), dir.join("identity.next")).expect("copied");
    assert_ne!(std::fs::read(dir.join("identity.key")).expect("kept"), before);
    let client = device(&server, dir).await;
    assert_eq!(client.id(), id);
    deliver(&client, &base).await.expect("round 4");
    drop(client);
    closed(&server, run, 5).await;
    assert_eq!(server.coordinator.fleet_len(), 1, "it never was another client");

    // By the command line; and not once it is revoked.
    let rotate = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_client-cli"));
        command.args(["rotate-key", &server.url, "--json", "--state"]).arg(dir);
        let output = command.output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let told = serde_json::from_slice::<serde_json::Value>(&output.stdout).ok();
        told.ok_or(said)
    };
    let told = rotate().expect("changed");
    assert_eq!(told["client"], id.to_string());
    assert_eq!(told["key"], key("identity.key").public().to_string());
    server.coordinator.revoke(id, "lost").await.expect("revoked");
    let refused = rotate().expect_err("revoked");
    assert!(refused.contains("was revoked"), "{refused}");
    server.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apps_own_key_is_its_own_to_change() {
    let (server, base) = (TestServer::start().await, base());
    let client = server.client(0, &base).await.connect().await.expect("enrols");
    let refused = client.rotate_key().await.expect_err("the app keeps it");
    assert!(matches!(refused, ClientError::NotItsKey), "{refused:?}");
    server.close().await;
}
