//! Many clients' trainings through shared passes: what each would have had alone.

use candle_core::Tensor;
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::manifest::{LocalOptimizer, Manifest};
use gossamer_protocol::sparse::Support;

use super::passes::{ENTRIES, TOKENS};
use super::*;
use crate::data::{Batch, Example, LabelledDataset, Plan, TaskError, TextDataset};
use crate::model::fixture;
use crate::model::llama::tests::tiny;

const ROUND: RoundId = RoundId(2);

fn decoder() -> (BaseModel, Manifest) {
    let base = fixture::base(&tiny());
    let mut manifest = fixture::manifest(&base, &["q_proj", "v_proj", "down_proj"], false);
    manifest.training.steps = 3;
    (base, manifest)
}

/// Client `at`'s text of so many words.
fn text(base: &BaseModel, at: usize, words: usize) -> TextDataset {
    let words: Vec<String> =
        (0..words).map(|i| format!("w{}", 3 + (i * i + at * 5) % 16)).collect();
    TextDataset::new(base, &[words.join(" ")]).expect("text")
}

fn client(at: usize) -> ClientId {
    ClientId([at as u8 + 1; 16])
}

fn alone(job: &Job<'_>, task: &dyn TrainingTask) -> Result<Trained, TrainError> {
    train(job, task, &mut |_| Control::Continue)
}

