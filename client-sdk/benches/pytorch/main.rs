//! A training step against PyTorch + PEFT's: the same model, adapter, batch and thread count, in turn.
//!
//! `cargo bench -p gossamer-client --bench pytorch [-- ROW]`, with a Python that has `peft`, `torch` and
//! `transformers` (`GOSSAMER_PYTHON`, or `python3`). Rows whose model is not there say how to get it.
//!
//! Each side runs in processes of its own, in turn, so that each has its own peak of memory; a row's time is
//! the median over all processes' steps, the first two of each left out. With one thread that is time on the
//! processor, which what else runs on the machine does not lengthen; with two that of the clock. `floor` is
//! the time that the step's floating-point operations take at the rate of a matrix product of 512 x 512 x 512.
//! `candle` is forward and backward of the same model from candle's own primitives (decoders).
//!
//! `-- --device cuda [ROW]`, in a build with `--features cuda`, times the same rows on a GPU, in `f32` and with the
//! base in `bf16`; `cpu` there is candle's own CPU device, by which one sees that it runs.

mod candle;
mod gpu;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use candle_core::{Device, Tensor};
use gossamer_client::data::{Batch, Plan, TaskError, TrainingTask};
use gossamer_client::model::BaseModel;
use gossamer_client::train::{Control, Job, Team, train};
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::layout::Layout;
use gossamer_protocol::manifest::{Head, MANIFEST_VERSION, Manifest};
use serde::{Deserialize, Serialize};

/// The allocator of the binaries.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Processes of each side.
const TURNS: usize = 3;
/// Steps that a process takes before any counts.
const WARM: usize = 2;
/// Of the matrices of the product whose rate is the floor's.
const SIDE: usize = 512;

struct Row {
    name: &'static str,
    model: &'static str,
    rows: usize,
    cols: usize,
    targets: &'static [&'static str],
    classes: u32,
    steps: usize,
}

const ALL: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
const ROWS: [Row; 4] = [
    Row {
        name: "stories260k 8x128",
        model: "stories260k",
        rows: 8,
        cols: 128,
        targets: &ALL,
        classes: 0,
        steps: 40,
    },
    Row {
        name: "minilm 16x64",
        model: "minilm",
        rows: 16,
        cols: 64,
        targets: &["query", "value"],
        classes: 20,
        steps: 8,
    },
    Row {
        name: "smollm2 1x128",
        model: "smollm2",
        rows: 1,
        cols: 128,
        targets: &["q_proj", "v_proj"],
        classes: 0,
        steps: 6,
    },
    Row {
        name: "smollm2 4x128",
        model: "smollm2",
        rows: 4,
        cols: 128,
        targets: &["q_proj", "v_proj"],
        classes: 0,
        steps: 5,
    },
];

/// What a process measured.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Measured {
    /// Seconds of each step.
    wall: Vec<f64>,
    /// The same on the processor.
    cpu: Vec<f64>,
    peak_kib: u64,
    /// Trained parameters: both sides must have as many.
    trained: usize,
}

impl Measured {
    fn add(&mut self, other: Self) {
        self.wall.extend(&other.wall[WARM..]);
        self.cpu.extend(&other.cpu[WARM..]);
        self.peak_kib = self.peak_kib.max(other.peak_kib);
        self.trained = other.trained;
    }

