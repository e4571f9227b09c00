//! Small random models for tests.

use gossamer_protocol::layout::Layout;
use gossamer_protocol::manifest::{MANIFEST_VERSION, Manifest};
use gossamer_protocol::rng::Stream;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::weights::WeightMap;
use super::{BaseModel, LlamaConfig};
use crate::data::{Batch, IGNORE};

/// Words `w0`, `w1`, … up to the vocabulary's size.
pub(crate) fn tokenizer(vocab: usize) -> String {
    let words: serde_json::Map<String, serde_json::Value> =
        (0..vocab).map(|i| (format!("w{i}"), i.into())).collect();
    serde_json::json!({
        "version": "1.0",
        "model": { "type": "WordLevel", "vocab": words, "unk_token": "w0" },
        "pre_tokenizer": { "type": "Whitespace" },
    })
    .to_string()
}

/// Every tensor normal with deviation 0.3; norms around 1.
pub(crate) fn weights(config: &LlamaConfig, seed: u64) -> Vec<u8> {
    let map = WeightMap::new(config);
    let mut rng = Stream::new(seed, "fixture", &[]);
    let bytes: Vec<Vec<u8>> = map
        .tensors
        .iter()
        .map(|tensor| {
            let centre = if tensor.name.contains("norm") { 1.0 } else { 0.0 };
            let draw = |_| (centre + 0.3 * rng.normal()) as f32;
            tensor.place.clone().map(draw).flat_map(f32::to_le_bytes).collect()
        })
        .collect();
    let views = map.tensors.iter().zip(&bytes).map(|(tensor, bytes)| {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).expect("its own shape");
        (tensor.name.as_str(), view)
    });
    safetensors::serialize(views, None).expect("valid")
}

pub(crate) fn base(config: &LlamaConfig) -> BaseModel {
    let json = config.to_json().to_string();
    let tokenizer = tokenizer(config.vocab);
    BaseModel::from_bytes(json.as_bytes(), tokenizer.as_bytes(), &weights(config, 1))
        .expect("a model of its own configuration")
}

/// Rank 3 on `targets`, everything else plain.
pub(crate) fn manifest(base: &BaseModel, targets: &[&str], freeze_a: bool) -> Manifest {
    let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
    let layout = Layout::lora(&base.linears(), &targets, 3, freeze_a).expect("targets of the base");
    serde_json::from_value(serde_json::json!({
        "version": MANIFEST_VERSION, "name": "test", "seed": 5, "rounds": 1,
        "base": { "name": "fixture", "digest": base.digest() },
        "lora": { "rank": 3, "alpha": 6.0, "targets": targets, "freeze_a": freeze_a },
        "layout": layout,
        "method": { "download": { "density": 1.0 }, "upload": { "density": 1.0 } },
        "training": {
            "steps": 3, "batch": 2, "context": 16,
            "optimizer": { "kind": "sgd", "lr": 0.1 },
        },
        "cohort": { "goal": 1, "ask": 1, "min": 1, "deadline_s": 60 },
        "optimizer": { "kind": "sgd", "lr": 1.0 },
    }))
    .expect("a manifest")
}

/// Random tokens; every fifth target is ignored.
pub(crate) fn batch(config: &LlamaConfig, rows: usize, cols: usize) -> Batch {
    let mut rng = Stream::new(2, "fixture-batch", &[]);
    let mut token = || rng.below(config.vocab as u64) as u32;
    let inputs = (0..rows * cols).map(|_| token()).collect();
    let targets = (0..rows * cols).map(|i| if i % 5 == 4 { IGNORE } else { token() }).collect();
    Batch { inputs, targets, rows, cols }
}

/// Normal entries with the given deviation.
pub(crate) fn normal(n: usize, deviation: f64, seed: u64) -> Vec<f32> {
    let mut rng = Stream::new(seed, "fixture-normal", &[]);
    (0..n).map(|_| (rng.normal() * deviation) as f32).collect()
}
