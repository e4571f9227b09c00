//! Steps of many clients' trainings through shared passes: many adapters, one frozen base.
//!
//! Trainings of one base and manifest whose next batches have one shape lie row behind row in one forward and
//! one backward pass. The base meets all rows at once, so that its weights are read and arranged once for all;
//! each client's branches, head, loss, dropout and gradients are its own. An entry of a product is summed in
//! the same order however many rows there are, so a training steps to the bits it would have alone.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::{DType, Device, Tensor, Var};
use gossamer_protocol::manifest::Manifest;

use super::caught::caught;
use super::device::OnDevice;
use super::work::Work;
use super::{Footprint, Progress, TrainError};
use crate::data::{Batch, TrainingTask};
use crate::model::frozen::Gradients;
use crate::model::network::{Keep, Loss, Tape};
use crate::ops::cross_entropy::{self, Nats};
use crate::ops::linear::{Dropout, Share};

/// Tokens of a pass, unless one client has more. By then arranging the weights costs little of a product;
/// with more rows the products gain less than what no longer stays in the cache costs (`benches/cohort.rs`).
pub(super) const TOKENS: usize = 256;
/// Adapter entries of a pass, of all clients together, unless one client has more: as many gradients are held.
pub(super) const ENTRIES: usize = 1 << 22;

/// What one step came to: `None` where all steps are done.
type Outcome = Result<Option<Progress>, TrainError>;

/// Buffers of a pass, left to the next; for any trainings, one after the other.
#[derive(Default)]
pub struct Passes {
    footprint: Footprint,
    tape: Tape,
    logits: Vec<f32>,
    /// Each client's, `[clients, n]`.
    gradients: Vec<f32>,
}

impl Passes {
    /// Passes that take so much memory. A training whose batch is cut is alone in its passes.
    #[must_use]
    pub fn new(footprint: Footprint) -> Self {
        let keep = if footprint.checkpoint { Keep::Inputs } else { Keep::Layers };
        let tape = Tape { keep, ..Tape::default() };
        Self { footprint, tape, ..Self::default() }
    }

    /// How many clients of a run share a pass: with more of them a step takes more passes.
    #[must_use]
    pub fn clients(manifest: &Manifest) -> usize {
        let recipe = &manifest.training;
        most(recipe.batch as usize * recipe.context as usize, manifest.layout.n())
    }

    /// Takes the next step of each training and tells what came of it, in their order.
    ///
    /// A training that fails (its task's error or panic, a loss that is not finite) has no result and is not
    /// to be stepped again; it changes nothing for the others.
    pub fn step(&mut self, works: &mut [&mut Work<'_>]) -> Vec<Outcome> {
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(works.len());
        let mut ready = Vec::with_capacity(works.len());
        for (at, work) in works.iter().enumerate() {
            outcomes.push(work.batch().map(|batch| {
                ready.extend(batch.map(|batch| (at, batch)));
                None
            }));
        }
        while let Some((first, batch)) = ready.first() {
            let (first, shape) = (&*works[*first], [batch.rows, batch.cols]);
            let whole =
                self.footprint.rows(batch.rows) == batch.rows && first.job.base.graph().is_none();
            let room = most(batch.inputs.len(), first.adapter().len());
            let mut room = if whole { room } else { 1 };
            let mut fits = |(at, batch): &(usize, Batch)| {
                let fits =
                    room > 0 && [batch.rows, batch.cols] == shape && first.is_like(works[*at]);
                room -= usize::from(fits);
                fits
            };
            let (members, others) = ready.into_iter().partition(|member| fits(member));
            ready = others;
            self.pass(works, members, &mut outcomes);
        }
        outcomes
    }

    /// Rows of the last pass.
    #[cfg(test)]
    pub(super) fn rows(&self) -> usize {
        self.tape.rows
    }

    /// One pass of trainings that are alike.
    fn pass(
        &mut self,
        works: &mut [&mut Work<'_>],
        members: Vec<(usize, Batch)>,
        outcomes: &mut [Outcome],
    ) {
        let Some((first, _)) = members.first() else { return };
        let clients: Vec<&Work<'_>> = members.iter().map(|(at, _)| &*works[*at]).collect();
        let first = &*works[*first];
        let thetas: Vec<&[f32]> = clients.iter().map(|work| work.adapter()).collect();
        let network = match first.job.base.network(first.lora.on_each(&thetas)) {
            Ok(network) => network,
            Err(error) => {
                for (at, _) in &members {
                    outcomes[*at] = Err(error.clone().into());
                }
                return;
            }
        };
        let share = first.job.manifest.lora.dropout;
        let mut dropout = (share > 0.0).then(|| Dropout {
            share,
            streams: clients.iter().map(|work| work.dropout()).collect(),
        });
        let Self { tape, logits, gradients, footprint } = self;
        let of = members.len();
        let batch = match &members[..] {
            [(_, batch)] => Cow::Borrowed(batch),
            _ => Cow::Owned(joined(&members)),
        };
        gradients.clear();
        gradients.resize(of * first.adapter().len(), 0.0);
        let own: Vec<_> = clients.iter().map(|work| ask(|| work.task.has_loss())).collect();
        let losses: Vec<Result<f32, TrainError>> = if let Some(graph) = first.job.base.graph() {
            let adapter = first.lora.on_each(&thetas);
            let on_device = OnDevice { graph, base: first.job.base, adapter };
            let most = footprint.rows(batch.rows);
            // It has no others beside it.
            let own = own.into_iter().next().unwrap_or(Ok(false));
            vec![own.and_then(|own| {
                let task = own.then_some(first.task);
                on_device.learn(task, &batch, most, dropout.as_mut(), gradients)
            })]
        } else if own.iter().any(|own| matches!(own, Ok(true))) {
            let into = &mut Gradients { adapter: Some(gradients), weights: None };
            network.forward(tape, logits, &batch, dropout.as_mut());
            let losses = own.into_iter().enumerate().map(|(at, own)| {
                let logits = Share { at, of }.part_mut(logits);
                let loss = own.and_then(|own| loss(own, clients[at].task, logits, &members[at].1));
                if loss.is_err() {
                    // Nothing follows from it.
                    logits.fill(0.0);
                }
                loss
            });
            let losses: Vec<_> = losses.collect();
            if losses.iter().any(Result::is_ok) {
                network.backward(tape, logits, into);
            }
            losses
        } else {
            let into = &mut Gradients { adapter: Some(gradients), weights: None };
            let mut losses: Vec<Loss<'_>> =
                members.iter().map(|(_, batch)| Loss::of(&batch.targets)).collect();
            match (&mut losses[..], footprint.rows(batch.rows)) {
                ([loss], most) if most < batch.rows => {
                    let each = batch.targets.len() / batch.rows;
                    for first in (0..batch.rows).step_by(most) {
                        let rows = first..batch.rows.min(first + most);
                        loss.targets = &batch.targets[rows.start * each..rows.end * each];
                        network.features(tape, &part(&batch, rows), dropout.as_mut());
                        network.learn(tape, logits, std::slice::from_mut(loss), into);
                    }
                }
                (losses, _) => {
                    network.features(tape, &batch, dropout.as_mut());
                    network.learn(tape, logits, losses, into);
                }
            }
            own.into_iter().zip(losses).map(|(own, loss)| own.map(|_| mean(loss.nats))).collect()
        };
        for (k, ((at, batch), loss)) in members.iter().zip(losses).enumerate() {
            let gradient = Share { at: k, of }.part_mut(gradients);
            let learned = |loss| works[*at].learn(loss, batch.learned(), gradient).map(Some);
            outcomes[*at] = loss.and_then(learned);
        }
    }
}

impl Work<'_> {
    /// Whether both may go through one pass.
    fn is_like(&self, other: &Self) -> bool {
        let [ours, theirs] = [&self.job, &other.job];
        let one_run =
            || std::ptr::eq(ours.manifest, theirs.manifest) || ours.manifest == theirs.manifest;
        ours.base.is(theirs.base) && one_run()
    }
}

impl std::fmt::Debug for Passes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passes")
    }
}

