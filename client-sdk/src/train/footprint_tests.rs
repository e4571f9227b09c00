//! Less memory, the same training.

use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::manifest::Manifest;
use std::num::NonZeroU32;

use super::*;
use crate::data::{Batch, Plan, TaskError};
use crate::model::fixture;
use crate::model::llama::tests::tiny;

/// Four sequences a step, some targets of some of them.
struct Drawn;

impl TrainingTask for Drawn {
    fn examples(&self) -> usize {
        1
    }

    fn has_loss(&self) -> bool {
        false
    }

    fn batch(&self, _: &Plan, step: u32) -> Result<Batch, TaskError> {
        let mut batch = fixture::batch(&tiny(), 5, 9);
        let by = step as usize;
        batch.inputs.rotate_left(by);
        // As many learned targets in no two sequences.
        batch.targets[..by + 4].fill(crate::data::IGNORE);
        Ok(batch)
    }
}

/// Sentences of different lengths, labelled.
struct Labelled;

impl TrainingTask for Labelled {
    fn examples(&self) -> usize {
        1
    }

    fn has_loss(&self) -> bool {
        false
    }

    fn batch(&self, _: &Plan, step: u32) -> Result<Batch, TaskError> {
        let inputs = (0..5 * 6).map(|i| (i * 7 + step) % 23).collect();
        let lengths = vec![6, 2, 4, 1, 5];
        Ok(Batch { inputs, targets: vec![0, 1, 4, 2, 3], lengths, rows: 5, cols: 6 })
    }
}

fn run(
    base: &BaseModel,
    manifest: &Manifest,
    task: &dyn TrainingTask,
    footprint: Footprint,
) -> Trained {
    let theta = fixture::normal(manifest.layout.n(), 0.3, 8);
    let (client, round) = (ClientId([3; 16]), RoundId(2));
    let job = Job { base, manifest, theta: &theta, support: None, client, round };
    let mut work = Work::start(&job, task).expect("fits").footprint(footprint);
    while work.step().expect("trains").is_some() {}
    work.finish()
}

fn bits(trained: &Trained) -> Vec<u32> {
    trained.delta.iter().map(|x| x.to_bits()).collect()
}

/// Every family; adapters on all linears and on few, with dropout: the bytes of a training without.
#[test]
fn checkpointing_changes_no_bit() {
    let checkpoint = Footprint { checkpoint: true, micro_batch: None };
    let llama = fixture::base(&tiny());
    let bert = fixture::bert(&serde_json::json!({})).expect("an encoder");
    let gguf = include_bytes!("../../tests/golden/gpt2.gguf");
    let gpt2 = BaseModel::from_gguf_bytes(gguf, None).expect("GPT-2");
    let cases: [(&BaseModel, &[&str], &dyn TrainingTask); 6] = [
        (&llama, &["q_proj", "k_proj", "o_proj", "gate_proj", "down_proj"], &Drawn),
        (&llama, &["layers.1.self_attn.v_proj"], &Drawn),
        (&bert, &["query", "attention.output.dense", "intermediate.dense"], &Labelled),
        (&bert, &["layer.1.attention.self.value"], &Labelled),
        (&gpt2, &["c_attn", "c_proj", "c_fc"], &Drawn),
        (&gpt2, &["h.1.attn.c_attn"], &Drawn),
    ];
    for (base, targets, task) in cases {
        for (dropout, freeze_a) in [(0.0, false), (0.3, false), (0.3, true)] {
            let mut manifest = fixture::manifest(base, targets, freeze_a);
            manifest.lora.dropout = dropout;
            let whole = run(base, &manifest, task, Footprint::default());
            assert!(whole.delta.iter().any(|&x| x != 0.0), "{targets:?}: nothing is learned");
            let again = run(base, &manifest, task, checkpoint);
            assert_eq!(bits(&again), bits(&whole), "{targets:?} dropout {dropout}");
            assert_eq!(again, whole);
        }
    }
}

/// Whatever the cut, each part by its share of the batch's targets: the whole batch's loss and step, but for
/// the order of sums.
#[test]
fn parts_of_a_batch_add_up() {
    let llama = fixture::base(&tiny());
    let bert = fixture::bert(&serde_json::json!({})).expect("an encoder");
    let cases: [(&BaseModel, &[&str], &dyn TrainingTask); 2] = [
        (&llama, &["q_proj", "v_proj", "down_proj"], &Drawn),
        (&bert, &["query", "intermediate.dense"], &Labelled),
    ];
    for (base, targets, task) in cases {
        let manifest = fixture::manifest(base, targets, false);
        let whole = run(base, &manifest, task, Footprint::default());
        let size = whole.delta.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        for most in [1, 2, 3, 5, 9] {
            let micro_batch = NonZeroU32::new(most);
            let plain = run(base, &manifest, task, Footprint { checkpoint: false, micro_batch });
            let again = run(base, &manifest, task, Footprint { checkpoint: true, micro_batch });
            assert_eq!(bits(&plain), bits(&again), "parts of {most}");
            assert_eq!(plain.tokens, whole.tokens);
            assert!((plain.loss - whole.loss).abs() < 1e-5 * whole.loss);
            for (part, whole) in plain.delta.iter().zip(&whole.delta) {
                assert!((part - whole).abs() < 2e-5 * size, "parts of {most}: {part} {whole}");
            }
            assert_eq!(bits(&plain) == bits(&whole), most >= 5, "parts of {most}");
        }
    }
}

/// Less and less, until nothing smaller is left.
#[test]
fn a_cap_is_kept_by_the_first_that_fits() {
    let base = fixture::base(&tiny());
    let mut manifest = fixture::manifest(&base, &["q_proj"], false);
    manifest.training.batch = 6;
    let takes = |footprint| {
        let memory = Memory::of(&base, &manifest, false, footprint);
        memory.adapter + memory.step
    };
    let micro = |most| Footprint { checkpoint: true, micro_batch: NonZeroU32::new(most) };
    let whole = Footprint::default();
    let steps = [whole, micro(0), micro(3), micro(1)];
    let sizes = steps.map(takes);
    assert!(sizes.is_sorted_by(|a, b| a > b), "{sizes:?}");
    let within = |most, has_loss| whole.within(most, &base, &manifest, has_loss);
    for (footprint, size) in steps.into_iter().zip(sizes) {
        assert_eq!(within(size, false), Ok(footprint));
    }
    assert_eq!(within(sizes[3] - 1, false), Err(sizes[3]));
    // A task's own loss is of the whole batch.
    let own = Memory::of(&base, &manifest, true, micro(0));
    assert_eq!(within(own.adapter + own.step - 1, true), Err(own.adapter + own.step));
    // What was asked for is not taken back.
    assert_eq!(micro(2).within(u64::MAX, &base, &manifest, false), Ok(micro(2)));
}
