//! A device's process is killed in the middle of its training, again and again.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::hex;
use gossamer_protocol::ids::{RoundId, RunId};
use gossamer_protocol::manifest::{LocalOptimizer, Manifest};
use gossamer_protocol::rng::Stream;
use gossamer_sim::base::tiny;
use gossamer_tests::{Process, TestServer, base, identity, manifest};
use serde_json::Value;

const KILLS: u64 = 20;
const SEED: u64 = 3;
/// More than 20 lives of a device can finish.
const STEPS: u32 = 600;
const SAVE_STEPS: u64 = 3;

/// One round of one client, with all the state that a training can have.
fn terms() -> Manifest {
    let mut manifest = manifest(&base(), 1, 1);
    manifest.lora.dropout = 0.1;
    manifest.training.steps = STEPS;
    manifest.training.batch = 2;
    manifest.training.clip = Some(1.0);
    manifest.training.optimizer = LocalOptimizer::AdamW { lr: 0.003, weight_decay: 0.01 };
    manifest
}

fn files(dir: &Path) {
    for (name, bytes) in [
        ("config.json", tiny::CONFIG),
        ("tokenizer.json", tiny::TOKENIZER),
        ("model.safetensors", tiny::WEIGHTS),
    ] {
        std::fs::write(dir.join(name), bytes).expect("written");
    }
    let text = gossamer_sim::languages::sentences("estonian").expect("there")[..30].join("\n\n");
    std::fs::write(dir.join("notes.txt"), text).expect("written");
}

/// A device's process, and what it tells.
struct Device {
    process: Process,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Device {
    /// The device whose key and progress are in `state`.
    fn start(server: &TestServer, token: &str, files: &Path, state: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_client-cli"))
            .args(["join", &server.url, "--json", "--token", token])
            .args(["--save-steps", &SAVE_STEPS.to_string()])
            .args([Path::new("--base"), files, Path::new("--data"), &files.join("notes.txt")])
            .args([Path::new("--state"), state])
            .stdout(Stdio::piped())
            .spawn()
            .expect("joins");
        let stdout = child.stdout.take().expect("piped");
        Self { process: Process(child), lines: BufReader::new(stdout).lines() }
    }

    /// The next event; `None` at the end.
    fn next(&mut self) -> Option<Value> {
        let line = self.lines.next()?.expect("text");
        Some(serde_json::from_str(&line).expect("JSON"))
    }

    /// Events until the last; those of the update that was delivered.
    fn finish(&mut self) -> Vec<Value> {
        let mut delivered = Vec::new();
        while let Some(event) = self.next() {
            if event["event"] == "delivered" {
                delivered.push(event);
            }
        }
        delivered
    }
}

/// A server with the run, a token, and a state folder with the one key.
async fn stage(folder: &Path) -> (TestServer, RunId, String) {
    std::fs::create_dir(folder).expect("new");
    std::fs::write(folder.join("identity.key"), hex::encode(&identity(1))).expect("written");
    let server = TestServer::start().await;
    let run = server.coordinator.create_run(&terms()).await.expect("a sound manifest");
    let token = server.token().await;
    (server, run, token)
}

async fn record(server: &TestServer, run: RunId) -> Digest {
    Digest::of(&server.coordinator.record(run, RoundId(1)).await.expect("over").bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_killed_twenty_times_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    files(dir.path());

    let calm_state = dir.path().join("calm");
    let (calm, run, token) = stage(&calm_state).await;
    let undisturbed = Device::start(&calm, &token, dir.path(), &calm_state).finish();
    assert_eq!(undisturbed.len(), 1, "{undisturbed:?}");

    let state = dir.path().join("killed");
    let (server, same, token) = stage(&state).await;
    let mut rng = Stream::new(SEED, "kills", &[]);
    let mut device = Device::start(&server, &token, dir.path(), &state);
    // Told by the life before, so saved before.
    let mut told = 0;
    for kill in 0..KILLS {
        let target = told + 1 + rng.below(9);
        let (mut resumed, mut begun) = (0, false);
        while told < target {
            let event = device.next().expect("it ended by itself before the last kill");
            assert_ne!(event["event"], "delivered", "before kill {kill}");
            if event["event"] == "resumed" {
                resumed = event["step"].as_u64().expect("a number");
            } else if event["event"] == "training" {
                let step = event["step"].as_u64().expect("a number");
                if !begun {
                    // No step is trained twice but those since the last save.
                    let saved = told.saturating_sub(1) / SAVE_STEPS * SAVE_STEPS;
                    assert!(resumed >= saved, "from step {resumed}, {told} were told");
                    assert_eq!(step, resumed + 1);
                    begun = true;
                }
                told = step.max(told);
            }
        }
        // Anywhere in a step, or in a save.
        std::thread::sleep(Duration::from_micros(rng.below(8_000)));
        device.process.kill();
        // What it told before it died.
        while let Some(event) = device.next() {
            told = told.max(event["step"].as_u64().unwrap_or(0));
        }
        assert!(told < u64::from(STEPS), "it was done before kill {kill}");
        device = Device::start(&server, &token, dir.path(), &state);
    }
    let delivered = device.finish();
    assert_eq!(delivered.len(), 1, "{delivered:?}");
    // The digest of the frame, signed by the server.
    assert_eq!(delivered[0]["update"], undisturbed[0]["update"]);
    assert!(delivered[0]["update"].is_string());
    assert_eq!(delivered[0], undisturbed[0]);
    assert_eq!(run, same);
    assert_eq!(record(&server, run).await, record(&calm, run).await);
    let left = state.join("runs").join(run.to_string()).join("training");
    assert!(!left.exists(), "it is left behind");
    server.close().await;
    calm.close().await;
}
