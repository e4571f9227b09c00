//! A step's loss and gradients on a device, by candle.

use candle_core::{Device, Tensor};

use super::TrainError;
use super::passes::{own_loss, part};
use crate::data::{Batch, TrainingTask};
use crate::lora::Adapter;
use crate::model::BaseModel;
use crate::model::graph::{Factors, Graph, layers};
use crate::ops::linear::Dropout;

/// A base with one client's adapter.
pub(super) struct OnDevice<'a> {
    pub(super) graph: &'a Graph,
    pub(super) base: &'a BaseModel,
    pub(super) adapter: Adapter<'a>,
}

impl OnDevice<'_> {
    /// Adds to `gradient` that of `batch`'s loss, and gives the loss: that of `task`, where it has one of its
    /// own; else the mean cross-entropy, `most` sequences at a time.
    pub(super) fn learn(
        &self,
        task: Option<&dyn TrainingTask>,
        batch: &Batch,
        most: usize,
        mut dropout: Option<&mut Dropout>,
        gradient: &mut [f32],
    ) -> Result<f32, TrainError> {
        let kind = self.base.kind();
        let factors = self.factors()?;
        if let Some(task) = task {
            let logits = self.graph.logits(kind, &factors, batch, dropout).map_err(failed)?;
            // The task's operations run where its tensors are, and that is the CPU.
            let mut values = flat(&logits)?;
            if let Some(loss) = own_loss(task, &mut values, batch)? {
                let towards = Tensor::from_vec(values, logits.dims(), self.graph.device());
                let towards = towards.and_then(|towards| (logits * towards)?.sum_all());
                self.backward(&factors, towards, gradient)?;
                return Ok(loss);
            }
            return self.mean(&factors, &logits, &batch.targets, batch.learned(), gradient);
        }
        let each = batch.targets.len() / batch.rows.max(1);
        let mut loss = 0.0;
        for first in (0..batch.rows).step_by(most.max(1)) {
            let rows = first..batch.rows.min(first + most);
            let targets = &batch.targets[rows.start * each..rows.end * each];
            let part = part(batch, rows);
            let dropout = dropout.as_deref_mut();
            let logits = self.graph.logits(kind, &factors, &part, dropout).map_err(failed)?;
            loss += self.mean(&factors, &logits, targets, batch.learned(), gradient)?;
        }
        Ok(loss)
    }

    /// The logits of a batch, without dropout.
    pub(super) fn logits(&self, batch: &Batch) -> Result<Vec<f32>, TrainError> {
        let factors = self.factors()?;
        flat(&self.graph.logits(self.base.kind(), &factors, batch, None).map_err(failed)?)
    }

    fn factors(&self) -> Result<Factors, TrainError> {
        let linears = self.base.linears().len();
        Factors::new(self.adapter, linears, self.graph.device()).map_err(failed)
    }

    /// The cross-entropy of `targets` over `of` of them, with its gradient.
    fn mean(
        &self,
        factors: &Factors,
        logits: &Tensor,
        targets: &[u32],
        of: u64,
        gradient: &mut [f32],
    ) -> Result<f32, TrainError> {
        if targets.iter().all(|&target| target == crate::data::IGNORE) {
            return Ok(0.0);
        }
        let loss = layers::nats(logits, targets).and_then(|nats| nats / of as f64);
        let value = loss.as_ref().ok().map(Tensor::to_scalar::<f32>);
        self.backward(factors, loss, gradient)?;
        value.unwrap_or(Ok(f32::NAN)).map_err(failed)
    }

    fn backward(
        &self,
        factors: &Factors,
        loss: candle_core::Result<Tensor>,
        gradient: &mut [f32],
    ) -> Result<(), TrainError> {
        let back = loss.and_then(|loss| factors.backward(self.adapter, &loss, gradient));
        back.map_err(failed)
    }
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>, TrainError> {
    let on_cpu = tensor.to_device(&Device::Cpu).and_then(|tensor| tensor.flatten_all());
    on_cpu.and_then(|tensor| tensor.to_vec1()).map_err(failed)
}

fn failed(source: candle_core::Error) -> TrainError {
    TrainError::Device(source)
}
