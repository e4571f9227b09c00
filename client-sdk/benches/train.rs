//! Tokens a second on one core trained with LoRA of rank 8 on all seven linears of stories260K, 4 x 64
//! tokens a step: the trainer, and forward and backward of the same model from candle's own operations,
//! which wants `RAYON_NUM_THREADS=1` for a fair ratio.
//!
//! And of MiniLM with LoRA of rank 8 on query and value and a head of 20 classes, 8 x 64 tokens a step,
//! where `sim/models/fetch-minilm` has been run. Floating-point operations a token: forward
//! `L (2 (4 d^2 + 2 d f) + 4 T d) = 21.8 M` (`L` = 6, `d` = 384, `f` = 1536, `T` = 64), backward as many
//! for the linears' inputs (none for the lowest query, key and value) and 2.5 times as many for
//! attention, `20.4 M + 1.5 M`; training 43.6 M, and 1 % more for the branches.
//!
//! `RAYON_NUM_THREADS=1 cargo bench -p gossamer-client --bench train`; the data is looked for as in
//! the tests.

#[path = "pytorch/candle.rs"]
mod candle;

use std::hint::black_box;
use std::path::PathBuf;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gossamer_client::data::{Batch, Example, LabelledDataset, Plan, TextDataset, TrainingTask};
use gossamer_client::model::BaseModel;
use gossamer_client::train::{Control, Job, evaluate, train};
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::layout::Layout;
use gossamer_protocol::manifest::{Head, MANIFEST_VERSION, Manifest};

const ROWS: usize = 4;
const COLS: usize = 64;
const STEPS: u32 = 4;

const LLAMA: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

fn manifest(base: &BaseModel, targets: &[&str], head: Option<Head>, batch: usize) -> Manifest {
    let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
    let mut layout = Layout::lora(&base.linears(), &targets, 8, false).expect("targets exist");
    if let Some(head) = head {
        layout = layout.with_head(head.classes, base.hidden()).expect("a layout");
    }
    let manifest: Manifest = serde_json::from_value(serde_json::json!({
        "version": MANIFEST_VERSION, "name": "bench", "seed": 1, "rounds": 1,
        "base": { "name": "base", "digest": base.digest() },
        "lora": { "rank": 8, "alpha": 16.0, "targets": targets },
        "layout": layout,
        "method": { "download": { "density": 1.0 }, "upload": { "density": 1.0 } },
        "training": {
            "steps": STEPS, "batch": batch, "context": COLS,
            "optimizer": { "kind": "sgd", "lr": 0.01 },
        },
        "cohort": { "goal": 1, "ask": 1, "min": 1, "deadline_s": 60 },
        "optimizer": { "kind": "sgd", "lr": 1.0 },
    }))
    .expect("a manifest");
    Manifest { head, ..manifest }
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
    let manifest = manifest(&base, &LLAMA, None, ROWS);
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
    let model = candle::Llama::new(base.llama().expect("its family"), &LLAMA).expect("fits");
    assert_eq!(model.trained(), theta.len());
    group.bench_function("candle", |b| {
        b.iter(|| {
            for Batch { inputs, targets, rows, .. } in &batches {
                model.step(black_box(inputs), targets, *rows).expect("differentiable");
            }
        });
    });
    group.finish();
}

fn classifier(c: &mut Criterion) {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../sim/models/minilm");
    let Ok(base) = BaseModel::load(dir.as_ref()) else {
        println!("SKIPPED: no MiniLM; sim/models/fetch-minilm gets it");
        return;
    };
    let rows = 8;
    let manifest = manifest(&base, &["query", "value"], Some(Head { classes: 20 }), rows);
    let theta = vec![0.01; manifest.layout.n()];
    let text = "The dog liked to run in the park with his friends. ".repeat(8);
    let examples: Vec<Example> =
        (0..32).map(|at| Example { text: text.clone(), label: at % 20 }).collect();
    let task = LabelledDataset::new(&base, &examples, 20).expect("sound");
    let batches = task.batches(rows, COLS);
    assert!(batches.iter().all(|batch| batch.lengths == [COLS; 8]), "no padding is counted");
    let (client, round) = (ClientId([1; 16]), RoundId(0));

    let mut group = c.benchmark_group("minilm");
    group.sample_size(10);
    group.throughput(Throughput::Elements((rows * COLS) as u64 * u64::from(STEPS)));
    group.bench_function("train", |b| {
        let job =
            Job { base: &base, manifest: &manifest, theta: &theta, support: None, client, round };
        b.iter(|| train(black_box(&job), &task, &mut |_| Control::Continue).expect("trains"));
    });
    group.bench_function("evaluate", |b| {
        b.iter(|| evaluate(&base, &manifest, black_box(&theta), &batches).expect("runs"));
    });
    group.finish();
}

criterion_group!(benches, tokens, classifier);
criterion_main!(benches);
