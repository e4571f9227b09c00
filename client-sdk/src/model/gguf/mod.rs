//! GGUF: a decoder in one file, as llama.cpp has it, its weights widened to `f32` or held as asked.
//!
//! - `header`: the file's own bytes. `blocks`: quantised weights.
//! - `config`, `tokenizer`: metadata as the files that it was made from.
//!
//! Invariant: what follows is what follows of the same model's Hugging Face folder; the order of rows
//! and what is quantised are this file's alone.

mod blocks;
mod config;
mod header;
#[cfg(test)]
mod tests;
mod tokenizer;

use std::collections::HashMap;
use std::io::Read;

use gossamer_protocol::digest::Digest;
use serde_json::Value as Json;

pub(super) use blocks::Blocks;
use config::Family;
use header::Header;

use super::family::Kind;
use super::held::Held;
use super::llama::{Llama3Rope, LlamaConfig};
use super::stored::{Entry, Stream};
use super::{ModelError, Storage, config::unsupported};

/// What Llama 3 divides its rotary frequencies by, `[head_dim / 2]`.
const DIVISORS: &str = "rope_freqs.weight";
const KNOWN: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K";

/// A file whose header is read, and nothing more.
pub(super) struct Opened<'r> {
    stream: Stream<'r>,
    family: Family,
    config: Json,
    entries: HashMap<String, Entry>,
    pub(super) kind: Kind,
    /// `tokenizer.json`, where one was asked for.
    pub(super) tokenizer: Option<Vec<u8>>,
}

impl<'r> Opened<'r> {
    /// Reads the header of a file of `len` bytes; also its tokenizer, where `tokenizer` is set.
    pub(super) fn new(
        reader: &'r mut dyn Read,
        len: u64,
        tokenizer: bool,
    ) -> Result<Self, ModelError> {
        let mut stream = Stream::new(reader, len);
        let header = Header::read(&mut stream)?;
        let family = Family::of(&header)?;
        let config = family.config(&header)?;
        let kind = kind(&config)?;
        let tokenizer = tokenizer.then(|| tokenizer::json(&header)).transpose()?;
        let mut entries = family.entries(&header);
        if kind.llama().is_some()
            && let Some(entry) = header.tensors.get(DIVISORS)
        {
            entries.insert(DIVISORS.into(), entry.clone());
        }
        Ok(Self { stream, family, config, entries, kind, tokenizer })
    }

    /// Reads the rest of the file: the weights, and the digest of all of it.
    pub(super) fn weights(self, storage: Storage) -> Result<(Kind, Held, Digest), ModelError> {
        let Self { stream, family, mut config, entries, kind: plain, .. } = self;
        let mut tensors = plain.tensors().clone();
        let head_dim = plain.llama().map_or(0, |config| config.head_dim);
        let divisors = entries.contains_key(DIVISORS);
        let divisors = divisors.then(|| tensors.put(DIVISORS.into(), &[head_dim / 2]));
        let rows = |name: &str| family.rows(name, head_dim);
        let (mut held, digest) = stream.read(&tensors, &entries, &rows, KNOWN, storage)?;
        let (Some(place), Some(llama)) = (divisors, plain.llama()) else {
            return Ok((plain, held, digest));
        };
        let rope_scaling = scaling(llama, &held.pop(&place))?;
        config["rope_scaling"] =
            LlamaConfig { rope_scaling, ..llama.clone() }.to_json()["rope_scaling"].take();
        Ok((kind(&config)?, held, digest))
    }
}

fn kind(config: &Json) -> Result<Kind, ModelError> {
    Kind::from_json(config.to_string().as_bytes())
}

/// The stretching that `divisors` came from: Llama 3's own two bounds, the context before a power of 2.
fn scaling(config: &LlamaConfig, divisors: &[f32]) -> Result<Option<Llama3Rope>, ModelError> {
    let factor = divisors.iter().copied().fold(1.0, f32::max);
    if divisors.iter().all(|&d| d == 1.0) {
        return Ok(None);
    }
    let candidates = (4..=20).map(|k| Llama3Rope {
        factor: f64::from(factor),
        low_frequency: 1.0,
        high_frequency: 4.0,
        original_context: f64::from(1 << k),
    });
    let found = candidates.into_iter().find(|rope| {
        divisors.iter().enumerate().all(|(i, &divisor)| {
            let frequency = config.rope_theta.powf(-2.0 * i as f64 / config.head_dim as f64);
            let expected = frequency / rope.stretch(frequency);
            (f64::from(divisor) - expected).abs() <= 1e-5 * expected
        })
    });
    let other = || unsupported(DIVISORS, format!("{divisors:?}"), "what Llama 3 divides by");
    found.map(Some).ok_or_else(other)
}
