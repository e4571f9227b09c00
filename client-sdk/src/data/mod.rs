//! What a device trains on: the app's own task, [`TextDataset`], [`InstructionDataset`] or
//! [`LabelledDataset`].
//!
//! Data never leaves this process; nothing here knows of a network. Every random choice is drawn from
//! a [`Plan`]'s streams, so the same plan gives the same batches.

mod held_out;
mod instruction;
mod labelled;
mod template;
mod text;

use candle_core::Tensor;
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::rng::Stream;

use crate::model::ModelError;

pub use held_out::HeldOut;
pub use instruction::{Instruction, InstructionDataset, Rows};
pub use labelled::{Example, LabelledDataset};
pub use template::{BadTemplate, Template};
pub use text::TextDataset;

/// The target of a token or sequence that is not learned.
pub const IGNORE: u32 = u32::MAX;

/// Sequences side by side, row by row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Tokens, `[rows, cols]`.
    pub inputs: Vec<u32>,
    /// The token that follows each, `[rows, cols]`, or where the run has a head each sequence's class,
    /// `[rows]`; or [`IGNORE`].
    pub targets: Vec<u32>,
    /// Tokens of each sequence that are not padding behind it, `[rows]`; none given: all. Only where the
    /// run has a head.
    pub lengths: Vec<usize>,
    /// Sequences.
    pub rows: usize,
    /// Tokens a sequence.
    pub cols: usize,
}

/// What a batch must keep within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens there are.
    pub vocab: usize,
    /// Longest sequence.
    pub context: usize,
    /// Classes of the run's head; `None`: targets are tokens.
    pub classes: Option<u32>,
}

/// Whose training this is, and how large a batch may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The run's seed.
    pub seed: u64,
    /// The client.
    pub client: ClientId,
    /// The round. Not the attempt: a round tried again gives the same bytes.
    pub round: RoundId,
    /// Sequences a batch, at most.
    pub rows: usize,
    /// Tokens a sequence, at most.
    pub cols: usize,
}

impl Plan {
    /// The random stream for `purpose`, number `at` (a step, an epoch).
    #[must_use]
    pub fn stream(&self, purpose: &str, at: u64) -> Stream {
        let round = self.round.0.to_le_bytes();
        let parts: [&[u8]; 4] = [purpose.as_bytes(), &self.client.0, &round, &at.to_le_bytes()];
        Stream::new(self.seed, "train", &parts)
    }

    /// Which of `n` things make up the batch of step `step`; every epoch goes through all of them in a
    /// new order.
    pub(crate) fn pick(&self, n: usize, step: u32) -> Vec<usize> {
        // A row more than there are things would only repeat one within the step.
        let rows = self.rows.clamp(1, n);
        let mut epoch = None;
        let mut order: Vec<usize> = Vec::new();
        let mut picked = Vec::with_capacity(rows);
        for row in 0..rows as u64 {
            let at = u64::from(step) * rows as u64 + row;
            let (this, place) = (at / n as u64, (at % n as u64) as usize);
            if epoch != Some(this) {
                order.clear();
                order.extend(0..n);
                self.stream("order", this).shuffle(&mut order);
                epoch = Some(this);
            }
            picked.push(order[place]);
        }
        picked
    }
}

/// The app's own data and objective.
pub trait TrainingTask: Send + Sync {
    /// Training examples held; 0: nothing to train on.
    fn examples(&self) -> usize;

    /// The batch of step `step`, drawn only from the plan's streams.
    ///
    /// # Errors
    /// [`TaskError`] where there is none.
    fn batch(&self, plan: &Plan, step: u32) -> Result<Batch, TaskError>;

    /// Whether [`loss`](Self::loss) may give one. Where it is false, as it is for the data sets here, `loss`
    /// is not asked, and the logits are not copied for it; true where a task does not say.
    fn has_loss(&self) -> bool {
        true
    }

    /// A scalar to minimise, from `logits` `[rows * cols, vocab]`, or `[rows, classes]` where the run has
    /// a head, by candle's differentiable operations; `None`, the default: the mean cross-entropy over
    /// targets that are not [`IGNORE`], which the trainer has faster and on this thread alone; candle's
    /// operations on 65,536 entries or more share one thread pool.
    ///
    /// # Errors
    /// [`TaskError`] where it cannot be computed.
    fn loss(&self, logits: &Tensor, batch: &Batch) -> Result<Option<Tensor>, TaskError> {
        let _ = (logits, batch);
        Ok(None)
    }

    /// Examples that are never trained on, in batches of at most so many rows and columns; none, the
    /// default: this device tells no evaluation. Where a run asks for one, each round's snapshot goes through
    /// all of them before training, and the device tells how many targets they have and the sum of their
    /// cross-entropies, nothing else. See [`HeldOut`].
    fn held_out(&self, rows: usize, cols: usize) -> Vec<Batch> {
        let _ = (rows, cols);
        Vec::new()
    }
}