/// Clients of a pass, each with so many tokens and adapter entries.
pub(super) fn most(tokens: usize, entries: usize) -> usize {
    (TOKENS / tokens.max(1)).min(ENTRIES / entries.max(1)).max(1)
}

/// The inputs of batches of one shape, end to end.
fn joined(members: &[(usize, Batch)]) -> Batch {
    let mut all = Batch::default();
    for (_, Batch { inputs, lengths, rows, cols, .. }) in members {
        all.rows += rows;
        all.cols = *cols;
        all.inputs.extend_from_slice(inputs);
        match lengths.is_empty() {
            true => all.lengths.extend(std::iter::repeat_n(*cols, *rows)),
            false => all.lengths.extend_from_slice(lengths),
        }
    }
    all
}

/// Some rows of a batch, without their targets.
pub(super) fn part(batch: &Batch, rows: Range<usize>) -> Batch {
    let Batch { inputs, lengths, cols, .. } = batch;
    Batch {
        inputs: inputs[rows.start * cols..rows.end * cols].to_vec(),
        targets: Vec::new(),
        lengths: lengths.get(rows.clone()).unwrap_or_default().to_vec(),
        rows: rows.len(),
        cols: *cols,
    }
}

/// The batch's loss, perhaps the task's own; its `logits` become its gradient.
fn loss(
    own: bool,
    task: &dyn TrainingTask,
    logits: &mut [f32],
    batch: &Batch,
) -> Result<f32, TrainError> {
    if own && let Some(loss) = own_loss(task, logits, batch)? {
        return Ok(loss);
    }
    let (mut nats, tokens) = (Nats::default(), cross_entropy::learned(&batch.targets));
    cross_entropy::backward_in_place(&mut nats, logits, &batch.targets, tokens);
    Ok(mean(nats))
}

fn mean(nats: Nats) -> f32 {
    (nats.sum / nats.tokens.max(1) as f64) as f32
}

/// The task's own loss, where it has one after all; `logits` become its gradient.
pub(super) fn own_loss(
    task: &dyn TrainingTask,
    logits: &mut [f32],
    batch: &Batch,
) -> Result<Option<f32>, TrainError> {
    let shape = (batch.targets.len(), logits.len() / batch.targets.len().max(1));
    let var = Var::from_vec(logits.to_vec(), shape, &Device::Cpu)?;
    let Some(loss) = ask(|| task.loss(var.as_tensor(), batch))?? else { return Ok(None) };
    let gradients = loss.backward()?;
    let gradient: &Tensor = gradients.get(&var).ok_or(TrainError::NoGradient)?;
    logits.copy_from_slice(&gradient.flatten_all()?.to_vec1()?);
    Ok(Some(loss.to_dtype(DType::F32)?.to_scalar()?))
}

/// Asks the task; its panic is an error.
pub(super) fn ask<T>(call: impl FnOnce() -> T) -> Result<T, TrainError> {
    caught(call).map_err(|message| TrainError::Panicked { what: "the task", message })
}
