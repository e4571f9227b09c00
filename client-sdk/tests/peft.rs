//! Interop with PEFT, both ways, on the same base: Gossamer trains and exports, PEFT loads; PEFT trains and
//! saves, Gossamer imports; and merged weights alone, by transformers. All give the same logits.
//!
//! Runs where Python has `peft`, `transformers` and `torch`: `GOSSAMER_PYTHON`, or `python3` on the path.
//! Elsewhere it says that it did not run, and with `CI` set it fails. PEFT's side is
//! `python/peft_interop.py`.

use std::path::{Path, PathBuf};
use std::process::Command;

use gossamer_client::data::{Batch, Plan, TaskError, TrainingTask};
use gossamer_client::model::BaseModel;
use gossamer_client::peft;
use gossamer_client::train::{Control, Job, logits, train};
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::manifest::{Base, Head, LocalOptimizer, Lora, Manifest, Targets, Training};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How far two logits may be apart, of their size or of 1.
const TOLERANCE: f32 = 1e-4;
/// How far an adapter must move some logit, so that a comparison says something.
const MOVED: f32 = 0.05;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/peft_interop.py");

/// A Python with PEFT, or `None`, said plainly; with `CI` set there must be one.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("GOSSAMER_PYTHON").map(PathBuf::from);
    let python = named.unwrap_or_else(|| "python3".into());
    let check = Command::new(&python).args(["-c", "import peft, torch, transformers"]).output();
    let why = match check {
        Ok(output) if output.status.success() => return Some(python),
        Ok(output) => {
            String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("").to_owned()
        }
        Err(error) => error.to_string(),
    };
    let python = python.display();
    assert!(std::env::var_os("CI").is_none(), "{python}: {why}; CI must run this test");
    println!("NOT RUN: {python}: {why}; interop needs peft, torch and transformers");
    None
}

fn script(python: &Path, command: &str, dir: &Path) {
    let mut run = Command::new(python);
    run.arg(SCRIPT).arg(command).arg(dir);
    run.env("OMP_NUM_THREADS", "1").env("HF_HUB_OFFLINE", "1").env("PYTHONDONTWRITEBYTECODE", "1");
    let output = run.output().expect("Python starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {errors}");
}

/// The random models of the script.
fn made(python: &Path) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    script(python, "make", dir.path());
    dir
}

/// The same batch at every step.
struct Fixed(Batch);

impl TrainingTask for Fixed {
    fn examples(&self) -> usize {
        self.0.rows
    }

    fn batch(&self, _: &Plan, _: u32) -> Result<Batch, TaskError> {
        Ok(self.0.clone())
    }
}

/// `rows` by `cols` tokens; with a head, rows of different lengths.
fn batch(vocab: usize, rows: usize, cols: usize, head: Option<Head>) -> Batch {
    let tokens = (0..rows * cols).map(|i| 3 + (i * i * 7 + i * 5) % (vocab - 3));
    let targets = match head {
        Some(Head { classes }) => (0..rows as u32).map(|row| row % classes).collect(),
        None => (0..rows * cols).map(|i| (i % (vocab - 1)) as u32).collect(),
    };
    let mut inputs: Vec<u32> = tokens.map(|token| token as u32).collect();
    let mut lengths = Vec::new();
    if head.is_some() {
        lengths = (0..rows).map(|row| cols - row).collect();
        for (row, &length) in lengths.iter().enumerate() {
            inputs[row * cols + length..(row + 1) * cols].fill(0);
        }
    }
    Batch { inputs, targets, lengths, rows, cols }
}

fn near(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let mut worst = 0.0_f32;
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let off = (got - want).abs() / want.abs().max(1.0);
        assert!(off <= TOLERANCE, "{what}, logit {i}: {got}, not {want}");
        worst = worst.max(off);
    }
    println!("{what}: {} logits, the worst {worst:.1e} apart", got.len());
}

fn apart(what: &str, a: &[f32], b: &[f32]) {
    let moved = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(moved > MOVED, "{what} moves no logit by more than {moved}");
}

