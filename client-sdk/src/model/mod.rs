//! Frozen models of two families, from unmodified Hugging Face folders. `architectures` tells which.
//!
//! - `tensors`: a model's tensors in one flat `f32` vector, from and to safetensors.
//! - Llama: RMSNorm, rotary grouped-query attention, SwiGLU, tied or own head. [`config`] has the
//!   sizes, `weights` the places, `decoder` forward and backward over a batch, with LoRA on any linear.
//! - BERT: LayerNorm behind each sum, attention both ways, GELU, mean features. `encoder` has all of it.
//! - `network`: either with its adapter, from a batch to the logits of its targets and back.
//! - [`composed`]: the decoder from candle's differentiable primitives, for any device and for tests.
//!
//! Invariant: nothing here changes a model's weights; training moves the adapter beside them, or,
//! in pretraining, a copy.

pub mod composed;
pub mod config;
pub(crate) mod decoder;
mod encoder;
mod error;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod gradient_tests;
#[cfg(test)]
mod load_tests;
pub(crate) mod network;
mod tensors;
pub(crate) mod weights;

use std::path::Path;
use std::sync::Arc;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::layout::BaseLinear;
use gossamer_protocol::manifest::{Head, base_digest};
use serde::Deserialize;
use tokenizers::{PostProcessor, Tokenizer, TruncationDirection};

use crate::data::Limits;
use crate::lora::{Adapter, LoraError};
pub use config::LlamaConfig;
use decoder::Decoder;
pub use encoder::BertConfig;
use encoder::Encoder;
use encoder::weights::EncoderMap;
pub use error::ModelError;
use network::Network;
use weights::WeightMap;

/// A frozen model with its tokenizer. Cloning shares it.
#[derive(Clone)]
pub struct BaseModel(Arc<Inner>);

struct Inner {
    family: Family,
    tokenizer: Tokenizer,
    digest: Digest,
    flat: Vec<f32>,
}

/// Sizes, and where each tensor lies.
enum Family {
    Llama(LlamaConfig, WeightMap),
    Bert(BertConfig, EncoderMap),
}

impl Family {
    /// By `config.json`'s `architectures`.
    fn from_json(config: &[u8]) -> Result<Self, ModelError> {
        // Alone at first: another family's file lacks the other fields.
        #[derive(Deserialize)]
        struct Kind {
            #[serde(default)]
            architectures: Vec<String>,
        }
        let kind: Kind =
            serde_json::from_slice(config).map_err(|e| ModelError::Config(e.to_string()))?;
        match kind.architectures.first().map_or("", String::as_str) {
            config::ARCHITECTURE => {
                let config = LlamaConfig::from_json(config)?;
                let map = WeightMap::new(&config);
                Ok(Self::Llama(config, map))
            }
            name if BertConfig::ARCHITECTURES.contains(&name) => {
                let config = BertConfig::from_json(config)?;
                let map = EncoderMap::new(&config);
                Ok(Self::Bert(config, map))
            }
            other => {
                let known = "LlamaForCausalLM, BertModel or BertForSequenceClassification";
                Err(config::unsupported("architectures", other.to_owned(), known))
            }
        }
    }

    fn vocab(&self) -> usize {
        match self {
            Self::Llama(config, _) => config.vocab,
            Self::Bert(config, _) => config.vocab,
        }
    }

    /// Tokens that the file itself names.
    fn named_tokens(&self) -> Vec<u32> {
        match self {
            Self::Llama(config, _) => config.bos.iter().chain(&config.eos).copied().collect(),
            Self::Bert(config, _) => vec![config.pad],
        }
    }
}

