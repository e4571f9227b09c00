//! The hand-written backward pass against candle's differentiation and against differences.

use candle_core::{Device, Tensor, Var};
use gossamer_protocol::layout::{Layout, Part};
use gossamer_protocol::peft::weights;
use gossamer_protocol::rng::Stream;

use super::frozen::Gradients;
use super::graph::tests::close;
use super::graph::{Factors, Graph, layers};
use super::llama::tests::tiny;
use super::network::{Loss, Tape};
use super::{BaseModel, Bias, LlamaConfig, fixture};
use crate::data::Batch;
use crate::lora::Plan;
use crate::ops::linear::Dropout;

const ALL: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// With and without each feature; sequences within one block of queries and across three.
fn cases() -> Vec<(LlamaConfig, Batch)> {
    let plain = LlamaConfig { tied: true, bias: Bias::None, kv_heads: 4, ..tiny() };
    let one = LlamaConfig { kv_heads: 1, head_dim: 6, ..tiny() };
    vec![
        (tiny(), fixture::batch(&tiny(), 2, 7)),
        (tiny(), fixture::batch(&tiny(), 1, 70)),
        (plain.clone(), fixture::batch(&plain, 3, 33)),
        (one.clone(), fixture::batch(&one, 2, 32)),
    ]
}

/// Loss and its gradient by the flat adapter.
fn by_hand(
    base: &BaseModel,
    plan: &Plan,
    theta: &[f32],
    batch: &Batch,
    dropout: Option<&mut Dropout>,
) -> (f64, Vec<f32>) {
    let decoder = base.decoder(Some(plan.on(theta))).expect("a decoder");
    let (mut tape, mut logits) = (Tape::default(), Vec::new());
    decoder.features(&mut tape, batch, dropout);
    let mut gradient = vec![0.0; theta.len()];
    let mut gradients = Gradients { adapter: Some(&mut gradient), weights: None };
    let mut loss = Loss::of(&batch.targets);
    decoder.learn(&mut tape, &mut logits, std::slice::from_mut(&mut loss), &mut gradients);
    let nats = loss.nats;
    (nats.sum / nats.tokens as f64, gradient)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().and_then(|t| t.to_vec1()).expect("f32")
}

/// However many rows of logits are held at once, of one client or of two: the bits of all at once.
#[test]
fn parts_of_the_logits_change_nothing() {
    let (config, batch) = cases().swap_remove(0);
    let base = fixture::base(&config);
    let manifest = fixture::manifest(&base, &["q_proj", "down_proj"], false);
    let plan = Plan::new(&base, &manifest).expect("fits");
    let thetas = [1, 2].map(|seed| fixture::normal(manifest.layout.n(), 0.3, seed));
    let thetas = thetas.each_ref().map(|theta| &theta[..]);
    let network = base.network(plan.on_each(&thetas)).expect("a decoder");
    let (mut tape, mut logits) = (Tape::default(), Vec::new());
    let mut run = |most: usize| {
        network.features(&mut tape, &batch, None);
        let mut gradient = vec![0.0; 2 * manifest.layout.n()];
        let mut gradients = Gradients { adapter: Some(&mut gradient), weights: None };
        let (first, second) = batch.targets.split_at(batch.cols);
        let mut losses = [first, second].map(Loss::of);
        network.learn_by(most, &mut tape, &mut logits, &mut losses, &mut gradients);
        let nats = losses.map(|loss| loss.nats);
        (nats, gradient.into_iter().map(f32::to_bits).collect::<Vec<_>>())
    };
    let whole = run(usize::MAX);
    assert_eq!(whole.0.iter().map(|nats| nats.tokens).sum::<u64>(), batch.learned());
    for most in [1, 3, 7, 10] {
        assert_eq!(run(most), whole, "{most} rows at once");
    }
}

