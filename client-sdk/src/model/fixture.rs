//! Small random models for tests.

use gossamer_protocol::layout::Layout;
use gossamer_protocol::manifest::{Head, MANIFEST_VERSION, Manifest};
use gossamer_protocol::rng::Stream;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::bert::BertMap;
use super::llama::LlamaMap;
use super::{BaseModel, LlamaConfig, ModelError};
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
    let map = LlamaMap::new(config);
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

/// All weights, tensor behind tensor.
pub(crate) fn floats(base: &BaseModel) -> Vec<f32> {
    let tensors = base.kind().tensors().iter();
    tensors.flat_map(|tensor| base.weights().values(tensor)).collect()
}

/// Classes of an encoder's head.
pub(crate) const CLASSES: u32 = 5;

/// A small encoder of `tests/python/bert.py`: 2 layers, 12 features, 23 words of which `w1` opens a
/// sequence and `w2` ends it. `changes` go over its `config.json`.
pub(crate) fn bert(changes: &serde_json::Value) -> Result<BaseModel, ModelError> {
    let mut config = super::bert::config_of_tests();
    for (field, value) in changes.as_object().expect("fields") {
        config[field] = value.clone();
    }
    let sizes = super::BertConfig::from_json(config.to_string().as_bytes())?;
    let special =
        |word: &str, id: u32| serde_json::json!({ "id": word, "ids": [id], "tokens": [word] });
    let token = |word: &str| serde_json::json!({ "SpecialToken": { "id": word, "type_id": 0 } });
    let mut tokenizer: serde_json::Value = serde_json::from_str(&tokenizer(23)).expect("its own");
    tokenizer["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [token("w1"), { "Sequence": { "id": "A", "type_id": 0 } }, token("w2")],
        "pair": [],
        "special_tokens": { "w1": special("w1", 1), "w2": special("w2", 2) },
    });
    let tensors = BertMap::new(&sizes).tensors;
    let values = tensors.iter().enumerate().map(|(at, tensor)| {
        let centre = f64::from(tensor.name.ends_with("LayerNorm.weight"));
        spread(tensor.place.len(), at, centre, 0.5).into_iter().flat_map(f32::to_le_bytes).collect()
    });
    let bytes: Vec<Vec<u8>> = values.collect();
    let views = tensors.iter().zip(&bytes).map(|(tensor, bytes)| {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).expect("its own shape");
        (tensor.name.as_str(), view)
    });
    let weights = safetensors::serialize(views, None).expect("valid");
    BaseModel::from_bytes(config.to_string().as_bytes(), tokenizer.to_string().as_bytes(), &weights)
}

/// The script's `spread`.
pub(crate) fn spread(n: usize, tensor: usize, centre: f64, size: f64) -> Vec<f32> {
    let value = |i: usize| {
        let h = (i as f64 * 12.9898 + tensor as f64 * 78.233).sin() * 43_758.545_3;
        (centre + size * (2.0 * (h - h.floor()) - 1.0)) as f32
    };
    (1..=n).map(value).collect()
}

/// Rank 3 on `targets`, with a head on an encoder, everything else plain.
pub(crate) fn manifest(base: &BaseModel, targets: &[&str], freeze_a: bool) -> Manifest {
    let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
    let mut layout =
        Layout::lora(&base.linears(), &targets, 3, freeze_a).expect("targets of the base");
    let head = base.bert().map(|_| Head { classes: CLASSES });
    if head.is_some() {
        layout = layout.with_head(CLASSES, base.hidden()).expect("a layout");
    }
    let manifest: Manifest = serde_json::from_value(serde_json::json!({
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
    .expect("a manifest");
    Manifest { head, ..manifest }
}

/// Random tokens; every fifth target is ignored.
pub(crate) fn batch(config: &LlamaConfig, rows: usize, cols: usize) -> Batch {
    let mut rng = Stream::new(2, "fixture-batch", &[]);
    let mut token = || rng.below(config.vocab as u64) as u32;
    let inputs = (0..rows * cols).map(|_| token()).collect();
    let targets = (0..rows * cols).map(|i| if i % 5 == 4 { IGNORE } else { token() }).collect();
    Batch { inputs, targets, lengths: vec![], rows, cols }
}

/// Normal entries with the given deviation.
pub(crate) fn normal(n: usize, deviation: f64, seed: u64) -> Vec<f32> {
    let mut rng = Stream::new(seed, "fixture-normal", &[]);
    (0..n).map(|_| (rng.normal() * deviation) as f32).collect()
}
