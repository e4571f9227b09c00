//! The audit log: what it tells, and what `verify-log` says of one that was changed.

mod fixtures;
#[path = "fixtures/world.rs"]
mod world;

use std::path::Path;
use std::process::{Command, Output};
use std::str::FromStr as _;

use fixtures::manifest;
use gossamer_server::audit::Actor;
use gossamer_server::config::Config;
use gossamer_server::setup;
use gossamer_server::status::Status;
use gossamer_server::store::{DATABASE, Store};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use world::World;

fn verify(dir: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gossamer-server"));
    command.arg("verify-log").arg(dir).args(more).output().expect("it starts")
}

/// The one line of a log that is not believed.
fn fault(dir: &Path, more: &[&str]) -> String {
    let output = verify(dir, more);
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).expect("text")
}

/// Does `sql` to the database of `dir`, as somebody with access to the disk might.
async fn tamper(dir: &Path, sql: &'static str) {
    let url = format!("sqlite://{}", dir.join(DATABASE).display());
    let options = SqliteConnectOptions::from_str(&url).expect("a path");
    let pool = SqlitePool::connect_with(options).await.expect("opens");
    sqlx::query(sql).execute(&pool).await.expect("done");
    pool.close().await;
}

/// A directory in which a run was created, paused, resumed and run to its end.
async fn lived(dir: &Path) {
    setup::init(dir, &[], &Config::default()).await.expect("a directory");
    let coordinator = setup::coordinator(dir).await.expect("opens");
    let world = World { coordinator, clock: std::sync::Arc::default() };
    world.coordinator.take_over().await.expect("takes over");
    let run = world.start(&manifest(), 2).await;
    let eva = world.coordinator.acting(Actor::Operator("eva".into()));
    for status in [Status::Paused, Status::Paused, Status::Running] {
        eva.set_status(run, status).await.expect("set");
    }
    for _ in 0..manifest().rounds {
        world.tick().await;
        for b in [0, 1] {
            world.work(&manifest(), b).await;
        }
    }
    world.tick().await;
    eva.set_status(run, Status::Aborted).await.expect("stays complete");
    // The tick that signs comes once a second.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    world.tick().await;
    world.coordinator.store().close().await;
}

#[tokio::test]
async fn it_tells_what_was_done_and_by_whom() {
    let dir = tempfile::tempdir().expect("a directory");
    lived(dir.path()).await;
    let store = Store::open(dir.path()).await.expect("opens");
    let entries = store.audit(&None, u64::MAX, 100).await.expect("read");
    let mut told = Vec::new();
    for (at, entry) in entries.iter().rev().enumerate() {
        let entry: serde_json::Value = serde_json::from_str(entry.entry.get()).expect("JSON");
        assert_eq!(entry["seq"], at + 1);
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        let actor = text("actor").split(':').next().unwrap_or_default().to_owned();
        told.push(format!("{actor} {} {}", text("action"), text("status")).trim().to_owned());
    }
    let expected = [
        "server serving",
        "local tokens-made",
        "client enrolled",
        "local tokens-made",
        "client enrolled",
        "local run-created",
        "operator run-status paused",
        "operator run-status running",
        "server round-closed",
        "server round-closed",
    ];
    assert_eq!(told, expected);
    assert_eq!(store.audit(&None, 3, 1).await.expect("read")[0].hash, entries[8].hash, "entry 2");
}

#[tokio::test]
async fn what_was_changed_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    lived(dir.path()).await;
    let good = verify(dir.path(), &[]);
    let said = String::from_utf8(good.stdout).expect("text");
    assert!(good.status.success() && said.starts_with("10 entries, whole\nhead 10:"), "{said}");
    let head = said.lines().nth(1).and_then(|l| l.strip_prefix("head ")).expect("there").to_owned();
    assert!(verify(dir.path(), &["--seen", &head]).status.success());

    let changes = [
        (
            "UPDATE audit SET entry = CAST(replace(entry, 'paused', 'pausee') AS BLOB) WHERE seq = 7",
            "entry 7 was changed",
        ),
        ("UPDATE audit SET hash = x'00' WHERE seq = 4", "entry 4 was changed"),
        ("DELETE FROM audit WHERE seq = 5", "entry 5 is missing"),
        ("DELETE FROM audit WHERE seq = 1", "entry 1 is missing"),
        (
            "UPDATE audit SET (entry, hash) = (SELECT entry, hash FROM audit AS other \
             WHERE other.seq = CASE audit.seq WHEN 2 THEN 3 ELSE 2 END) WHERE seq IN (2, 3)",
            "entry 2 was changed",
        ),
        ("DELETE FROM audit WHERE seq = 10", "it ends at entry 9, and there was an entry 10"),
        (
            "UPDATE audit_checkpoints SET signature = zeroblob(64)",
            "not signed by this server's key",
        ),
    ];
    for (sql, expected) in changes {
        let copy = tempfile::tempdir().expect("a directory");
        for file in [DATABASE, "keys/server.key"] {
            let to = copy.path().join(file);
            std::fs::create_dir_all(to.parent().expect("a parent")).expect("made");
            std::fs::copy(dir.path().join(file), to).expect("copied");
        }
        tamper(copy.path(), sql).await;
        let said = fault(copy.path(), &[]);
        assert!(said.contains(expected), "{sql}: {said}");
    }

    // Cut off with its checkpoints: only a head kept elsewhere shows it.
    tamper(dir.path(), "DELETE FROM audit WHERE seq > 8").await;
    tamper(dir.path(), "DELETE FROM audit_checkpoints WHERE seq > 8").await;
    assert!(verify(dir.path(), &[]).status.success());
    let said = fault(dir.path(), &["--seen", &head]);
    assert!(said.contains("it ends at entry 8, and there was an entry 10"), "{said}");
}
