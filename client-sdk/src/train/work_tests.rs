//! A training that stops between two steps, and an app's code that panics.

use candle_core::Tensor;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::manifest::{LocalOptimizer, Manifest};
use gossamer_protocol::sparse::Support;

use super::*;
use crate::data::{Batch, Plan, TaskError, TextDataset};
use crate::model::fixture;
use crate::model::llama::tests::tiny;

const STEPS: u32 = 6;

fn setting() -> (BaseModel, Manifest, TextDataset) {
    let base = fixture::base(&tiny());
    let mut manifest = fixture::manifest(&base, &["q_proj", "v_proj", "down_proj"], false);
    manifest.training.steps = STEPS;
    let words: Vec<String> = (0..90).map(|i| format!("w{}", 3 + (i * i) % 16)).collect();
    let task = TextDataset::new(&base, &[words.join(" ")]).expect("text");
    (base, manifest, task)
}

fn of(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn to_end(mut work: Work<'_>) -> Trained {
    while work.step().expect("trains").is_some() {}
    work.finish()
}

fn bits(trained: &Trained) -> Vec<u32> {
    trained.delta.iter().map(|x| x.to_bits()).collect()
}

/// From every step, with every kind of state: the bytes, losses and counts of an undisturbed one.
#[test]
fn a_training_goes_on_from_any_step() {
    let (base, mut manifest, task) = setting();
    let theta = fixture::normal(manifest.layout.n(), 0.3, 8);
    let half = Support::Indices((0..theta.len() as u32).step_by(2).collect());
    manifest.lora.dropout = 0.25;
    manifest.training.clip = Some(1.0);
    let sgd = LocalOptimizer::Sgd { lr: 0.1, momentum: 0.9 };
    let adamw = LocalOptimizer::AdamW { lr: 0.01, weight_decay: 0.1 };
    for (optimizer, support) in
        [(sgd, None), (sgd, Some(&half)), (adamw, None), (adamw, Some(&half))]
    {
        manifest.training.optimizer = optimizer;
        let (client, round) = (ClientId([3; 16]), RoundId(2));
        let job = Job { base: &base, manifest: &manifest, theta: &theta, support, client, round };
        let start = || Work::start(&job, &task).expect("fits");
        let whole = to_end(start());
        assert_eq!(whole, train(&job, &task, &mut |_| Control::Continue).expect("trains"));
        for cut in 0..=STEPS {
            let mut before = start();
            for _ in 0..cut {
                before.step().expect("trains").expect("a step");
            }
            let bytes = before.save(of("it"));
            drop(before);
            let mut after = start();
            after.restore(&bytes, of("it")).expect("its own");
            assert_eq!(after.steps_done(), cut);
            let after = to_end(after);
            assert_eq!(bits(&after), bits(&whole), "{optimizer:?}, cut after {cut}");
            assert_eq!(after, whole);
        }
    }
}

#[test]
fn another_training_is_not_gone_on_with() {
    let (base, mut manifest, task) = setting();
    let theta = manifest.layout.init(1);
    let (client, round) = (ClientId([3; 16]), RoundId(2));
    let sgd = manifest.clone();
    manifest.training.optimizer = LocalOptimizer::AdamW { lr: 0.01, weight_decay: 0.1 };
    let adamw = manifest;
    let job = |manifest| Job { base: &base, manifest, theta: &theta, support: None, client, round };
    let bytes = {
        let job = job(&sgd);
        let mut work = Work::start(&job, &task).expect("fits");
        work.step().expect("trains");
        work.save(of("it"))
    };
    let undisturbed = to_end(Work::start(&job(&sgd), &task).expect("fits"));
    let mut work = Work::start(&job(&sgd), &task).expect("fits");
    let refused = work.restore(&bytes, of("another")).expect_err("of another");
    assert_eq!(refused, SavedError::Other { found: of("it"), expected: of("another") });
    assert!(matches!(work.restore(&bytes[..200], of("it")), Err(SavedError::Torn)));
    // Nothing was taken over.
    assert_eq!(to_end(work), undisturbed);

    let mut work = Work::start(&job(&adamw), &task).expect("fits");
    let n = theta.len();
    let shape = SavedError::Shape { found: [2, n], expected: [3, n] };
    assert_eq!(work.restore(&bytes, of("it")), Err(shape));
}

/// Where the app's task panics.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Examples,
    Batch,
    Loss,
}

struct Panics(TextDataset, Place);

impl TrainingTask for Panics {
    fn examples(&self) -> usize {
        assert!(self.1 != Place::Examples, "no examples");
        self.0.examples()
    }

    fn batch(&self, plan: &Plan, step: u32) -> Result<Batch, TaskError> {
        assert!(self.1 != Place::Batch, "no batch {step}");
        self.0.batch(plan, step)
    }

    fn loss(&self, _: &Tensor, _: &Batch) -> Result<Option<Tensor>, TaskError> {
        panic!("no loss")
    }
}

#[test]
fn a_panic_of_the_app_is_a_named_error() {
    let (base, manifest, text) = setting();
    let theta = manifest.layout.init(1);
    let (client, round) = (ClientId([3; 16]), RoundId(2));
    let job = Job { base: &base, manifest: &manifest, theta: &theta, support: None, client, round };
    let panicked = |refused: TrainError| match refused {
        TrainError::Panicked { what, message } => (what, message),
        other => panic!("{other:?}"),
    };
    for (place, told) in
        [(Place::Examples, "no examples"), (Place::Batch, "no batch 0"), (Place::Loss, "no loss")]
    {
        let task = Panics(text.clone(), place);
        let refused = train(&job, &task, &mut |_| Control::Continue).expect_err("panics");
        assert_eq!(panicked(refused), ("the task", told.to_owned()));
    }
    let refused = train(&job, &text, &mut |_| panic!("no watcher")).expect_err("panics");
    assert_eq!(panicked(refused), ("the watcher", "no watcher".to_owned()));
}
