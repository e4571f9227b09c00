//! Instructions with their answers, of which the answers alone are learned.
//!
//! A sequence is the model's beginning token, the prompt ([`Template`]), the answer and the ending token;
//! prompt and answer are encoded apart, so that no token spans both. A target is learned where it is one
//! of the answer's tokens or the ending one; every other is [`IGNORE`]. A sequence longer than
//! `cols + 1` loses its end; one whose prompt leaves no room for a token of the answer is left out.
//!
//! A row is one sequence ([`Rows::Padded`]), or as many as fit one behind another
//! ([`Rows::Packed`], in the order given, a new row where the next one does not fit). In a packed row
//! a sequence sees those before it, and positions count on; no target spans two. Each epoch goes through
//! all rows in a new order.

use std::path::Path;

use serde::Deserialize;

use super::text::jsonl;
use super::{Batch, IGNORE, Plan, TaskError, Template, TrainingTask};
use crate::model::BaseModel;

/// What is asked, and the answer to learn. In a file: one JSON object a line with these keys; others are
/// passed over, `input` may be missing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Instruction {
    /// What to do.
    pub instruction: String,
    /// With what; may be empty.
    #[serde(default)]
    pub input: String,
    /// The answer.
    pub output: String,
}

/// How sequences become rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rows {
    /// One a row, with padding behind it.
    #[default]
    Padded,
    /// As many a row as fit.
    Packed,
}

/// Instructions to learn to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstructionDataset {
    sequences: Vec<Sequence>,
    rows: Rows,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Sequence {
    tokens: Vec<u32>,
    /// Tokens before the answer; at least one.
    prompt: usize,
}

impl InstructionDataset {
    /// Encodes `examples`.
    ///
    /// # Errors
    /// [`TaskError::Empty`] where there is none, [`TaskError::Blank`] where one has no instruction or no
    /// answer, [`TaskError::Encode`] where the tokenizer fails.
    pub fn new(
        base: &BaseModel,
        examples: &[Instruction],
        template: &Template,
        rows: Rows,
    ) -> Result<Self, TaskError> {
        let mut sequences = Vec::with_capacity(examples.len());
        for (at, example) in examples.iter().enumerate() {
            let answer = base.encode(example.output.trim())?;
            if example.instruction.trim().is_empty() || answer.is_empty() {
                return Err(TaskError::Blank(at));
            }
            let mut tokens: Vec<u32> = base.bos().into_iter().collect();
            tokens.extend(base.encode(&template.prompt(example))?);
            let prompt = tokens.len();
            if prompt == 0 {
                return Err(TaskError::Blank(at));
            }
            tokens.extend(answer);
            tokens.extend(base.eos().first());
            sequences.push(Sequence { tokens, prompt });
        }
        if sequences.is_empty() { Err(TaskError::Empty) } else { Ok(Self { sequences, rows }) }
    }

    /// Reads a `.jsonl` file, or every one of a folder in the order of their names.
    ///
    /// # Errors
    /// [`TaskError`] at the first thing that cannot be read, or is off as in [`new`](Self::new).
    pub fn open(
        base: &BaseModel,
        path: &Path,
        template: &Template,
        rows: Rows,
    ) -> Result<Self, TaskError> {
        Self::new(base, &jsonl(path)?, template, rows)
    }

    /// Every row once, in order, for evaluation; none where all are left out.
    #[must_use]
    pub fn batches(&self, rows: usize, cols: usize) -> Vec<Batch> {
        self.rows(cols).chunks(rows.max(1)).map(|rows| self.cut(rows.iter(), cols)).collect()
    }

    /// Numbers of the sequences of each row.
    fn rows(&self, cols: usize) -> Vec<Vec<usize>> {
        let mut rows: Vec<Vec<usize>> = Vec::new();
        let mut room = 0;
        for (at, sequence) in self.sequences.iter().enumerate() {
            if sequence.prompt > cols {
                continue;
            }
            // Of a sequence's tokens all but the last are inputs.
            let width = (sequence.tokens.len() - 1).min(cols);
            match rows.last_mut() {
                Some(row) if self.rows == Rows::Packed && width <= room => row.push(at),
                _ => {
                    rows.push(vec![at]);
                    room = cols;
                }
            }
            room -= width;
        }
        rows
    }

