//! Texts with a class each, to learn to tell the classes apart.
//!
//! A sequence is `[CLS]`, the text's tokens and `[SEP]`; one longer than the plan's `cols` loses tokens
//! before `[SEP]`. A batch is as wide as its longest sequence; shorter ones have padding behind them.
//! Each epoch goes through all examples in a new order.

use std::path::Path;

use serde::Deserialize;

use super::text::jsonl;
use super::{Batch, Plan, TaskError, TrainingTask};
use crate::model::{BaseModel, ModelError};

/// A text and its class. In a file: one JSON object a line with these keys; others are passed over.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Example {
    /// The text.
    pub text: String,
    /// Its class, from 0.
    pub label: u32,
}

/// Examples of a sequence classification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledDataset {
    sequences: Vec<Vec<u32>>,
    labels: Vec<u32>,
    pad: u32,
}

impl LabelledDataset {
    /// Encodes `examples` for an encoder with a head of `classes` classes.
    ///
    /// # Errors
    /// [`TaskError::Empty`] where there is none, [`TaskError::Blank`] where one has no text,
    /// [`TaskError::Label`] where its class is none of the head's, [`TaskError::Encode`] where the base
    /// is no encoder or its tokenizer fails.
    pub fn new(base: &BaseModel, examples: &[Example], classes: u32) -> Result<Self, TaskError> {
        let pad = base.bert().ok_or(ModelError::Decoder)?.pad;
        if examples.is_empty() {
            return Err(TaskError::Empty);
        }
        let mut data = Self { sequences: Vec::new(), labels: Vec::new(), pad };
        for (at, Example { text, label }) in examples.iter().enumerate() {
            if text.trim().is_empty() {
                return Err(TaskError::Blank(at));
            }
            if *label >= classes {
                return Err(TaskError::Label { at, label: *label, classes });
            }
            data.sequences.push(base.encode_sequence(text)?);
            data.labels.push(*label);
        }
        Ok(data)
    }

    /// Reads a `.jsonl` file of [`Example`]s, or every such file of a folder in the order of their names. How
    /// many classes there are is the run's to say: a training refuses a label that is none of its head's.
    ///
    /// # Errors
    /// [`TaskError`] at the first thing that is off, as for [`new`](Self::new).
    pub fn open(base: &BaseModel, path: &Path) -> Result<Self, TaskError> {
        Self::new(base, &jsonl(path)?, u32::MAX)
    }

    /// Every example once, in order, for evaluation.
    #[must_use]
    pub fn batches(&self, rows: usize, cols: usize) -> Vec<Batch> {
        let all: Vec<usize> = (0..self.sequences.len()).collect();
        all.chunks(rows.max(1)).map(|examples| self.cut(examples, cols)).collect()
    }

    fn cut(&self, examples: &[usize], cols: usize) -> Batch {
        let length = |&at: &usize| self.sequences[at].len().min(cols.max(1));
        let widest = examples.iter().map(length).max().unwrap_or(0);
        let mut batch = Batch { rows: examples.len(), cols: widest, ..Batch::default() };
        for at in examples {
            let (sequence, length) = (&self.sequences[*at], length(at));
            batch.inputs.extend(&sequence[..length - 1]);
            batch.inputs.extend(sequence.last());
            batch.inputs.extend(std::iter::repeat_n(self.pad, widest - length));
            batch.lengths.push(length);
            batch.targets.push(self.labels[*at]);
        }
        batch
    }
}

impl TrainingTask for LabelledDataset {
    fn examples(&self) -> usize {
        self.sequences.len()
    }

    fn has_loss(&self) -> bool {
        false
    }

    fn batch(&self, plan: &Plan, step: u32) -> Result<Batch, TaskError> {
        Ok(self.cut(&plan.pick(self.sequences.len(), step), plan.cols))
    }
}

#[cfg(test)]
mod tests {
    use gossamer_protocol::ids::{ClientId, RoundId};
    use serde_json::json;

    use super::*;
    use crate::model::fixture;
    use crate::model::llama::tests::tiny;

    fn dataset(examples: &[(&str, u32)]) -> Result<LabelledDataset, TaskError> {
        let example = |&(text, label): &(&str, u32)| Example { text: text.into(), label };
        let examples: Vec<Example> = examples.iter().map(example).collect();
        LabelledDataset::new(&fixture::bert(&json!({})).expect("loads"), &examples, 5)
    }

    #[test]
    fn sequences_are_framed_cut_and_padded() {
        let data = dataset(&[("w5 w6 w7 w8", 3), ("w9", 0), ("w10 w11", 4)]).expect("sound");
        assert_eq!(data.examples(), 3);
        let whole = &data.batches(2, 9);
        assert_eq!(whole.len(), 2);
        assert_eq!(whole[0].inputs, [1, 5, 6, 7, 8, 2, 1, 9, 2, 0, 0, 0]);
        assert_eq!((&whole[0].lengths[..], &whole[0].targets[..]), (&[6, 3][..], &[3, 0][..]));
        // The last batch is as wide as it needs.
        assert_eq!((whole[1].rows, whole[1].cols), (1, 4));
        let cut = &data.batches(9, 4)[0];
        assert_eq!(cut.inputs, [1, 5, 6, 2, 1, 9, 2, 0, 1, 10, 11, 2]);
        assert_eq!(cut.lengths, [4, 3, 4]);
        // Never longer than the model has positions for: 40 here.
        let long = vec!["w5"; 60].join(" ");
        let long = &dataset(&[(&long, 1)]).expect("cut").batches(1, 100)[0];
        assert_eq!((long.cols, long.inputs[0], long.inputs[39]), (40, 1, 2));
    }

    #[test]
    fn an_epoch_takes_each_example_once_in_a_seeded_order() {
        let words: Vec<String> = (3..10).map(|i| format!("w{i}")).collect();
        let words: Vec<(&str, u32)> = words.iter().map(|word| (word.as_str(), 0)).collect();
        let data = dataset(&words).expect("sound");
        let plan = Plan { seed: 3, client: ClientId([1; 16]), round: RoundId(4), rows: 2, cols: 8 };
        let epoch = |plan: &Plan| -> Vec<u32> {
            let batch = |step| data.batch(plan, step).expect("a batch").inputs;
            (0..4).flat_map(batch).filter(|&token| token > 2).collect()
        };
        let drawn = epoch(&plan);
        let mut sorted = drawn[..7].to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, [3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(drawn, epoch(&plan));
        assert_ne!(drawn, epoch(&Plan { round: RoundId(5), ..plan }));
    }

    #[test]
    fn what_is_off_is_named() {
        assert!(matches!(dataset(&[]), Err(TaskError::Empty)));
        assert!(matches!(dataset(&[("w5", 0), (" \n", 0)]), Err(TaskError::Blank(1))));
        let label = dataset(&[("w5", 5)]);
        assert!(
            matches!(label, Err(TaskError::Label { at: 0, label: 5, classes: 5 })),
            "{label:?}"
        );
        let examples = [Example { text: "w5".into(), label: 0 }];
        let decoder = LabelledDataset::new(&fixture::base(&tiny()), &examples, 5);
        assert!(matches!(decoder, Err(TaskError::Encode(ModelError::Decoder))), "{decoder:?}");
    }
}
