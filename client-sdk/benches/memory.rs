//! What fine-tuning SmolLM2-135M takes and gives, by how its base is held, with and without gradient checkpointing.
//!
//! `cargo bench -p gossamer-client --bench memory [-- SEQUENCES] [STORAGE]`: steps of so many sequences (1) of 128
//! tokens, LoRA of rank 8 on q and v, AdamW, on one thread. Needs the model (`sim/models/fetch-smollm2` gets it)
//! and, in `GOSSAMER_DATA` or beside the checkout, `tinyshakespeare.txt`.
//!
//! Each row is a process of its own. `peak` is what Linux says was resident at most, from the process's start to
//! the last step, loading included; `estimate` what [`Memory`] says of base and training alone; `ms` the median
//! step's time on the processor; `before` and `after` 50 steps: nats a token of 16 held-out sequences.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use gossamer_client::data::TextDataset;
use gossamer_client::model::{BaseModel, Storage};
use gossamer_client::train::{Footprint, Job, Memory, Work, evaluate};
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::layout::Layout;
use gossamer_protocol::manifest::{MANIFEST_VERSION, Manifest};
use serde::{Deserialize, Serialize};

/// The allocator of the binaries.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const STEPS: usize = 50;
const COLS: usize = 128;
const HELD_OUT: usize = 16;

#[derive(Serialize, Deserialize)]
struct Measured {
    weights: usize,
    peak_kib: u64,
    estimate: u64,
    ms: f64,
    before: f64,
    after: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [row, storage, checkpoint, sequences] = &words[..]
        && row == "row"
    {
        let measured = measure(storage.parse()?, checkpoint.parse()?, sequences.parse()?)?;
        println!("{}", serde_json::to_string(&measured)?);
        return Ok(());
    }
    if !model().is_dir() {
        println!("NOT RUN: sim/models/fetch-smollm2 gets the model");
        return Ok(());
    }
    if !text().is_file() {
        println!("NOT RUN: no {}; set GOSSAMER_DATA", text().display());
        return Ok(());
    }
    let sequences = words.iter().find_map(|word| word.parse::<u32>().ok()).unwrap_or(1);
    let named: Vec<Storage> = words.iter().filter_map(|word| word.parse().ok()).collect();
    println!(
        "{sequences} x {COLS} tokens a step; MiB, ms a step, nats a token before and after {STEPS} steps"
    );
    println!("storage checkpoint  weights    peak estimate       ms   before    after");
    for storage in Storage::ALL.into_iter().filter(|s| named.is_empty() || named.contains(s)) {
        for checkpoint in [false, true] {
            let mut row = Command::new(std::env::current_exe()?);
            row.args(["row", &storage.to_string(), &checkpoint.to_string()]);
            let output = row.arg(sequences.to_string()).output()?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into());
            }
            let Measured { weights, peak_kib, estimate, ms, before, after } =
                serde_json::from_slice(&output.stdout)?;
            println!(
                "{:<8}{:<12}{:>7.0} {:>7.0} {:>8.0} {ms:>8.0} {before:>8.3} {after:>8.3}",
                storage.to_string(),
                if checkpoint { "yes" } else { "no" },
                weights as f64 / 1048576.0,
                peak_kib as f64 / 1024.0,
                estimate as f64 / 1048576.0,
            );
        }
    }
    Ok(())
}

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/models/smollm2")
}

fn text() -> PathBuf {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    std::env::var_os("GOSSAMER_DATA").map_or(beside, PathBuf::from).join("tinyshakespeare.txt")
}

fn measure(storage: Storage, checkpoint: bool, sequences: u32) -> Result<Measured, Box<dyn Error>> {
    let base = BaseModel::load_as(&model(), storage)?;
    let manifest = manifest(&base, sequences)?;
    let text = std::fs::read_to_string(text())?;
    // A tenth of it is more than is drawn; a part from the end is held out.
    let (seen, unseen) = (text.get(..text.len() / 10), text.get(text.len() * 9 / 10..));
    let (seen, unseen) = seen.zip(unseen).ok_or("a text in ASCII")?;
    let [task, unseen] = [seen, unseen].map(|text| TextDataset::new(&base, &[text.to_owned()]));
    let (task, mut held_out) = (task?, unseen?.sequences(1, COLS));
    held_out.truncate(HELD_OUT);
    drop(text);

    let theta = manifest.layout.init(1);
    let (client, round) = (ClientId([1; 16]), RoundId(0));
    let job = Job { base: &base, manifest: &manifest, theta: &theta, support: None, client, round };
    let footprint = Footprint { checkpoint, micro_batch: None };
    let mut work = Work::start(&job, &task)?.footprint(footprint);
    let mut steps = Vec::new();
    loop {
        let start = cpu();
        if work.step()?.is_none() {
            break;
        }
        steps.push(1e3 * (cpu() - start));
    }
    let trained = work.finish();
    let peak_kib = peak_kib();
    steps.sort_by(f64::total_cmp);
    let moved: Vec<f32> = theta.iter().zip(&trained.delta).map(|(a, b)| a + b).collect();
    let loss = |theta: &[f32]| evaluate(&base, &manifest, theta, &held_out).map(|e| e.mean());
    Ok(Measured {
        weights: base.n_bytes(),
        peak_kib,
        estimate: Memory::of(&base, &manifest, false, footprint).total(),
        ms: steps[steps.len() / 2],
        before: loss(&theta)?,
        after: loss(&moved)?,
    })
}

fn manifest(base: &BaseModel, sequences: u32) -> Result<Manifest, Box<dyn Error>> {
    let targets = ["q_proj", "v_proj"].map(String::from);
    let layout = Layout::lora(&base.linears(), &targets, 8, false)?;
    Ok(serde_json::from_value(serde_json::json!({
        "version": MANIFEST_VERSION, "name": "memory", "seed": 1, "rounds": 1,
        "base": { "name": "smollm2", "digest": base.digest() },
        "lora": { "rank": 8, "alpha": 16.0, "targets": targets },
        "layout": layout,
        "method": { "download": { "density": 1.0 }, "upload": { "density": 1.0 } },
        "training": {
            "steps": STEPS, "batch": sequences, "context": COLS,
            "optimizer": { "kind": "adamw", "lr": 1e-3 },
        },
        "cohort": { "goal": 1, "ask": 1, "min": 1, "deadline_s": 60 },
        "optimizer": { "kind": "sgd", "lr": 1.0 },
    }))?)
}

/// Seconds this thread was on a processor, where Linux tells it; elsewhere of the clock.
fn cpu() -> f64 {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanoseconds = text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
    nanoseconds.map_or_else(|| START.elapsed().as_secs_f64(), |ns| ns / 1e9)
}

fn peak_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}