    /// The rows side by side, as wide as the widest.
    fn cut<'r>(&self, rows: impl Iterator<Item = &'r Vec<usize>>, cols: usize) -> Batch {
        let rows: Vec<[Vec<u32>; 2]> = rows.map(|row| self.row(row, cols)).collect();
        let widest = rows.iter().map(|[inputs, _]| inputs.len()).max().unwrap_or(0);
        let mut batch = Batch { rows: rows.len(), cols: widest, ..Batch::default() };
        for [inputs, targets] in rows {
            let left = widest - inputs.len();
            // Attention looks back only, so what stands here changes nothing before it.
            let pad = inputs.last().copied().unwrap_or(0);
            batch.inputs.extend(inputs);
            batch.inputs.extend(std::iter::repeat_n(pad, left));
            batch.targets.extend(targets);
            batch.targets.extend(std::iter::repeat_n(IGNORE, left));
        }
        batch
    }

    /// Inputs and targets of one row.
    fn row(&self, row: &[usize], cols: usize) -> [Vec<u32>; 2] {
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        for Sequence { tokens, prompt } in row.iter().map(|&at| &self.sequences[at]) {
            let width = (tokens.len() - 1).min(cols);
            inputs.extend(&tokens[..width]);
            targets.extend(std::iter::repeat_n(IGNORE, prompt - 1));
            targets.extend(&tokens[*prompt..=width]);
        }
        [inputs, targets]
    }
}

impl TrainingTask for InstructionDataset {
    fn examples(&self) -> usize {
        self.sequences.len()
    }

    fn has_loss(&self) -> bool {
        false
    }

    fn batch(&self, plan: &Plan, step: u32) -> Result<Batch, TaskError> {
        let rows = self.rows(plan.cols);
        if rows.is_empty() {
            return Err(TaskError::Long { examples: self.sequences.len(), cols: plan.cols });
        }
        let picked = plan.pick(rows.len(), step);
        Ok(self.cut(picked.iter().map(|&at| &rows[at]), plan.cols))
    }
}

#[cfg(test)]
mod tests {
    use gossamer_protocol::ids::{ClientId, RoundId};

    use super::*;
    use crate::model::LlamaConfig;
    use crate::model::fixture;
    use crate::model::llama::tests::tiny;

    /// `w1` begins a text, `w2` ends one.
    fn base() -> BaseModel {
        fixture::base(&LlamaConfig { bos: Some(1), eos: vec![2], ..tiny() })
    }

    fn example(instruction: &str, input: &str, output: &str) -> Instruction {
        let text = str::to_owned;
        Instruction { instruction: text(instruction), input: text(input), output: text(output) }
    }

    fn template() -> Template {
        Template::new("{instruction} w3 {input} w4", "{instruction} w4").expect("sound")
    }

    /// 1 5 4 | 6 7 2 and 1 8 3 9 4 | 10 2 and 1 11 4 | 12 13 14 2.
    fn data(rows: Rows) -> InstructionDataset {
        let examples = [
            example("w5", "", "w6 w7"),
            example("w8", "w9", "w10"),
            example("w11", "", "w12 w13 w14"),
        ];
        InstructionDataset::new(&base(), &examples, &template(), rows).expect("sound")
    }

    const X: u32 = IGNORE;

    #[test]
    fn prompts_are_masked_and_rows_padded() {
        let batches = data(Rows::Padded).batches(2, 16);
        assert_eq!(batches.len(), 2);
        assert_eq!(batches[0].inputs, [1, 5, 4, 6, 7, 7, 1, 8, 3, 9, 4, 10]);
        assert_eq!(batches[0].targets, [X, X, 6, 7, 2, X, X, X, X, X, 10, 2]);
        assert_eq!((batches[0].rows, batches[0].cols), (2, 6));
        assert_eq!(batches[1].inputs, [1, 11, 4, 12, 13, 14]);
        assert_eq!(batches[1].targets, [X, X, 12, 13, 14, 2]);
        assert!(batches[0].lengths.is_empty());
    }

