//! Frozen models of several families, from unmodified Hugging Face folders, where `config.json`'s
//! `architectures` tells which, or from GGUF files.
//!
//! - `tensors`: a model's tensors in one flat vector. `held`: that vector, as `f32` or in less memory. `load`,
//!   `files`, `stored`, `safetensors`, `gguf`: from a file.
//! - `config`: what the families' `config.json` files share. `family`: which one, with its places.
//! - `frozen`: weights with the adapter beside them. `walk`, `tape`: the way through the layers and
//!   back, and its buffers. A family gives only what is its own, each in one place:
//! - `llama`: RMSNorm, rotary grouped-query attention, SwiGLU, tied or own head.
//! - `gpt2`: LayerNorm before each half, learned positions, one linear for q, k and v.
//! - `bert`: LayerNorm behind each sum, attention both ways, GELU, mean features.
//! - `network`: a family with its adapter, from a batch to the logits of its targets and back.
//! - [`hub`]: folders of models by name, from Hugging Face.
//! - `graph`: a family with its adapter from candle's differentiable operations, on a GPU.
//!
//! Invariant: nothing here changes a model's weights; training moves the adapter beside them, or,
//! in pretraining, a copy.

mod bert;
mod config;
mod error;
mod family;
mod files;
#[cfg(test)]
pub(crate) mod fixture;
pub(crate) mod frozen;
mod gguf;
mod gpt2;
#[cfg(test)]
mod gradient_tests;
pub(crate) mod graph;
pub(crate) mod held;
#[cfg(test)]
mod held_tests;
pub mod hub;
mod layer_norms;
pub(crate) mod llama;
mod load;
#[cfg(test)]
mod load_tests;
pub(crate) mod network;
pub(crate) mod safetensors;
mod stored;
mod tape;
mod tensors;
mod walk;

use std::sync::Arc;

use candle_core::Device;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::layout::BaseLinear;
use gossamer_protocol::manifest::Head;
use tokenizers::{Tokenizer, TruncationDirection};

use crate::data::Limits;
use crate::lora::{Adapter, LoraError};
pub use bert::BertConfig;
pub use error::ModelError;
use family::Kind;
use frozen::Frozen;
pub use gpt2::Gpt2Config;
use graph::Graph;
use held::{Held, Weights};
pub use llama::{Bias, Llama3Rope, LlamaConfig};
use network::Network;

pub use crate::ops::matrix::{Storage, UnknownStorage};

/// A frozen model with its tokenizer. Cloning shares it.
#[derive(Clone)]
pub struct BaseModel(Arc<Inner>, Option<Arc<Graph>>);

struct Inner {
    kind: Kind,
    tokenizer: Tokenizer,
    digest: Digest,
    weights: Held,
}

impl BaseModel {
    /// Names this model: SHA-256 over its three files' digests, as manifests have it; what a GGUF file brings
    /// itself counts as empty.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// The weight matrices LoRA may adapt: layer by layer q, k, v, o, and those of the feed-forward.
    #[must_use]
    pub fn linears(&self) -> Vec<BaseLinear> {
        self.0.kind.tensors().base_linears()
    }

