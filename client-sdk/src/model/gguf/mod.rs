//! GGUF: a decoder in one file, as llama.cpp has it, its weights widened to `f32`.
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

use std::io::Read;

use gossamer_protocol::digest::Digest;

pub(super) use blocks::Blocks;
use config::Family;
use header::Header;

use super::family::Kind;
use super::llama::{Llama3Rope, LlamaConfig};
use super::stored::Stream;
use super::{ModelError, config::unsupported};

/// What Llama 3 divides its rotary frequencies by, `[head_dim / 2]`.
const DIVISORS: &str = "rope_freqs.weight";
const KNOWN: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K";

/// What a file gives.
pub(super) struct Loaded {
    pub(super) kind: Kind,
    /// `tokenizer.json`, where one was asked for.
    pub(super) tokenizer: Option<Vec<u8>>,
    pub(super) flat: Vec<f32>,
    /// Of the whole file.
    pub(super) digest: Digest,
}

/// Reads a file of `len` bytes; also its tokenizer, where `tokenizer` is set.
pub(super) fn read(reader: &mut dyn Read, len: u64, tokenizer: bool) -> Result<Loaded, ModelError> {
    let mut stream = Stream::new(reader, len);
    let header = Header::read(&mut stream)?;
    let family = Family::of(&header)?;
    let mut json = family.config(&header)?;
    let kind = |json: &serde_json::Value| Kind::from_json(json.to_string().as_bytes());
    let mut kind_read = kind(&json)?;
    let tokenizer = tokenizer.then(|| tokenizer::json(&header)).transpose()?;
    let mut tensors = kind_read.tensors().clone();
    let mut entries = family.entries(&header);
    let (n, head_dim) = (tensors.n(), kind_read.llama().map_or(0, |config| config.head_dim));
    let divisors = header.tensors.get(DIVISORS).filter(|_| head_dim > 0);
    if let Some(entry) = divisors {
        tensors.put(DIVISORS.into(), &[head_dim / 2]);
        entries.insert(DIVISORS.into(), entry.clone());
    }
    let rows = |name: &str| family.rows(name, head_dim);
    let (mut flat, digest) = stream.read(&tensors, &entries, &rows, KNOWN)?;
    let divisors = flat.split_off(n);
    if let (false, Some(config)) = (divisors.is_empty(), kind_read.llama()) {
        let rope_scaling = scaling(config, &divisors)?;
        json["rope_scaling"] =
            LlamaConfig { rope_scaling, ..config.clone() }.to_json()["rope_scaling"].take();
        kind_read = kind(&json)?;
    }
    Ok(Loaded { kind: kind_read, tokenizer, flat, digest })
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
