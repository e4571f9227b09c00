//! The encoder against PyTorch and against differences.
//!
//! The numbers in `golden/bert.json` are what `tests/python/bert.py` printed.

use gossamer_protocol::layout::Part;
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::rng::Stream;
use serde_json::{Value, json};

use super::{LINEARS, config_of_tests};
use crate::data::Batch;
use crate::lora::{LoraError, Plan};
use crate::model::frozen::Gradients;
use crate::model::network::{Loss, Tape};
use crate::model::{BaseModel, ModelError, fixture};
use crate::ops::linear::Dropout;

const GOLDEN: &str = include_str!("../../../tests/golden/bert.json");

/// How far a tensor may be from PyTorch's in float64, of its norm.
const TOLERANCE: f64 = 1e-4;

fn golden() -> Value {
    serde_json::from_str(GOLDEN).expect("golden JSON")
}

fn list<T: serde::de::DeserializeOwned>(value: &Value) -> Vec<T> {
    serde_json::from_value(value.clone()).expect("a list of numbers")
}

fn batch(golden: &Value) -> Batch {
    let (inputs, lengths): (Vec<u32>, Vec<usize>) =
        (list(&golden["inputs"]), list(&golden["lengths"]));
    let (rows, cols) = (lengths.len(), inputs.len() / lengths.len());
    Batch { inputs, targets: list(&golden["labels"]), lengths, rows, cols }
}