/// Trains `lora` on the model in `folder`, and meets PEFT, which trains `theirs`.
fn meet(python: &Path, folder: &Path, lora: Lora, theirs: &Value, head: Option<Head>) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let base = BaseModel::load(folder).expect("loads");
    let lora = Lora { fan_in_fan_out: base.fan_in_fan_out(), ..lora };
    let mut layout = lora.layout(&base.linears()).expect("targets there are");
    if let Some(Head { classes }) = head {
        layout = layout.with_head(classes, base.hidden()).expect("fits");
    }
    let optimizer = LocalOptimizer::AdamW { lr: 0.02, weight_decay: 0.0 };
    let recipe = Training { steps: 5, batch: 3, context: 9, optimizer, clip: None, proximal: 0.0 };
    let frozen = Base { name: "base".into(), digest: base.digest() };
    let manifest = Manifest::alone(frozen, lora, layout, head, recipe.clone());
    let batch = batch(base.limits(None).vocab.min(200), 3, 9, head);
    let start = manifest.layout.init(11);
    let (client, round) = (ClientId([7; 16]), RoundId(0));
    let job = Job { base: &base, manifest: &manifest, theta: &start, support: None, client, round };
    let trained = train(&job, &Fixed(batch.clone()), &mut |_| Control::Continue).expect("trains");
    let theta: Vec<f32> = start.iter().zip(&trained.delta).map(|(a, b)| a + b).collect();
    let (ours, merged) = (dir.path().join("ours"), dir.path().join("merged"));
    peft::export(&ours, &manifest, &base, &theta).expect("exported");
    peft::merge(folder, &ours, &merged).expect("merged");

    let case = json!({
        "base": folder, "ours": ours, "merged": merged, "theirs": theirs,
        "classes": head.map_or(0, |head| head.classes),
        "batch": {
            "inputs": batch.inputs, "lengths": batch.lengths, "rows": batch.rows, "cols": batch.cols,
        },
    });
    std::fs::write(dir.path().join("case.json"), case.to_string()).expect("written");
    script(python, "meet", dir.path());
    let told = std::fs::read(dir.path().join("logits.json")).expect("the script wrote it");
    let told: Value = serde_json::from_slice(&told).expect("JSON");
    let peft_has =
        |name: &str| -> Vec<f32> { serde_json::from_value(told[name].clone()).expect("logits") };

    let got = logits(&base, &manifest, &theta, &batch).expect("runs");
    if head.is_none() {
        apart("our adapter", &peft_has("base"), &peft_has("ours"));
    }
    near("ours in PEFT", &peft_has("ours"), &got);
    near("ours, merged by PEFT", &peft_has("unloaded"), &got);
    near("ours, merged here, by transformers", &peft_has("merged"), &got);

    let read = peft::import(&dir.path().join("theirs"), &base).expect("PEFT's own");
    let terms = peft::terms(&read, &base, recipe);
    let got = logits(&base, &terms, &read.theta, &batch).expect("runs");
    near("PEFT's, imported", &got, &peft_has("theirs"));
    apart("PEFT's adapter", &got, &peft_has("ours"));

    // PEFT's again, written by us and merged: the way in and the way out are one.
    let again = dir.path().join("again");
    peft::export(&again, &terms, &base, &read.theta).expect("exported");
    let same = peft::import(&again, &base).expect("our own");
    assert_eq!((same.theta, same.layout), (read.theta, read.layout));
}

#[test]
fn stories260k() {
    let Some(python) = python() else { return };
    let data = std::env::var_os("GOSSAMER_DATA").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")),
        PathBuf::from,
    );
    let folder = data.join("stories260k");
    if !folder.is_dir() {
        assert!(std::env::var_os("CI").is_none(), "CI must run this test: no stories260k");
        println!("SKIPPED: no stories260k in {}; set GOSSAMER_DATA", data.display());
        return;
    }
    let lora = Lora {
        rank_pattern: [("mlp.up_proj".to_owned(), 5)].into_iter().collect(),
        alpha_pattern: [(r"layers\.[01]\..*".to_owned(), 12.0)].into_iter().collect(),
        rslora: true,
        ..Lora::new(3, 6.0, Targets::Pattern("all-linear".into()))
    };
    let theirs = json!({
        "r": 4, "lora_alpha": 10, "target_modules": r".*layers\.[0-3]\..*(q|v|down)_proj",
        "rank_pattern": { "q_proj": 2 }, "use_rslora": false, "lora_dropout": 0.1,
        "init_lora_weights": "gaussian",
    });
    meet(&python, &folder, lora, &theirs, None);
}

