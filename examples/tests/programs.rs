//! The short programs, each as a process of its own against a real aggregator.

use std::path::{Path, PathBuf};
use std::process::Output;

use gossamer_protocol::ids::RoundId;
use gossamer_sim::base::tiny;
use gossamer_tests::{TestServer, base, manifest};
use tempfile::TempDir;
use tokio::process::Command;

const ROUNDS: u64 = 2;

/// A folder with the base model, and what `files` adds.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(dir.path().join("text")).expect("new");
    for (name, bytes) in [
        ("config.json", tiny::CONFIG),
        ("tokenizer.json", tiny::TOKENIZER),
        ("model.safetensors", tiny::WEIGHTS),
    ] {
        std::fs::write(dir.path().join(name), bytes).expect("written");
    }
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).expect("written");
    }
    dir
}

fn command(program: &str, server: &TestServer, token: &str, dir: &Path, data: &str) -> Command {
    let mut command = Command::new(program);
    let paths: [PathBuf; 3] = [dir.to_owned(), dir.join(data), dir.join("state")];
    command.args([&server.url, token]).args(paths).kill_on_drop(true);
    command
}

fn printed(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// A server with a run of one client and `steps` a round.
async fn stage(steps: u32) -> (TestServer, gossamer_protocol::ids::RunId, String) {
    let server = TestServer::start().await;
    let mut terms = manifest(&base(), 1, ROUNDS);
    terms.training.steps = steps;
    terms.training.context = 64;
    let run = server.coordinator.create_run(&terms).await.expect("a sound manifest");
    let token = server.token().await;
    (server, run, token)
}

#[tokio::test(flavor = "multi_thread")]
async fn embed_takes_part_and_keeps_to_its_gate() {
    let text = gossamer_sim::languages::sentences("swedish").expect("there")[..20].join("\n\n");
    let dir = folder(&[("text/notes.txt", &text)]);
    let (server, run, token) = stage(3).await;
    let embed = || command(env!("CARGO_BIN_EXE_embed"), &server, &token, dir.path(), "text");

    let mut closed = embed();
    closed.env("ON_BATTERY", "1").stdout(std::process::Stdio::piped());
    let mut closed = closed.spawn().expect("starts");
    let out = closed.stdout.take().expect("piped");
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(out));
    let line = lines.next_line().await.expect("text");
    assert_eq!(line.as_deref(), Some("paused: the device is not charging"));
    closed.kill().await.expect("a child");

    let printed = printed(&embed().output().await.expect("runs"));
    assert!(printed.ends_with("2 updates delivered\n"), "{printed}");
    assert_eq!(printed.matches(" of 3, loss ").count(), 6, "{printed}");
    let over = server.coordinator.record(run, RoundId(ROUNDS)).await;
    assert!(over.is_ok(), "{over:?}");
    server.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_trains_on_a_task_of_its_own() {
    let lines =
        "Are you coming?\tYes, at six.\nDid you eat?\tNot yet.\nHow far is it?\tTen minutes.\n";
    let dir = folder(&[("replies.tsv", lines)]);
    let (server, run, token) = stage(2).await;
    let program = env!("CARGO_BIN_EXE_replies");
    let mut replies = command(program, &server, &token, dir.path(), "replies.tsv");
    let printed = printed(&replies.output().await.expect("runs"));
    assert_eq!(printed, "2 updates delivered\n");
    let theta = server.coordinator.theta(run, RoundId(ROUNDS)).await.expect("over");
    let start = server.coordinator.theta(run, RoundId(0)).await.expect("begun");
    assert_ne!(theta, start);
    server.close().await;
}

/// The bound.
#[test]
fn embedding_takes_at_most_sixty_lines() {
    assert!(include_str!("../src/bin/embed.rs").lines().count() <= 60);
}
