//! Frozen Llama-family models: RMSNorm, rotary grouped-query attention, SwiGLU, tied or own head.
//!
//! - [`config`]: the sizes, from Hugging Face's `config.json`.
//! - `weights`: all tensors in one flat `f32` vector, from and to safetensors.
//! - `decoder`: forward and backward over a batch, with LoRA on any linear.
//! - [`composed`]: the same from candle's differentiable primitives, for any device and for tests.
//!
//! Invariant: nothing here changes a model's weights; training moves the adapter beside them, or,
//! in pretraining, a copy.

pub mod composed;
pub mod config;
pub(crate) mod decoder;
mod error;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod gradient_tests;
#[cfg(test)]
mod load_tests;
pub(crate) mod weights;

use std::path::Path;
use std::sync::Arc;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::layout::BaseLinear;
use gossamer_protocol::manifest::base_digest;
use tokenizers::Tokenizer;

pub use config::LlamaConfig;
pub use error::ModelError;
use weights::WeightMap;

/// A frozen model with its tokenizer. Cloning shares it.
#[derive(Clone)]
pub struct BaseModel(Arc<Inner>);

struct Inner {
    config: LlamaConfig,
    tokenizer: Tokenizer,
    digest: Digest,
    map: WeightMap,
    flat: Vec<f32>,
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
        let config = LlamaConfig::from_json(config)?;
        let unreadable = |e: tokenizers::Error| ModelError::Tokenizer(e.to_string());
        let mut tokenizer = Tokenizer::from_bytes(tokenizer).map_err(unreadable)?;
        // Files made for fixed windows cut and pad in silence; here a text is as long as it is.
        tokenizer.with_truncation(None).map_err(unreadable)?;
        tokenizer.with_padding(None);
        let tokens = tokenizer.get_vocab(true).into_values();
        if let Some(token) = tokens.max().filter(|&token| token as usize >= config.vocab) {
            return Err(ModelError::Vocabulary { token, rows: config.vocab });
        }
        for token in config.bos.iter().chain(&config.eos) {
            if *token as usize >= config.vocab {
                return Err(ModelError::Vocabulary { token: *token, rows: config.vocab });
            }
        }
        let map = WeightMap::new(&config);
        let flat = map.read(weights)?;
        Ok(Self(Arc::new(Inner { config, tokenizer, digest, map, flat })))
    }

    /// Names this model: SHA-256 over its three files' digests, as manifests have it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// The weight matrices LoRA may adapt: layer by layer q, k, v, o, gate, up and down.
    #[must_use]
    pub fn linears(&self) -> Vec<BaseLinear> {
        self.0.map.linears()
    }

    /// Its sizes.
    #[must_use]
    pub fn config(&self) -> &LlamaConfig {
        &self.0.config
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

    /// The text of `tokens`; special ones are skipped.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] where the tokenizer fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, ModelError> {
        let text = self.0.tokenizer.decode(tokens, true);
        text.map_err(|e| ModelError::Tokenizer(e.to_string()))
    }

    /// The decoder over these weights.
    pub(crate) fn decoder<'a>(
        &'a self,
        adapter: Option<crate::lora::Adapter<'a>>,
    ) -> decoder::Decoder<'a> {
        let Inner { config, map, flat, .. } = &*self.0;
        decoder::Decoder { config, map, flat, adapter }
    }

    pub(crate) fn map(&self) -> &WeightMap {
        &self.0.map
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
