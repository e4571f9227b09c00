//! Why training, evaluation or generation has no result.

use gossamer_protocol::digest::Digest;

use crate::data::{BatchError, TaskError};
use crate::lora::LoraError;
use crate::model::ModelError;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The manifest is for another base model.
    #[error("the run adapts base model {expected}, this one is {found}")]
    Base {
        /// The manifest's.
        expected: Digest,
        /// The one at hand.
        found: Digest,
    },
    /// The manifest's adapter does not fit.
    #[error("the adapter does not fit the base model")]
    Lora(#[from] LoraError),
    /// Longer sequences than the model has positions for.
    #[error("the run trains on {found} tokens a sequence, the model's context is {expected}")]
    Context {
        /// The model's.
        expected: usize,
        /// The manifest's.
        found: usize,
    },
    /// A support outside the vector.
    #[error("index {index} to train is outside an adapter of {n} values")]
    Support {
        /// The index.
        index: u32,
        /// The adapter's length.
        n: usize,
    },
    /// The task has no examples.
    #[error("nothing to train on")]
    Empty,
    /// The task failed.
    #[error("the task failed")]
    Task(#[from] TaskError),
    /// A batch that does not fit the model.
    #[error("batch of step {step}")]
    Batch {
        /// The step, from 1.
        step: u32,
        /// What does not fit.
        source: BatchError,
    },
    /// The task's own loss or its gradient failed.
    #[error("the loss")]
    Loss(#[from] candle_core::Error),
    /// The device that trains failed: out of memory, or without what the model needs.
    #[error("the device failed")]
    Device(#[source] candle_core::Error),
    /// The task's own loss does not depend on the logits.
    #[error("the task's loss has no gradient with respect to the logits")]
    NoGradient,
    /// A loss or an adapter value that is no number any more.
    #[error("step {step}: {what} is not finite (loss {loss}); a lower step size or clipping helps")]
    NonFinite {
        /// The step, from 1.
        step: u32,
        /// What is not.
        what: &'static str,
        /// The step's loss.
        loss: f32,
    },
    /// The app's own code panicked.
    #[error("{what} panicked: {message}")]
    Panicked {
        /// Which code.
        what: &'static str,
        /// Its message.
        message: String,
    },
    /// The watcher said so.
    #[error("stopped after step {step}")]
    Stopped {
        /// Steps done.
        step: u32,
    },
    /// The model's tokenizer failed.
    #[error("the tokenizer failed")]
    Tokenizer(#[from] ModelError),
    /// An encoder, asked for text.
    #[error("the base model is an encoder; it writes no text")]
    Encoder,
    /// A prompt as long as the context.
    #[error("a prompt of {found} tokens leaves no room in a context of {expected}")]
    Prompt {
        /// The model's context.
        expected: usize,
        /// Tokens of the prompt.
        found: usize,
    },
}
