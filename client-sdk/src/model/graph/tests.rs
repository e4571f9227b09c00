//! The graph against the hand-written passes: two ways to the same numbers, of which PyTorch has checked one.

use candle_core::Device;
use gossamer_protocol::layout::Part;
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::rng::Stream;
use serde_json::json;

use super::{Factors, Graph, layers};
use crate::data::{Batch, IGNORE};
use crate::lora::Plan;
use crate::model::frozen::Gradients;
use crate::model::llama::tests::tiny;
use crate::model::network::{Loss, Tape};
use crate::model::{BaseModel, Bias, LlamaConfig, Storage, fixture};
use crate::ops::linear::Dropout;

const GGUF: &[u8] = include_bytes!("../../../tests/golden/gpt2.gguf");

/// Loss, logits and the gradient by the flat adapter.
struct Found {
    loss: f64,
    logits: Vec<f32>,
    gradient: Vec<f32>,
}

type Setting<'a> = (&'a BaseModel, &'a Manifest, &'a [f32], &'a Batch);

fn by_hand((base, manifest, theta, batch): Setting<'_>, dropout: Option<&mut Dropout>) -> Found {
    let plan = Plan::new(base, manifest).expect("fits");
    let network = base.network(plan.on(theta)).expect("its adapter");
    let (mut tape, mut logits) = (Tape::default(), Vec::new());
    network.forward(&mut tape, &mut logits, batch, dropout);
    let mut gradient = vec![0.0; theta.len()];
    let mut gradients = Gradients { adapter: Some(&mut gradient), weights: None };
    let mut loss = [Loss::of(&batch.targets)];
    network.learn(&mut tape, &mut Vec::new(), &mut loss, &mut gradients);
    let nats = loss[0].nats;
    Found { loss: nats.sum / nats.tokens as f64, logits, gradient }
}

fn by_graph((base, manifest, theta, batch): Setting<'_>, dropout: Option<&mut Dropout>) -> Found {
    let base = base.on(&Device::Cpu).expect("fits");
    let graph = base.graph().expect("it has one");
    let plan = Plan::new(&base, manifest).expect("fits");
    let factors = Factors::new(plan.on(theta), base.linears().len(), graph.device());
    let factors = factors.expect("fits");
    let logits = graph.logits(base.kind(), &factors, batch, dropout).expect("runs");
    let loss = layers::nats(&logits, &batch.targets).expect("runs");
    let loss = (loss / batch.learned() as f64).expect("runs");
    let mut gradient = vec![0.0; theta.len()];
    factors.backward(plan.on(theta), &loss, &mut gradient).expect("differentiable");
    let loss = f64::from(loss.to_scalar::<f32>().expect("a scalar"));
    let logits = logits.flatten_all().and_then(|all| all.to_vec1()).expect("f32");
    Found { loss, logits, gradient }
}

pub(crate) fn close(name: &str, got: &[f32], want: &[f32], tolerance: f64) {
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let size = norm(&mut want.iter().map(|&w| f64::from(w)));
    let error = norm(&mut got.iter().zip(want).map(|(&g, &w)| f64::from(g) - f64::from(w)));
    assert!(got.len() == want.len() && size > 1e-4, "{name}: {size}, no gradient flows");
    assert!(error <= tolerance * size, "{name}: off by {error} of {size}");
}

/// Each family, with and without what it may have.
fn cases() -> Vec<(&'static str, BaseModel, Batch)> {
    let plain = LlamaConfig { tied: true, bias: Bias::None, kv_heads: 4, ..tiny() };
    let one = LlamaConfig { kv_heads: 1, head_dim: 6, ..tiny() };
    let gpt2 = BaseModel::from_gguf_bytes(GGUF, None).expect("loads");
    let vocab = gpt2.limits(None).vocab as u32;
    let mut rng = Stream::new(4, "tokens", &[]);
    let mut tokens =
        |n: usize| (0..n).map(|_| rng.below(u64::from(vocab.min(23))) as u32).collect::<Vec<_>>();
    let words = Batch {
        inputs: tokens(2 * 9),
        targets: tokens(2 * 9).into_iter().enumerate().map(skip).collect(),
        lengths: vec![],
        rows: 2,
        cols: 9,
    };
    let classes = Batch {
        inputs: tokens(3 * 7),
        targets: vec![4, IGNORE, 1],
        lengths: vec![7, 3, 1],
        rows: 3,
        cols: 7,
    };
    vec![
        ("llama", fixture::base(&tiny()), fixture::batch(&tiny(), 2, 7)),
        ("llama over three blocks", fixture::base(&tiny()), fixture::batch(&tiny(), 1, 70)),
        ("llama, plain", fixture::base(&plain), fixture::batch(&plain, 3, 33)),
        ("llama, one key head", fixture::base(&one), fixture::batch(&one, 2, 32)),
        ("gpt2", gpt2, words),
        ("bert", fixture::bert(&json!({})).expect("loads"), classes),
    ]
}

