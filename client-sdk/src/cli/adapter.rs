//! `adapter info | import | export | merge`: PEFT's folders, in and out.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use gossamer_protocol::ids::RunId;
use gossamer_protocol::layout::Part;
use gossamer_protocol::manifest::{LocalOptimizer, Training};
use serde_json::{Value, json};

use crate::model::BaseModel;
use crate::peft;

/// What to do with adapters.
#[derive(Subcommand)]
pub(super) enum Adapter {
    /// Checks a PEFT adapter against a base model, and shows what is in it.
    Info(Pair),
    /// Checks a PEFT adapter against a base model, and writes it anew: F32, and with the base's digest, so
    /// that it is refused on any other.
    Import {
        #[command(flatten)]
        pair: Pair,
        /// The folder to write, made where it is not there.
        #[arg(long)]
        out: PathBuf,
    },
    /// Writes the adapter that this device last received as PEFT keeps it.
    Export {
        /// The device's state folder.
        #[arg(long, default_value = "gossamer-state")]
        state: PathBuf,
        /// The run, where the device has taken part in several.
        #[arg(long)]
        run: Option<RunId>,
        /// The base model of the run.
        #[arg(long)]
        base: PathBuf,
        /// The folder to write, made where it is not there.
        #[arg(long)]
        out: PathBuf,
        /// Prints one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Adds an adapter to its base model's weights, and writes the sum as a model of its own.
    Merge {
        #[command(flatten)]
        pair: Pair,
        /// The folder to write, made where it is not there.
        #[arg(long)]
        out: PathBuf,
    },
}

#[derive(Args)]
pub(super) struct Pair {
    /// The adapter's folder: adapter_config.json and adapter_model.safetensors.
    adapter: PathBuf,
    /// The base model's folder.
    #[arg(long)]
    base: PathBuf,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: Adapter) -> anyhow::Result<()> {
    match command {
        Adapter::Info(pair) => {
            let adapter = peft::import(&pair.adapter, &load(&pair.base)?)?;
            if pair.json {
                println!("{:#}", facts(&adapter));
            } else {
                print!("{}", card(&adapter)?);
            }
            Ok(())
        }
        Adapter::Import { pair, out } => {
            let base = load(&pair.base)?;
            let adapter = peft::import(&pair.adapter, &base)?;
            let terms = peft::terms(&adapter, &base, nothing());
            peft::export(&out, &terms, &base, &adapter.theta)?;
            told(pair.json, &out, &facts(&adapter))
        }
        Adapter::Export { state, run, base, out, json } => {
            let (manifest, round, theta) = peft::received(&state, run)?;
            peft::export(&out, &manifest, &load(&base)?, &theta)?;
            told(json, &out, &json!({ "run": manifest.name, "round": round }))
        }
        Adapter::Merge { pair, out } => {
            peft::merge(&pair.base, &pair.adapter, &out)?;
            told(pair.json, &out, &json!({}))
        }
    }
}

fn load(base: &Path) -> anyhow::Result<BaseModel> {
    BaseModel::load(base).with_context(|| format!("the base model in {}", base.display()))
}

/// An adapter is written with its terms, of which a training's recipe is no part.
fn nothing() -> Training {
    let optimizer = LocalOptimizer::Sgd { lr: 1.0, momentum: 0.0 };
    Training { steps: 1, batch: 1, context: 3, optimizer, clip: None, proximal: 0.0 }
}

fn told(json: bool, out: &Path, more: &Value) -> anyhow::Result<()> {
    if json {
        let mut line = more.clone();
        line["folder"] = out.to_str().context("a folder's name is not Unicode")?.into();
        println!("{line}");
    } else {
        println!("wrote {}", out.display());
    }
    Ok(())
}

fn facts(adapter: &peft::Adapter) -> Value {
    let tensors: Vec<Value> = adapter
        .layout
        .tensors()
        .map(|(tensor, _)| json!({ "name": tensor.name, "shape": tensor.shape }))
        .collect();
    json!({
        "base": adapter.base,
        "lora": adapter.lora,
        "head": adapter.head,
        "parameters": adapter.layout.n(),
        "tensors": tensors,
    })
}

/// One line a module: its rank, its scale and the norm of B, which is 0 before training.
fn card(adapter: &peft::Adapter) -> anyhow::Result<String> {
    let rules = adapter.lora.rules()?;
    let mut text = format!("base        {}\n", adapter.base);
    text += &format!("parameters  {}\n", adapter.layout.n());
    if let Some(head) = adapter.head {
        text += &format!("head        {} classes\n", head.classes);
    }
    for (tensor, place) in adapter.layout.tensors().filter(|(t, _)| t.part == Part::LoraB) {
        let module = tensor.name.trim_end_matches(".lora_B");
        let square = |x: &f32| f64::from(*x).powi(2);
        let norm = adapter.theta[place].iter().map(square).sum::<f64>().sqrt();
        let (rank, scale) = (tensor.shape[1], rules.scale(module));
        text += &format!("{module}: rank {rank}, scale {scale}, |B| {norm:.4}\n");
    }
    Ok(text)
}