impl BaseModel {
    /// Loads a Hugging Face folder: `config.json`, `tokenizer.json`, `model.safetensors`.
    ///
    /// # Errors
    /// [`ModelError`] at the first thing that is off.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path).map_err(|source| ModelError::File { path, source })
        };
        let config = read("config.json")?;
        Self::from_bytes(&config, &read("tokenizer.json")?, &read("model.safetensors")?)
    }

    /// As [`load`](Self::load), from the files' bytes. Weights may be F32, F16 or BF16.
    ///
    /// # Errors
    /// [`ModelError`] at the first thing that is off.
    pub fn from_bytes(config: &[u8], tokenizer: &[u8], weights: &[u8]) -> Result<Self, ModelError> {
        let digest = base_digest(Digest::of(config), Digest::of(tokenizer), Digest::of(weights));
        let family = Family::from_json(config)?;
        let unreadable = |e: tokenizers::Error| ModelError::Tokenizer(e.to_string());
        let mut tokenizer = Tokenizer::from_bytes(tokenizer).map_err(unreadable)?;
        // Files made for fixed windows cut and pad in silence; here a text is as long as it is.
        tokenizer.with_truncation(None).map_err(unreadable)?;
        tokenizer.with_padding(None);
        let rows = family.vocab();
        let tokens = tokenizer.get_vocab(true).into_values();
        if let Some(token) = tokens.max().filter(|&token| token as usize >= rows) {
            return Err(ModelError::Vocabulary { token, rows });
        }
        if let Some(token) = family.named_tokens().into_iter().find(|&t| t as usize >= rows) {
            return Err(ModelError::Vocabulary { token, rows });
        }
        if matches!(family, Family::Bert(..)) {
            let around = tokenizer.get_post_processor().map_or(0, |post| post.added_tokens(false));
            if around != 2 {
                return Err(ModelError::Specials(around));
            }
        }
        let flat = match &family {
            Family::Llama(_, map) => map.tensors.read(weights)?,
            Family::Bert(_, map) => map.tensors.read(weights)?,
        };
        Ok(Self(Arc::new(Inner { family, tokenizer, digest, flat })))
    }

    /// Names this model: SHA-256 over its three files' digests, as manifests have it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// The weight matrices LoRA may adapt: layer by layer q, k, v, o, and those of the feed-forward.
    #[must_use]
    pub fn linears(&self) -> Vec<BaseLinear> {
        match &self.0.family {
            Family::Llama(_, map) => map.linears(),
            Family::Bert(_, map) => map.linears(),
        }
    }

    /// Width of its features, which a task head takes.
    #[must_use]
    pub fn hidden(&self) -> usize {
        match &self.0.family {
            Family::Llama(config, _) => config.hidden,
            Family::Bert(config, _) => config.hidden,
        }
    }

    /// Longest sequence.
    #[must_use]
    pub fn context(&self) -> usize {
        match &self.0.family {
            Family::Llama(config, _) => config.context,
            Family::Bert(config, _) => config.context,
        }
    }

    /// What a batch must keep within, for next tokens or for `head`'s classes.
    #[must_use]
    pub fn limits(&self, head: Option<Head>) -> Limits {
        let classes = head.map(|head| head.classes);
        Limits { vocab: self.0.family.vocab(), context: self.context(), classes }
    }

    /// The sizes of a decoder; an encoder has none of these.
    #[must_use]
    pub fn llama(&self) -> Option<&LlamaConfig> {
        match &self.0.family {
            Family::Llama(config, _) => Some(config),
            Family::Bert(..) => None,
        }
    }

    /// Its tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.0.tokenizer
    }

    /// Number of frozen weights.
    #[must_use]
    pub fn n_weights(&self) -> usize {
        self.0.flat.len()
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

    /// The sizes of an encoder; a decoder has none of these.
    #[must_use]
    pub fn bert(&self) -> Option<&BertConfig> {
        match &self.0.family {
            Family::Llama(..) => None,
            Family::Bert(config, _) => Some(config),
        }
    }

    /// The decoder over these weights; an encoder has none.
    pub(crate) fn decoder<'a>(&'a self, adapter: Option<Adapter<'a>>) -> Option<Decoder<'a>> {
        let Family::Llama(config, map) = &self.0.family else { return None };
        Some(Decoder { config, map, flat: &self.0.flat, adapter })
    }

    /// The model with its adapter.
    ///
    /// # Errors
    /// [`LoraError::NoHead`] or [`LoraError::Decoder`] where the adapter is for the other family.
    pub(crate) fn network<'a>(&'a self, adapter: Adapter<'a>) -> Result<Network<'a>, LoraError> {
        let flat = &self.0.flat;
        let head = adapter.head();
        let adapter = Some(adapter);
        match (&self.0.family, head) {
            (Family::Llama(config, map), None) => {
                Ok(Network::Decoder(Decoder { config, map, flat, adapter }))
            }
            (Family::Bert(config, map), Some(head)) => {
                Ok(Network::Encoder(Encoder { config, map, flat, adapter }, head))
            }
            (Family::Llama(..), Some(_)) => Err(LoraError::Decoder),
            (Family::Bert(..), None) => Err(LoraError::NoHead),
        }
    }

    /// A decoder's places.
    pub(crate) fn map(&self) -> Option<&WeightMap> {
        match &self.0.family {
            Family::Llama(_, map) => Some(map),
            Family::Bert(..) => None,
        }
    }

    pub(crate) fn flat(&self) -> &[f32] {
        &self.0.flat
    }
}

impl std::fmt::Debug for BaseModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BaseModel({}, {} weights)", self.0.digest, self.0.flat.len())
    }
}
