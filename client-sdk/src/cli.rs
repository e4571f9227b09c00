//! The reference client's command line: text goes in, updates go out, the text stays here.

use std::io::IsTerminal;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use crate::client::{Client, Event, Saving, Threads, Watch};
use crate::data::{TextDataset, TrainingTask};
use crate::model::{BaseModel, Storage};
use crate::train::{Control, Footprint};
use anyhow::Context;
use clap::{Parser, Subcommand};
use gossamer_protocol::ids::RunId;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tracing_subscriber::EnvFilter;

mod adapter;

/// Fine-tunes on text that never leaves this device.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Enrols where needed, and takes part until the run is over.
    Join {
        /// The aggregator's address, https://HOST:PORT.
        url: String,
        /// The enrolment token; needed the first time.
        #[arg(long)]
        token: Option<String>,
        /// Text to train on: a .txt, a .jsonl with a "text" key, or a folder of them.
        #[arg(long)]
        data: PathBuf,
        /// The base model: a folder with config.json, tokenizer.json and model.safetensors.
        #[arg(long)]
        base: PathBuf,
        /// How the base model is held: f32, f16, bf16, int8 or fp4; less memory for a coarser base.
        #[arg(long, default_value_t)]
        storage: Storage,
        /// Where the device's key and its progress are kept.
        #[arg(long, default_value = "gossamer-state")]
        state: PathBuf,
        /// Takes part in this run only.
        #[arg(long)]
        run: Option<RunId>,
        /// Saves a training every so many steps; otherwise every 20 s.
        #[arg(long, value_name = "STEPS")]
        save_steps: Option<NonZeroU32>,
        /// Threads that a training takes; its result is the same whatever their number.
        #[arg(long, default_value = "1")]
        threads: NonZeroUsize,
        /// Trains in less memory and a third more time, to the same result (gradient checkpointing).
        #[arg(long)]
        checkpoint: bool,
        /// Cuts batches: so many sequences go through the model at once (gradient accumulation).
        #[arg(long, value_name = "SEQUENCES")]
        micro_batch: Option<NonZeroU32>,
        /// The most MiB that base model and training may take, by estimate; what would take more is trained with
        /// checkpointing and in smaller parts, or not at all.
        #[arg(long, value_name = "MIB")]
        memory_max: Option<u32>,
        /// Prints one JSON object a line, in place of the progress bar.
        #[arg(long)]
        json: bool,
    },
    /// Reads, writes and merges adapters as PEFT keeps them.
    #[command(subcommand)]
    Adapter(adapter::Adapter),
    /// Prints the digest that manifests call a base model by.
    BaseDigest {
        /// The model's folder.
        base: PathBuf,
    },
}

/// What `gossamer-client` does.
#[must_use]
pub fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()))
        .with_writer(std::io::stderr)
        .init();
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gossamer-client: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Adapter(command) => adapter::run(command),
        Command::BaseDigest { base } => {
            println!("{}", BaseModel::load(&base)?.digest());
            Ok(())
        }
        Command::Join {
            url,
            token,
            data,
            base,
            storage,
            state,
            run,
            save_steps,
            threads,
            checkpoint,
            micro_batch,
            memory_max,
            json,
        } => {
            let base = BaseModel::load_as(&base, storage)?;
            let task = TextDataset::open(&base, &data)?;
            let task: Arc<dyn TrainingTask> = Arc::new(task);
            let watch = if json { lines() } else { bar() };
            let threads = Threads::new(threads).each(threads);
            let mut builder = Client::builder(url).state_dir(state).base(base).watch(watch);
            builder = builder.threads(threads);
            if let Some(token) = token {
                builder = builder.token(token);
            }
            if let Some(run) = run {
                builder = builder.only_run(run);
            }
            if let Some(steps) = save_steps {
                builder = builder.saving(Saving::Steps(steps));
            }
            builder = builder.footprint(Footprint { checkpoint, micro_batch });
            if let Some(mib) = memory_max {
                builder = builder.memory_max(u64::from(mib) << 20);
            }
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("cannot start the runtime")?;
            runtime.block_on(async {
                let client = builder.connect().await?;
                let delivered = tokio::select! {
                    done = client.run(&task) => done?,
                    _ = tokio::signal::ctrl_c() => {
                        eprintln!("stopped; what was begun is resumed the next time");
                        return Ok(());
                    }
                };
                let traffic = client.traffic();
                if json {
                    println!("{}", json!({"event": "over", "delivered": delivered, "traffic": traffic}));
                } else {
                    println!(
                        "the run is over: {delivered} updates delivered, {} bytes sent, {} received",
                        traffic.updates + traffic.control_up,
                        traffic.snapshots + traffic.control_down,
                    );
                }
                Ok(())
            })
        }
    }
}

/// One JSON object an event.
fn lines() -> Watch {
    Arc::new(|event| {
        let line = match event {
            Event::Waiting { retry, reason } => {
                json!({"event": "waiting", "retry_ms": retry.as_millis() as u64, "reason": reason})
            }
            Event::Assigned { round, manifest } => {
                json!({"event": "assigned", "round": round, "run": manifest.name})
            }
            Event::Downloaded { round, bytes } => {
                json!({"event": "downloaded", "round": round, "bytes": bytes})
            }
            Event::Training(progress) => json!({
                "event": "training",
                "step": progress.step,
                "steps": progress.steps,
                "loss": progress.loss,
            }),
            Event::Paused { round, need, retry } => json!({
                "event": "paused",
                "round": round,
                "reason": need.to_string(),
                "retry_ms": retry.as_millis() as u64,
            }),
            Event::Resumed { round, step } => {
                json!({"event": "resumed", "round": round, "step": step})
            }
            Event::Trained { .. } => return Control::Continue,
            Event::Uploading { bytes, predicted } => {
                json!({"event": "uploading", "bytes": bytes, "predicted_bytes": predicted})
            }
            Event::Delivered(contribution) => json!({
                "event": "delivered",
                "round": contribution.receipt.round,
                "update": contribution.receipt.update,
                "loss": contribution.loss,
                "entries": contribution.entries,
                "bytes": contribution.update_bytes,
            }),
            Event::Abandoned { round, reason } => {
                json!({"event": "abandoned", "round": round, "reason": reason.to_string()})
            }
        };
        println!("{line}");
        Control::Continue
    })
}

/// A progress bar where someone watches, a line a round where nobody does.
fn bar() -> Watch {
    let shown = std::io::stderr().is_terminal();
    let bar = if shown { ProgressBar::new(1) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{prefix:12} {bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    Arc::new(move |event| {
        match event {
            Event::Waiting { reason, .. } => bar.set_message(format!("waiting: {reason}")),
            Event::Paused { need, .. } => bar.set_message(format!("paused: {need}")),
            Event::Assigned { round, .. } => bar.set_prefix(format!("round {round}")),
            Event::Training(progress) => {
                bar.set_length(u64::from(progress.steps));
                bar.set_position(u64::from(progress.step));
                bar.set_message(format!("loss {:.3}", progress.loss));
            }
            Event::Delivered(contribution) => {
                let line = format!(
                    "round {}: loss {:.3}, {} bytes sent",
                    contribution.receipt.round, contribution.loss, contribution.update_bytes
                );
                if shown { bar.println(line) } else { println!("{line}") }
            }
            Event::Abandoned { round, reason } => {
                let line = format!("round {round} abandoned: {reason}");
                if shown { bar.println(line) } else { println!("{line}") }
            }
            _ => {}
        }
        Control::Continue
    })
}
