//! stories260K against PyTorch: logits, loss, gradients, three steps of each optimiser, greedy text.
//!
//! The numbers in `golden/stories260k.json` are what `python/stories260k.py` printed.

use std::path::PathBuf;
use std::sync::Mutex;

use candle_core::Tensor;
use gossamer_client::data::{Batch, IGNORE, Plan, TaskError, TrainingTask};
use gossamer_client::model::BaseModel;
use gossamer_client::train::{Control, Job, Trained, evaluate, generate, train};
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::layout::Layout;
use gossamer_protocol::manifest::{LocalOptimizer, MANIFEST_VERSION, Manifest};
use serde_json::Value;

const GOLDEN: &str = include_str!("golden/stories260k.json");

/// How far a number may be from PyTorch's in float64, of its size or of 1.
const TOLERANCE: f64 = 1e-4;

/// The base model, or `None`, said plainly, where the data is not there; with `CI` set it must be.
fn base() -> Option<BaseModel> {
    let data = std::env::var_os("GOSSAMER_DATA").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")),
        PathBuf::from,
    );
    let dir = data.join("stories260k");
    if !dir.is_dir() {
        assert!(
            std::env::var_os("CI").is_none(),
            "stories260k is missing in {}, and CI must run this test",
            data.display()
        );
        println!("SKIPPED: no stories260k in {}; set GOSSAMER_DATA", data.display());
        return None;
    }
    Some(BaseModel::load(&dir).expect("stories260k loads"))
}