    #[test]
    fn packed_rows_hold_what_fits_and_no_target_spans_two() {
        let batches = data(Rows::Packed).batches(2, 11);
        assert_eq!(batches.len(), 1);
        assert_eq!((batches[0].rows, batches[0].cols), (2, 11));
        let [first, second] = [0, 1].map(|row| 11 * row..11 * row + 11);
        assert_eq!(batches[0].inputs[first.clone()], [1, 5, 4, 6, 7, 1, 8, 3, 9, 4, 10]);
        assert_eq!(batches[0].targets[first], [X, X, 6, 7, 2, X, X, X, X, 10, 2]);
        assert_eq!(batches[0].inputs[second.clone()], [1, 11, 4, 12, 13, 14, 14, 14, 14, 14, 14]);
        assert_eq!(batches[0].targets[second], [X, X, 12, 13, 14, 2, X, X, X, X, X]);
        // One token less, and the second does not fit.
        assert_eq!(data(Rows::Packed).batches(9, 10)[0].rows, 3);
        // Everything fits.
        let one = &data(Rows::Packed).batches(9, 17)[0];
        assert_eq!((one.rows, one.cols, one.learned()), (1, 17, 3 + 2 + 4));
    }

    #[test]
    fn long_sequences_lose_their_end_and_long_prompts_are_left_out() {
        // Prompts of 3, 5 and 3: with 4 columns the second has no target.
        let batches = data(Rows::Padded).batches(9, 4);
        assert_eq!(batches[0].inputs, [1, 5, 4, 6, 1, 11, 4, 12]);
        assert_eq!(batches[0].targets, [X, X, 6, 7, X, X, 12, 13]);
        assert_eq!(data(Rows::Padded).batches(9, 5)[0].rows, 3);
        assert!(data(Rows::Padded).batches(9, 2).is_empty());
        let plan = Plan { seed: 1, client: ClientId([1; 16]), round: RoundId(0), rows: 2, cols: 2 };
        let refused = data(Rows::Packed).batch(&plan, 0).expect_err("no room");
        assert!(matches!(refused, TaskError::Long { examples: 3, cols: 2 }), "{refused:?}");
    }

    #[test]
    fn each_epoch_has_every_row_once() {
        let plan =
            Plan { seed: 1, client: ClientId([1; 16]), round: RoundId(0), rows: 1, cols: 16 };
        let data = data(Rows::Padded);
        assert_eq!(data.examples(), 3);
        let mut seen: Vec<u32> =
            (0..3).map(|step| data.batch(&plan, step).expect("a batch").inputs[1]).collect();
        seen.sort_unstable();
        assert_eq!(seen, [5, 8, 11]);
    }

    #[test]
    fn what_cannot_be_learned_is_named() {
        let base = base();
        let new = |examples: &[Instruction]| {
            InstructionDataset::new(&base, examples, &template(), Rows::Padded).expect_err("off")
        };
        assert!(matches!(new(&[]), TaskError::Empty));
        let good = example("w5", "", "w6");
        for blank in [example(" ", "w5", "w6"), example("w5", "w6", "\n")] {
            assert!(matches!(new(&[good.clone(), blank]), TaskError::Blank(1)));
        }
    }

    #[test]
    fn files_hold_an_object_a_line() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).expect("written");
        };
        write("b.jsonl", r#"{"instruction":"w11","output":"w12 w13 w14","chosen":"w5"}"#);
        write(
            "a.jsonl",
            "{\"source\":\"s\",\"instruction\":\"w5\",\"input\":\"\",\"output\":\"w6 w7\"}\n\n\
             {\"instruction\":\"w8\",\"input\":\"w9\",\"output\":\"w10\"}\n",
        );
        write("readme.txt", "not this");
        let open = || InstructionDataset::open(&base(), dir.path(), &template(), Rows::Padded);
        assert_eq!(open().expect("readable"), data(Rows::Padded));
        write("c.jsonl", "{\"instruction\":\"w5\",\"output\":\"w6\"}\n{\"instruction\":\"w5\"}");
        let refused = open().expect_err("no output");
        assert!(matches!(refused, TaskError::Line { line: 2, .. }), "{refused:?}");
    }
}