/// Steps all to their ends; one that fails is left out from then on. Gives the rows of each step's last pass.
fn together(
    jobs: &[(Job<'_>, &dyn TrainingTask)],
) -> (Vec<Result<Trained, TrainError>>, Vec<usize>) {
    let mut passes = Passes::default();
    let mut works: Vec<Result<Work<'_>, TrainError>> =
        jobs.iter().map(|(job, task)| Work::start(job, *task)).collect();
    let mut rows = Vec::new();
    loop {
        let mut live: Vec<(usize, &mut Work<'_>)> = Vec::new();
        for (at, work) in works.iter_mut().enumerate() {
            live.extend(work.as_mut().ok().map(|work| (at, work)));
        }
        let (places, mut members): (Vec<usize>, Vec<_>) = live.into_iter().unzip();
        let outcomes = passes.step(&mut members);
        assert_eq!(outcomes.len(), places.len());
        if outcomes.iter().all(|outcome| matches!(outcome, Ok(None))) {
            return (works.into_iter().map(|work| work.map(Work::finish)).collect(), rows);
        }
        rows.push(passes.rows());
        for (at, outcome) in places.into_iter().zip(outcomes) {
            if let Err(error) = outcome {
                works[at] = Err(error);
            }
        }
    }
}

fn same(got: &[Result<Trained, TrainError>], jobs: &[(Job<'_>, &dyn TrainingTask)], what: &str) {
    let bits = |trained: &Trained| trained.delta.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(got.len(), jobs.len());
    for (at, (got, (job, task))) in got.iter().zip(jobs).enumerate() {
        let (got, want) = (got.as_ref().expect("trains"), alone(job, *task).expect("trains"));
        assert!(want.delta.iter().any(|&x| x != 0.0), "{what}: client {at} learned nothing");
        assert_eq!(bits(got), bits(&want), "{what}: client {at}");
        assert_eq!(*got, want, "{what}: client {at}");
    }
}

/// Decoders: optimisers, supports, dropout, clipping; other adapters, and a text too short for the others' shape.
#[test]
fn many_step_to_the_bits_of_one() {
    let (base, mut manifest) = decoder();
    // What a branch can have between its factors.
    manifest.layout = manifest.layout.with_cores().expect("a layout");
    let n = manifest.layout.n();
    let thetas: Vec<Vec<f32>> = (0..5).map(|at| fixture::normal(n, 0.3, at)).collect();
    let texts: Vec<TextDataset> =
        (0..5).map(|at| text(&base, at, if at == 3 { 9 } else { 90 + at })).collect();
    let half = Support::Indices((0..n as u32).step_by(2).collect());
    let sgd = LocalOptimizer::Sgd { lr: 0.1, momentum: 0.9 };
    let adamw = LocalOptimizer::AdamW { lr: 0.01, weight_decay: 0.1 };
    for (optimizer, support, dropout, clip) in [
        (sgd, None, 0.0, None),
        (sgd, Some(&half), 0.25, Some(0.1)),
        (adamw, None, 0.25, Some(0.1)),
        (adamw, Some(&half), 0.0, None),
    ] {
        manifest.training.optimizer = optimizer;
        manifest.lora.dropout = dropout;
        manifest.training.clip = clip;
        let (base, manifest) = (&base, &manifest);
        let jobs: Vec<(Job<'_>, &dyn TrainingTask)> = thetas
            .iter()
            .zip(&texts)
            .enumerate()
            .map(|(at, (theta, text))| {
                let (client, round) = (client(at), ROUND);
                (Job { base, manifest, theta, support, client, round }, text as &dyn TrainingTask)
            })
            .collect();
        let (got, rows) = together(&jobs);
        // The short one is alone, in the step's last pass.
        assert_eq!(rows, [1; 3]);
        same(&got, &jobs, &format!("{optimizer:?} dropout {dropout}"));
        let whole = [&jobs[..3], &jobs[4..]].concat();
        let (got, rows) = together(&whole);
        assert_eq!(rows, [4 * 2; 3], "four clients of two rows in one pass");
        same(&got, &whole, "whole");
    }
}

/// Encoders: each client its own head, rows padded to each batch's longest sequence.
#[test]
fn heads_are_each_clients_own() {
    let base = fixture::bert(&serde_json::json!({})).expect("loads");
    let mut manifest = fixture::manifest(&base, &["query", "value", "intermediate.dense"], false);
    manifest.training.steps = 4;
    manifest.training.batch = 4;
    let n = manifest.layout.n();
    let thetas: Vec<Vec<f32>> = (0..4).map(|at| fixture::normal(n, 0.3, at)).collect();
    let datasets = (0..4_u32).map(|client| {
        let example = |at: u32| {
            let words: Vec<String> = (0..3 + at % 2)
                .map(|i| format!("w{}", 3 + (at * 7 + client * 3 + i) % 18))
                .collect();
            Example { text: words.join(" "), label: (at + client) % fixture::CLASSES }
        };
        let examples: Vec<Example> = (0..20).map(example).collect();
        LabelledDataset::new(&base, &examples, fixture::CLASSES).expect("sound")
    });
    let datasets: Vec<LabelledDataset> = datasets.collect();
    for dropout in [0.0, 0.25] {
        manifest.lora.dropout = dropout;
        let (base, manifest) = (&base, &manifest);
        let jobs: Vec<(Job<'_>, &dyn TrainingTask)> = thetas
            .iter()
            .zip(&datasets)
            .enumerate()
            .map(|(at, (theta, data))| {
                let (client, round) = (client(at), ROUND);
                let job = Job { base, manifest, theta, support: None, client, round };
                (job, data as &dyn TrainingTask)
            })
            .collect();
        let (got, rows) = together(&jobs);
        assert!(rows.iter().any(|&rows| rows > 4), "some share a pass: {rows:?}");
        same(&got, &jobs, &format!("dropout {dropout}"));
    }
}

/// More clients than a pass takes, and clients of two runs.
#[test]
fn a_step_may_take_several_passes() {
    let (base, manifest) = decoder();
    let other = Manifest { seed: 6, ..manifest.clone() };
    let each = Passes::clients(&manifest);
    assert_eq!(each, TOKENS / 32);
    let theta = fixture::normal(manifest.layout.n(), 0.3, 8);
    let texts: Vec<TextDataset> = (0..each + 3).map(|at| text(&base, at, 90)).collect();
    let jobs: Vec<(Job<'_>, &dyn TrainingTask)> = texts
        .iter()
        .enumerate()
        .map(|(at, text)| {
            let manifest = if at < each + 1 { &manifest } else { &other };
            let (base, theta, client, round) = (&base, &theta, client(at), ROUND);
            let job = Job { base, manifest, theta, support: None, client, round };
            (job, text as &dyn TrainingTask)
        })
        .collect();
    let (got, rows) = together(&jobs);
    assert_eq!(rows, [2 * 2; 3], "the second run's two clients");
    same(&got, &jobs, "all");
}

/// A pass takes one client at least; of wide adapters few, whatever their batches.
#[test]
fn the_size_of_a_pass() {
    let (_, mut manifest) = decoder();
    manifest.training.batch = 8;
    manifest.training.context = TOKENS as u32;
    assert_eq!(Passes::clients(&manifest), 1);
    assert_eq!(super::passes::most(1, ENTRIES / 3), 3);
    assert_eq!(super::passes::most(1, ENTRIES + 1), 1);
}

/// How a client fails in its second step.
#[derive(Clone, Copy)]
enum Failing {
    Batch,
    BatchPanics,
    Loss,
    LossPanics,
    NotANumber,
}

struct Fails(TextDataset, Failing);

impl TrainingTask for Fails {
    fn examples(&self) -> usize {
        self.0.examples()
    }

    fn batch(&self, plan: &Plan, step: u32) -> Result<Batch, TaskError> {
        match self.1 {
            Failing::Batch if step == 1 => Err(TaskError::Other("no batch".into())),
            Failing::BatchPanics => {
                assert!(step == 0, "no batch {step}");
                self.0.batch(plan, step)
            }
            _ => {
                let mut batch = self.0.batch(plan, step)?;
                // Tells the loss which step it is.
                batch.targets[0] = 3 + step;
                Ok(batch)
            }
        }
    }

    fn loss(&self, logits: &Tensor, batch: &Batch) -> Result<Option<Tensor>, TaskError> {
        let second = batch.targets[0] == 4;
        match self.1 {
            Failing::Loss if second => Err(TaskError::Other("no loss".into())),
            Failing::LossPanics if second => panic!("no loss"),
            Failing::NotANumber if second => Ok(Some((logits.sum_all()? * f64::NAN)?)),
            _ => Ok(None),
        }
    }
}

/// Each is told its own error, as it would be alone; the others never notice.
#[test]
fn a_client_that_fails_leaves_the_others_untouched() {
    let (base, mut manifest) = decoder();
    manifest.training.batch = 1;
    let theta = fixture::normal(manifest.layout.n(), 0.3, 8);
    let kinds = [
        Failing::Batch,
        Failing::BatchPanics,
        Failing::Loss,
        Failing::LossPanics,
        Failing::NotANumber,
    ];
    let job = |at| {
        let (base, manifest, theta) = (&base, &manifest, &theta);
        Job { base, manifest, theta, support: None, client: client(at), round: ROUND }
    };
    // Whole windows only, so that all have one shape.
    let good: Vec<TextDataset> = (0..kinds.len()).map(|at| text(&base, at, 95)).collect();
    let bad: Vec<Fails> = kinds.map(|kind| Fails(text(&base, 7, 95), kind)).into();
    let pairs = good.iter().zip(&bad).enumerate();
    let jobs: Vec<(Job<'_>, &dyn TrainingTask)> = pairs
        .flat_map(|(at, (good, bad))| {
            [(job(2 * at), good as &dyn TrainingTask), (job(2 * at + 1), bad)]
        })
        .collect();
    let (got, rows) = together(&jobs);
    assert_eq!(rows, [10, 8, 5], "two fail before the second pass, three in it");
    for (at, (got, (job, task))) in got.iter().zip(&jobs).enumerate() {
        match at % 2 {
            0 => same(std::slice::from_ref(got), &[(*job, *task)], "a good one"),
            _ => {
                let (got, want) =
                    (got.as_ref().expect_err("fails"), alone(job, *task).expect_err("fails"));
                assert_eq!(format!("{got:?}"), format!("{want:?}"));
            }
        }
    }
}
