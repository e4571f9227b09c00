//! What the tests against PyTorch share; `python/parity.py` is the other side.

use std::sync::Mutex;

use candle_core::Tensor;
use gossamer_client::data::{Batch, IGNORE, Plan, TaskError, TrainingTask};
use gossamer_client::model::BaseModel;
use gossamer_client::train::{Control, Job, train};
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::layout::{Layout, Part};
use gossamer_protocol::manifest::{Head, LocalOptimizer, MANIFEST_VERSION, Manifest};
use serde_json::{Value, json};

/// How far a tensor may be from PyTorch's in float64, of its norm.
const TOLERANCE: f64 = 1e-4;

pub(crate) fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

pub(crate) fn list<T: serde::de::DeserializeOwned>(value: &Value) -> Vec<T> {
    serde_json::from_value(value.clone()).expect("a list")
}

/// The scripts' `spread`.
pub(crate) fn spread(n: usize, tensor: usize, centre: f64, size: f64) -> Vec<f32> {
    let value = |i: usize| {
        let h = (i as f64 * 12.9898 + tensor as f64 * 78.233).sin() * 43_758.545_3;
        (centre + size * (2.0 * (h - h.floor()) - 1.0)) as f32
    };
    (1..=n).map(value).collect()
}

/// Compares with the scripts' `summary`.
pub(crate) fn same(what: &str, got: &[f32], want: &Value) {
    let size = number(&want["norm"]);
    assert!(size > 1e-9, "{what}: the reference is {size}, nothing flows");
    let near = |part: &str, got: f64, want: f64| {
        assert!((got - want).abs() <= TOLERANCE * size, "{what} {part}: {got}, torch has {want}");
    };
    near("norm", got.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt(), size);
    let sum = got.iter().enumerate().map(|(i, &x)| f64::from(x) * (i as f64).cos()).sum();
    near("sum", sum, number(&want["sum"]));
    for (i, want) in want["first"].as_array().expect("entries").iter().enumerate() {
        near("first", f64::from(got[i]), number(want));
    }
}

/// One batch a step; `targets` below 0 are none.
pub(crate) fn batch(inputs: &Value, targets: &Value, lengths: Vec<usize>, rows: usize) -> Batch {
    let target = |x: i64| if x < 0 { IGNORE } else { x as u32 };
    let inputs: Vec<u32> = list(inputs);
    let cols = inputs.len() / rows;
    let targets = list(targets).into_iter().map(target).collect();
    Batch { inputs, targets, lengths, rows, cols }
}

/// Batches step by step, keeping the first's logits.
struct Given<'a> {
    batches: &'a [Batch],
    logits: Mutex<Vec<f32>>,
}

impl TrainingTask for Given<'_> {
    fn examples(&self) -> usize {
        self.batches.len()
    }

    fn batch(&self, _: &Plan, step: u32) -> Result<Batch, TaskError> {
        Ok(self.batches[step as usize].clone())
    }

    fn loss(&self, logits: &Tensor, _: &Batch) -> Result<Option<Tensor>, TaskError> {
        let mut first = self.logits.lock().expect("not poisoned");
        if first.is_empty() {
            *first = logits.flatten_all()?.to_vec1()?;
        }
        Ok(None)
    }
}

/// LoRA as the golden file has it.
pub(crate) struct Recipe<'a> {
    pub(crate) targets: &'a [&'a str],
    pub(crate) rank: usize,
    pub(crate) alpha: f64,
    /// Of the factors' start.
    pub(crate) size: f64,
    pub(crate) head: Option<Head>,
}

