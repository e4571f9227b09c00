//! A base in every storage: its numbers, and training beside them.

use std::sync::Arc;

use gossamer_protocol::ids::{ClientId, RoundId};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::family::Kind;
use super::llama::tests::tiny;
use super::{BaseModel, Held, Inner, ModelError, Storage, fixture};
use crate::data::{Batch, Plan, TaskError, TrainingTask};
use crate::ops::matrix::Packed;
use crate::train::{Control, Job, evaluate, logits, train};

const LLAMA: &[u8] = include_bytes!("../../tests/golden/llama.gguf");
const GPT2: &[u8] = include_bytes!("../../tests/golden/gpt2.gguf");

type Load<'a> = &'a dyn Fn(Storage) -> BaseModel;

/// A folder's files, drawn.
fn files(config: &serde_json::Value) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let config = config.to_string().into_bytes();
    let kind = Kind::from_json(&config).expect("a configuration");
    let tensors = kind.tensors().iter().enumerate();
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .map(|(at, tensor)| {
            let values = fixture::spread(tensor.place.len(), at, 0.1, 0.5);
            let bytes = values.into_iter().flat_map(f32::to_le_bytes).collect();
            (tensor.name.clone(), tensor.shape.clone(), bytes)
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("its own shape"))
    });
    let weights = safetensors::serialize(views, None).expect("valid");
    (config, fixture::tokenizer(kind.vocab()).into_bytes(), weights)
}

fn llama(storage: Storage) -> BaseModel {
    let config = tiny().to_json().to_string();
    let (tokenizer, weights) = (fixture::tokenizer(19), fixture::weights(&tiny(), 1));
    BaseModel::from_bytes_as(config.as_bytes(), tokenizer.as_bytes(), &weights, storage)
        .expect("loads")
}

/// Conv1D's orientation, rows longer than a block and no whole number of them.
fn gpt2(storage: Storage) -> BaseModel {
    let (config, tokenizer, weights) = files(&serde_json::json!({
        "architectures": ["GPT2LMHeadModel"], "n_embd": 36, "n_layer": 2, "n_head": 3,
        "n_positions": 16, "vocab_size": 29, "bos_token_id": 1, "eos_token_id": 2,
    }));
    BaseModel::from_bytes_as(&config, &tokenizer, &weights, storage).expect("loads")
}

fn bert(storage: Storage) -> BaseModel {
    let plain = fixture::bert(&serde_json::json!({})).expect("an encoder");
    let mut held = Held::new(plain.kind().tensors(), storage);
    if let Held::Tensors(_, parts) = &mut held {
        for (part, tensor) in parts.iter_mut().zip(plain.kind().tensors().iter()) {
            let values = plain.weights().values(tensor);
            for (at, row) in values.chunks_exact(part.packed.cols()).enumerate() {
                part.packed.set(at, row).expect("within range");
            }
        }
    } else {
        held = Held::Flat(fixture::floats(&plain));
    }
    with(&plain, held)
}

/// `base` with other weights.
fn with(base: &BaseModel, weights: Held) -> BaseModel {
    let Inner { kind, tokenizer, digest, .. } = &*base.0;
    let (kind, tokenizer) = (kind.clone(), tokenizer.clone());
    BaseModel(Arc::new(Inner { kind, tokenizer, digest: *digest, weights }), None)
}

/// From folders and GGUF files, rows kept, turned, paired and upright: what the storage makes of the numbers
/// that are loaded as `f32`, at the same places.
#[test]
fn every_number_is_in_its_place() {
    let gguf = |file: &'static [u8]| {
        move |storage| BaseModel::from_gguf_bytes_as(file, None, storage).expect("loads")
    };
    let bases: [Load<'_>; 4] = [&llama, &gpt2, &gguf(LLAMA), &gguf(GPT2)];
    for base in bases {
        let plain = base(Storage::F32);
        let mut sizes = Vec::new();
        for storage in Storage::ALL {
            let held = base(storage);
            assert_eq!((held.storage(), held.digest()), (storage, plain.digest()));
            sizes.push(held.n_bytes());
            for tensor in plain.kind().tensors().iter() {
                let mut want = plain.weights().values(tensor);
                if tensor.shape.len() == 2 {
                    let [_, cols] = tensor.matrix();
                    for row in want.chunks_exact_mut(cols) {
                        let mut packed = Packed::new(storage, 1, cols);
                        packed.set(0, row).expect("within range");
                        packed.matrix().row(row, 0);
                    }
                }
                assert_eq!(held.weights().values(tensor), want, "{storage} {}", tensor.name);
            }
        }
        // FP4's rows are padded to whole blocks, which are longer than these.
        assert!(sizes[..4].is_sorted_by(|a, b| a >= b) && sizes[3] < sizes[0] / 2, "{sizes:?}");
    }
}

