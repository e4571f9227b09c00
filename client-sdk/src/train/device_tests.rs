//! Trainings and evaluations on a device against those by hand. candle's CPU is a device like any other here.

use std::num::NonZeroU32;

use candle_core::{Device, Tensor};
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::manifest::Manifest;
use serde_json::json;

use super::*;
use crate::data::{Batch, Example, LabelledDataset, Plan, TaskError, TextDataset};
use crate::lora::LoraError;
use crate::model::fixture;
use crate::model::graph::tests::close;
use crate::model::llama::tests::tiny;

/// Where the tests run: candle's CPU, and where a build has one and finds it, the GPU.
fn devices() -> Vec<Device> {
    let mut devices = vec![Device::Cpu];
    if cfg!(feature = "cuda") {
        devices.push(Device::new_cuda(0).expect("a CUDA device"));
    }
    if cfg!(feature = "metal") {
        devices.push(Device::new_metal(0).expect("a Metal device"));
    }
    devices
}

fn text() -> (BaseModel, Manifest, TextDataset) {
    let base = fixture::base(&tiny());
    let mut manifest = fixture::manifest(&base, &["q_proj", "v_proj", "down_proj"], false);
    manifest.training.steps = 4;
    manifest.lora.dropout = 0.1;
    let words: Vec<String> = (0..90).map(|i| format!("w{}", 3 + (i * i) % 16)).collect();
    let task = TextDataset::new(&base, &[words.join(" ")]).expect("text");
    (base, manifest, task)
}

fn trained(
    base: &BaseModel,
    manifest: &Manifest,
    theta: &[f32],
    task: &dyn TrainingTask,
    footprint: Footprint,
) -> Trained {
    let (client, round) = (ClientId([3; 16]), RoundId(2));
    let job = Job { base, manifest, theta, support: None, client, round };
    let mut work = Work::start(&job, task).expect("fits").footprint(footprint);
    while work.step().expect("trains").is_some() {}
    work.finish()
}

fn same(what: &str, got: &Trained, want: &Trained) {
    close(what, &got.delta, &want.delta, 1e-3);
    assert!((got.loss - want.loss).abs() < 1e-4, "{what}: {} {}", got.loss, want.loss);
    assert_eq!((got.examples, got.tokens), (want.examples, want.tokens), "{what}");
}

#[test]
fn text_in_whole_batches_and_in_parts() {
    let (base, mut manifest, task) = text();
    let parts = Footprint { micro_batch: NonZeroU32::new(1), ..Footprint::default() };
    for core in [false, true] {
        if core {
            manifest.layout = manifest.layout.with_cores().expect("a layout");
        }
        let theta = fixture::normal(manifest.layout.n(), 0.3, 8);
        for device in devices() {
            let there = base.on(&device).expect("fits");
            for footprint in [Footprint::default(), parts] {
                let want = trained(&base, &manifest, &theta, &task, footprint);
                let got = trained(&there, &manifest, &theta, &task, footprint);
                same(&format!("{device:?} {footprint:?} core {core}"), &got, &want);
            }
            let batches = task.sequences(4, 16);
            let [want, got] = [&base, &there]
                .map(|base| evaluate(base, &manifest, &theta, &batches).expect("evaluates"));
            assert!(want.tokens == got.tokens && (want.mean() - got.mean()).abs() < 1e-5);
        }
    }
}

/// A loss of the task's own, of tensors that it makes on the CPU.
struct Squares(TextDataset);

impl TrainingTask for Squares {
    fn examples(&self) -> usize {
        self.0.examples()
    }

    fn batch(&self, plan: &Plan, step: u32) -> Result<Batch, TaskError> {
        self.0.batch(plan, step)
    }

    fn loss(&self, logits: &Tensor, _: &Batch) -> Result<Option<Tensor>, TaskError> {
        let wanted = Tensor::ones(logits.dims(), candle_core::DType::F32, &Device::Cpu)?;
        Ok(Some((logits - wanted)?.sqr()?.mean_all()?))
    }
}

#[test]
fn a_loss_of_the_tasks_own() {
    let (base, manifest, task) = text();
    let theta = fixture::normal(manifest.layout.n(), 0.3, 8);
    let task = Squares(task);
    let want = trained(&base, &manifest, &theta, &task, Footprint::default());
    for device in devices() {
        let there = base.on(&device).expect("fits");
        let got = trained(&there, &manifest, &theta, &task, Footprint::default());
        same(&format!("{device:?}"), &got, &want);
    }
}

#[test]
fn classes_of_padded_sequences() {
    let base = fixture::bert(&json!({})).expect("loads");
    let mut manifest = fixture::manifest(&base, &["query", "value"], false);
    manifest.training.steps = 4;
    let texts = [("w5 w6 w7 w8", 3), ("w9", 0), ("w10 w11", 4)];
    let examples = texts.map(|(text, label)| Example { text: text.into(), label });
    let task = LabelledDataset::new(&base, &examples, fixture::CLASSES).expect("sound");
    let theta = fixture::normal(manifest.layout.n(), 0.3, 8);
    let want = trained(&base, &manifest, &theta, &task, Footprint::default());
    for device in devices() {
        let there = base.on(&device).expect("fits");
        let got = trained(&there, &manifest, &theta, &task, Footprint::default());
        same(&format!("{device:?}"), &got, &want);
        let batches = task.batches(2, 16);
        let [want, got] = [&base, &there]
            .map(|base| evaluate(base, &manifest, &theta, &batches).expect("evaluates"));
        assert_eq!((want.right, want.tokens), (got.right, got.tokens));
    }
}

#[test]
fn whole_weights_are_refused() {
    let (base, mut manifest, task) = text();
    manifest.layout = manifest.layout.with_weights().expect("a layout");
    let theta = vec![0.0; manifest.layout.n()];
    let (client, round) = (ClientId([3; 16]), RoundId(2));
    for device in devices() {
        let there = base.on(&device).expect("fits");
        let (base, manifest, theta) = (&there, &manifest, &theta[..]);
        let job = Job { base, manifest, theta, support: None, client, round };
        let refused = Work::start(&job, &task).expect_err("no place");
        assert!(matches!(refused, TrainError::Lora(LoraError::WholeOnDevice)), "{refused}");
    }
}