/// Compares with the script's `summary`.
fn same(what: &str, got: &[f32], want: &Value) {
    let number = |value: &Value| value.as_f64().expect("a number");
    let size = number(&want["norm"]);
    assert!(size > 1e-3, "{what}: the reference is {size}, nothing flows");
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

/// The script's model and manifest, and its LoRA factors and head.
fn setting(targets: &[&str]) -> (BaseModel, Manifest, Vec<f32>) {
    let base = fixture::bert(&json!({})).expect("loads");
    let manifest = fixture::manifest(&base, targets, false);
    let mut theta = Vec::new();
    for (at, (tensor, _)) in manifest.layout.tensors().enumerate() {
        let head = usize::from(tensor.name == "classifier.bias") + 200;
        theta.extend(match tensor.part {
            Part::Head => fixture::spread(tensor.len(), head, 0.0, 0.5),
            _ => fixture::spread(tensor.len(), 100 + at, 0.0, 0.3),
        });
    }
    (base, manifest, theta)
}

/// Mean loss and its gradient by the flat adapter.
fn run(
    (base, manifest, theta): (&BaseModel, &Manifest, &[f32]),
    batch: &Batch,
    dropout: Option<&mut Dropout>,
) -> (f64, Vec<f32>, Vec<f32>) {
    let plan = Plan::new(base, manifest).expect("fits");
    let network = base.network(plan.on(theta)).expect("an encoder with a head");
    let (mut tape, mut logits) = (Tape::default(), Vec::new());
    network.forward(&mut tape, &mut logits, batch, dropout);
    let mut gradient = vec![0.0; theta.len()];
    let mut gradients = Gradients { adapter: Some(&mut gradient), weights: None };
    let mut loss = [Loss::of(&batch.targets)];
    network.learn(&mut tape, &mut Vec::new(), &mut loss, &mut gradients);
    let nats = loss[0].nats;
    (nats.sum / nats.tokens as f64, logits, gradient)
}

#[test]
fn hidden_states_loss_and_every_gradient_are_torchs() {
    let golden = golden();
    let (base, manifest, theta) = setting(&LINEARS);
    for name in ["padded", "whole"] {
        let golden = &golden["batches"][name];
        let batch = batch(golden);
        let plan = Plan::new(&base, &manifest).expect("fits");
        let network = base.network(plan.on(&theta)).expect("an encoder with a head");
        let mut tape = Tape::default();
        let pooled = network.features(&mut tape, &batch, None).to_vec();
        let states = tape.layers.iter().map(|layer| &layer.x).chain([&tape.x]);
        let want = golden["hidden"].as_array().expect("states");
        assert_eq!(want.len(), 3);
        for (at, (state, want)) in states.zip(want).enumerate() {
            same(&format!("{name}: state {at}"), state, want);
        }
        let (loss, logits, gradient) = run((&base, &manifest, &theta), &batch, None);
        for (what, got, want) in
            [("pooled", &pooled, &golden["pooled"]), ("logits", &logits, &golden["logits"])]
        {
            let want: Vec<f64> = list(want);
            assert_eq!(got.len(), want.len());
            for (got, want) in got.iter().zip(want) {
                assert!((f64::from(*got) - want).abs() < TOLERANCE, "{name} {what}: {got} {want}");
            }
        }
        let want = golden["loss"].as_f64().expect("a number");
        assert!((loss - want).abs() < TOLERANCE, "{name}: {loss}, torch has {want}");
        let want = golden["gradients"].as_object().expect("by name");
        assert_eq!((want.len(), manifest.layout.tensors().count()), (26, 26));
        for (tensor, place) in manifest.layout.tensors() {
            let what = format!("{name}: gradient of {}", tensor.name);
            same(&what, &gradient[place], &want[&tensor.name]);
        }
    }
}

/// Along each tensor's own gradient the loss changes by that gradient's norm, with dropout and without.
#[test]
fn differences_agree() {
    let (base, manifest, theta) = setting(&LINEARS);
    let batch = batch(&golden()["batches"]["padded"]);
    for share in [0.0, 0.3] {
        let run = |theta: &[f32]| {
            // The same mask each time.
            let mut dropout = Dropout { share, streams: vec![Stream::new(9, "mask", &[])] };
            let dropout = (share > 0.0).then_some(&mut dropout);
            run((&base, &manifest, theta), &batch, dropout)
        };
        let (_, _, gradient) = run(&theta);
        for (tensor, place) in manifest.layout.tensors() {
            let part = &gradient[place.clone()];
            let norm = part.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
            assert!(norm > 1e-3, "{}: {norm}", tensor.name);
            let along = |by: f64| {
                let mut moved = theta.clone();
                for (value, &g) in moved[place.clone()].iter_mut().zip(part) {
                    *value += (f64::from(g) / norm * by) as f32;
                }
                run(&moved).0
            };
            // Central: the error is of third order; the loss itself is good to about 1e-7.
            let step = 4e-3;
            let slope = (along(step) - along(-step)) / (2.0 * step);
            assert!(
                (slope - norm).abs() < 0.01 * norm + 1e-4,
                "{}: {slope} by differences, {norm} by hand (dropout {share})",
                tensor.name
            );
        }
    }
}

/// At the seeded start B and the head are 0: only the head learns. With a head, B does; then all do.
#[test]
fn what_learns_when() {
    let (base, manifest, full) = setting(&["query", "value"]);
    let batch = batch(&golden()["batches"]["padded"]);
    let moving = |theta: &[f32]| -> Vec<Part> {
        let (_, _, gradient) = run((&base, &manifest, theta), &batch, None);
        let moves = |place: std::ops::Range<usize>| gradient[place].iter().any(|g| *g != 0.0);
        let tensors = manifest.layout.tensors().filter(|(_, place)| moves(place.clone()));
        tensors.map(|(tensor, _)| tensor.part).collect()
    };
    let mut theta = manifest.layout.init(1);
    assert_eq!(moving(&theta), [Part::Head; 2]);
    for (tensor, place) in manifest.layout.tensors() {
        if tensor.part == Part::Head {
            theta[place.clone()].copy_from_slice(&full[place]);
        }
    }
    assert_eq!(moving(&theta), [[Part::LoraB; 4].as_slice(), &[Part::Head; 2]].concat());
    assert_eq!(moving(&full).len(), 10);
}

/// Wider padding, whatever token it is, changes no logit and no gradient beyond rounding.
#[test]
fn padding_changes_nothing() {
    let (base, manifest, theta) = setting(&LINEARS);
    let setting = (&base, &manifest, &theta[..]);
    let wide = batch(&golden()["batches"]["padded"]);
    let row = |at: usize| {
        let length = wide.lengths[at];
        let inputs = wide.inputs[at * wide.cols..][..length].to_vec();
        Batch { inputs, targets: vec![wide.targets[at]], lengths: vec![], rows: 1, cols: length }
    };
    let other = Batch {
        inputs: wide.inputs.iter().map(|&token| if token == 0 { 17 } else { token }).collect(),
        ..wide.clone()
    };
    let (loss, logits, gradient) = run(setting, &wide, None);
    assert_eq!(run(setting, &other, None), (loss, logits.clone(), gradient.clone()));
    let mut sum = vec![0.0; gradient.len()];
    for (at, logits) in logits.chunks_exact(5).enumerate() {
        let (_, alone, part) = run(setting, &row(at), None);
        assert!(
            alone.iter().zip(logits).all(|(a, l)| (a - l).abs() < 1e-5),
            "{alone:?} {logits:?}"
        );
        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part / 4.0);
    }
    assert!(sum.iter().zip(&gradient).all(|(s, g)| (s - g).abs() < 1e-5));
}

/// Only some linears adapted: the walk down ends early, and what it gives is unchanged.
#[test]
fn a_partial_adapter_has_the_same_gradients() {
    let (base, whole, theta) = setting(&LINEARS);
    let batch = batch(&golden()["batches"]["padded"]);
    for target in ["layer.1.attention.self.value", "layer.1.output.dense"] {
        let part = fixture::manifest(&base, &[target], false);
        let mut wide = vec![0.0; theta.len()];
        let mut narrow = vec![0.0; part.layout.n()];
        let places: Vec<_> = part
            .layout
            .tensors()
            .map(|(t, place)| {
                let found = whole.layout.tensors().find(|(w, _)| w.name == t.name);
                (place, found.expect("all has each").1)
            })
            .collect();
        for (to, from) in &places {
            narrow[to.clone()].copy_from_slice(&theta[from.clone()]);
            wide[from.clone()].copy_from_slice(&theta[from.clone()]);
        }
        let (_, _, some) = run((&base, &part, &narrow), &batch, None);
        let (_, _, all) = run((&base, &whole, &wide), &batch, None);
        for (to, from) in places {
            assert_eq!(some[to], all[from]);
        }
    }
}

