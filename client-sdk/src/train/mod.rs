//! Training on the device: one client's work in one round, evaluation, generation, pretraining.
//!
//! Everything runs on the calling thread (pretraining: on one thread a batch), and every draw comes
//! from streams named by the run's seed, the client and the round. So equal inputs give equal bytes,
//! whatever else runs beside, and a simulator runs one client a thread.

mod error;
mod evaluate;
mod generate;
mod pretrain;
#[cfg(test)]
mod tests;

use candle_core::{Device, Tensor, Var};
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::sparse::Support;

use crate::data::{Batch, Plan, TrainingTask};
use crate::lora;
use crate::model::BaseModel;
use crate::model::network::Tape;
use crate::ops::cross_entropy;
use crate::ops::linear::Dropout;
use crate::optim::{Optimizer, clip};

pub use error::TrainError;
pub use evaluate::{Evaluation, evaluate, logits};
pub use generate::generate;
pub use pretrain::{PretrainError, Pretraining};

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
    let Job { base, manifest, theta, support, client, round } = *job;
    let recipe = &manifest.training;
    let lora = check(base, manifest)?;
    lora.adapter(theta)?;
    if let Some(&index) = support
        .and_then(Support::indices)
        .and_then(|indices| indices.iter().find(|&&index| index as usize >= theta.len()))
    {
        return Err(TrainError::Support { index, n: theta.len() });
    }
    if task.examples() == 0 {
        return Err(TrainError::Empty);
    }
    let (rows, cols) = (recipe.batch as usize, recipe.context as usize);
    let plan = Plan { seed: manifest.seed, client, round, rows, cols };
    // Only the trained entries have an optimiser's state, a norm and a decay.
    let trained = support.unwrap_or(&Support::All);
    let mut values = trained.gather(theta);
    let mut optimizer = Optimizer::new(recipe.optimizer, values.len());
    let mut local = theta.to_vec();
    let mut gradient = vec![0.0; theta.len()];
    let mut step = Step::default();
    let limits = base.limits(manifest.head);
    let (mut total, mut tokens, mut last) = (0.0, 0, 0.0);
    for at in 1..=recipe.steps {
        let batch = task.batch(&plan, at - 1)?;
        batch.check(&limits).map_err(|source| TrainError::Batch { step: at, source })?;
        let mut dropout = (manifest.lora.dropout > 0.0).then(|| Dropout {
            share: manifest.lora.dropout,
            stream: plan.stream("dropout", u64::from(at - 1)),
        });
        gradient.fill(0.0);
        let adapter = lora.on(&local);
        let loss = step.run(base, adapter, task, &batch, dropout.as_mut(), &mut gradient)?;
        let bad = |what| TrainError::NonFinite { step: at, what, loss };
        if !loss.is_finite() {
            return Err(bad("the loss"));
        }
        let mut gathered = trained.gather(&gradient);
        if let Some(most) = recipe.clip {
            clip(&mut gathered, most);
        }
        optimizer.step(&mut values, &gathered);
        if values.iter().any(|value| !value.is_finite()) {
            return Err(bad("the adapter"));
        }
        scatter(&mut local, trained, &values);
        total += f64::from(loss);
        tokens += batch.learned();
        last = loss;
        let progress = Progress { step: at, steps: recipe.steps, loss, tokens };
        if watch(progress) == Control::Stop {
            return Err(TrainError::Stopped { step: at });
        }
    }
    Ok(Trained {
        delta: local.iter().zip(theta).map(|(local, received)| local - received).collect(),
        examples: u32::try_from(task.examples()).unwrap_or(u32::MAX),
        tokens,
        loss: (total / f64::from(recipe.steps.max(1))) as f32,
        last_loss: last,
    })
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

/// Buffers of a step, reused by the next.
#[derive(Default)]
struct Step {
    tape: Tape,
    logits: Vec<f32>,
}

impl Step {
    /// Adds the loss's gradient to `gradient` and returns the loss.
    fn run(
        &mut self,
        base: &BaseModel,
        adapter: lora::Adapter<'_>,
        task: &dyn TrainingTask,
        batch: &Batch,
        dropout: Option<&mut Dropout>,
        gradient: &mut [f32],
    ) -> Result<f32, TrainError> {
        let network = base.network(adapter)?;
        network.forward(&mut self.tape, &mut self.logits, batch, dropout);
        let loss = match own_loss(task, &self.logits, batch)? {
            Some((loss, dlogits)) => {
                self.logits = dlogits;
                loss
            }
            None => {
                let nats = cross_entropy::backward_in_place(&mut self.logits, &batch.targets);
                (nats.sum / nats.tokens.max(1) as f64) as f32
            }
        };
        network.backward(&self.tape, &self.logits, gradient);
        Ok(loss)
    }
}

/// The task's own loss and its gradient by the logits, where it has one.
fn own_loss(
    task: &dyn TrainingTask,
    logits: &[f32],
    batch: &Batch,
) -> Result<Option<(f32, Vec<f32>)>, TrainError> {
    let shape = (batch.targets.len(), logits.len() / batch.targets.len().max(1));
    let var = Var::from_vec(logits.to_vec(), shape, &Device::Cpu)?;
    let Some(loss) = task.loss(var.as_tensor(), batch)? else { return Ok(None) };
    let gradients = loss.backward()?;
    let gradient: &Tensor = gradients.get(&var).ok_or(TrainError::NoGradient)?;
    let value = loss.to_dtype(candle_core::DType::F32)?.to_scalar()?;
    Ok(Some((value, gradient.flatten_all()?.to_vec1()?)))
}

/// Puts `values` back where [`Support::gather`] took them.
fn scatter(dense: &mut [f32], support: &Support, values: &[f32]) {
    match support.indices() {
        None => dense.copy_from_slice(values),
        Some(indices) => {
            for (&index, &value) in indices.iter().zip(values) {
                dense[index as usize] = value;
            }
        }
    }
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
