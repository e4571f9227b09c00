//! What a saved change costs on the wire, part by part, beside what it would cost otherwise.
//!
//! - [`rule`]: which entries of a change travel, and how they are coded.
//! - [`entries`]: a file of coded entries that stands alone.
//! - [`cost`]: bytes by part, the bound, other ways to write the same entries, and the error.
//!
//! Selection and codec are the deployed ones; nothing here knows a bit of the wire.

use std::path::{Path, PathBuf};

use gossamer_protocol::codec::CodecError;
use gossamer_protocol::layout::Layout;
use gossamer_protocol::select::SelectError;

use crate::deltas::{self, DeltaError};

pub mod cost;
pub mod entries;
pub mod rule;

pub use cost::{Cost, caption, table};
pub use entries::Entries;
pub use rule::Rule;

/// Why a file could not be shown, written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// No safetensors file of a change.
    #[error(transparent)]
    Delta(#[from] DeltaError),
    /// It could not be read or written.
    #[error("{path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A frame of a run, which says neither its layout nor its domain.
    #[error("{path} is a frame of a run, which takes the run's manifest to read")]
    Frame {
        /// The file.
        path: PathBuf,
    },
    /// It does not start as a file of coded entries does.
    #[error("{path} is no file of `wire encode`")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Its first line is malformed.
    #[error("{path}: the first line")]
    Head {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Its first line contradicts the bytes behind it, or this program.
    #[error("{path}: {what} is {got}, expected {expected}")]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// The field.
        what: &'static str,
        /// What the first line says.
        got: String,
        /// What is there.
        expected: String,
    },
    /// Its entries cannot be decoded, or coded.
    #[error("{path}: the entries")]
    Entries {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CodecError,
    },
    /// Its entries cannot be ranked.
    #[error("{path}: the entries")]
    Select {
        /// The file.
        path: PathBuf,
        /// Why.
        source: SelectError,
    },
    /// Ranking by importance without an adapter.
    #[error("importance ranks by the adapter that was trained: say which with --adapter")]
    NoAdapter,
    /// An adapter of another layout than the change.
    #[error("{path} has other tensors than the change")]
    Adapter {
        /// The adapter's file.
        path: PathBuf,
    },
    /// An option's value that stands for nothing.
    #[error("{0}")]
    Word(String),
}

/// A file, told by its first bytes.
#[derive(Debug)]
pub enum Opened {
    /// A change as it was trained, or any safetensors file of LoRA tensors.
    Change(Change),
    /// What `wire encode` wrote.
    Entries(Entries),
}

/// A change that was trained, with the file it is from.
#[derive(Debug)]
pub struct Change {
    /// The file.
    pub path: PathBuf,
    /// The tensors.
    pub layout: Layout,
    /// The flat change, shape `[n]`.
    pub delta: Vec<f32>,
}

impl Change {
    /// Reads a safetensors file.
    ///
    /// # Errors
    /// [`WireError::Delta`] for any other file.
    pub fn load(path: &Path) -> Result<Self, WireError> {
        let (layout, delta) = deltas::load(path)?;
        Ok(Self { path: path.into(), layout, delta })
    }
}

/// Opens either kind of file.
///
/// # Errors
/// [`WireError`] at the first thing that is off; it names the file.
pub fn open(path: &Path) -> Result<Opened, WireError> {
    let bytes =
        std::fs::read(path).map_err(|source| WireError::File { path: path.into(), source })?;
    // A safetensors file starts with the length of its header, which cannot be as large as these.
    if bytes.starts_with(b"GSMR") {
        return Err(WireError::Frame { path: path.into() });
    }
    if bytes.starts_with(entries::START) {
        return Ok(Opened::Entries(Entries::parse(path, &bytes)?));
    }
    Ok(Opened::Change(Change::load(path)?))
}

/// What `change` costs by each of `rules`. `theta` as in [`Rule::encode`].
///
/// # Errors
/// Those of [`Rule::encode`].
pub fn inspect(
    change: &Change,
    theta: Option<&[f32]>,
    rules: &[Rule],
) -> Result<Vec<Cost>, WireError> {
    let cost = |rule: &Rule| Ok(Cost::of(&rule.encode(change, theta)?, Some(&change.delta)));
    rules.iter().map(cost).collect()
}

#[cfg(test)]
mod tests;
