//! One client's training, step by step: it may be saved between two steps, dropped, and gone on with.

use gossamer_protocol::digest::Digest;
use gossamer_protocol::rng::Stream;
use gossamer_protocol::sparse::Support;

use super::passes::{Passes, ask};
use super::{Footprint, Job, Progress, SavedError, TrainError, Trained, check, saved};
use crate::data::{Batch, Plan, TrainingTask};
use crate::lora;
use crate::optim::{Optimizer, clip, pull};

/// A training between two steps. Dropping it gives its memory back.
pub struct Work<'a> {
    pub(super) job: Job<'a>,
    pub(super) task: &'a dyn TrainingTask,
    examples: u32,
    plan: Plan,
    pub(super) lora: lora::Plan,
    /// The trained entries alone, in order.
    values: Vec<f32>,
    optimizer: Optimizer,
    /// The whole adapter, trained so far; `None` where `values` are all of it.
    whole: Option<Vec<f32>>,
    /// Added to every gradient of the trained entries.
    correction: Option<Vec<f32>>,
    /// Empty where it is stepped with others.
    passes: Passes,
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
        let indices = support.and_then(Support::indices);
        Ok(Self {
            job: *job,
            task,
            examples: u32::try_from(examples).unwrap_or(u32::MAX),
            plan: Plan { seed: manifest.seed, client, round, rows, cols },
            lora,
            optimizer: Optimizer::new(recipe.optimizer, values.len()),
            values,
            whole: indices.map(|_| theta.to_vec()),
            correction: None,
            passes: Passes::default(),
            step: 0,
            total: 0.0,
            tokens: 0,
            last: 0.0,
        })
    }

    /// Takes its steps in so much memory.
    #[must_use]
    pub fn footprint(self, footprint: Footprint) -> Self {
        Self { passes: Passes::new(footprint), ..self }
    }

    /// Adds `correction` to every gradient, in the order of the trained entries.
    #[must_use]
    pub(crate) fn corrected(self, correction: Vec<f32>) -> Self {
        Self { correction: Some(correction), ..self }
    }

    /// Steps done.
    #[must_use]
    pub fn steps_done(&self) -> u32 {
        self.step
    }

    /// The next step; `None` where all are done. [`Passes`] steps several trainings at once.
    ///
    /// # Errors
    /// [`TrainError`]; then there is no result at all.
    pub fn step(&mut self) -> Result<Option<Progress>, TrainError> {
        let mut passes = std::mem::take(&mut self.passes);
        let outcome = passes.step(&mut [self]).pop();
        self.passes = passes;
        outcome.expect("one training has one outcome")
    }

    /// The next step's batch; `None` where all are done.
    pub(super) fn batch(&self) -> Result<Option<Batch>, TrainError> {
        let Job { base, manifest, .. } = self.job;
        if self.step >= manifest.training.steps {
            return Ok(None);
        }
        let batch = ask(|| self.task.batch(&self.plan, self.step))??;
        let limits = base.limits(manifest.head);
        let step = self.step + 1;
        batch.check(&limits).map_err(|source| TrainError::Batch { step, source })?;
        Ok(Some(batch))
    }

    /// The adapter, trained so far.
    pub(super) fn adapter(&self) -> &[f32] {
        self.whole.as_ref().unwrap_or(&self.values)
    }

    /// Where the next step's dropout is drawn from.
    pub(super) fn dropout(&self) -> Stream {
        self.plan.stream("dropout", u64::from(self.step))
    }

    /// Ends the step: `loss` was its batch's over `learned` targets, `gradient` the whole adapter's.
    pub(super) fn learn(
        &mut self,
        loss: f32,
        learned: u64,
        gradient: &mut [f32],
    ) -> Result<Progress, TrainError> {
        let recipe = &self.job.manifest.training;
        let step = self.step + 1;
        let bad = |what| TrainError::NonFinite { step, what, loss };
        if !loss.is_finite() {
            return Err(bad("the loss"));
        }
        let mut gathered;
        let gradient = match self.indices() {
            None => gradient,
            Some(_) => {
                gathered = self.job.support.unwrap_or(&Support::All).gather(gradient);
                &mut gathered
            }
        };
        if recipe.proximal > 0.0 {
            let received = self.job.support.unwrap_or(&Support::All).gather(self.job.theta);
            pull(gradient, &self.values, &received, recipe.proximal);
        }
        if let Some(correction) = &self.correction {
            gradient.iter_mut().zip(correction).for_each(|(g, more)| *g += more);
        }
        if let Some(most) = recipe.clip {
            clip(gradient, most);
        }
        self.optimizer.step(&mut self.values, gradient);
        if self.values.iter().any(|value| !value.is_finite()) {
            return Err(bad("the adapter"));
        }
        self.spread();
        self.total += f64::from(loss);
        self.tokens += learned;
        self.last = loss;
        self.step = step;
        Ok(Progress { step, steps: recipe.steps, loss, tokens: self.tokens })
    }

    /// The trained entries' places; `None`: all.
    fn indices(&self) -> Option<&'a [u32]> {
        self.job.support.and_then(Support::indices)
    }

    /// Puts the trained entries where [`Support::gather`] took them.
    fn spread(&mut self) {
        let Some((whole, indices)) =
            self.whole.as_mut().zip(self.job.support.and_then(Support::indices))
        else {
            return;
        };
        for (&index, &value) in indices.iter().zip(&self.values) {
            whole[index as usize] = value;
        }
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
        self.spread();
        self.step = head.step;
        self.tokens = head.tokens;
        self.total = head.total;
        self.last = head.last;
        Ok(())
    }

    /// What the steps done gave.
    #[must_use]
    pub fn finish(self) -> Trained {
        let pairs = self.adapter().iter().zip(self.job.theta);
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