    fn median(&self, threads: usize) -> f64 {
        let mut steps = if threads == 1 { self.cpu.clone() } else { self.wall.clone() };
        steps.sort_by(f64::total_cmp);
        steps.get(steps.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [flag, device, rows @ ..] = &words[..]
        && flag == "--device"
    {
        return gpu::table(device, rows);
    }
    if let [side, row, device, storage] = &words[..]
        && side == "gpu"
        && let Some(row) = ROWS.iter().find(|known| known.name == row)
    {
        println!("{}", serde_json::to_string(&gpu::ours(row, device, storage.parse()?)?)?);
        return Ok(());
    }
    if let [side, row, threads] = &words[..]
        && let Some(row) = ROWS.iter().find(|known| known.name == row)
    {
        let measured = match side.as_str() {
            "ours" => Team::new(threads.parse()?)?.run(|| ours(row).map_err(|e| e.to_string()))?,
            "product" => product()?,
            _ => candle(row)?,
        };
        println!("{}", serde_json::to_string(&measured)?);
        return Ok(());
    }
    let python = std::env::var_os("GOSSAMER_PYTHON").unwrap_or_else(|| "python3".into());
    // In a process with one thread; the kernel counts processor time coarser than one product takes.
    let times = again("product", &ROWS[0], 1)?.cpu;
    let rate = 2.0 * (SIDE as f64).powi(3) * times.len() as f64 / times.iter().sum::<f64>();
    println!("a product of {SIDE} x {SIDE} x {SIDE}: {:.0} GF/s on one core", rate / 1e9);
    println!(
        "ms a step, median; ratio: PyTorch by ours; memory: most resident MiB, ours by PyTorch's"
    );
    println!(
        "row                threads     ours  PyTorch  ratio   candle    floor  MiB ours  PyTorch  ratio"
    );
    for row in ROWS.iter().filter(|row| words.iter().all(|word| row.name.contains(word.as_str()))) {
        let model = place(row);
        if !model.is_dir() {
            println!("{:<18} NOT RUN: sim/models/fetch-{} gets its model", row.name, row.model);
            continue;
        }
        let floor = operations(row)? / rate;
        for threads in [1, 2] {
            let (mut our, mut their, mut candles) = <(Measured, Measured, Measured)>::default();
            for _ in 0..TURNS {
                our.add(again("ours", row, threads)?);
                their.add(pytorch(&python, row, threads)?);
                if row.classes == 0 {
                    candles.add(again("candle", row, threads)?);
                }
            }
            if our.trained != their.trained {
                return Err(format!("{} parameters, PyTorch {}", our.trained, their.trained).into());
            }
            let ms = |of: &Measured| 1e3 * of.median(threads);
            let mib = |of: &Measured| of.peak_kib as f64 / 1024.0;
            println!(
                "{:<18} {threads:>7} {:>8.1} {:>8.1} {:>5.2}x {:>8.1} {:>8.1} {:>9.0} {:>8.0} {:>5.2}x",
                row.name,
                ms(&our),
                ms(&their),
                ms(&their) / ms(&our),
                ms(&candles),
                1e3 * floor / threads as f64,
                mib(&our),
                mib(&their),
                mib(&our) / mib(&their),
            );
        }
    }
    Ok(())
}

fn place(row: &Row) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if row.model != "stories260k" {
        return root.join("sim/models").join(row.model);
    }
    let data = std::env::var_os("GOSSAMER_DATA").map(PathBuf::from);
    data.unwrap_or_else(|| root.join("../shared/data")).join(row.model)
}

/// This program again, for one side.
fn again(side: &str, row: &Row, threads: usize) -> Result<Measured, Box<dyn Error>> {
    let mut run = Command::new(std::env::current_exe()?);
    run.args([side, row.name, &threads.to_string()]).env("RAYON_NUM_THREADS", threads.to_string());
    measured(run)
}

fn pytorch(
    python: &std::ffi::OsStr,
    row: &Row,
    threads: usize,
) -> Result<Measured, Box<dyn Error>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/train_step.py");
    let numbers = [row.rows, row.cols].map(|n| n.to_string());
    let rest = [row.classes as usize, threads, row.steps].map(|n| n.to_string());
    let mut run = Command::new(python);
    run.arg(script).arg(place(row)).args(numbers).arg(row.targets.join(",")).args(rest);
    measured(run.env("OMP_NUM_THREADS", threads.to_string()))
}

fn measured(mut run: impl std::borrow::BorrowMut<Command>) -> Result<Measured, Box<dyn Error>> {
    let output = run.borrow_mut().output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(serde_json::from_str(line)?)
}

/// Seconds this thread was on a processor, where Linux tells it; elsewhere by the clock.
fn cpu(start: Instant) -> f64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanoseconds = text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
    nanoseconds.map_or_else(|| start.elapsed().as_secs_f64(), |ns| ns / 1e9)
}

fn peak_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

fn manifest(base: &BaseModel, row: &Row) -> Result<Manifest, Box<dyn Error>> {
    let targets: Vec<String> = row.targets.iter().map(ToString::to_string).collect();
    let mut layout = Layout::lora(&base.linears(), &targets, 8, false)?;
    if row.classes > 0 {
        layout = layout.with_head(row.classes, base.hidden())?;
    }
    let manifest: Manifest = serde_json::from_value(serde_json::json!({
        "version": MANIFEST_VERSION, "name": "bench", "seed": 1, "rounds": 1,
        "base": { "name": row.model, "digest": base.digest() },
        "lora": { "rank": 8, "alpha": 16.0, "targets": targets },
        "layout": layout,
        "method": { "download": { "density": 1.0 }, "upload": { "density": 1.0 } },
        "training": {
            "steps": row.steps, "batch": row.rows, "context": row.cols,
            "optimizer": { "kind": "adamw", "lr": 1e-4 },
        },
        "cohort": { "goal": 1, "ask": 1, "min": 1, "deadline_s": 60 },
        "optimizer": { "kind": "sgd", "lr": 1.0 },
    }))?;
    let head = (row.classes > 0).then_some(Head { classes: row.classes });
    Ok(Manifest { head, ..manifest })
}

/// Drawn tokens, full rows.
struct Drawn {
    vocab: u64,
    classes: u32,
}

impl TrainingTask for Drawn {
    fn examples(&self) -> usize {
        1
    }

