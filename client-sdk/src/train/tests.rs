//! A client's training as its callers see it.

use candle_core::Tensor;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::layout::{Layout, Part, TensorSpec};
use gossamer_protocol::manifest::{LocalOptimizer, Manifest};
use gossamer_protocol::sparse::Support;

use super::*;
use crate::data::{Batch, BatchError, Example, LabelledDataset, Plan, TaskError, TextDataset};
use crate::lora::LoraError;
use crate::model::fixture;
use crate::model::graph::layers;
use crate::model::llama::tests::tiny;

const TARGETS: [&str; 3] = ["q_proj", "v_proj", "down_proj"];
const CLIENT: ClientId = ClientId([3; 16]);

fn setting(freeze_a: bool) -> (BaseModel, Manifest, TextDataset) {
    let base = fixture::base(&tiny());
    let mut manifest = fixture::manifest(&base, &TARGETS, freeze_a);
    manifest.training.steps = 4;
    let words: Vec<String> = (0..90).map(|i| format!("w{}", 3 + (i * i) % 16)).collect();
    let task = TextDataset::new(&base, &[words.join(" ")]).expect("text");
    (base, manifest, task)
}

fn run(
    (base, manifest, task): &(BaseModel, Manifest, TextDataset),
    support: Option<&Support>,
) -> Result<Trained, TrainError> {
    let theta = manifest.layout.init(manifest.seed);
    let round = RoundId(2);
    let job = Job { base, manifest, theta: &theta, support, client: CLIENT, round };
    train(&job, task, &mut |_| Control::Continue)
}

