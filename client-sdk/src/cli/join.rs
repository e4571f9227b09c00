//! `join`: a device takes part until the run is over.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, ValueEnum};
use gossamer_protocol::ids::RunId;
use serde_json::json;

use super::certificate::Certificate;
use super::device::Device;
use super::{events, runtime};
use crate::client::{Client, Saving, Threads};
use crate::data::{
    Batch, HeldOut, InstructionDataset, LabelledDataset, Rows, TaskError, Template, TextDataset,
    TrainingTask,
};
use crate::model::{BaseModel, Storage};
use crate::train::Footprint;

#[derive(Args)]
pub(super) struct Join {
    /// The aggregator's address, https://HOST:PORT.
    url: String,
    /// The enrolment token; needed the first time.
    #[arg(long)]
    token: Option<String>,
    /// What to train on: a file, or a folder of them. See --format.
    #[arg(long)]
    data: PathBuf,
    /// Other examples of that kind, never trained on: where the run asks this device for it, how well the adapter
    /// predicts them is told each round, as a count and a sum.
    #[arg(long, value_name = "DATA")]
    held_out: Option<PathBuf>,
    /// What the data is; otherwise labelled for an encoder, and text for a decoder.
    #[arg(long)]
    format: Option<Format>,
    /// The base model: a folder with config.json, tokenizer.json and model.safetensors.
    #[arg(long)]
    base: PathBuf,
    /// How the base model is held: f32, f16, bf16, int8 or fp4; less memory for a coarser base.
    #[arg(long, default_value_t)]
    storage: Storage,
    /// What trains: cpu, or in a build with that feature cuda, cuda:N, metal or metal:N.
    #[arg(long, default_value = "cpu")]
    device: Device,
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
    #[command(flatten)]
    certificate: Certificate,
    /// Asks for the proof that each delivered update is counted.
    #[arg(long)]
    prove_inclusion: bool,
    /// Prints one JSON object a line, in place of the progress bar.
    #[arg(long)]
    json: bool,
}

/// What a device's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Text to continue: a .txt, a text a paragraph; a .jsonl, a line's "text".
    Text,
    /// Instructions to follow: a .jsonl of "instruction", "input" and "output", asked as Alpaca does.
    Instructions,
    /// Texts to tell apart: a .jsonl of "text" and "label", a number from 0.
    Labelled,
}

impl Join {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let device = self.device.open()?;
        let base = BaseModel::load_as(&self.base, self.storage)?;
        let task = self.task(&base)?;
        let base = match device {
            Some(device) => base.on(&device).context("the base model on the device")?,
            None => base,
        };
        let watch = if self.json { events::lines() } else { events::bar() };
        let threads = Threads::new(self.threads).each(self.threads);
        let mut builder = Client::builder(self.url).state_dir(self.state).base(base).watch(watch);
        builder = builder.threads(threads);
        if let Some(token) = self.token {
            builder = builder.token(token);
        }
        if let Some(run) = self.run {
            builder = builder.only_run(run);
        }
        if let Some(steps) = self.save_steps {
            builder = builder.saving(Saving::Steps(steps));
        }
        let Self { checkpoint, micro_batch, .. } = self;
        builder = builder.footprint(Footprint { checkpoint, micro_batch });
        builder = self.certificate.with(builder)?;
        if self.prove_inclusion {
            builder = builder.prove_inclusion();
        }
        if let Some(mib) = self.memory_max {
            builder = builder.memory_max(u64::from(mib) << 20);
        }
        runtime()?.block_on(async {
            let client = builder.connect().await?;
            let delivered = tokio::select! {
                done = client.run(&task) => done?,
                _ = tokio::signal::ctrl_c() => {
                    eprintln!("stopped; what was begun is resumed the next time");
                    return Ok(());
                }
            };
            let traffic = client.traffic();
            if self.json {
                println!(
                    "{}",
                    json!({"event": "over", "delivered": delivered, "traffic": traffic})
                );
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

    fn task(&self, base: &BaseModel) -> Result<Arc<dyn TrainingTask>, TaskError> {
        let by_base = || if base.bert().is_some() { Format::Labelled } else { Format::Text };
        let held_out = self.held_out.as_deref();
        Ok(match self.format.unwrap_or_else(by_base) {
            Format::Text => {
                let open = |path: &Path| TextDataset::open(base, path);
                beside(open(&self.data)?, held_out.map(open).transpose()?, TextDataset::sequences)
            }
            Format::Instructions => {
                let template = Template::alpaca();
                let open =
                    |path: &Path| InstructionDataset::open(base, path, &template, Rows::Packed);
                let held_out = held_out.map(open).transpose()?;
                beside(open(&self.data)?, held_out, InstructionDataset::batches)
            }
            Format::Labelled => {
                let open = |path: &Path| LabelledDataset::open(base, path);
                beside(open(&self.data)?, held_out.map(open).transpose()?, LabelledDataset::batches)
            }
        })
    }
}

fn beside<T: TrainingTask + 'static>(
    task: T,
    held_out: Option<T>,
    batches: fn(&T, usize, usize) -> Vec<Batch>,
) -> Arc<dyn TrainingTask> {
    match held_out {
        None => Arc::new(task),
        Some(held_out) => {
            Arc::new(HeldOut::new(task, move |rows, cols| batches(&held_out, rows, cols)))
        }
    }
}
