//! What saving a training costs: its length, and (printed) its time beside a step's.
//!
//! `cargo test -p gossamer-client --test saving -- --nocapture`

mod fresh;

use std::time::Instant;

use gossamer_client::data::{Batch, Plan, TaskError, TrainingTask};
use gossamer_client::state::State;
use gossamer_client::train::{Job, Work};
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::layout::Layout;
use gossamer_protocol::manifest::{MANIFEST_VERSION, Manifest};

/// A batch of as many tokens as the plan allows.
struct Full;

impl TrainingTask for Full {
    fn examples(&self) -> usize {
        1
    }

    fn has_loss(&self) -> bool {
        false
    }

    fn batch(&self, plan: &Plan, step: u32) -> Result<Batch, TaskError> {
        let (rows, cols) = (plan.rows, plan.cols);
        let token = |i: usize| (i * 7 + step as usize) as u32 % 1000;
        let inputs = (0..rows * cols).map(token).collect();
        let targets = (1..=rows * cols).map(token).collect();
        Ok(Batch { inputs, targets, lengths: vec![], rows, cols })
    }
}

#[test]
fn twelve_bytes_an_entry() {
    let base = fresh::base([192, 512, 6, 6, 3, 32, 1000, 128]);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let state = State::open(dir.path()).expect("free");
    let targets: Vec<String> = ["q_proj", "v_proj", "down_proj"].map(String::from).into();
    for rank in [8, 64, 256] {
        let layout = Layout::lora(&base.linears(), &targets, rank, false).expect("targets exist");
        let manifest: Manifest = serde_json::from_value(serde_json::json!({
            "version": MANIFEST_VERSION, "name": "saving", "seed": 1, "rounds": 1,
            "base": { "name": "fresh", "digest": base.digest() },
            "lora": { "rank": rank, "alpha": 16.0, "targets": targets },
            "layout": layout,
            "method": { "download": { "density": 1.0 }, "upload": { "density": 1.0 } },
            "training": {
                "steps": 4, "batch": 4, "context": 128,
                "optimizer": { "kind": "adamw", "lr": 0.001, "weight_decay": 0.0 },
            },
            "cohort": { "goal": 1, "ask": 1, "min": 1, "deadline_s": 60 },
            "optimizer": { "kind": "sgd", "lr": 1.0 },
        }))
        .expect("a manifest");
        let theta = manifest.layout.init(1);
        let (client, round) = (ClientId([1; 16]), RoundId(0));
        let job =
            Job { base: &base, manifest: &manifest, theta: &theta, support: None, client, round };
        let mut work = Work::start(&job, &Full).expect("fits");
        let mut times = Vec::new();
        loop {
            let began = Instant::now();
            if work.step().expect("trains").is_none() {
                break;
            }
            let step = began.elapsed();
            let bytes = work.save(Digest::of(b"it"));
            assert_eq!(bytes.len(), 12 * theta.len() + 114);
            let coded = began.elapsed() - step;
            state.write("training", bytes).expect("writable");
            times
                .push([step, coded, began.elapsed() - step - coded].map(|t| t.as_secs_f64() * 1e3));
        }
        let mut median = [0.0; 3];
        for (at, median) in median.iter_mut().enumerate() {
            let mut sorted: Vec<f64> = times.iter().map(|time| time[at]).collect();
            sorted.sort_by(f64::total_cmp);
            *median = sorted[sorted.len() / 2];
        }
        let [step, coded, written] = median;
        println!(
            "{} entries, {:.1} MB: step {step:.0} ms, coded {coded:.1} ms, on the disk {written:.1} ms; \
             every 20 s that is {:.2} % of the time",
            theta.len(),
            (12 * theta.len()) as f64 / 1e6,
            (coded + written) / 200.0
        );
    }
}