    /// Width of its features, which a task head takes.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.0.kind.hidden()
    }

    /// Longest sequence.
    #[must_use]
    pub fn context(&self) -> usize {
        self.0.kind.context()
    }

    /// What a batch must keep within, for next tokens or for `head`'s classes.
    #[must_use]
    pub fn limits(&self, head: Option<Head>) -> Limits {
        let classes = head.map(|head| head.classes);
        Limits { vocab: self.0.kind.vocab(), context: self.context(), classes }
    }

    /// The sizes of a Llama-family decoder; another family has none of these.
    #[must_use]
    pub fn llama(&self) -> Option<&LlamaConfig> {
        self.0.kind.llama()
    }

    /// Its tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.0.tokenizer
    }

    /// Number of frozen weights.
    #[must_use]
    pub fn n_weights(&self) -> usize {
        self.0.kind.tensors().n()
    }

    /// How its matrices are held.
    #[must_use]
    pub fn storage(&self) -> Storage {
        self.0.weights.storage()
    }

    /// Bytes that its weights take.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.0.weights.bytes()
    }

    /// The same model for trainings on `device`, to which its weights are copied: a GPU, in a build with the
    /// feature `cuda` or `metal`. Matrices are held there as `bf16` where they are here, else as `f32`; what a
    /// step keeps is candle's, so [`Footprint::checkpoint`](crate::train::Footprint) has no effect.
    ///
    /// Without this a training runs on the CPU by the passes of this crate, whose bits are the same on every
    /// machine; on a device equal inputs give equal updates only to rounding. candle's own CPU device is for
    /// tests: it is slower than these passes.
    ///
    /// # Errors
    /// candle's, where the device is out of memory.
    pub fn on(&self, device: &Device) -> candle_core::Result<Self> {
        let graph = Graph::new(self.kind().tensors(), self.weights(), self.storage(), device)?;
        Ok(Self(self.0.clone(), Some(Arc::new(graph))))
    }

    /// Its copy on a device, where its trainings run on one.
    pub(crate) fn graph(&self) -> Option<&Graph> {
        self.1.as_deref()
    }

    /// The tokens of `text`, without a token before or after it.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] where the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = self.0.tokenizer.encode(text, false);
        encoding.map(|e| e.get_ids().to_vec()).map_err(|e| ModelError::Tokenizer(e.to_string()))
    }

    /// An encoder's sequence of `text`: `[CLS]`, its tokens, `[SEP]`; a text longer than the context is cut.
    ///
    /// # Errors
    /// [`ModelError::Decoder`] where this is none, [`ModelError::Tokenizer`] where the tokenizer fails.
    pub fn encode_sequence(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        self.bert().ok_or(ModelError::Decoder)?;
        let failed = |e: tokenizers::Error| ModelError::Tokenizer(e.to_string());
        let mut encoding = self.0.tokenizer.encode(text, false).map_err(failed)?;
        encoding.truncate(self.context().saturating_sub(2), 0, TruncationDirection::Right);
        let encoding = self.0.tokenizer.post_process(encoding, None, true).map_err(failed)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `tokens`; special ones are skipped.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] where the tokenizer fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, ModelError> {
        let text = self.0.tokenizer.decode(tokens, true);
        text.map_err(|e| ModelError::Tokenizer(e.to_string()))
    }

    /// The sizes of a GPT-2-family decoder; another family has none of these.
    #[must_use]
    pub fn gpt2(&self) -> Option<&Gpt2Config> {
        self.0.kind.gpt2()
    }

    /// Whether the files have the linears' weights as `[d_in, d_out]` (transformers' Conv1D), as a merge
    /// and PEFT's `fan_in_fan_out` must know; [`linears`](Self::linears) counts the other way always.
    #[must_use]
    pub fn fan_in_fan_out(&self) -> bool {
        self.gpt2().is_some()
    }

    /// The sizes of an encoder; a decoder has none of these.
    #[must_use]
    pub fn bert(&self) -> Option<&BertConfig> {
        self.0.kind.bert()
    }

    /// The token before a text, where there is one.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.0.kind.bos()
    }

    /// The tokens that end a text.
    #[must_use]
    pub fn eos(&self) -> &[u32] {
        self.0.kind.eos()
    }

    /// The decoder with an adapter or none; an encoder is none.
    pub(crate) fn decoder<'a>(&'a self, adapter: Option<Adapter<'a>>) -> Option<Network<'a>> {
        self.0.kind.decoder(self.frozen(adapter))
    }

    /// The model with its adapter.
    ///
    /// # Errors
    /// [`LoraError::NoHead`] or [`LoraError::Decoder`] where the adapter is for the other sort.
    pub(crate) fn network<'a>(&'a self, adapter: Adapter<'a>) -> Result<Network<'a>, LoraError> {
        let frozen = self.frozen(Some(adapter));
        match adapter.head(0) {
            None => self.0.kind.decoder(frozen).ok_or(LoraError::NoHead),
            Some(_) => self.0.kind.encoder(frozen, adapter).ok_or(LoraError::Decoder),
        }
    }

    fn frozen<'a>(&'a self, adapter: Option<Adapter<'a>>) -> Frozen<'a> {
        Frozen { tensors: self.0.kind.tensors(), weights: self.0.weights.weights(), adapter }
    }

    /// Whether both are one model in memory, and on a device.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let devices = [self, other].map(|base| base.1.as_ref().map(Arc::as_ptr));
        Arc::ptr_eq(&self.0, &other.0) && devices[0] == devices[1]
    }

    pub(crate) fn kind(&self) -> &Kind {
        &self.0.kind
    }

    pub(crate) fn weights(&self) -> Weights<'_> {
        self.0.weights.weights()
    }
}

impl std::fmt::Debug for BaseModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "BaseModel({}, {} weights as {})",
            self.0.digest,
            self.n_weights(),
            self.storage()
        )
    }
}