fn bits(delta: &[f32]) -> Vec<u32> {
    delta.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn the_loss_falls_and_is_reported() {
    let mut setting = setting(false);
    setting.1.training.steps = 40;
    let trained = run(&setting, None).expect("trains");
    assert_eq!(trained.examples, 1);
    assert_eq!(trained.delta.len(), setting.1.layout.n());
    assert!(trained.last_loss < trained.loss, "{} {}", trained.last_loss, trained.loss);
    assert!(trained.tokens > 40 * 16);
    let start = setting.1.layout.init(setting.1.seed);
    let batches = setting.2.sequences(4, 16);
    let [before, after] =
        [start.clone(), start.iter().zip(&trained.delta).map(|(t, d)| t + d).collect()].map(
            |theta: Vec<f32>| evaluate(&setting.0, &setting.1, &theta, &batches).expect("runs"),
        );
    assert_eq!(before.tokens, 91);
    assert!(after.mean() < before.mean() - 0.1, "{} {}", before.mean(), after.mean());
}

/// Beside other threads, and with dropout, the bytes stay; another client, round or seed has others.
#[test]
fn equal_inputs_give_equal_bytes() {
    let mut setting = setting(false);
    for dropout in [0.0, 0.25] {
        setting.1.lora.dropout = dropout;
        let setting = &setting;
        let once = bits(&run(setting, None).expect("trains").delta);
        let many: Vec<Vec<u32>> = std::thread::scope(|scope| {
            let start = || scope.spawn(|| bits(&run(setting, None).expect("trains").delta));
            let threads: Vec<_> = (0..4).map(|_| start()).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert!(many.iter().all(|delta| *delta == once));
    }
    let with = bits(&run(&setting, None).expect("trains").delta);
    setting.1.lora.dropout = 0.0;
    assert_ne!(with, bits(&run(&setting, None).expect("trains").delta));
    let theta = setting.1.layout.init(setting.1.seed);
    let (base, manifest, task) = (&setting.0, &setting.1, &setting.2);
    let at = |client, round| {
        let job = Job { base, manifest, theta: &theta, support: None, client, round };
        bits(&train(&job, task, &mut |_| Control::Continue).expect("trains").delta)
    };
    let here = at(CLIENT, RoundId(2));
    assert_ne!(here, at(CLIENT, RoundId(3)));
    assert_ne!(here, at(ClientId([4; 16]), RoundId(2)));
}

/// Neither gradient, momentum nor decay moves an entry outside; those inside move.
#[test]
fn only_the_support_moves() {
    let mut setting = setting(false);
    let adamw = LocalOptimizer::AdamW { lr: 0.01, weight_decay: 0.5 };
    let sgd = LocalOptimizer::Sgd { lr: 0.1, momentum: 0.9 };
    let n = setting.1.layout.n();
    // The rank is 3, so every column of B has its share, and with it every row of A a gradient.
    let support = Support::Indices((0..n as u32).step_by(2).collect());
    for optimizer in [sgd, adamw] {
        setting.1.training.optimizer = optimizer;
        let delta = run(&setting, Some(&support)).expect("trains").delta;
        for (i, delta) in delta.iter().enumerate() {
            assert!(i % 2 == 0 || *delta == 0.0, "{i}: {delta}");
        }
        let moved = delta.iter().filter(|d| **d != 0.0).count();
        assert!(moved * 10 > delta.len().div_ceil(2) * 9, "{moved} of {n}");
        let all = run(&setting, Some(&Support::All)).expect("trains").delta;
        assert_eq!(all, run(&setting, None).expect("trains").delta);
    }
    let outside = Support::Indices(vec![n as u32]);
    let refused = run(&setting, Some(&outside)).expect_err("outside");
    assert!(matches!(refused, TrainError::Support { .. }), "{refused:?}");
}

/// FFA-LoRA: B alone is laid out, and its gradient is the one it has beside the same trained A.
#[test]
fn a_frozen_a_stays_at_its_seeded_start() {
    let (mut whole, mut frozen) = (setting(false), setting(true));
    for setting in [&mut whole, &mut frozen] {
        setting.1.training.steps = 1;
    }
    let delta = run(&frozen, None).expect("trains").delta;
    let all = run(&whole, None).expect("trains").delta;
    let b: Vec<f32> = whole
        .1
        .layout
        .tensors()
        .filter(|(tensor, _)| tensor.part == Part::LoraB)
        .flat_map(|(_, place)| all[place].to_vec())
        .collect();
    assert_eq!(delta, b);
    assert!(delta.iter().any(|d| *d != 0.0));
}

/// Half the composed cross-entropy, by candle's own differentiation.
struct Half(TextDataset);

impl TrainingTask for Half {
    fn examples(&self) -> usize {
        self.0.examples()
    }

    fn batch(&self, plan: &Plan, step: u32) -> Result<Batch, TaskError> {
        self.0.batch(plan, step)
    }

    fn loss(&self, logits: &Tensor, batch: &Batch) -> Result<Option<Tensor>, TaskError> {
        let share = 0.5 / batch.learned() as f64;
        Ok(Some((layers::nats(logits, &batch.targets)? * share)?))
    }
}

#[test]
fn a_task_may_bring_its_own_loss() {
    let (base, mut manifest, data) = setting(false);
    let theta = fixture::normal(manifest.layout.n(), 0.3, 8);
    manifest.training.steps = 1;
    let (client, round) = (CLIENT, RoundId(0));
    let job = Job { base: &base, manifest: &manifest, theta: &theta, support: None, client, round };
    let watch = &mut |_| Control::Continue;
    let whole = train(&job, &data, watch).expect("trains");
    let half = train(&job, &Half(data), watch).expect("trains");
    assert!((whole.loss - 2.0 * half.loss).abs() < 1e-5);
    let norm = |x: &[f32]| x.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
    let apart: Vec<f32> = whole.delta.iter().zip(&half.delta).map(|(w, h)| w - 2.0 * h).collect();
    assert!(norm(&apart) < 1e-4 * norm(&whole.delta));
}

#[test]
fn the_watcher_sees_each_step_and_may_stop() {
    let (base, manifest, task) = setting(false);
    let theta = manifest.layout.init(manifest.seed);
    let (client, round) = (CLIENT, RoundId(0));
    let job = Job { base: &base, manifest: &manifest, theta: &theta, support: None, client, round };
    let mut seen = Vec::new();
    let stopped = train(&job, &task, &mut |progress| {
        seen.push((progress.step, progress.steps));
        if progress.step == 3 { Control::Stop } else { Control::Continue }
    });
    assert_eq!(seen, [(1, 4), (2, 4), (3, 4)]);
    assert!(matches!(stopped, Err(TrainError::Stopped { step: 3 })));
}

#[test]
fn a_diverging_training_has_no_result() {
    let mut setting = setting(false);
    setting.1.training.steps = 50;
    setting.1.training.optimizer = LocalOptimizer::Sgd { lr: 1e20, momentum: 0.9 };
    let refused = run(&setting, None).expect_err("diverges");
    assert!(matches!(refused, TrainError::NonFinite { .. }), "{refused:?}");
}

/// Infinite, with next to no gradient: only the loss itself tells.
struct Infinite(TextDataset);

impl TrainingTask for Infinite {
    fn examples(&self) -> usize {
        self.0.examples()
    }

    fn batch(&self, plan: &Plan, step: u32) -> Result<Batch, TaskError> {
        self.0.batch(plan, step)
    }

    fn loss(&self, logits: &Tensor, _: &Batch) -> Result<Option<Tensor>, TaskError> {
        Ok(Some(((logits.sum_all()? * 1e-30)? + f64::INFINITY)?))
    }
}

#[test]
fn an_infinite_loss_is_no_result() {
    let (base, manifest, data) = setting(false);
    let theta = manifest.layout.init(manifest.seed);
    let (client, round) = (CLIENT, RoundId(0));
    let job = Job { base: &base, manifest: &manifest, theta: &theta, support: None, client, round };
    let refused = train(&job, &Infinite(data), &mut |_| Control::Continue).expect_err("infinite");
    let TrainError::NonFinite { step: 1, what: "the loss", .. } = refused else {
        panic!("{refused:?}")
    };
}

#[test]
fn what_does_not_fit_is_named() {
    type Break = fn(&mut Manifest);
    let refused = |break_it: Break| {
        let mut setting = setting(false);
        break_it(&mut setting.1);
        run(&setting, None).expect_err("does not fit")
    };
    let other_base = refused(|m| m.base.digest = Digest::of(b"another"));
    assert!(matches!(other_base, TrainError::Base { .. }), "{other_base:?}");
    let context = refused(|m| m.training.context = 81);
    assert!(matches!(context, TrainError::Context { expected: 80, found: 81 }), "{context:?}");

    let change = |change: &dyn Fn(&mut Vec<TensorSpec>)| {
        let mut setting = setting(false);
        let mut tensors: Vec<TensorSpec> = setting.1.layout.clone().into();
        change(&mut tensors);
        setting.1.layout = Layout::new(tensors).expect("a layout");
        match run(&setting, None).expect_err("another base's layout") {
            TrainError::Lora(error) => error,
            other => panic!("{other:?}"),
        }
    };
    let unknown = change(&|t| t[0].name = "model.layers.9.self_attn.q_proj.lora_A".into());
    assert!(matches!(unknown, LoraError::Unknown { .. }), "{unknown:?}");
    let shape = change(&|t| t[0].shape = [3, 13]);
    assert!(matches!(shape, LoraError::Shape { found: [3, 13], .. }), "{shape:?}");
    for part in [0, 1] {
        let unpaired = change(&|t| drop(t.remove(part)));
        assert!(matches!(unpaired, LoraError::Unpaired { .. }), "{unpaired:?}");
    }

    let (base, manifest, task) = setting(false);
    let with = |theta: &[f32]| {
        let (client, round) = (CLIENT, RoundId(0));
        let job = Job { base: &base, manifest: &manifest, theta, support: None, client, round };
        train(&job, &task, &mut |_| Control::Continue).expect_err("does not fit")
    };
    let short = with(&[0.0; 5]);
    assert!(matches!(short, TrainError::Lora(LoraError::Length { found: 5, .. })), "{short:?}");
    let mut theta = manifest.layout.init(1);
    theta[7] = f32::NAN;
    assert!(matches!(with(&theta), TrainError::Lora(LoraError::NonFinite(7))));
}

#[test]
fn a_batch_that_does_not_fit_is_refused() {
    let good = || fixture::batch(&tiny(), 2, 5);
    let check = |batch: Batch| batch.check(&tiny().limits());
    assert_eq!(check(good()), Ok(()));
    assert!(matches!(check(Batch { rows: 3, ..good() }), Err(BatchError::Shape { .. })));
    let empty = Batch::default();
    assert!(matches!(check(empty), Err(BatchError::Shape { .. })));
    let mut token = good();
    token.targets[0] = 19;
    assert!(matches!(check(token), Err(BatchError::Token { found: 19, expected: 19 })));
    assert!(matches!(check(fixture::batch(&tiny(), 1, 81)), Err(BatchError::Context { .. })));
    let mut ignored = good();
    ignored.targets.fill(crate::data::IGNORE);
    assert_eq!(check(ignored), Err(BatchError::NoTarget));
}

#[test]
fn greedy_text_stays_within_the_context() {
    let (base, manifest, _) = setting(false);
    let theta = manifest.layout.init(1);
    // B is 0 at the start, so the adapter changes nothing yet.
    let plain = generate(&base, None, "w5 w6", 200).expect("runs");
    assert_eq!(generate(&base, Some((&manifest, &theta)), "w5 w6", 200).expect("runs"), plain);
    assert!(plain.starts_with("w1 w5 w6"));
    assert!(plain.split(' ').count() <= base.context());
    let long = vec!["w5"; 80].join(" ");
    let refused = generate(&base, None, &long, 1).expect_err("too long");
    assert!(matches!(refused, TrainError::Prompt { expected: 80, found: 81 }), "{refused:?}");
}

fn classification() -> (BaseModel, Manifest, LabelledDataset) {
    let base = fixture::bert(&serde_json::json!({})).expect("loads");
    let mut manifest = fixture::manifest(&base, &["query", "value"], false);
    manifest.training.steps = 60;
    manifest.training.batch = 8;
    manifest.training.optimizer = LocalOptimizer::AdamW { lr: 0.02, weight_decay: 0.0 };
    // The class is in which words there are, not in how many.
    let example = |at: u32| {
        let label = at % fixture::CLASSES;
        let word = |i: u32| format!("w{}", 3 + 4 * label + (at * 7 + i * i) % 4);
        let text: Vec<String> = (0..2 + at % 5).map(word).collect();
        Example { text: text.join(" "), label }
    };
    let examples: Vec<Example> = (0..40).map(example).collect();
    let data = LabelledDataset::new(&base, &examples, fixture::CLASSES).expect("sound");
    (base, manifest, data)
}

/// From nothing (all logits 0: loss log 5, and the first class found) to most classes told apart.
#[test]
fn a_classifier_learns() {
    let (base, manifest, data) = classification();
    let theta = manifest.layout.init(manifest.seed);
    let batches = data.batches(16, 16);
    let before = evaluate(&base, &manifest, &theta, &batches).expect("runs");
    assert_eq!((before.tokens, before.right, before.accuracy()), (40, Some(8), Some(0.2)));
    assert!((before.mean() - 5.0_f64.ln()).abs() < 1e-6, "{}", before.mean());

    let (client, round) = (CLIENT, RoundId(0));
    let job = Job { base: &base, manifest: &manifest, theta: &theta, support: None, client, round };
    let trained = train(&job, &data, &mut |_| Control::Continue).expect("trains");
    assert_eq!((trained.examples, trained.tokens), (40, 60 * 8));
    let moved = |part| {
        let moved = |place: std::ops::Range<usize>| trained.delta[place].iter().any(|d| *d != 0.0);
        let tensors = manifest.layout.tensors().filter(|(tensor, _)| tensor.part == part);
        tensors.into_iter().all(|(_, place)| moved(place))
    };
    assert!(moved(Part::LoraA) && moved(Part::LoraB) && moved(Part::Head));
    let local: Vec<f32> = theta.iter().zip(&trained.delta).map(|(t, d)| t + d).collect();
    let after = evaluate(&base, &manifest, &local, &batches).expect("runs");
    assert!(after.accuracy().expect("measured") >= 0.9, "{after:?}");
    assert!(after.mean() < 0.5 * before.mean(), "{after:?}");
    // Text has no class to be right about.
    let (base, manifest, text) = setting(false);
    let theta = manifest.layout.init(1);
    let plain = evaluate(&base, &manifest, &theta, &text.sequences(4, 16)).expect("runs");
    assert_eq!((plain.right, plain.accuracy()), (None, None));
}

/// A head alone is softmax regression on frozen features: from zeros every class is as likely, so one step of
/// 1 over 8 examples moves class c's bias by `n_c / 8 - 1 / 5`, and the weights by rows that sum to 0.
#[test]
fn a_head_alone_is_softmax_regression() {
    let (base, mut manifest, data) = classification();
    manifest.layout = Layout::head(fixture::CLASSES, base.hidden()).expect("a layout");
    manifest.training.steps = 1;
    manifest.training.optimizer = LocalOptimizer::Sgd { lr: 1.0, momentum: 0.0 };
    let (client, round, theta) = (CLIENT, RoundId(0), vec![0.0; manifest.layout.n()]);
    let job = Job { base: &base, manifest: &manifest, theta: &theta, support: None, client, round };
    let delta = train(&job, &data, &mut |_| Control::Continue).expect("trains").delta;

    let plan = Plan { seed: manifest.seed, client, round, rows: 8, cols: 16 };
    let labels = data.batch(&plan, 0).expect("a batch").targets;
    let (weight, bias) = delta.split_at(5 * base.hidden());
    for (class, &moved) in (0..5).zip(bias) {
        let of_class = labels.iter().filter(|&&label| label == class).count() as f32;
        assert!((moved - (of_class / 8.0 - 0.2)).abs() < 1e-6, "class {class}: {moved}");
    }
    for at in 0..base.hidden() {
        let sum: f32 = weight.iter().skip(at).step_by(base.hidden()).sum();
        assert!(sum.abs() < 1e-6, "feature {at}: {sum}");
    }
    assert!(weight.iter().any(|v| v.abs() > 1e-3));
}

#[test]
fn a_classifiers_batch_that_does_not_fit_is_refused() {
    let (base, manifest, data) = classification();
    let limits = base.limits(manifest.head);
    let good = || data.batches(4, 16).remove(0);
    assert_eq!(good().check(&limits), Ok(()));
    let refused = |break_it: &dyn Fn(&mut Batch)| {
        let mut batch = good();
        break_it(&mut batch);
        batch.check(&limits).expect_err("does not fit")
    };
    let class = refused(&|batch| batch.targets[1] = 5);
    assert_eq!(class, BatchError::Class { expected: 5, found: 5 });
    assert!(matches!(refused(&|batch| batch.targets.truncate(3)), BatchError::Shape { .. }));
    assert_eq!(refused(&|batch| batch.lengths[0] = 0), BatchError::Lengths);
    assert_eq!(refused(&|batch| batch.lengths[0] = batch.cols + 1), BatchError::Lengths);
    assert_eq!(refused(&|batch| batch.lengths.truncate(3)), BatchError::Lengths);
    let token = refused(&|batch| batch.inputs[2] = 23);
    assert_eq!(token, BatchError::Token { expected: 23, found: 23 });
    // Text has no lengths.
    let mut text = fixture::batch(&tiny(), 2, 5);
    text.lengths = vec![5, 5];
    assert_eq!(text.check(&tiny().limits()), Err(BatchError::Lengths));

    let silent = generate(&base, None, "w5", 3).expect_err("an encoder");
    assert!(matches!(silent, TrainError::Encoder), "{silent:?}");
}