/// Pretraining's: every weight, bias, norm and the embedding, tied and not.
#[test]
fn weight_gradients_are_candles() {
    for (config, batch) in cases() {
        let base = fixture::base(&config);
        let decoder = base.decoder(None).expect("a decoder");
        let (mut tape, mut logits) = (Tape::default(), Vec::new());
        decoder.features(&mut tape, &batch, None);
        let mut gradient = vec![0.0; base.n_weights()];
        let mut gradients = Gradients { adapter: None, weights: Some(&mut gradient) };
        let mut loss = [Loss::of(&batch.targets)];
        decoder.learn(&mut tape, &mut logits, &mut loss, &mut gradients);

        let vars: Vec<Var> = base
            .kind()
            .tensors()
            .iter()
            .map(|tensor| {
                let values = base.weights().values(tensor);
                Var::from_vec(values, tensor.shape.as_slice(), &Device::Cpu).expect("its shape")
            })
            .collect();
        let graph = Graph::of_variables(base.kind().tensors(), &vars);
        let none = Factors::none(base.linears().len());
        let logits = graph.logits(base.kind(), &none, &batch, None).expect("runs");
        let loss = layers::nats(&logits, &batch.targets).expect("runs");
        let loss = (loss / batch.learned() as f64).expect("runs");
        let grads = loss.backward().expect("differentiable");
        for (tensor, var) in base.kind().tensors().iter().zip(&vars) {
            let want = values(grads.get(var).expect("candle's gradient"));
            // A key's bias shifts all scores of a query alike, so its gradient is 0 but for RoPE.
            close(&tensor.name, &gradient[tensor.place.clone()], &want, 1e-3);
        }
    }
}

