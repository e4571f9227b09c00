//! all-MiniLM-L6-v2, as `sim/models/fetch-minilm` leaves it, against PyTorch.
//!
//! The numbers in `golden/minilm.json` are what `python/bert.py --base` printed.

use std::path::Path;
use std::sync::Mutex;

use candle_core::Tensor;
use gossamer_client::data::{Batch, Example, LabelledDataset, Plan, TaskError, TrainingTask};
use gossamer_client::model::BaseModel;
use gossamer_client::train::{Control, Job, train};
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::layout::{Layout, Part};
use gossamer_protocol::manifest::{Head, Manifest};
use serde_json::{Value, json};

const GOLDEN: &str = include_str!("golden/minilm.json");

/// Keeps the logits it is shown.
struct Watched(LabelledDataset, Mutex<Vec<f32>>);

impl TrainingTask for Watched {
    fn examples(&self) -> usize {
        self.0.examples()
    }

    fn batch(&self, _: &Plan, _: u32) -> Result<Batch, TaskError> {
        Ok(self.0.batches(8, 512).remove(0))
    }

    fn loss(&self, logits: &Tensor, _: &Batch) -> Result<Option<Tensor>, TaskError> {
        *self.1.lock().expect("not poisoned") = logits.flatten_all()?.to_vec1()?;
        Ok(None)
    }
}

/// Tokens and mean features of four sentences; skipped where the model is not at hand.
///
/// A head of as many classes as features, with the unit matrix as weight, shows the features themselves.
#[test]
fn tokens_and_features_are_torchs() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/models/minilm");
    if !dir.is_dir() {
        println!("SKIPPED: no MiniLM; sim/models/fetch-minilm gets it");
        return;
    }
    let base = BaseModel::load(&dir).expect("MiniLM loads");
    assert_eq!((base.n_weights(), base.hidden(), base.context()), (22_565_376, 384, 512));
    let golden: Value = serde_json::from_str(GOLDEN).expect("golden JSON");
    let sentences: Vec<String> = serde_json::from_value(golden["sentences"].clone()).expect("text");
    let tokens: Vec<Vec<u32>> = serde_json::from_value(golden["inputs"].clone()).expect("tokens");
    for (sentence, tokens) in sentences.iter().zip(&tokens) {
        assert_eq!(base.encode_sequence(sentence).expect("encodes"), *tokens, "{sentence:?}");
    }

    let layout = Layout::lora(&base.linears(), &["query".into()], 1, false).expect("has it");
    let manifest: Manifest = serde_json::from_value(json!({
        "version": 1, "name": "golden", "seed": 1, "rounds": 1,
        "base": { "name": "minilm", "digest": base.digest() },
        "lora": { "rank": 1, "alpha": 1.0, "targets": ["query"] },
        "layout": layout.with_head(384, 384).expect("a layout"),
        "head": Head { classes: 384 },
        "method": { "download": { "density": 1.0 }, "upload": { "density": 1.0 } },
        "training": {
            "steps": 1, "batch": 8, "context": 512, "optimizer": { "kind": "sgd", "lr": 0.1 },
        },
        "cohort": { "goal": 1, "ask": 1, "min": 1, "deadline_s": 60 },
        "optimizer": { "kind": "sgd", "lr": 1.0 },
    }))
    .expect("a manifest");
    let mut theta = manifest.layout.init(1);
    for (tensor, place) in manifest.layout.tensors() {
        if tensor.part == Part::Head && tensor.shape[1] == 384 {
            theta[place].iter_mut().step_by(385).for_each(|diagonal| *diagonal = 1.0);
        }
    }
    // The last has no text, which a data set refuses.
    let examples: Vec<Example> =
        sentences[..3].iter().map(|text| Example { text: text.clone(), label: 0 }).collect();
    let data = LabelledDataset::new(&base, &examples, 384).expect("sound");
    let task = Watched(data, Mutex::default());
    let (client, round) = (ClientId([1; 16]), RoundId(0));
    let job = Job { base: &base, manifest: &manifest, theta: &theta, support: None, client, round };
    train(&job, &task, &mut |_| Control::Continue).expect("trains");
    let features = task.1.into_inner().expect("not poisoned");
    assert_eq!(features.len(), 3 * 384);
    for (row, want) in features.chunks_exact(384).zip(golden["features"].as_array().expect("rows"))
    {
        let number = |value: &Value| value.as_f64().expect("a number");
        let near =
            |got: f64, want: f64| assert!((got - want).abs() < 1e-4, "{got}, torch has {want}");
        near(row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt(), number(&want["norm"]));
        let sum = row.iter().enumerate().map(|(i, &x)| f64::from(x) * (i as f64).cos()).sum();
        near(sum, number(&want["sum"]));
        for (i, want) in want["first"].as_array().expect("entries").iter().enumerate() {
            near(f64::from(row[i]), number(want));
        }
    }
}
