//! Servers over Postgres and S3, as an operator sets them up.

use std::path::Path;
use std::process::{Command, Output};

use gossamer_services::{ACCESS_KEY, BUCKET, REGION, SECRET_KEY, postgres, s3};
use serde_json::Value;

/// What `init` is told of the store, and the keys to the bucket.
struct Shared {
    database: String,
    objects: String,
    secret: &'static str,
}

impl Shared {
    fn new() -> Self {
        let objects = format!("s3://{BUCKET}/{}", s3().prefix());
        Self { database: postgres().database(), objects, secret: SECRET_KEY }
    }

    fn run(&self, dir: &Path, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gossamer-server"));
        command.args(args).current_dir(dir).env("RUST_LOG", "error");
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", self.secret);
        command.env("AWS_REGION", REGION).output().expect("it starts")
    }

    fn init(&self, dir: &Path, name: &str) -> Output {
        let (database, objects, endpoint) = (&self.database, &self.objects, &s3().endpoint());
        let places = ["--database", database, "--objects", objects, "--endpoint", endpoint];
        self.run(dir, &[&["init", name, "--listen", "127.0.0.1:0"], &places[..]].concat())
    }

    fn good(&self, dir: &Path, args: &[&str]) -> Value {
        let output = self.run(dir, &[args, &["--json"]].concat());
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// What is bad, by check.
    fn bad(&self, dir: &Path, name: &str) -> Vec<(String, String)> {
        let output = self.run(dir, &["doctor", name, "--json"]);
        let found: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
        let text = |finding: &Value, field: &str| finding[field].as_str().unwrap_or("").to_owned();
        let bad = found.iter().filter(|finding| finding["state"] == "bad");
        bad.map(|finding| (text(finding, "check"), text(finding, "found"))).collect()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn two_directories_of_one_key_are_one_server() {
    let place = tempfile::tempdir().expect("a directory");
    let (dir, mut shared) = (place.path(), Shared::new());
    let made = shared.init(dir, "a");
    assert!(made.status.success(), "{}", said(&made));
    assert_eq!(shared.bad(dir, "a"), []);
    assert!(!dir.join("a/store.sqlite").exists() && !dir.join("a/objects").exists());

    // The second machine: what docs/operating.md says is to be copied.
    for name in ["config.toml", "keys/server.key", "tls/ca.pem", "tls/server.pem", "tls/server.key"]
    {
        let to = dir.join("b").join(name);
        std::fs::create_dir_all(to.parent().expect("within")).expect("made");
        std::fs::copy(dir.join("a").join(name), to).expect("copied");
    }
    let made = shared.good(dir, &["token", "new", "a", "--quota", "7"]);
    assert!(made.is_array() || made.is_object(), "{made}");
    let told = shared.good(dir, &["token", "list", "b"]);
    assert_eq!(told[0]["quota"], 7, "{told}");
    let told = shared.good(dir, &["verify-log", "b"]);
    assert_eq!(told["entries"], 1, "{told}");

    // Another key is turned away, by `init` and afterwards.
    let other = shared.init(dir, "c");
    assert!(!other.status.success());
    assert!(said(&other).contains("belongs to servers of the key"), "{}", said(&other));
    std::fs::write(dir.join("b/keys/server.key"), "11".repeat(32)).expect("written");
    assert_eq!(shared.bad(dir, "b").iter().filter(|(check, _)| check == "store's key").count(), 1);

    // What is wrong is told where it is.
    shared.secret = "another";
    let bad = shared.bad(dir, "a");
    assert_eq!(bad.iter().map(|(check, _)| check.as_str()).collect::<Vec<_>>(), ["objects"]);
    let config = std::fs::read_to_string(dir.join("a/config.toml")).expect("there");
    for secret in [ACCESS_KEY, SECRET_KEY] {
        assert!(!config.contains(secret), "a secret is in the file");
    }
    let elsewhere = config.replace(&shared.database, "postgres://nobody@127.0.0.1:1/none");
    std::fs::write(dir.join("a/config.toml"), elsewhere).expect("written");
    let bad = shared.bad(dir, "a");
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert_eq!(
        (bad[0].0.as_str(), bad[0].1.contains("does not answer")),
        ("store", true),
        "{bad:?}"
    );
}

#[test]
fn a_store_that_cannot_be_is_refused_with_the_field() {
    let place = tempfile::tempdir().expect("a directory");
    let shared = Shared::new();
    let cases: [(&[&str], &str); 5] = [
        (&["--database", "postgres://eva:secret@db/x", "--objects", "s3://b"], "PGPASSWORD"),
        (&["--database", "mysql://db/x", "--objects", "s3://b"], "expected postgres://"),
        (&["--objects", "gs://b"], "store.objects: expected s3://BUCKET/PREFIX"),
        (&["--database", "postgres://db/x"], "--objects"),
        (&["--endpoint", "http://127.0.0.1:1"], "--objects"),
    ];
    for (at, (args, expected)) in cases.into_iter().enumerate() {
        let name = format!("s{at}");
        let refused = shared.run(place.path(), &[&["init", &name], args].concat());
        assert!(!refused.status.success(), "{args:?}");
        let said = said(&refused);
        assert!(said.contains(expected), "{args:?}: {said}");
        assert!(!said.contains("secret@"), "a password is told: {said}");
        assert!(!place.path().join(&name).join("config.toml").exists());
    }
}
