//! One client's training, step by step: it may be saved between two steps, dropped, and gone on with.

use candle_core::{Device, Tensor, Var};
use gossamer_protocol::digest::Digest;
use gossamer_protocol::sparse::Support;

use super::caught::caught;
use super::{Job, Progress, SavedError, TrainError, Trained, check, saved};
use crate::data::{Batch, Plan, TrainingTask};
use crate::lora;
use crate::model::BaseModel;
use crate::model::network::Tape;
use crate::ops::cross_entropy;
use crate::ops::linear::Dropout;
use crate::optim::{Optimizer, clip};

/// A training between two steps. Dropping it gives its memory back.
pub struct Work<'a> {
    job: Job<'a>,
    task: &'a dyn TrainingTask,
    examples: u32,
    plan: Plan,
    lora: lora::Plan,
    /// The trained entries alone, in order.
    values: Vec<f32>,
    optimizer: Optimizer,
    /// The whole adapter, trained so far.
    local: Vec<f32>,
    gradient: Vec<f32>,
    buffers: Buffers,
    /// Steps done.
    step: u32,
    /// Sum of the steps' losses.
    total: f64,
    tokens: u64,
    last: f32,
}

impl<'a> Work<'a> {
    /// Before the first step.
    ///
    /// # Errors
    /// [`TrainError`] where base, manifest, adapter, support and task do not fit each other.
    pub fn start(job: &Job<'a>, task: &'a dyn TrainingTask) -> Result<Self, TrainError> {
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
        let examples = ask(|| task.examples())?;
        if examples == 0 {
            return Err(TrainError::Empty);
        }
        let (rows, cols) = (recipe.batch as usize, recipe.context as usize);
        // Only the trained entries have an optimiser's state, a norm and a decay.
        let values = support.unwrap_or(&Support::All).gather(theta);
        Ok(Self {
            job: *job,
            task,
            examples: u32::try_from(examples).unwrap_or(u32::MAX),
            plan: Plan { seed: manifest.seed, client, round, rows, cols },
            lora,
            optimizer: Optimizer::new(recipe.optimizer, values.len()),
            values,
            local: theta.to_vec(),
            gradient: vec![0.0; theta.len()],
            buffers: Buffers::default(),
            step: 0,
            total: 0.0,
            tokens: 0,
            last: 0.0,
        })
    }

    /// Steps done.
    #[must_use]
    pub fn steps_done(&self) -> u32 {
        self.step
    }

    /// The next step; `None` where all are done.
    ///
    /// # Errors
    /// [`TrainError`]; then there is no result at all.
    pub fn step(&mut self) -> Result<Option<Progress>, TrainError> {
        let Job { base, manifest, support, .. } = self.job;
        let recipe = &manifest.training;
        if self.step >= recipe.steps {
            return Ok(None);
        }
        let at = self.step + 1;
        let batch = ask(|| self.task.batch(&self.plan, at - 1))??;
        let limits = base.limits(manifest.head);
        batch.check(&limits).map_err(|source| TrainError::Batch { step: at, source })?;
        let mut dropout = (manifest.lora.dropout > 0.0).then(|| Dropout {
            share: manifest.lora.dropout,
            stream: self.plan.stream("dropout", u64::from(at - 1)),
        });
        self.gradient.fill(0.0);
        let adapter = self.lora.on(&self.local);
        let gradient = &mut self.gradient;
        let loss =
            self.buffers.run(base, adapter, self.task, &batch, dropout.as_mut(), gradient)?;
        let bad = |what| TrainError::NonFinite { step: at, what, loss };
        if !loss.is_finite() {
            return Err(bad("the loss"));
        }
        let trained = support.unwrap_or(&Support::All);
        let mut gathered = trained.gather(&self.gradient);
        if let Some(most) = recipe.clip {
            clip(&mut gathered, most);
        }
        self.optimizer.step(&mut self.values, &gathered);
        if self.values.iter().any(|value| !value.is_finite()) {
            return Err(bad("the adapter"));
        }
        scatter(&mut self.local, trained, &self.values);
        self.total += f64::from(loss);
        self.tokens += batch.learned();
        self.last = loss;
        self.step = at;
        Ok(Some(Progress { step: at, steps: recipe.steps, loss, tokens: self.tokens }))
    }

    /// The bytes to go on from. `of` names all that is trained: [`restore`](Self::restore) asks for it.
    ///
    /// 4 bytes for each trained entry and moment (AdamW: 12 an entry) and 114 more.
    #[must_use]
    pub fn save(&self, of: Digest) -> Vec<u8> {
        let (powers, moments) = self.optimizer.state();
        let head = saved::Head {
            step: self.step,
            tokens: self.tokens,
            total: self.total,
            last: self.last,
            powers,
        };
        let vectors: Vec<&[f32]> = std::iter::once(&self.values[..]).chain(moments).collect();
        saved::write(of, &head, &vectors)
    }

    /// Goes on from where `bytes` were saved.
    ///
    /// # Errors
    /// [`SavedError`] where they are torn or of another training; then nothing has changed.
    pub fn restore(&mut self, bytes: &[u8], of: Digest) -> Result<(), SavedError> {
        let steps = self.job.manifest.training.steps;
        let (powers, moments) = self.optimizer.state_mut();
        let mut vectors: Vec<&mut [f32]> =
            std::iter::once(&mut self.values[..]).chain(moments).collect();
        let head = saved::read(bytes, of, steps, &mut vectors)?;
        if let Some(powers) = powers {
            *powers = head.powers;
        }
        scatter(&mut self.local, self.job.support.unwrap_or(&Support::All), &self.values);
        self.step = head.step;
        self.tokens = head.tokens;
        self.total = head.total;
        self.last = head.last;
        Ok(())
    }

    /// What the steps done gave.
    #[must_use]
    pub fn finish(self) -> Trained {
        let pairs = self.local.iter().zip(self.job.theta);
        Trained {
            delta: pairs.map(|(local, received)| local - received).collect(),
            examples: self.examples,
            tokens: self.tokens,
            loss: (self.total / f64::from(self.step.max(1))) as f32,
            last_loss: self.last,
        }
    }
}

impl std::fmt::Debug for Work<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Work(step {} of {})", self.step, self.job.manifest.training.steps)
    }
}

/// Asks the task; its panic is an error.
fn ask<T>(call: impl FnOnce() -> T) -> Result<T, TrainError> {
    caught(call).map_err(|message| TrainError::Panicked { what: "the task", message })
}

/// Buffers of a step, reused by the next.
#[derive(Default)]
struct Buffers {
    tape: Tape,
    logits: Vec<f32>,
}

impl Buffers {
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
    if !ask(|| task.has_loss())? {
        return Ok(None);
    }
    let shape = (batch.targets.len(), logits.len() / batch.targets.len().max(1));
    let var = Var::from_vec(logits.to_vec(), shape, &Device::Cpu)?;
    let Some(loss) = ask(|| task.loss(var.as_tensor(), batch))?? else { return Ok(None) };
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
