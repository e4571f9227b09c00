//! Tokens a second on one core trained with LoRA of rank 8 on all seven linears of stories260K, 4 x 64
//! tokens a step: the trainer, and forward and backward of the same model composed from candle's
//! primitives, which wants `RAYON_NUM_THREADS=1` for a fair ratio.
//!
//! `RAYON_NUM_THREADS=1 cargo bench -p gossamer-client --bench train`; the data is looked for as in
//! the tests.

use std::hint::black_box;
use std::path::PathBuf;

use candle_core::{Device, Var};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gossamer_client::data::{Batch, Plan, TextDataset, TrainingTask};
use gossamer_client::model::BaseModel;
use gossamer_client::model::composed::{Branch, Composed, cross_entropy};
use gossamer_client::train::{Control, Job, evaluate, train};
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::layout::Layout;
use gossamer_protocol::manifest::{MANIFEST_VERSION, Manifest};

const ROWS: usize = 4;
const COLS: usize = 64;
const STEPS: u32 = 4;

fn manifest(base: &BaseModel) -> Manifest {
    let targets: Vec<String> =
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
            .map(String::from)
            .into();
    let layout = Layout::lora(&base.linears(), &targets, 8, false).expect("targets exist");
    serde_json::from_value(serde_json::json!({
        "version": MANIFEST_VERSION, "name": "bench", "seed": 1, "rounds": 1,
        "base": { "name": "stories260k", "digest": base.digest() },
        "lora": { "rank": 8, "alpha": 16.0, "targets": targets },
        "layout": layout,
        "method": { "download": { "density": 1.0 }, "upload": { "density": 1.0 } },
        "training": {
            "steps": STEPS, "batch": ROWS, "context": COLS,
            "optimizer": { "kind": "sgd", "lr": 0.01 },
        },
        "cohort": { "goal": 1, "ask": 1, "min": 1, "deadline_s": 60 },
        "optimizer": { "kind": "sgd", "lr": 1.0 },
    }))
    .expect("a manifest")
}

fn tokens(c: &mut Criterion) {
    let data = std::env::var_os("GOSSAMER_DATA").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")),
        PathBuf::from,
    );
    let Ok(base) = BaseModel::load(&data.join("stories260k")) else {
        println!("SKIPPED: no stories260k in {}; set GOSSAMER_DATA", data.display());
        return;
    };
    let manifest = manifest(&base);
    let theta = manifest.layout.init(1);
    let text =
        "Once there was a dog. The dog liked to run in the park with his friends. ".repeat(80);
    let task = TextDataset::new(&base, &[text]).expect("not empty");
    let (client, round) = (ClientId([1; 16]), RoundId(0));
    let plan = Plan { seed: 1, client, round, rows: ROWS, cols: COLS };

    let mut group = c.benchmark_group("stories260k");
    group.throughput(Throughput::Elements((ROWS * COLS) as u64 * u64::from(STEPS)));
    group.bench_function("train", |b| {
        let job =
            Job { base: &base, manifest: &manifest, theta: &theta, support: None, client, round };
        b.iter(|| train(black_box(&job), &task, &mut |_| Control::Continue).expect("trains"));
    });
    let batches: Vec<Batch> =
        (0..STEPS).map(|step| task.batch(&plan, step).expect("not empty")).collect();
    group.bench_function("evaluate", |b| {
        b.iter(|| evaluate(&base, &manifest, black_box(&theta), &batches).expect("runs"));
    });
    let composed = Composed::new(&base, &Device::Cpu).expect("fits");
    let vars: Vec<Var> = manifest
        .layout
        .tensors()
        .map(|(t, place)| Var::from_slice(&theta[place], &t.shape, &Device::Cpu).expect("shape"))
        .collect();
    let branch = |at: usize| {
        let [a, b] = [0, 1].map(|part| vars[2 * at + part].as_tensor().clone());
        Some(Branch { a, b, scale: 2.0 })
    };
    group.bench_function("composed", |b| {
        b.iter(|| {
            for batch in &batches {
                let logits = composed.logits(batch, &branch).expect("runs");
                let loss = cross_entropy(&logits, &batch.targets).expect("runs");
                black_box(loss.backward().expect("differentiable"));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, tokens);
criterion_main!(benches);
