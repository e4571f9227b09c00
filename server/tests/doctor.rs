//! `gossamer-server doctor`: names what is wrong, says what to do, and fails.

use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr as _;

use gossamer_server::store::DATABASE;
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

fn server(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gossamer-server"));
    command.arg(args[0]).arg(dir).args(&args[1..]).stderr(Stdio::null());
    command
}

fn init(dir: &Path) {
    let init = server(dir, &["init", "--listen", "127.0.0.1:0", "--json"]).output();
    assert!(init.expect("runs").status.success());
}

/// Whether it is content, and what it found.
fn examine(dir: &Path) -> (bool, Vec<Value>) {
    let output = server(dir, &["doctor", "--json"]).output().expect("runs");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    (output.status.success(), found.as_array().expect("a list").clone())
}

/// The one finding that is not good.
fn ill(dir: &Path) -> (bool, Value) {
    let (content, found) = examine(dir);
    let ill: Vec<&Value> = found.iter().filter(|finding| finding["state"] != "good").collect();
    assert_eq!(ill.len(), 1, "{ill:#?}");
    assert!(ill[0]["advice"].as_str().is_some_and(|advice| !advice.is_empty()));
    (content, ill[0].clone())
}

async fn tamper(dir: &Path, sql: &'static str) {
    let url = format!("sqlite://{}", dir.join(DATABASE).display());
    let options = SqliteConnectOptions::from_str(&url).expect("a path");
    let pool = SqlitePool::connect_with(options).await.expect("opens");
    sqlx::query(sql).execute(&pool).await.expect("done");
    pool.close().await;
}

#[tokio::test]
async fn a_sound_directory_and_each_thing_that_can_be_wrong() {
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path().join("s");
    init(&dir);
    let (content, found) = examine(&dir);
    assert!(content && found.iter().all(|finding| finding["state"] == "good"), "{found:#?}");
    let checks: Vec<&str> = found.iter().filter_map(|finding| finding["check"].as_str()).collect();
    let expected = [
        "version",
        "config",
        "server key",
        "certificate",
        "CA for clients",
        "disk",
        "store",
        "clock",
        "objects",
        "audit log",
        "port",
        "admin port",
    ];
    assert_eq!(checks, expected);
    let names = found[3]["found"].as_str().expect("text");
    assert!(names.starts_with("for localhost, 127.0.0.1, ::1; until "), "{names}");

    let config = dir.join("config.toml");
    let kept = std::fs::read_to_string(&config).expect("there");
    let with = |from: &str, to: &str| {
        assert!(kept.contains(from), "{from}");
        std::fs::write(&config, kept.replacen(from, to, 1)).expect("written");
    };
    with("tick_ms", "tick");
    let (content, found) = ill(&dir);
    assert!(!content && found["check"] == "config", "{found}");
    with("disk_free_min_bytes = 268435456", "disk_free_min_bytes = 4611686018427387904");
    let (content, found) = ill(&dir);
    assert!(!content && found["check"] == "disk", "{found}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    with("listen = \"127.0.0.1:0\"", &format!("listen = \"{address}\""));
    let (content, found) = ill(&dir);
    assert!(!content && found["check"] == "port", "{found}");
    std::fs::write(&config, &kept).expect("written");

    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let key = dir.join("keys/server.key");
        let mode = |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode));
        mode(0o644).expect("set");
        let (content, found) = ill(&dir);
        assert!(
            content && found["state"] == "warning" && found["check"] == "server key",
            "{found}"
        );
        mode(0o600).expect("set");
    }

    tamper(&dir, "INSERT INTO alive (one, at_ms) VALUES (1, 9999999999999)").await;
    let (content, found) = ill(&dir);
    assert!(!content && found["check"] == "clock", "{found}");
    tamper(&dir, "DELETE FROM alive").await;

    let mut add = Command::new(env!("CARGO_BIN_EXE_gossamer-server"));
    assert!(
        add.args(["operator", "add"]).arg(&dir).arg("eva").output().expect("runs").status.success()
    );
    tamper(&dir, "UPDATE audit SET entry = CAST(replace(entry, 'eva', 'eve') AS BLOB)").await;
    let (content, found) = ill(&dir);
    assert!(!content && found["check"] == "audit log", "{found}");
}

#[test]
fn certificates_that_end_are_told() {
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path().join("s");
    init(&dir);
    let key = KeyPair::generate().expect("a key");
    let write = |from: (i32, u8, u8), to: (i32, u8, u8)| {
        let mut terms = CertificateParams::new(vec!["example.org".into()]).expect("a name");
        terms.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        terms.not_after = rcgen::date_time_ymd(to.0, to.1, to.2);
        let made = terms.self_signed(&key).expect("signed").pem();
        for file in ["server.pem", "ca.pem"] {
            std::fs::write(dir.join("tls").join(file), &made).expect("written");
        }
        std::fs::write(dir.join("tls/server.key"), key.serialize_pem()).expect("written");
        let (content, found) = examine(&dir);
        let found = found.iter().find(|finding| finding["check"] == "certificate").expect("there");
        (content, found["state"].as_str().expect("text").to_owned(), found["found"].to_string())
    };
    let (content, state, found) = write((2020, 1, 1), (2021, 1, 1));
    assert!(!content && state == "bad" && found.contains("it ended Jan  1"), "{found}");
    let (content, state, found) = write((2999, 1, 1), (3000, 1, 1));
    assert!(!content && state == "bad" && found.contains("not valid before"), "{found}");
    let (content, state, found) = write((2020, 1, 1), (3000, 1, 1));
    assert!(content && state == "good" && found.contains("for example.org"), "{found}");

    let other = KeyPair::generate().expect("a key").serialize_pem();
    std::fs::write(dir.join("tls/server.key"), other).expect("written");
    let (content, found) = ill(&dir);
    assert!(!content && found["check"] == "certificate", "{found}");
    assert!(
        found["found"].as_str().is_some_and(|found| found.contains("cannot be used")),
        "{found}"
    );
}