fn golden() -> Value {
    serde_json::from_str(GOLDEN).expect("golden JSON")
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn near(what: &str, got: f64, want: f64) {
    assert!(
        (got - want).abs() <= TOLERANCE * want.abs().max(1.0),
        "{what}: {got}, torch has {want}"
    );
}

/// Compares with the script's `summary`.
fn same(what: &str, got: &[f32], want: &Value) {
    let norm = got.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let sum: f64 = got.iter().enumerate().map(|(i, &x)| f64::from(x) * (i as f64).cos()).sum();
    near(&format!("{what} norm"), norm, number(&want["norm"]));
    near(&format!("{what} sum"), sum, number(&want["sum"]));
    for (i, want) in want["first"].as_array().expect("entries").iter().enumerate() {
        near(&format!("{what}[{i}]"), f64::from(got[i]), number(want));
    }
}

/// The script's recipe on all seven linears.
fn manifest(base: &BaseModel, golden: &Value, steps: u32, optimizer: LocalOptimizer) -> Manifest {
    let targets: Vec<String> =
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
            .map(String::from)
            .into();
    let rank = golden["rank"].as_u64().expect("rank") as usize;
    let layout = Layout::lora(&base.linears(), &targets, rank, false).expect("targets exist");
    serde_json::from_value(serde_json::json!({
        "version": MANIFEST_VERSION, "name": "golden", "seed": 1, "rounds": 1,
        "base": { "name": "stories260k", "digest": base.digest() },
        "lora": { "rank": rank, "alpha": golden["alpha"], "targets": targets },
        "layout": layout,
        "method": { "download": { "density": 1.0 }, "upload": { "density": 1.0 } },
        "training": { "steps": steps, "batch": 2, "context": 24, "optimizer": optimizer },
        "cohort": { "goal": 1, "ask": 1, "min": 1, "deadline_s": 60 },
        "optimizer": { "kind": "sgd", "lr": 1.0 },
    }))
    .expect("a manifest")
}

/// The script's `start` for every tensor.
fn start(manifest: &Manifest) -> Vec<f32> {
    let tensor = |(index, (tensor, _)): (usize, (&gossamer_protocol::layout::TensorSpec, _))| {
        let amplitude = if index % 2 == 0 { 0.1 } else { 0.05 };
        let value = move |i: usize| amplitude * (0.1 * (i + 1) as f64 * (index + 1) as f64).sin();
        (0..tensor.len()).map(move |i| value(i) as f32)
    };
    manifest.layout.tensors().enumerate().flat_map(tensor).collect()
}

/// The script's batches, step by step, keeping the logits it is shown.
struct Given {
    batches: Vec<Batch>,
    logits: Mutex<Vec<Vec<f32>>>,
}

impl Given {
    fn new(batches: Vec<Batch>) -> Self {
        Self { batches, logits: Mutex::default() }
    }

    fn golden(golden: &Value) -> Self {
        let numbers = |value: &Value| -> Vec<i64> {
            value.as_array().expect("list").iter().map(|x| x.as_i64().expect("integer")).collect()
        };
        let batch = |value: &Value| Batch {
            inputs: numbers(&value["inputs"]).into_iter().map(|x| x as u32).collect(),
            targets: numbers(&value["targets"])
                .into_iter()
                .map(|x| if x < 0 { IGNORE } else { x as u32 })
                .collect(),
            lengths: vec![],
            rows: value["rows"].as_u64().expect("rows") as usize,
            cols: value["cols"].as_u64().expect("cols") as usize,
        };
        Self::new(golden["batches"].as_array().expect("batches").iter().map(batch).collect())
    }
}

impl TrainingTask for Given {
    fn examples(&self) -> usize {
        self.batches.len()
    }

    fn batch(&self, _: &Plan, step: u32) -> Result<Batch, TaskError> {
        Ok(self.batches[step as usize].clone())
    }

    fn loss(&self, logits: &Tensor, _: &Batch) -> Result<Option<Tensor>, TaskError> {
        self.logits.lock().expect("not poisoned").push(logits.flatten_all()?.to_vec1()?);
        Ok(None)
    }
}

fn run(base: &BaseModel, manifest: &Manifest, theta: &[f32], task: &Given) -> (Trained, Vec<f32>) {
    let (client, round) = (ClientId([7; 16]), RoundId(0));
    let job = Job { base, manifest, theta, support: None, client, round };
    let mut losses = Vec::new();
    let trained = train(&job, task, &mut |progress| {
        losses.push(progress.loss);
        Control::Continue
    });
    (trained.expect("trains"), losses)
}

#[test]
fn tokens_and_logits_of_a_prompt() {
    let Some(base) = base() else { return };
    let golden = &golden()["prompt"];
    let mut tokens = vec![base.llama().and_then(|config| config.bos).expect("stories260k has one")];
    tokens.extend(base.encode(golden["text"].as_str().expect("text")).expect("encodes"));
    let want: Vec<u32> = serde_json::from_value(golden["tokens"].clone()).expect("tokens");
    assert_eq!(tokens, want);

    let cols = tokens.len();
    let batch = Batch { inputs: tokens, targets: vec![5; cols], rows: 1, cols, ..Batch::default() };
    let task = Given::new(vec![batch]);
    let mut manifest =
        manifest(&base, &self::golden(), 1, LocalOptimizer::Sgd { lr: 1.0, momentum: 0.0 });
    manifest.training.steps = 1;
    // B is 0, so the logits are the base's own.
    run(&base, &manifest, &manifest.layout.init(1), &task);
    let logits = task.logits.lock().expect("not poisoned").remove(0);
    let rows: Vec<&[f32]> = logits.chunks_exact(base.llama().expect("a decoder").vocab).collect();
    for (i, (row, want)) in rows.iter().zip(golden["rows"].as_array().expect("rows")).enumerate() {
        same(&format!("logits of row {i}"), row, want);
    }
    let last = golden["last_logits"].as_array().expect("logits");
    assert_eq!(rows[cols - 1].len(), last.len());
    for (i, want) in last.iter().enumerate() {
        near(&format!("last logits[{i}]"), f64::from(rows[cols - 1][i]), number(want));
    }
}

#[test]
fn loss_and_every_adapter_tensors_gradient() {
    let Some(base) = base() else { return };
    let golden = golden();
    // One plain step of size 1: the delta is minus the gradient.
    let manifest = manifest(&base, &golden, 1, LocalOptimizer::Sgd { lr: 1.0, momentum: 0.0 });
    let theta = start(&manifest);
    let task = Given::golden(&golden);
    let (trained, _) = run(&base, &manifest, &theta, &task);
    near("loss", f64::from(trained.last_loss), number(&golden["loss"]));
    let gradient: Vec<f32> = trained.delta.iter().map(|delta| -delta).collect();
    let want = golden["gradients"].as_object().expect("by name");
    assert_eq!(want.len(), manifest.layout.tensors().count());
    for (tensor, place) in manifest.layout.tensors() {
        same(&format!("gradient of {}", tensor.name), &gradient[place], &want[&tensor.name]);
    }
    let sum = evaluate(&base, &manifest, &theta, &task.batches[..1]).expect("evaluates");
    near("evaluation", sum.mean(), number(&golden["loss"]));
    assert_eq!(sum.tokens, 42);
}

#[test]
fn one_and_three_steps_of_each_optimiser() {
    let Some(base) = base() else { return };
    let golden = golden();
    let sgd = LocalOptimizer::Sgd { lr: 0.05, momentum: 0.9 };
    let adamw = LocalOptimizer::AdamW { lr: 0.01, weight_decay: 0.1 };
    for (name, optimizer) in [("sgd", sgd), ("sgd-clipped", sgd), ("adamw", adamw)] {
        let golden_run = &golden["training"][name];
        for steps in [1, 3] {
            let mut manifest = manifest(&base, &golden, steps, optimizer);
            manifest.training.clip = golden_run["clip"].as_f64().map(|clip| clip as f32);
            let theta = start(&manifest);
            let (trained, losses) = run(&base, &manifest, &theta, &Given::golden(&golden));
            for (i, loss) in losses.iter().enumerate() {
                near(
                    &format!("{name} loss {i}"),
                    f64::from(*loss),
                    number(&golden_run["losses"][i]),
                );
            }
            let local: Vec<f32> = theta.iter().zip(&trained.delta).map(|(t, d)| t + d).collect();
            let after = &golden_run["after"][steps.to_string()];
            for (tensor, place) in manifest.layout.tensors() {
                let what = format!("{name}, {steps} steps, {}", tensor.name);
                same(&what, &local[place], &after[&tensor.name]);
            }
        }
    }
}

#[test]
fn greedy_text() {
    let Some(base) = base() else { return };
    let golden = &golden()["greedy"];
    let prompt = golden["prompt"].as_str().expect("text");
    let new = golden["new"].as_u64().expect("count") as usize;
    let text = generate(&base, None, prompt, new).expect("generates");
    assert_eq!(text, golden["text"].as_str().expect("text"));
}
