//! What a training trades for memory.

use std::num::NonZeroU32;

use gossamer_protocol::manifest::Manifest;

use super::Memory;
use crate::model::BaseModel;

/// How a step is taken: in less memory, for more time. It is a device's own choice: the manifest says what is
/// learned, and that stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Keeps only each layer's input and makes the rest again on the way down (gradient checkpointing,
    /// arXiv:1604.06174): a forward pass more, but for the head. The result has the same bytes.
    pub checkpoint: bool,
    /// Sequences of a batch that go through the model at once, their gradients added up to the mean over the
    /// whole batch's targets (gradient accumulation); `None`: all.
    ///
    /// Sums then run in another order and dropout draws other masks, so a result's lowest bits differ from
    /// those of whole batches; equal settings give equal bytes. A batch whose task has its own loss is not cut:
    /// that may be any function of all its logits.
    pub micro_batch: Option<NonZeroU32>,
}

impl Footprint {
    /// Sequences at once, of a batch of `rows`.
    pub(super) fn rows(self, rows: usize) -> usize {
        self.micro_batch.map_or(rows, |most| rows.min(most.get() as usize)).max(1)
    }

    /// This one, or the first smaller one with which a training of `manifest` on `base` keeps to `most` bytes
    /// without the base: checkpointing first, which costs no bit of the result, then ever fewer sequences at
    /// once.
    ///
    /// # Errors
    /// What the smallest takes, where even that is more.
    pub fn within(
        self,
        most: u64,
        base: &BaseModel,
        manifest: &Manifest,
        has_loss: bool,
    ) -> Result<Self, u64> {
        let mut tried = self;
        loop {
            let Memory { adapter, step, .. } = Memory::of(base, manifest, has_loss, tried);
            let needs = adapter.saturating_add(step);
            let rows = tried.rows(manifest.training.batch as usize) as u32;
            match NonZeroU32::new(rows / 2).filter(|_| !has_loss) {
                _ if needs <= most => return Ok(tried),
                _ if !tried.checkpoint => tried.checkpoint = true,
                Some(fewer) => tried.micro_batch = Some(fewer),
                None => return Err(needs),
            }
        }
    }
}