/// Tokens of a decoder, or labelled sequences.
struct Drawn {
    vocab: u32,
    encoder: bool,
}

impl TrainingTask for Drawn {
    fn examples(&self) -> usize {
        1
    }

    fn has_loss(&self) -> bool {
        false
    }

    fn batch(&self, _: &Plan, step: u32) -> Result<Batch, TaskError> {
        let (rows, cols) = (3, 7);
        let inputs: Vec<u32> =
            (0..rows * cols).map(|i| (i as u32 * 5 + step + 3) % self.vocab).collect();
        let targets = if self.encoder { vec![0, 4, 2] } else { inputs.clone() };
        let lengths = if self.encoder { vec![7, 3, 5] } else { vec![] };
        Ok(Batch { inputs, targets, lengths, rows, cols })
    }
}

/// The strongest test of what is made `f32` on the fly: training, logits and loss have every bit that they have
/// beside the same numbers held as `f32`.
#[test]
fn training_is_that_beside_the_same_numbers() {
    let bases: [(Load<'_>, &[&str]); 3] = [
        (&llama, &["q_proj", "o_proj", "up_proj", "down_proj"]),
        (&gpt2, &["c_attn", "c_proj", "c_fc"]),
        (&bert, &["query", "value", "intermediate.dense"]),
    ];
    for (base, targets) in bases {
        let mut before = Vec::new();
        for storage in Storage::ALL {
            let held = base(storage);
            let widened = with(&held, Held::Flat(fixture::floats(&held)));
            let task = Drawn { vocab: held.kind().vocab() as u32, encoder: held.bert().is_some() };
            let mut manifest = fixture::manifest(&held, targets, false);
            manifest.lora.dropout = 0.2;
            let theta = fixture::normal(manifest.layout.n(), 0.3, 8);
            let run = |base: &BaseModel| {
                let (client, round) = (ClientId([3; 16]), RoundId(2));
                let (manifest, theta) = (&manifest, &theta[..]);
                let job = Job { base, manifest, theta, support: None, client, round };
                let trained = train(&job, &task, &mut |_| Control::Continue).expect("trains");
                let plan = Plan { seed: 1, client, round, rows: 3, cols: 7 };
                let batch = task.batch(&plan, 9).expect("drawn");
                let logits = logits(base, manifest, theta, &batch).expect("runs");
                let nats = evaluate(base, manifest, theta, &[batch]).expect("runs").nats;
                (trained, logits, nats)
            };
            let got = run(&held);
            assert!(got.0.delta.iter().all(|x| x.is_finite()));
            assert_eq!(got, run(&widened), "{storage}");
            assert_ne!(got.0.delta, before, "{storage} changes nothing");
            before = got.0.delta;
        }
    }
}

/// Of the logits' norm, against `f32`: half a unit in the last place of each weight, through two layers.
#[test]
fn logits_are_near_those_of_f32() {
    let of = |storage| {
        let base = llama(storage);
        let manifest = fixture::manifest(&base, &["q_proj"], false);
        let theta = vec![0.0; manifest.layout.n()];
        logits(&base, &manifest, &theta, &fixture::batch(&tiny(), 2, 9)).expect("runs")
    };
    let plain = of(Storage::F32);
    let norm = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let mut last = 0.0;
    for (storage, most) in
        [(Storage::F16, 1e-3), (Storage::Int8, 2e-2), (Storage::Bf16, 2e-2), (Storage::Fp4, 0.5)]
    {
        let apart: Vec<f32> = of(storage).iter().zip(&plain).map(|(a, b)| a - b).collect();
        let error = norm(&apart) / norm(&plain);
        assert!(error > 0.0 && error < most, "{storage}: {error}");
        println!("{storage}: {error:.2e}");
        last = f64::max(last, error);
    }
    assert!(last > 1e-2, "FP4 rounds");
}

#[test]
fn a_weight_beyond_the_storage_is_named() {
    let (config, tokenizer) = (tiny().to_json().to_string(), fixture::tokenizer(19));
    let mut weights = fixture::weights(&tiny(), 1);
    let name = "model.layers.1.mlp.up_proj.weight";
    let file = safetensors::SafeTensors::deserialize(&weights).expect("whole");
    let data = file.tensor(name).expect("is there").data();
    let at = data.as_ptr() as usize - weights.as_ptr() as usize;
    weights[at..at + 4].copy_from_slice(&1e5_f32.to_le_bytes());
    let load = |storage| {
        BaseModel::from_bytes_as(config.as_bytes(), tokenizer.as_bytes(), &weights, storage)
    };
    match load(Storage::F16) {
        Err(ModelError::Beyond { name: told, storage, value }) => {
            assert_eq!((&*told, storage, value), (name, Storage::F16, 1e5));
        }
        other => panic!("{other:?}"),
    }
    load(Storage::Bf16).expect("has f32's range");
}