/// Every fourth target is not learned.
fn skip((at, token): (usize, u32)) -> u32 {
    if at % 4 == 3 { IGNORE } else { token }
}

#[test]
fn every_family_has_the_hand_written_gradients() {
    for (name, base, batch) in cases() {
        let linears = base.linears();
        let all: Vec<&str> = linears.iter().map(|linear| linear.name.as_str()).collect();
        for (freeze_a, share) in [(false, 0.0), (false, 0.3), (true, 0.3)] {
            let manifest = fixture::manifest(&base, &all, freeze_a);
            let theta = fixture::normal(manifest.layout.n(), 0.3, 3);
            let setting = (&base, &manifest, &theta[..], &batch);
            let dropout = || {
                let streams = vec![Stream::new(9, "mask", &[])];
                (share > 0.0).then_some(Dropout { share, streams })
            };
            let want = by_hand(setting, dropout().as_mut());
            let got = by_graph(setting, dropout().as_mut());
            let what = format!("{name}, dropout {share}");
            if share == 0.0 {
                close(&format!("{what}: logits"), &got.logits, &want.logits, 1e-5);
            }
            let (ours, theirs) = (got.loss, want.loss);
            assert!((ours - theirs).abs() < 1e-5 * theirs, "{what}: {ours}, by hand {theirs}");
            for (tensor, place) in manifest.layout.tensors() {
                let what = format!("{what}: {}", tensor.name);
                let (got, want) = (&got.gradient[place.clone()], &want.gradient[place]);
                // A key's bias, and so much of its branch, moves all of a query's scores alike.
                close(&what, got, want, 2e-4);
            }
            let a = manifest.layout.tensors().filter(|(tensor, _)| tensor.part == Part::LoraA);
            assert_eq!(a.count(), if freeze_a { 0 } else { linears.len() });
        }
    }
}

/// A base that is held as bf16 is so on the device; its gradients are near those of the same weights in f32.
#[test]
fn bf16_is_near() {
    let base = fixture::base(&tiny());
    let json = tiny().to_json().to_string();
    let words = fixture::tokenizer(tiny().vocab);
    let weights = fixture::weights(&tiny(), 1);
    let coarse =
        BaseModel::from_bytes_as(json.as_bytes(), words.as_bytes(), &weights, Storage::Bf16);
    let coarse = coarse.expect("loads");
    let manifest = fixture::manifest(&base, &["q_proj", "down_proj"], false);
    let theta = fixture::normal(manifest.layout.n(), 0.3, 3);
    let batch = fixture::batch(&tiny(), 2, 7);
    let want = by_hand((&base, &manifest, &theta, &batch), None);
    let got = by_graph((&coarse, &manifest, &theta, &batch), None);
    close("gradient", &got.gradient, &want.gradient, 0.03);
    assert!(got.gradient != want.gradient, "bf16 has fewer digits");
}

/// An adapter tensor that no gradient reaches is an error, not a training that learns nothing.
#[test]
fn a_cut_graph_is_found() {
    let base = fixture::base(&tiny()).on(&Device::Cpu).expect("fits");
    let manifest = fixture::manifest(&base, &["q_proj"], false);
    let theta = fixture::normal(manifest.layout.n(), 0.3, 3);
    let plan = Plan::new(&base, &manifest).expect("fits");
    let graph: &Graph = base.graph().expect("it has one");
    let factors = Factors::new(plan.on(&theta), base.linears().len(), &Device::Cpu).expect("fits");
    let batch = fixture::batch(&tiny(), 1, 5);
    let logits = graph.logits(base.kind(), &factors, &batch, None).expect("runs").detach();
    let loss = layers::nats(&logits, &batch.targets).expect("runs");
    let mut gradient = vec![0.0; theta.len()];
    let cut = factors.backward(plan.on(&theta), &loss, &mut gradient).expect_err("nothing flows");
    assert!(cut.to_string().contains("no gradient reaches"), "{cut}");
}