/// A file of a classifier has the encoder as its module `bert`; what it computes is the same.
#[test]
fn a_classifiers_file_names_its_encoder() {
    let (base, manifest, theta) = setting(&["query", "value"]);
    let batch = batch(&golden()["batches"]["whole"]);
    let change = json!({ "architectures": ["BertForSequenceClassification"] });
    let named = fixture::bert(&change).expect("loads");
    assert_eq!(named.linears()[0].name, "bert.encoder.layer.0.attention.self.query");
    assert_eq!(base.linears()[11].name, "encoder.layer.1.output.dense");
    assert_eq!((base.linears()[11].d_in, base.linears()[11].d_out), (20, 12));
    let terms = fixture::manifest(&named, &["query", "value"], false);
    assert_ne!(terms.layout.digest(), manifest.layout.digest());
    let logits = |base, manifest| run((base, manifest, &theta), &batch, None).1;
    assert_eq!(logits(&named, &terms), logits(&base, &manifest));
}

#[test]
fn what_does_not_fit_is_named() {
    let wide = fixture::bert(&json!({ "pad_token_id": 23 })).expect_err("outside");
    assert!(matches!(wide, ModelError::Vocabulary { token: 23, rows: 23 }), "{wide:?}");
    let small = fixture::bert(&json!({ "vocab_size": 22 })).expect_err("fewer rows than words");
    assert!(matches!(small, ModelError::Vocabulary { token: 22, rows: 22 }), "{small:?}");
    let other = fixture::bert(&json!({ "hidden_act": "relu" })).expect_err("not computed");
    assert!(matches!(other, ModelError::Unsupported { field: "hidden_act", .. }), "{other:?}");

    let config = config_of_tests();
    let load = |config: &Value, tokenizer: &str| {
        let none =
            safetensors::serialize(Vec::<(&str, safetensors::tensor::TensorView<'_>)>::new(), None);
        let none = none.expect("an empty file");
        BaseModel::from_bytes(config.to_string().as_bytes(), tokenizer.as_bytes(), &none)
    };
    let bare = load(&config, &fixture::tokenizer(23)).expect_err("no template");
    assert!(matches!(bare, ModelError::Specials(0)), "{bare:?}");
    let mut other = config.clone();
    other["architectures"] = json!(["MambaForCausalLM"]);
    let family = load(&other, "{}").expect_err("another family").to_string();
    assert!(family.contains("MambaForCausalLM") && family.contains("BertModel"), "{family}");

    // A head needs an encoder, and an encoder a head.
    let (base, manifest, theta) = setting(&["query"]);
    let headless = Manifest { head: None, ..manifest.clone() };
    let refused = Plan::new(&base, &headless).expect_err("a head's tensors without a head");
    assert_eq!(refused, LoraError::Unknown { name: "classifier.weight".into() });
    let mut tensors: Vec<gossamer_protocol::layout::TensorSpec> = manifest.layout.clone().into();
    tensors.truncate(4);
    let layout = gossamer_protocol::layout::Layout::new(tensors).expect("a layout");
    let refused = Plan::new(&base, &Manifest { layout: layout.clone(), ..manifest.clone() });
    let missing = "classifier.weight".into();
    assert_eq!(refused.err(), Some(LoraError::Headless { missing }));
    let plain =
        Plan::new(&base, &Manifest { layout: layout.clone(), head: None, ..manifest.clone() });
    let plain = plain.expect("fits");
    assert_eq!(base.network(plain.on(&theta[..layout.n()])).err(), Some(LoraError::NoHead));
    let layout = layout.with_head(fixture::CLASSES, 13).expect("a layout");
    let refused = Plan::new(&base, &Manifest { layout, ..manifest });
    let shape =
        LoraError::Shape { name: "classifier.weight".into(), expected: [5, 12], found: [5, 13] };
    assert_eq!(refused.err(), Some(shape));

    let decoder = fixture::base(&crate::model::llama::tests::tiny());
    let manifest = fixture::manifest(&decoder, &["q_proj"], false);
    let head = Some(gossamer_protocol::manifest::Head { classes: 2 });
    let layout = manifest.layout.clone().with_head(2, decoder.hidden()).expect("a layout");
    let manifest = Manifest { head, layout, ..manifest };
    let plan = Plan::new(&decoder, &manifest).expect("shapes fit");
    let theta = manifest.layout.init(1);
    assert_eq!(decoder.network(plan.on(&theta)).err(), Some(LoraError::Decoder));
}
