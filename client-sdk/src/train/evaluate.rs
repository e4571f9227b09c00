//! How well an adapter predicts held-out tokens, or classes.

use gossamer_protocol::manifest::Manifest;

use super::device::OnDevice;
use super::{TrainError, check, likeliest};
use crate::data::{Batch, IGNORE};
use crate::model::BaseModel;
use crate::model::network::Tape;
use crate::ops::cross_entropy::{self, Nats};

/// A sum of `-log p(target)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// The sum, in nats.
    pub nats: f64,
    /// Targets predicted: tokens, or where the run has a head sequences.
    pub tokens: u64,
    /// Sequences whose likeliest class (the first of equals) is theirs; `None` without a head.
    pub right: Option<u64>,
}

impl Evaluation {
    /// Share of sequences whose class was found; `None` without a head or a sequence.
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        let right = self.right.filter(|_| self.tokens > 0)?;
        Some(right as f64 / self.tokens as f64)
    }

    /// Of both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            nats: self.nats + other.nats,
            tokens: self.tokens + other.tokens,
            right: self.right.zip(other.right).map(|(a, b)| a + b).or(self.right).or(other.right),
        }
    }

    /// Nats per target; 0 for no target.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.nats / self.tokens as f64 }
    }
}

/// The logits of one batch without dropout: `[targets, vocab]`, or with a head `[rows, classes]`.
///
/// # Errors
/// [`TrainError`] where adapter or batch do not fit the base.
pub fn logits(
    base: &BaseModel,
    manifest: &Manifest,
    theta: &[f32],
    batch: &Batch,
) -> Result<Vec<f32>, TrainError> {
    let lora = check(base, manifest)?;
    let adapter = lora.adapter(theta)?;
    let network = base.network(adapter)?;
    let limits = base.limits(manifest.head);
    batch.check(&limits).map_err(|source| TrainError::Batch { step: 1, source })?;
    if let Some(graph) = base.graph() {
        return OnDevice { graph, base, adapter }.logits(batch);
    }
    let mut logits = Vec::new();
    network.forward(&mut Tape::one_way(), &mut logits, batch, None);
    Ok(logits)
}

/// Runs `batches` through the base with the adapter `theta`, without dropout.
///
/// # Errors
/// [`TrainError`] where adapter or batches do not fit the base, or a loss is not finite.
pub fn evaluate(
    base: &BaseModel,
    manifest: &Manifest,
    theta: &[f32],
    batches: &[Batch],
) -> Result<Evaluation, TrainError> {
    let none = Evaluation { right: manifest.head.map(|_| 0), ..Evaluation::default() };
    let each = evaluate_each(base, manifest, theta, batches)?;
    Ok(each.into_iter().fold(none, Evaluation::plus))
}

/// The same, batch by batch: parts that several threads evaluate come to one sum when they are added in order.
///
/// # Errors
/// As for [`evaluate`].
pub fn evaluate_each(
    base: &BaseModel,
    manifest: &Manifest,
    theta: &[f32],
    batches: &[Batch],
) -> Result<Vec<Evaluation>, TrainError> {
    let lora = check(base, manifest)?;
    let adapter = lora.adapter(theta)?;
    let network = base.network(adapter)?;
    let on_device = base.graph().map(|graph| OnDevice { graph, base, adapter });
    let limits = base.limits(manifest.head);
    let (mut tape, mut logits) = (Tape::one_way(), Vec::new());
    let mut each = Vec::with_capacity(batches.len());
    for (at, batch) in batches.iter().enumerate() {
        let step = at as u32 + 1;
        batch.check(&limits).map_err(|source| TrainError::Batch { step, source })?;
        let mut right = manifest.head.map(|_| 0);
        let mut see = |logits: &[f32], targets: &[u32]| {
            let Some(right) = &mut right else { return };
            let rows = logits.chunks_exact(logits.len() / targets.len());
            let found =
                |(row, &target): (&[f32], &u32)| target != IGNORE && likeliest(row) == target;
            *right += rows.zip(targets).filter(|&pair| found(pair)).count() as u64;
        };
        let nats = if let Some(on_device) = &on_device {
            let logits = on_device.logits(batch)?;
            let mut nats = Nats::default();
            cross_entropy::forward(&mut nats, &logits, &batch.targets);
            see(&logits, &batch.targets);
            nats
        } else {
            network.features(&mut tape, batch, None);
            network.nats(&tape, &mut logits, &batch.targets, see)
        };
        if !nats.sum.is_finite() {
            let loss = nats.sum as f32;
            return Err(TrainError::NonFinite { step, what: "the loss", loss });
        }
        each.push(Evaluation { nats: nats.sum, tokens: nats.tokens, right });
    }
    Ok(each)
}
