//! The quick start: a real aggregator over HTTPS on this machine, eight real clients that speak eight
//! languages, the same training sent dense and sent sparse, and a page that compares them.
//!
//! `cargo run --release [-- OUT]`; nothing else needs to be installed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use gossamer_client::model::BaseModel;
use gossamer_protocol::frame::{Snapshot, Terms};
use gossamer_protocol::ids::{RoundId, RunId};
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::message::Record;
use gossamer_protocol::sign::Purpose;
use gossamer_server::coordinator::Coordinator;
use gossamer_sim::dataset::Dataset;
use gossamer_sim::report::table::{Table, bytes};
use gossamer_sim::report::{self, Report, RoundRow};
use gossamer_sim::scenario::{MethodSpec, Scenario};
use gossamer_sim::{base, languages, partition};
use tokio::task::JoinSet;

use aggregator::Aggregator;
use devices::{Device, Progress};

mod aggregator;
mod devices;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What both methods share, and the methods.
const SCENARIO: &str = include_str!("../../../quickstart.toml");

fn main() -> ExitCode {
    let out = std::env::args_os().nth(1).map_or_else(|| "out/quickstart".into(), PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime.context("cannot start the runtime").and_then(|r| r.block_on(run(&out)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(out: &Path) -> anyhow::Result<()> {
    let began = Instant::now();
    let store = out.join("aggregator");
    let aggregator = Aggregator::start(&store).await?;
    println!("aggregator: {} (store in {})", aggregator.url, store.display());
    let federation = Arc::new(Federation::enrol(&aggregator).await?);
    let mut finished = Vec::new();
    for method in &federation.scenario.methods {
        finished.push(federation.train(method).await?);
    }

    aggregator.stop().await?;

    println!("\n{}", by_language(&federation, &finished).text());
    println!("{}", totals(&finished).text());
    for done in &finished {
        let path = out.join(format!("{}.safetensors", done.name));
        std::fs::write(&path, &done.adapter)
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("adapter: {}", path.display());
    }
    let rows: Vec<RoundRow> = finished.iter().flat_map(|done| done.rows.clone()).collect();
    let paragraphs = [
        "Eight devices, a language each, trained one adapter together on sentences that never left \
         them. Losses are of sentences that no device trained on, with the adapter that devices \
         receive, in nats a token."
            .to_owned(),
        "Bytes are the frames that crossed HTTPS, headers and checksums included.".to_owned(),
    ];
    let report = Report {
        title: "Gossamer quick start",
        baseline: &federation.scenario.methods[0].name,
        paragraphs: &paragraphs,
        census: None,
        config: SCENARIO,
        command: None,
        rates: &[],
    };
    report::write(out, &report, &rows)?;
    println!("report: {}", out.join("report.html").display());
    println!("done in {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Everyone enrolled, and what they train.
struct Federation {
    scenario: Scenario,
    base: BaseModel,
    coordinator: Coordinator,
    devices: Vec<Device>,
    progress: Arc<Progress>,
}

/// What one method came to.
struct Finished {
    name: String,
    /// Loss of each language, before and after.
    losses: Vec<(f64, f64)>,
    rows: Vec<RoundRow>,
    /// The adapter as safetensors.
    adapter: Vec<u8>,
}

impl Federation {
    async fn enrol(aggregator: &Aggregator) -> anyhow::Result<Self> {
        let scenario = Scenario::parse(SCENARIO, Path::new(""))?;
        let base = base::load(&scenario.base)?;
        let names = languages::CLIENTS.map(str::to_owned);
        let dataset = Dataset::languages(&names)?;
        let shards = partition::deal(&dataset, &scenario.partition)?;
        let split = partition::hold_out(&dataset, &shards, &scenario.heldout, 0)?;
        let context = scenario.training.context as usize;
        let tokens = scenario.eval.tokens.unwrap_or(usize::MAX) / split.heldout.len();
        let progress = Arc::new(Progress::default());
        let mut devices = Vec::new();
        for (training, heldout) in split.train.iter().zip(&split.heldout) {
            let windows = (context, tokens.div_ceil(context));
            let device =
                Device::enrol(training, heldout, &base, windows, aggregator, &progress).await?;
            devices.push(device);
        }
        println!(
            "enrolled: {} devices; the base model learned {}, and none of theirs",
            devices.len(),
            languages::PRETRAINING.join(", ")
        );
        let coordinator = aggregator.coordinator.clone();
        Ok(Self { scenario, base, coordinator, devices, progress })
    }

    /// One run, from its creation to its last round.
    async fn train(self: &Arc<Self>, method: &MethodSpec) -> anyhow::Result<Finished> {
        let (scenario, coordinator) = (&self.scenario, &self.coordinator);
        let began = Instant::now();
        let lora = scenario.lora(method);
        let linears = self.base.linears();
        let layout = lora.layout(&linears)?;
        let described = base::describe(&scenario.base, &self.base);
        let manifest = scenario.manifest(method, scenario.seeds[0], described, layout);
        println!(
            "training: {:9} {} rounds, adapter of {} parameters",
            method.name,
            scenario.rounds,
            manifest.layout.n()
        );
        let run = coordinator.create_run_on(&manifest, Some(&linears)).await?;
        let mut work = JoinSet::new();
        for at in 0..self.devices.len() {
            let federation = self.clone();
            work.spawn(async move {
                let device = &federation.devices[at];
                device.client.run(&device.task).await
            });
        }
        while let Some(done) = work.join_next().await {
            done.context("a device's task failed")??;
        }

        let told = self.progress.take();
        let wall_s = began.elapsed().as_secs_f64() / scenario.rounds as f64;
        let mut losses: Vec<Vec<f64>> = Vec::new();
        let (mut rows, mut moved) = (Vec::new(), 0);
        for round in 0..=scenario.rounds {
            let record = coordinator.record(run, RoundId(round)).await?;
            let record: Record = record.open(&coordinator.public_key(), Purpose::Record)?;
            let frame = coordinator.object(run, record.snapshot).await?;
            losses.push(self.losses(&manifest, run, round, &frame).await?);
            // Row r is the state after r rounds, the last of which has the number r - 1.
            let told = round.checked_sub(1).and_then(|r| told.get(&r)).copied().unwrap_or_default();
            let now = &losses[losses.len() - 1];
            moved += told.upload_bytes + told.download_bytes;
            rows.push(RoundRow {
                method: method.name.clone(),
                seed: manifest.seed,
                round,
                train_loss: told.mean_loss(),
                heldout_loss: Some(now.iter().sum::<f64>() / now.len() as f64),
                server_loss: None,
                heldout_accuracy: None,
                server_accuracy: None,
                upload_bytes: told.upload_bytes,
                download_bytes: told.download_bytes,
                cumulative_bytes: moved,
                product_error: None,
                control_bytes: 0,
                accepted: told.updates,
                virtual_s: None,
                joules: None,
                wall_s: if round == 0 { 0.0 } else { wall_s },
                clients: Vec::new(),
            });
        }
        let (first, last) = (&losses[0], &losses[losses.len() - 1]);
        Ok(Finished {
            name: method.name.clone(),
            losses: first.iter().copied().zip(last.iter().copied()).collect(),
            rows,
            adapter: coordinator.export(run).await?.weights,
        })
    }

    /// Every device's loss with the snapshot that `round` starts from.
    async fn losses(
        self: &Arc<Self>,
        manifest: &Manifest,
        run: RunId,
        round: u64,
        frame: &[u8],
    ) -> anyhow::Result<Vec<f64>> {
        let snapshot = Snapshot::decode(frame, &Terms::new(manifest, run, RoundId(round)))?;
        let theta = Arc::new(snapshot.theta(manifest));
        let mut work = Vec::new();
        for at in 0..self.devices.len() {
            let (federation, manifest, theta) = (self.clone(), manifest.clone(), theta.clone());
            work.push(tokio::task::spawn_blocking(move || {
                federation.devices[at].loss(&federation.base, &manifest, &theta)
            }));
        }
        let mut losses = Vec::with_capacity(work.len());
        for done in work {
            losses.push(done.await.context("an evaluation failed")??);
        }
        Ok(losses)
    }
}

/// A line a language: its loss before training and after, by method.
fn by_language(federation: &Federation, finished: &[Finished]) -> Table {
    let mut head = vec!["language".to_owned(), "before".to_owned()];
    head.extend(finished.iter().map(|done| done.name.clone()));
    let rows = federation.devices.iter().enumerate().map(|(at, device)| {
        let mut row = vec![device.language.clone(), format!("{:.3}", finished[0].losses[at].0)];
        row.extend(finished.iter().map(|done| format!("{:.3}", done.losses[at].1)));
        row
    });
    Table { rows: rows.collect(), head }
}

/// A line a method: what it reached, and what it cost.
fn totals(finished: &[Finished]) -> Table {
    let head = ["method", "rounds", "loss before", "loss after", "bytes up", "bytes down", "ratio"];
    let cost = |done: &Finished| -> (u64, u64) {
        let up = done.rows.iter().map(|row| row.upload_bytes).sum();
        (up, done.rows.iter().map(|row| row.download_bytes).sum())
    };
    let dense = finished.first().map(cost).unwrap_or_default();
    let rows = finished.iter().map(|done| {
        let (up, down) = cost(done);
        let n = done.losses.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| done.losses.iter().map(of).sum::<f64>() / n;
        vec![
            done.name.clone(),
            (done.rows.len() - 1).to_string(),
            format!("{:.3}", mean(|loss| loss.0)),
            format!("{:.3}", mean(|loss| loss.1)),
            bytes(up as f64),
            bytes(down as f64),
            format!("{:.1}x", (dense.0 + dense.1) as f64 / (up + down) as f64),
        ]
    });
    Table { rows: rows.collect(), head: head.map(str::to_owned).to_vec() }
}