/// Why there is no batch or no loss.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// Nothing to train on.
    #[error("the data set holds no text")]
    Empty,
    /// A file or folder that cannot be read.
    #[error("cannot read {path}")]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line that is not a JSON object with a text.
    #[error("{path} line {line}: {why}")]
    Line {
        /// The file.
        path: std::path::PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// An example without text.
    #[error("example {0} has no text")]
    Blank(usize),
    /// An example of a class that the run does not have.
    #[error("example {at} is of class {label}, the run has {classes}")]
    Label {
        /// The example, from 0.
        at: usize,
        /// Its class.
        label: u32,
        /// How many there are.
        classes: u32,
    },
    /// Only examples whose prompts leave no room for a token of their answers.
    #[error("all {examples} prompts are longer than the run's {cols} tokens a sequence")]
    Long {
        /// How many there are.
        examples: usize,
        /// Tokens a sequence.
        cols: usize,
    },
    /// A folder or file without any `.txt` or `.jsonl`.
    #[error("{path} is no .txt or .jsonl file and no folder with one")]
    NoText {
        /// Which.
        path: std::path::PathBuf,
    },
    /// The tokenizer failed.
    #[error("the text cannot be encoded")]
    Encode(#[from] ModelError),
    /// candle failed in the task's own loss.
    #[error("the task's loss")]
    Loss(#[from] candle_core::Error),
    /// Anything of the app's own.
    #[error("{0}")]
    Other(String),
}

/// A batch that does not fit the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// Not `rows * cols` inputs, or not a target for each (with a head, for each sequence).
    #[error("batch of {rows} by {cols} with {inputs} inputs and {targets} targets")]
    Shape {
        /// Sequences.
        rows: usize,
        /// Tokens a sequence.
        cols: usize,
        /// Inputs given.
        inputs: usize,
        /// Targets given.
        targets: usize,
    },
    /// More tokens than the model has positions.
    #[error("sequences of {found} tokens, the model's context is {expected}")]
    Context {
        /// The model's.
        expected: usize,
        /// The batch's.
        found: usize,
    },
    /// A token outside the vocabulary.
    #[error("token {found}, the vocabulary has {expected}")]
    Token {
        /// Size of the vocabulary.
        expected: usize,
        /// The token.
        found: u32,
    },
    /// A class outside the run's.
    #[error("class {found}, the run has {expected}")]
    Class {
        /// How many there are.
        expected: u32,
        /// The class.
        found: u32,
    },
    /// Lengths that are not one for each sequence, 1 to its tokens; or any without a head.
    #[error("lengths of sequences that do not fit the batch")]
    Lengths,
    /// Only ignored targets.
    #[error("no target to learn from")]
    NoTarget,
}

impl Batch {
    /// Whether the model can run it.
    ///
    /// # Errors
    /// [`BatchError`] at the first thing that does not fit.
    pub fn check(&self, limits: &Limits) -> Result<(), BatchError> {
        let Self { rows, cols, .. } = *self;
        let (inputs, targets) = (self.inputs.len(), self.targets.len());
        let n = rows.checked_mul(cols).filter(|&n| n > 0);
        let n_targets = if limits.classes.is_some() { Some(rows) } else { n };
        if n != Some(inputs) || n_targets != Some(targets) {
            return Err(BatchError::Shape { rows, cols, inputs, targets });
        }
        if cols > limits.context {
            return Err(BatchError::Context { expected: limits.context, found: cols });
        }
        let some = !self.lengths.is_empty();
        let fit = self.lengths.iter().all(|length| (1..=cols).contains(length));
        if some && (limits.classes.is_none() || self.lengths.len() != rows || !fit) {
            return Err(BatchError::Lengths);
        }
        let outside = |token: &&u32| **token as usize >= limits.vocab;
        let mut learned = self.targets.iter().filter(|&&t| t != IGNORE);
        let token = match limits.classes {
            Some(expected) => {
                if let Some(&found) = learned.find(|&&class| class >= expected) {
                    return Err(BatchError::Class { expected, found });
                }
                self.inputs.iter().find(outside)
            }
            None => self.inputs.iter().chain(learned).find(outside),
        };
        if let Some(&found) = token {
            return Err(BatchError::Token { expected: limits.vocab, found });
        }
        if self.learned() == 0 {
            return Err(BatchError::NoTarget);
        }
        Ok(())
    }

    /// Targets that are learned.
    #[must_use]
    pub fn learned(&self) -> u64 {
        self.targets.iter().filter(|&&t| t != IGNORE).count() as u64
    }
}
