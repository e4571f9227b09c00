//! A task with examples that it does not train on.

use candle_core::Tensor;

use super::{Batch, Plan, TaskError, TrainingTask};

/// A task, and other examples of the same device for the run's evaluation.
pub struct HeldOut<T, F> {
    task: T,
    batches: F,
}

impl<T: TrainingTask, F: Fn(usize, usize) -> Vec<Batch> + Send + Sync> HeldOut<T, F> {
    /// Trains on `task` and evaluates on `batches`, which gives its examples for so many rows and columns a
    /// batch; they must be none that `task` trains on.
    pub fn new(task: T, batches: F) -> Self {
        Self { task, batches }
    }
}

impl<T: TrainingTask, F: Fn(usize, usize) -> Vec<Batch> + Send + Sync> TrainingTask
    for HeldOut<T, F>
{
    fn examples(&self) -> usize {
        self.task.examples()
    }

    fn batch(&self, plan: &Plan, step: u32) -> Result<Batch, TaskError> {
        self.task.batch(plan, step)
    }

    fn has_loss(&self) -> bool {
        self.task.has_loss()
    }

    fn loss(&self, logits: &Tensor, batch: &Batch) -> Result<Option<Tensor>, TaskError> {
        self.task.loss(logits, batch)
    }

    fn held_out(&self, rows: usize, cols: usize) -> Vec<Batch> {
        (self.batches)(rows, cols)
    }
}