/// Along each adapter tensor's own gradient the loss changes by that gradient's norm, with a dropout
/// mask and without, with A trained, A frozen and a core between A and B.
#[test]
fn differences_agree() {
    let (config, batch) = cases().swap_remove(0);
    let base = fixture::base(&config);
    for (freeze_a, core, share) in
        [(false, false, 0.0), (false, false, 0.3), (true, false, 0.3), (false, true, 0.3)]
    {
        let mut manifest = fixture::manifest(&base, &ALL, freeze_a);
        if core {
            manifest.layout = manifest.layout.with_cores().expect("a layout");
        }
        let plan = Plan::new(&base, &manifest).expect("fits");
        let theta = fixture::normal(manifest.layout.n(), 0.3, 4);
        let run = |theta: &[f32]| {
            // The same mask each time.
            let stream = Stream::new(9, "mask", &[]);
            let mut dropout = Dropout { share, streams: vec![stream] };
            by_hand(&base, &plan, theta, &batch, (share > 0.0).then_some(&mut dropout))
        };
        let (_, gradient) = run(&theta);
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

/// `B R` in the place of B, as an exported adapter has it, gives the same loss.
#[test]
fn a_core_is_part_of_its_b_when_exported() {
    let (config, batch) = cases().swap_remove(0);
    let base = fixture::base(&config);
    let plain = fixture::manifest(&base, &ALL, false);
    let mut manifest = plain.clone();
    manifest.layout = manifest.layout.with_cores().expect("a layout");
    let theta = fixture::normal(manifest.layout.n(), 0.3, 4);
    let plan = Plan::new(&base, &manifest).expect("fits");
    let (with_core, _) = by_hand(&base, &plan, &theta, &batch, None);
    let file = weights::write(&manifest, None, &theta).expect("an adapter's file");
    let (_, _, theta) = weights::read(&file, plain.layout.clone(), None).expect("PEFT's tensors");
    let plan = Plan::new(&base, &plain).expect("fits");
    let (without, _) = by_hand(&base, &plan, &theta, &batch, None);
    assert!((with_core - without).abs() < 1e-5, "{with_core} is not {without}");
}

/// Only some linears adapted: the walk down ends early, and what it gives is unchanged.
#[test]
fn a_partial_adapter_has_the_same_gradients() {
    let (config, batch) = cases().swap_remove(0);
    let base = fixture::base(&config);
    for targets in [["layers.1.self_attn.v_proj"], ["layers.1.mlp.down_proj"]] {
        let manifest = fixture::manifest(&base, &targets, false);
        let plan = Plan::new(&base, &manifest).expect("fits");
        let theta = fixture::normal(manifest.layout.n(), 0.3, 6);
        let (_, part) = by_hand(&base, &plan, &theta, &batch, None);

        let whole = fixture::manifest(&base, &ALL, false);
        let mut wide = vec![0.0; whole.layout.n()];
        let places: Vec<_> = manifest
            .layout
            .tensors()
            .map(|(t, place)| {
                let found = whole.layout.tensors().find(|(w, _)| w.name == t.name);
                (place, found.expect("all has each").1)
            })
            .collect();
        for (from, to) in &places {
            wide[to.clone()].copy_from_slice(&theta[from.clone()]);
        }
        let plan = Plan::new(&base, &whole).expect("fits");
        let (_, all) = by_hand(&base, &plan, &wide, &batch, None);
        for (from, to) in places {
            assert_eq!(part[from], all[to]);
        }
    }
}

/// Full fine-tuning: at the base's own weights a change's gradient is the weight's, as pretraining has it.
#[test]
fn a_whole_weights_gradient_is_pretrainings() {
    let (config, batch) = cases().swap_remove(0);
    let base = fixture::base(&config);
    let mut manifest = fixture::manifest(&base, &ALL, false);
    manifest.layout = Layout::weights(&base.linears(), |_| true).expect("a layout");
    let plan = Plan::new(&base, &manifest).expect("fits");
    let (_, gradient) = by_hand(&base, &plan, &vec![0.0; manifest.layout.n()], &batch, None);

    let decoder = base.decoder(None).expect("a decoder");
    let (mut tape, mut logits) = (Tape::default(), Vec::new());
    decoder.features(&mut tape, &batch, None);
    let mut all = vec![0.0; base.n_weights()];
    let mut gradients = Gradients { adapter: None, weights: Some(&mut all) };
    let mut loss = [Loss::of(&batch.targets)];
    decoder.learn(&mut tape, &mut logits, &mut loss, &mut gradients);
    for (tensor, place) in manifest.layout.tensors() {
        let stored = base.kind().tensors().iter().find(|stored| stored.name == tensor.name);
        let stored = stored.expect("a weight of that name");
        close(&tensor.name, &gradient[place], &all[stored.place.clone()], 1e-6);
    }
}

/// A weight's change behind factors is added to the base, and has no gradient of its own.
#[test]
fn a_weight_behind_factors_is_read_alone() {
    let (config, batch) = cases().swap_remove(0);
    let base = fixture::base(&config);
    let mut whole = fixture::manifest(&base, &ALL, false);
    whole.layout = Layout::weights(&base.linears(), |_| true).expect("a layout");
    let changes = fixture::normal(whole.layout.n(), 0.1, 7);
    let plan = Plan::new(&base, &whole).expect("fits");
    let (alone, _) = by_hand(&base, &plan, &changes, &batch, None);

    let mut manifest = fixture::manifest(&base, &ALL, false);
    manifest.layout = manifest.layout.with_weights().expect("a layout");
    let plan = Plan::new(&base, &manifest).expect("fits");
    // B is 0, so that the factors give nothing yet.
    let mut theta = manifest.layout.init(1);
    let mut left = &changes[..];
    for (tensor, place) in manifest.layout.tensors().filter(|(t, _)| t.part == Part::Weight) {
        let (values, rest) = left.split_at(tensor.len());
        theta[place].copy_from_slice(values);
        left = rest;
    }
    let (behind, gradient) = by_hand(&base, &plan, &theta, &batch, None);
    assert!((behind - alone).abs() < 1e-6, "{behind} is not {alone}");
    for (tensor, place) in manifest.layout.tensors() {
        let moves = gradient[place].iter().any(|&g| g != 0.0);
        assert_eq!(moves, tensor.part == Part::LoraB, "{}", tensor.name);
    }
}
