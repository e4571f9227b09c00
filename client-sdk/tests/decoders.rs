//! Small models of each decoder family against transformers: logits, loss, every adapter gradient and
//! ten AdamW steps.
//!
//! The numbers in `golden/decoders.json` are what `python/decoders.py` printed; weights are made here, by
//! the script's formula, under the names and in the shapes of transformers' own state dict.

mod parity;

use gossamer_client::data::Batch;
use gossamer_client::model::{BaseModel, ModelError};
use parity::{Recipe, batch, list, number, spread};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;

const GOLDEN: &str = include_str!("golden/decoders.json");
const LLAMA: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
const GPT2: [&str; 3] = ["c_attn", "c_proj", "c_fc"];

fn golden() -> Value {
    serde_json::from_str(GOLDEN).expect("golden JSON")
}

fn tokenizer() -> String {
    let words: serde_json::Map<String, Value> =
        (0..29).map(|i| (format!("w{i}"), i.into())).collect();
    serde_json::json!({
        "version": "1.0",
        "model": { "type": "WordLevel", "vocab": words, "unk_token": "w0" },
        "pre_tokenizer": { "type": "Whitespace" },
    })
    .to_string()
}

/// A model's safetensors file, each tensor passed through `change`.
fn weights(model: &Value, change: impl Fn(&mut String, &mut Vec<usize>, &mut Vec<u8>)) -> Vec<u8> {
    let mut tensors = Vec::new();
    for (at, tensor) in model["tensors"].as_array().expect("tensors").iter().enumerate() {
        let mut name: String = tensor["name"].as_str().expect("a name").into();
        let mut shape: Vec<usize> = list(&tensor["shape"]);
        let values = spread(shape.iter().product(), at, number(&tensor["centre"]), 0.5);
        let mut bytes = values.into_iter().flat_map(f32::to_le_bytes).collect();
        change(&mut name, &mut shape, &mut bytes);
        tensors.push((name, shape, bytes));
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("its own shape"))
    });
    safetensors::serialize(views, None).expect("valid")
}

fn load(config: &Value, weights: &[u8]) -> Result<BaseModel, ModelError> {
    BaseModel::from_bytes(config.to_string().as_bytes(), tokenizer().as_bytes(), weights)
}

fn base(name: &str) -> BaseModel {
    let model = &golden()["models"][name];
    load(&model["config"], &weights(model, |_, _, _| ())).expect("loads")
}

fn batches(golden: &Value) -> Vec<Batch> {
    let rows = golden["rows"].as_u64().expect("rows") as usize;
    let batches = golden["batches"].as_array().expect("batches").iter();
    batches.map(|b| batch(&b["inputs"], &b["targets"], vec![], rows)).collect()
}

fn check(name: &str, targets: &[&str]) {
    let golden = golden();
    let (rank, alpha) = (golden["rank"].as_u64().expect("rank") as usize, number(&golden["alpha"]));
    let recipe = Recipe { targets, rank, alpha, size: 0.3, head: None };
    recipe.check(name, &base(name), &batches(&golden), &golden["models"][name]);
}

#[test]
fn gpt2_is_torchs() {
    check("gpt2", &GPT2);
}

#[test]
fn qwen2_is_torchs() {
    check("qwen2", &LLAMA);
}

#[test]
fn llama3_rope_scaling_is_torchs() {
    check("llama3", &LLAMA);
}

/// Older files lack the prefix; what LoRA adapts has its name all the same.
#[test]
fn gpt2_without_its_prefix() {
    let model = &golden()["models"]["gpt2"];
    let short = weights(model, |name, _, _| *name = name.replacen("transformer.", "", 1));
    let short = load(&model["config"], &short).expect("loads");
    let names = |base: &BaseModel| -> Vec<String> {
        base.linears().into_iter().map(|linear| linear.name).collect()
    };
    let whole = base("gpt2");
    assert_eq!(names(&short), names(&whole));
    assert_eq!(names(&whole)[4], "transformer.h.1.attn.c_attn");
    assert_eq!((whole.linears()[4].d_in, whole.linears()[4].d_out), (12, 36));
    assert!(whole.fan_in_fan_out() && !base("qwen2").fan_in_fan_out());
    let golden = golden();
    let recipe = Recipe { targets: &GPT2, rank: 3, alpha: 6.0, size: 0.3, head: None };
    recipe.check("short", &short, &batches(&golden), &golden["models"]["gpt2"]);
}

/// Of each family: what is missing, turned the wrong way, of another type, unknown, or too large.
#[test]
fn what_does_not_fit_is_named() {
    let golden = golden();
    for (name, tensor) in [
        ("gpt2", "transformer.h.1.mlp.c_fc.weight"),
        ("qwen2", "model.layers.0.self_attn.k_proj.bias"),
        ("llama3", "model.layers.1.mlp.down_proj.weight"),
    ] {
        let model = &golden["models"][name];
        let sound = weights(model, |_, _, _| ());
        let cut = load(&model["config"], &sound[..sound.len() - 1]);
        assert!(matches!(cut, Err(ModelError::Weights(_))), "{name}: {cut:?}");

        let renamed = weights(model, |name, _, _| {
            if name == tensor {
                name.push('x');
            }
        });
        let refused = load(&model["config"], &renamed);
        assert!(matches!(&refused, Err(ModelError::Missing(n)) if n == tensor), "{refused:?}");

        let turned = weights(model, |name, shape, _| {
            if name == tensor {
                shape.reverse();
                shape.push(1);
            }
        });
        match load(&model["config"], &turned) {
            Err(ModelError::Shape { name, expected, found }) => {
                assert_eq!((name.as_str(), found.len()), (tensor, expected.len() + 1));
            }
            other => panic!("{name}: {other:?}"),
        }

        let mut small = model["config"].clone();
        small["vocab_size"] = 28.into();
        let refused = load(&small, &sound);
        assert!(matches!(refused, Err(ModelError::Vocabulary { token: 28, rows: 28 })), "{name}");

        let context = base(name).context();
        assert_eq!(context, 64);
        let long = Batch {
            inputs: vec![1; context + 1],
            targets: vec![1; context + 1],
            lengths: vec![],
            rows: 1,
            cols: context + 1,
        };
        let refused = long.check(&base(name).limits(None)).expect_err("too long").to_string();
        assert!(refused.contains("65") && refused.contains("64"), "{refused}");
    }
    let model = &golden["models"]["gpt2"];
    let turned = weights(model, |name, shape, _| {
        if name.ends_with("c_attn.weight") {
            shape.reverse();
        }
    });
    match load(&model["config"], &turned) {
        Err(ModelError::Shape { expected, found, .. }) => {
            assert_eq!((expected, found), (vec![12, 36], vec![36, 12]));
        }
        other => panic!("{other:?}"),
    }
}
