//! Many adapters over one base: clients' steps a second on one core, through shared passes against one by one.
//!
//! `cargo bench -p gossamer-client --bench cohort`; stories260K is looked for as in the tests. LoRA of rank 8 on
//! all seven linears, AdamW, every client its own text. A client's turn is all that it does in a round of the
//! simulator between snapshot and update: it starts, takes one step and gives its change. Both ways are run in
//! turn, in this process, on one thread; what is given is the median of the turns, in time on the processor,
//! and of the ratios. Every change must have the same bits both ways.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use gossamer_client::data::TextDataset;
use gossamer_client::model::BaseModel;
use gossamer_client::train::{Control, Job, Passes, Trained, Work, train};
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::layout::Layout;
use gossamer_protocol::manifest::{MANIFEST_VERSION, Manifest};

/// The allocator of the binaries.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TARGETS: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
const SHAPES: [[usize; 2]; 2] = [[2, 32], [8, 128]];
const CLIENTS: [usize; 4] = [1, 4, 16, 64];
/// Seconds for each pair of a shape and a number of clients, and tokens that each way learns from in its turn.
const SECONDS: f64 = 8.0;
const TURN: usize = 1 << 15;

fn main() -> Result<(), Box<dyn Error>> {
    let data = std::env::var_os("GOSSAMER_DATA").map(PathBuf::from);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let data = data.unwrap_or(root).join("stories260k");
    if !data.is_dir() {
        println!("NOT RUN: no stories260k in {}; set GOSSAMER_DATA", data.display());
        return Ok(());
    }
    let base = BaseModel::load(&data)?;
    println!("clients' steps a second; ratio: together by one by one");
    println!("tokens   clients  a pass  one by one  together  ratio");
    for [rows, cols] in SHAPES {
        let manifest = manifest(&base, rows, cols)?;
        for n in CLIENTS {
            let tasks: Vec<TextDataset> =
                (0..n).map(|at| text(&base, at)).collect::<Result<_, _>>()?;
            let [alone, together, ratio] = pair(&base, &manifest, &tasks)?;
            println!(
                "{:<8} {n:>7} {:>7} {alone:>11.0} {together:>9.0} {ratio:>5.2}x",
                format!("{rows}x{cols}"),
                Passes::clients(&manifest).min(n),
            );
        }
    }
    Ok(())
}

/// Steps a second both ways, and the ratio, medians.
fn pair(
    base: &BaseModel,
    manifest: &Manifest,
    tasks: &[TextDataset],
) -> Result<[f64; 3], Box<dyn Error>> {
    let theta = manifest.layout.init(1);
    let job = |at: usize| {
        let (client, round) = (ClientId([at as u8; 16]), RoundId(0));
        Job { base, manifest, theta: &theta, support: None, client, round }
    };
    let alone = || -> Result<Vec<Trained>, Box<dyn Error>> {
        let each = tasks.iter().enumerate();
        each.map(|(at, task)| Ok(train(&job(at), task, &mut |_| Control::Continue)?)).collect()
    };
    let mut passes = Passes::default();
    let mut together = || -> Result<Vec<Trained>, Box<dyn Error>> {
        let mut done = Vec::with_capacity(tasks.len());
        // As many as share a pass are started together.
        for (first, tasks) in tasks.chunks(Passes::clients(manifest)).enumerate() {
            let first = first * Passes::clients(manifest);
            let works = tasks.iter().enumerate();
            let works = works.map(|(at, task)| Work::start(&job(first + at), task));
            let mut works: Vec<Work<'_>> = works.collect::<Result<_, _>>()?;
            let mut members: Vec<&mut Work<'_>> = works.iter_mut().collect();
            for outcome in passes.step(&mut members) {
                outcome?;
            }
            done.extend(works.into_iter().map(Work::finish));
        }
        Ok(done)
    };
    if alone()? != together()? {
        return Err("a client's change depends on who shares its pass".into());
    }
    let (mut rates, start) = ([const { Vec::new() }; 3], Instant::now());
    // The kernel counts processor time by the 4 ms: a turn takes about half a second.
    let tokens = (manifest.training.batch * manifest.training.context) as usize;
    let again = (TURN / (tasks.len() * tokens)).max(1);
    while start.elapsed().as_secs_f64() < SECONDS || rates[0].len() < 5 {
        let began = cpu(start);
        for _ in 0..again {
            std::hint::black_box(alone()?);
        }
        let middle = cpu(start);
        for _ in 0..again {
            std::hint::black_box(together()?);
        }
        let end = cpu(start);
        let steps = (again * tasks.len()) as f64;
        rates[0].push(steps / (middle - began));
        rates[1].push(steps / (end - middle));
        rates[2].push((middle - began) / (end - middle));
    }
    Ok(rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    }))
}

/// Seconds this thread was on a processor, where Linux tells it; elsewhere by the clock.
fn cpu(start: Instant) -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
    nanoseconds.map_or_else(|| start.elapsed().as_secs_f64(), |ns| ns / 1e9)
}

fn text(base: &BaseModel, at: usize) -> Result<TextDataset, Box<dyn Error>> {
    let text = format!("Once there was dog {at}. It liked to run in the park with its friends. ");
    Ok(TextDataset::new(base, &[text.repeat(200)])?)
}

fn manifest(base: &BaseModel, rows: usize, cols: usize) -> Result<Manifest, Box<dyn Error>> {
    let targets = TARGETS.map(String::from);
    let layout = Layout::lora(&base.linears(), &targets, 8, false)?;
    Ok(serde_json::from_value(serde_json::json!({
        "version": MANIFEST_VERSION, "name": "bench", "seed": 1, "rounds": 1,
        "base": { "name": "stories260k", "digest": base.digest() },
        "lora": { "rank": 8, "alpha": 16.0, "targets": targets },
        "layout": layout,
        "method": { "download": { "density": 1.0 }, "upload": { "density": 1.0 } },
        "training": {
            "steps": 1, "batch": rows, "context": cols,
            "optimizer": { "kind": "adamw", "lr": 1e-4 },
        },
        "cohort": { "goal": 1, "ask": 1, "min": 1, "deadline_s": 60 },
        "optimizer": { "kind": "sgd", "lr": 1.0 },
    }))?)
}
