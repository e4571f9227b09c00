//! How well an adapter predicts held-out text.

use gossamer_protocol::manifest::Manifest;

use super::{TrainError, check};
use crate::data::Batch;
use crate::model::BaseModel;
use crate::model::decoder::Tape;
use crate::ops::cross_entropy;

/// A sum of `-log p(token)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// The sum, in nats.
    pub nats: f64,
    /// Tokens predicted.
    pub tokens: u64,
}

impl Evaluation {
    /// Nats per token; 0 for no token.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.nats / self.tokens as f64 }
    }
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
    let lora = check(base, manifest)?;
    let decoder = base.decoder(Some(lora.adapter(theta)?));
    let (mut tape, mut logits) = (Tape::default(), Vec::new());
    let mut sum = Evaluation::default();
    for (at, batch) in batches.iter().enumerate() {
        let step = at as u32 + 1;
        batch.check(base.config()).map_err(|source| TrainError::Batch { step, source })?;
        let hidden = decoder.forward(&mut tape, batch, None);
        decoder.logits(&mut logits, hidden);
        let nats = cross_entropy::forward(&logits, &batch.targets);
        if !nats.sum.is_finite() {
            let loss = nats.sum as f32;
            return Err(TrainError::NonFinite { step, what: "the loss", loss });
        }
        sum.nats += nats.sum;
        sum.tokens += nats.tokens;
    }
    Ok(sum)
}
