//! Training on the device: one client's work in one round, evaluation, generation, pretraining.
//!
//! Everything runs on the calling thread, or a [`Team`]'s (pretraining: on one thread a batch), and every draw comes
//! from streams named by the run's seed, the client and the round. So equal inputs give equal bytes,
//! whatever else runs beside, or in the same [`Passes`]. A training that was saved between two steps goes on
//! to the bytes it would have had undisturbed.

pub(crate) mod caught;
mod device;
#[cfg(test)]
mod device_tests;
mod error;
mod evaluate;
mod footprint;
#[cfg(test)]
mod footprint_tests;
mod generate;
mod memory;
mod passes;
#[cfg(test)]
mod passes_tests;
mod pretrain;
mod saved;
#[cfg(test)]
mod tests;
mod work;
#[cfg(test)]
mod work_tests;

use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::sparse::Support;

use crate::data::TrainingTask;
use crate::lora;
use crate::model::BaseModel;
use caught::caught;

pub use error::TrainError;
pub use evaluate::{Evaluation, evaluate, evaluate_each, logits};
pub use footprint::Footprint;
pub use generate::generate;
pub use memory::Memory;
pub use passes::Passes;
pub use pretrain::{PretrainError, Pretraining};
pub use saved::SavedError;
pub use work::Work;

pub use crate::ops::team::{Team, TeamError};

/// One client's work in one round.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The frozen model.
    pub base: &'a BaseModel,
    /// The run.
    pub manifest: &'a Manifest,
    /// The adapter as received, in layout order; the delta is measured against it.
    pub theta: &'a [f32],
    /// Train only these entries; `None`: all.
    pub support: Option<&'a Support>,
    /// Who trains.
    pub client: ClientId,
    /// In which round.
    pub round: RoundId,
}

/// How far a training is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Steps done, from 1.
    pub step: u32,
    /// Steps to do.
    pub steps: u32,
    /// This step's loss.
    pub loss: f32,
    /// Targets learned from so far.
    pub tokens: u64,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// The next step.
    Continue,
    /// No more; the training ends with [`TrainError::Stopped`].
    Stop,
}

/// What a training gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// Local minus received, in layout order.
    pub delta: Vec<f32>,
    /// The task's examples.
    pub examples: u32,
    /// Targets learned from.
    pub tokens: u64,
    /// Mean of the steps' losses.
    pub loss: f32,
    /// The last step's loss.
    pub last_loss: f32,
}

/// Trains the adapter on the task's data; see [`Manifest::training`] for the recipe.
///
/// # Errors
/// [`TrainError`]; then there is no result at all.
pub fn train(
    job: &Job<'_>,
    task: &dyn TrainingTask,
    watch: &mut dyn FnMut(Progress) -> Control,
) -> Result<Trained, TrainError> {
    let mut work = Work::start(job, task)?;
    while let Some(progress) = work.step()? {
        let panicked = |message| TrainError::Panicked { what: "the watcher", message };
        if caught(|| watch(progress)).map_err(panicked)? == Control::Stop {
            return Err(TrainError::Stopped { step: progress.step });
        }
    }
    Ok(work.finish())
}

/// Whether the manifest is for this base, and where its tensors lie.
fn check(base: &BaseModel, manifest: &Manifest) -> Result<lora::Plan, TrainError> {
    if manifest.base.digest != base.digest() {
        return Err(TrainError::Base { expected: manifest.base.digest, found: base.digest() });
    }
    let (expected, found) = (base.context(), manifest.training.context as usize);
    if found > expected {
        return Err(TrainError::Context { expected, found });
    }
    Ok(lora::Plan::new(base, manifest)?)
}

/// The first of the largest.
fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (at, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = at;
        }
    }
    best as u32
}
