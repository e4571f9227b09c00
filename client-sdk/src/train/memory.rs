//! What a training takes, before it begins.
//!
//! A step keeps, for each of its `batch * context` tokens and each layer from the lowest adapted one up, what
//! the backward pass needs (the family's widths below; two numbers a head, LoRA's `h` of `r` a linear, and
//! with dropout twice each adapted linear's input), the gradients on the way down once, and the logits of so
//! many rows as are held at once; where the task has its own loss, of all rows four times: theirs, candle's,
//! its gradient and one tensor between. The adapter is held as received, as trained, as a gradient and as
//! trained entries with their moments, and once more as bytes while it is saved. All are 4 bytes. With
//! checkpointing all layers keep their inputs and one of them the rest; of a batch that is cut only a part's
//! tokens count.

use gossamer_protocol::layout::Part;
use gossamer_protocol::manifest::{Combine, LocalOptimizer, Manifest};

use super::Footprint;
use crate::model::BaseModel;
use crate::model::network::LOGITS;

/// Bytes, estimated; shorter batches than the manifest allows take less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The frozen weights in their storage, which are held before and after.
    pub base: u64,
    /// The adapter with its optimiser.
    pub adapter: u64,
    /// What a step keeps.
    pub step: u64,
}

impl Memory {
    /// Of a training of `manifest` on `base`; `has_loss`: see [`TrainingTask::has_loss`].
    ///
    /// [`TrainingTask::has_loss`]: crate::data::TrainingTask::has_loss
    #[must_use]
    pub fn of(base: &BaseModel, manifest: &Manifest, has_loss: bool, footprint: Footprint) -> Self {
        let recipe = &manifest.training;
        let moments = match recipe.optimizer {
            LocalOptimizer::Sgd { .. } => 1,
            LocalOptimizer::AdamW { .. } => 2,
        };
        // Received, its frame, trained, a gradient; the trained entries and their moments, and the same as
        // bytes. What is sent is made when the step's buffers are gone.
        let vectors = 4 + 2 * (1 + moments) + u64::from(recipe.proximal > 0.0);
        let n = manifest.layout.n() as u64;
        let rows = match has_loss {
            true => u64::from(recipe.batch),
            false => footprint.rows(recipe.batch as usize) as u64,
        };
        let tokens = rows * u64::from(recipe.context);
        let widths = Widths::of(base);
        let linears = base.linears();
        let each = linears.len() as u64 / widths.layers.max(1);
        let mut lowest = widths.layers;
        let mut branches = 0;
        for (at, linear) in linears.iter().enumerate() {
            let name = format!("{}.lora_B", linear.name);
            let tensors = manifest.layout.tensors();
            let mut found = tensors.filter(|(t, _)| t.part == Part::LoraB && t.name == name);
            if let Some((tensor, _)) = found.next() {
                lowest = lowest.min(at as u64 / each.max(1));
                let sides = if manifest.method.combine == Combine::Core { 2 } else { 1 };
                branches += sides * tensor.shape[1] as u64;
                let dropped = if manifest.lora.dropout > 0.0 { 2 } else { 0 };
                branches += dropped * linear.d_in as u64;
            }
        }
        let layers = (widths.layers - lowest).max(1);
        let kept = match footprint.checkpoint {
            true => layers * base.hidden() as u64 + widths.layer + branches.div_ceil(layers),
            false => layers * widths.layer + branches,
        };
        let logits = match manifest.head {
            None => tokens * base.limits(None).vocab as u64,
            Some(head) => rows * u64::from(head.classes),
        };
        let logits = match has_loss {
            true => 4 * logits,
            false => logits.min(LOGITS as u64),
        };
        Self {
            base: base.n_bytes() as u64,
            adapter: 4 * n * vectors,
            step: 4 * (tokens * (kept + widths.down) + logits),
        }
    }

    /// All of it.
    #[must_use]
    pub fn total(self) -> u64 {
        self.base.saturating_add(self.adapter).saturating_add(self.step)
    }
}

/// Numbers a token.
struct Widths {
    layers: u64,
    /// Kept by each layer; see `model::tape::LayerTape`.
    layer: u64,
    /// Once: on the way down, and around the layers.
    down: u64,
}

impl Widths {
    fn of(base: &BaseModel) -> Self {
        let widths = if let Some(llama) = base.llama() {
            let (h, i) = (llama.hidden, llama.intermediate);
            let (q, kv) = (llama.heads * llama.head_dim, llama.kv_heads * llama.head_dim);
            let layer = 2 * h + 2 * q + 2 * kv + 2 * i + 2 * llama.heads + 2;
            [llama.layers, layer, 7 * h + 2 * q + 2 * kv + 4 * i]
        } else if let Some(gpt2) = base.gpt2() {
            let (h, i) = (gpt2.hidden, gpt2.intermediate);
            [gpt2.layers, 6 * h + i + 2 * gpt2.heads + 4, 11 * h + i + i.max(3 * h)]
        } else if let Some(bert) = base.bert() {
            let (h, i) = (bert.hidden, bert.intermediate);
            [bert.layers, 7 * h + i + 2 * bert.heads + 4, 11 * h + 2 * i]
        } else {
            [0, 0, 0]
        };
        let [layers, layer, down] = widths.map(|width| width as u64);
        Self { layers, layer, down }
    }
}