#[test]
fn gpt2() {
    let Some(python) = python() else { return };
    let made = made(&python);
    let names = ["c_attn", "c_proj", "c_fc"].map(String::from).to_vec();
    let lora = Lora {
        rank_pattern: [("attn.c_proj".to_owned(), 4)].into_iter().collect(),
        ..Lora::new(2, 5.0, names)
    };
    let theirs = json!({
        "r": 3, "lora_alpha": 7, "target_modules": "all-linear", "use_rslora": true,
        "alpha_pattern": { "h.1.attn.c_attn": 3 },
    });
    let folder = made.path().join("gpt2");
    meet(&python, &folder, lora.clone(), &theirs, None);
    without_prefix(&folder, lora);
}

/// The hub's GPT-2 has names without `transformer.` in front; merged, it has the same weights.
fn without_prefix(folder: &Path, lora: Lora) {
    let bare = folder.join("bare");
    std::fs::create_dir(&bare).expect("new");
    for name in ["config.json", "tokenizer.json"] {
        std::fs::copy(folder.join(name), bare.join(name)).expect("copied");
    }
    let read = |folder: &Path| std::fs::read(folder.join("model.safetensors")).expect("there");
    let whole = read(folder);
    let tensors = SafeTensors::deserialize(&whole).expect("whole").tensors();
    let stripped = tensors.into_iter().map(|(name, view)| {
        (name.strip_prefix("transformer.").map(str::to_owned).unwrap_or(name), view)
    });
    safetensors::serialize_to_file(stripped, None, &bare.join("model.safetensors"))
        .expect("written");

    let merged = [folder, &bare].map(|folder| {
        let base = BaseModel::load(folder).expect("loads");
        let frozen = Base { name: "gpt2".into(), digest: base.digest() };
        let optimizer = LocalOptimizer::Sgd { lr: 0.1, momentum: 0.0 };
        let recipe =
            Training { steps: 1, batch: 1, context: 9, optimizer, clip: None, proximal: 0.0 };
        let layout = lora.layout(&base.linears()).expect("targets there are");
        let manifest = Manifest::alone(frozen, lora.clone(), layout, None, recipe);
        let theta: Vec<f32> = (0..manifest.layout.n()).map(|i| (i as f32).sin()).collect();
        let (adapter, out) = (folder.join("adapter"), folder.join("merged"));
        peft::export(&adapter, &manifest, &base, &theta).expect("exported");
        peft::merge(folder, &adapter, &out).expect("merged");
        read(&out)
    });
    let [whole, bare] =
        [&merged[0], &merged[1]].map(|b| SafeTensors::deserialize(b).expect("whole"));
    assert_eq!(whole.len(), bare.len());
    for (name, view) in bare.tensors() {
        let other = whole.tensor(&format!("transformer.{name}")).expect("the same with its prefix");
        assert_eq!(view.data(), other.data(), "{name}");
    }
}

#[test]
fn an_encoder_with_a_head() {
    let Some(python) = python() else { return };
    let made = made(&python);
    let lora = Lora::new(2, 4.0, ["query", "value"].map(String::from).to_vec());
    let theirs = json!({
        "r": 3, "lora_alpha": 7, "target_modules": ["query", "output.dense"],
        "layers_to_transform": [1],
    });
    let head = Some(Head { classes: 4 });
    meet(&python, &made.path().join("bert"), lora, &theirs, head);
}

#[test]
fn minilm_with_a_head() {
    let Some(python) = python() else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/models/minilm");
    if !folder.is_dir() {
        println!("SKIPPED: no MiniLM; sim/models/fetch-minilm gets it");
        return;
    }
    let lora = Lora::new(8, 16.0, ["query", "value"].map(String::from).to_vec());
    let theirs = json!({ "r": 4, "lora_alpha": 8, "target_modules": ["query", "value"] });
    meet(&python, &folder, lora, &theirs, Some(Head { classes: 20 }));
}