    fn has_loss(&self) -> bool {
        false
    }

    fn batch(&self, plan: &Plan, step: u32) -> Result<Batch, TaskError> {
        let mut stream = plan.stream("bench", u64::from(step));
        let inputs: Vec<u32> =
            (0..plan.rows * plan.cols).map(|_| 5 + stream.below(self.vocab - 10) as u32).collect();
        let targets = match self.classes {
            0 => inputs.clone(),
            classes => (0..plan.rows).map(|_| stream.below(classes.into()) as u32).collect(),
        };
        // All of them are full.
        let lengths = Vec::new();
        Ok(Batch { rows: plan.rows, cols: plan.cols, inputs, targets, lengths })
    }
}

fn ours(row: &Row) -> Result<Measured, Box<dyn Error>> {
    steps(row, &BaseModel::load(&place(row))?)
}

fn steps(row: &Row, base: &BaseModel) -> Result<Measured, Box<dyn Error>> {
    let manifest = manifest(base, row)?;
    let theta = manifest.layout.init(1);
    let (client, round) = (ClientId([1; 16]), RoundId(0));
    let job = Job { base, manifest: &manifest, theta: &theta, support: None, client, round };
    let vocab = base.limits(None).vocab as u64;
    let task = Drawn { vocab, classes: row.classes };
    let mut measured = Measured { trained: theta.len(), ..Measured::default() };
    let start = Instant::now();
    let (mut wall, mut used) = (0.0, cpu(start));
    train(&job, &task, &mut |_| {
        let now = (start.elapsed().as_secs_f64(), cpu(start));
        measured.wall.push(now.0 - wall);
        measured.cpu.push(now.1 - used);
        (wall, used) = now;
        Control::Continue
    })?;
    measured.peak_kib = peak_kib();
    Ok(measured)
}

fn candle(row: &Row) -> Result<Measured, Box<dyn Error>> {
    let base = BaseModel::load(&place(row))?;
    let config = base.llama().ok_or("candle's column is of decoders")?;
    let model = candle::Llama::new(config, row.targets)?;
    let task = Drawn { vocab: config.vocab as u64, classes: 0 };
    drop(base);
    let (client, round) = (ClientId([1; 16]), RoundId(0));
    let plan = Plan { seed: 1, client, round, rows: row.rows, cols: row.cols };
    let mut measured = Measured { trained: model.trained(), ..Measured::default() };
    let start = Instant::now();
    for step in 0..row.steps {
        let batch = task.batch(&plan, step as u32)?;
        let (wall, used) = (start.elapsed().as_secs_f64(), cpu(start));
        model.step(&batch.inputs, &batch.targets, batch.rows)?;
        measured.wall.push(start.elapsed().as_secs_f64() - wall);
        measured.cpu.push(cpu(start) - used);
    }
    measured.peak_kib = peak_kib();
    Ok(measured)
}

/// A large product, many times.
fn product() -> Result<Measured, Box<dyn Error>> {
    let numbers: Vec<f32> = (0..SIDE * SIDE).map(|i| (i % 7) as f32 * 0.1).collect();
    let a = Tensor::from_vec(numbers, (SIDE, SIDE), &Device::Cpu)?;
    let mut measured = Measured::default();
    let start = Instant::now();
    for _ in 0..200 {
        let (wall, used) = (start.elapsed().as_secs_f64(), cpu(start));
        std::hint::black_box(a.matmul(&a)?);
        measured.wall.push(start.elapsed().as_secs_f64() - wall);
        measured.cpu.push(cpu(start) - used);
    }
    Ok(measured)
}

/// Floating-point operations of a step: of each linear `2 d_in d_out` a token forward and as many for its
/// input's gradient (counted for all, though none flows below the lowest adapted one), of a decoder's head
/// the same, of attention `4 T d` a token and layer forward, half of it where causal, and 2.5 times that
/// backward. Branches add one to three per cent and are left out.
fn operations(row: &Row) -> Result<f64, Box<dyn Error>> {
    let base = BaseModel::load(&place(row))?;
    let all = base.linears();
    let linears: f64 = all.iter().map(|l| (l.d_in * l.d_out) as f64).sum();
    let (hidden, vocab) = (base.hidden() as f64, base.limits(None).vocab as f64);
    let layers = all.iter().filter(|l| {
        let name = l.name.as_str();
        name.ends_with("q_proj") || name.ends_with("query")
    });
    let causal = if row.classes == 0 { 0.5 } else { 1.0 };
    let attention = layers.count() as f64 * 4.0 * row.cols as f64 * hidden * causal;
    let head = if row.classes == 0 { hidden * vocab } else { 0.0 };
    let tokens = (row.rows * row.cols) as f64;
    Ok(tokens * (4.0 * (linears + head) + 3.5 * attention))
}
