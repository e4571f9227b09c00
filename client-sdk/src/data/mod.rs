//! What a device trains on: the app's own task, or [`TextDataset`].
//!
//! Data never leaves this process; nothing here knows of a network. Every random choice is drawn from
//! a [`Plan`]'s streams, so the same plan gives the same batches.

mod text;

use candle_core::Tensor;
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::rng::Stream;

use crate::model::{LlamaConfig, ModelError};

pub use text::TextDataset;

/// The target of a token that is not learned.
pub const IGNORE: u32 = u32::MAX;

/// Sequences side by side, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Tokens, `[rows, cols]`.
    pub inputs: Vec<u32>,
    /// The token that follows each, or [`IGNORE`]; `[rows, cols]`.
    pub targets: Vec<u32>,
    /// Sequences.
    pub rows: usize,
    /// Tokens a sequence.
    pub cols: usize,
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

    /// A scalar to minimise, from `logits` `[rows * cols, vocab]`, by candle's differentiable
    /// operations; `None`, the default: the mean cross-entropy over targets that are not [`IGNORE`],
    /// which the trainer has faster and on this thread alone; candle's operations on 65,536 entries
    /// or more share one thread pool.
    ///
    /// # Errors
    /// [`TaskError`] where it cannot be computed.
    fn loss(&self, logits: &Tensor, batch: &Batch) -> Result<Option<Tensor>, TaskError> {
        let _ = (logits, batch);
        Ok(None)
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
    /// Not `rows * cols` entries.
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
    /// Only ignored targets.
    #[error("no target to learn from")]
    NoTarget,
}

impl Batch {
    /// Whether the model can run it.
    ///
    /// # Errors
    /// [`BatchError`] at the first thing that does not fit.
    pub fn check(&self, config: &LlamaConfig) -> Result<(), BatchError> {
        let Self { rows, cols, .. } = *self;
        let (inputs, targets) = (self.inputs.len(), self.targets.len());
        let n = rows.checked_mul(cols).filter(|&n| n > 0);
        if n != Some(inputs) || n != Some(targets) {
            return Err(BatchError::Shape { rows, cols, inputs, targets });
        }
        if cols > config.context {
            return Err(BatchError::Context { expected: config.context, found: cols });
        }
        let learned = self.targets.iter().filter(|&&t| t != IGNORE);
        if let Some(&found) =
            self.inputs.iter().chain(learned).find(|&&token| token as usize >= config.vocab)
        {
            return Err(BatchError::Token { expected: config.vocab, found });
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