impl Recipe<'_> {
    fn manifest(&self, base: &BaseModel, steps: usize, optimizer: LocalOptimizer) -> Manifest {
        let targets: Vec<String> = self.targets.iter().map(ToString::to_string).collect();
        let mut layout =
            Layout::lora(&base.linears(), &targets, self.rank, false).expect("targets exist");
        if let Some(Head { classes }) = self.head {
            layout = layout.with_head(classes, base.hidden()).expect("a layout");
        }
        let manifest: Manifest = serde_json::from_value(json!({
            "version": MANIFEST_VERSION, "name": "golden", "seed": 1, "rounds": 1,
            "base": { "name": "golden", "digest": base.digest() },
            "lora": { "rank": self.rank, "alpha": self.alpha, "targets": targets },
            "layout": layout,
            "method": { "download": { "density": 1.0 }, "upload": { "density": 1.0 } },
            "training": { "steps": steps, "batch": 2, "context": 32, "optimizer": optimizer },
            "cohort": { "goal": 1, "ask": 1, "min": 1, "deadline_s": 60 },
            "optimizer": { "kind": "sgd", "lr": 1.0 },
        }))
        .expect("a manifest");
        Manifest { head: self.head, ..manifest }
    }

    /// The scripts' start: factors from tensor number 1000, the head at 2000.
    fn start(&self, manifest: &Manifest) -> Vec<f32> {
        let mut theta = Vec::new();
        for (at, (tensor, _)) in manifest.layout.tensors().enumerate() {
            let (number, size) = match tensor.part {
                Part::Head => (2000 + usize::from(tensor.name == "classifier.bias"), 0.5),
                _ => (1000 + at, self.size),
            };
            theta.extend(spread(tensor.len(), number, 0.0, size));
        }
        theta
    }

    /// The first batch's logits, loss and every gradient, then AdamW over all batches: losses and
    /// every adapter tensor. `golden`: what the scripts' `run` gave.
    pub(crate) fn check(&self, name: &str, base: &BaseModel, batches: &[Batch], golden: &Value) {
        let sgd = LocalOptimizer::Sgd { lr: 1.0, momentum: 0.0 };
        let (_, gradient, logits) = self.train(base, 1, sgd, batches);
        let rows: Vec<&Value> = golden["logits"].as_array().expect("rows").iter().collect();
        assert_eq!(rows.len(), batches[0].targets.len(), "{name}");
        let width = logits.len() / rows.len();
        for (at, (row, want)) in logits.chunks_exact(width).zip(rows).enumerate() {
            same(&format!("{name}: logits {at}"), row, want);
        }
        // One plain step of size 1: the delta is minus the gradient.
        let gradient: Vec<f32> = gradient.iter().map(|delta| -delta).collect();
        self.compare(name, "gradient", base, &gradient, &golden["gradients"]);

        let losses: Vec<f64> = list(&golden["losses"]);
        assert_eq!(losses.len(), 10, "{name}: ten steps");
        let adamw = LocalOptimizer::AdamW { lr: number(&golden["lr"]), weight_decay: 0.1 };
        let (got, delta, _) = self.train(base, losses.len(), adamw, batches);
        for (at, (got, want)) in got.into_iter().zip(&losses).enumerate() {
            let off = (f64::from(got) - want).abs();
            assert!(off <= TOLERANCE * want, "{name}: loss {at}: {got}, torch has {want}");
        }
        let start = self.start(&self.manifest(base, losses.len(), adamw));
        let local: Vec<f32> = start.iter().zip(&delta).map(|(start, d)| start + d).collect();
        self.compare(name, "after ten steps", base, &local, &golden["after"]);
    }

    fn compare(&self, name: &str, what: &str, base: &BaseModel, got: &[f32], want: &Value) {
        let sgd = LocalOptimizer::Sgd { lr: 1.0, momentum: 0.0 };
        let layout = self.manifest(base, 1, sgd).layout;
        let want = want.as_object().expect("by name");
        assert_eq!(want.len(), layout.tensors().count(), "{name}: {what}");
        for (tensor, place) in layout.tensors() {
            let what = format!("{name}: {what}: {}", tensor.name);
            same(&what, &got[place], want.get(&tensor.name).expect(&what));
        }
    }

    /// Losses, delta and the first step's logits.
    fn train(
        &self,
        base: &BaseModel,
        steps: usize,
        optimizer: LocalOptimizer,
        batches: &[Batch],
    ) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let manifest = self.manifest(base, steps, optimizer);
        let theta = self.start(&manifest);
        let task = Given { batches, logits: Mutex::default() };
        let (client, round) = (ClientId([7; 16]), RoundId(0));
        let job = Job { base, manifest: &manifest, theta: &theta, support: None, client, round };
        let mut losses = Vec::new();
        let trained = train(&job, &task, &mut |progress| {
            losses.push(progress.loss);
            Control::Continue
        });
        let delta = trained.expect("trains").delta;
        (losses, delta, task.logits.into_inner().expect("not poisoned"))
    }
}
