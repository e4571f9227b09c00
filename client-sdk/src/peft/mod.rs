//! Adapters in and out of PEFT's folders, merged into their base, and out of a device's state.
//!
//! Names, shapes and settings are [`gossamer_protocol::peft`]'s; here are the files around them.
//!
//! A decoder's adapter loads in Python with `PeftModel.from_pretrained(base, folder)`. An encoder's head
//! takes the mean of the last layer over a text's tokens, so the model that it is loaded on is the bare
//! encoder with a linear `classifier` over that mean (`client-sdk/tests/python/peft_model.py` has one);
//! transformers' `BertForSequenceClassification` feeds its head another feature, the pooler's.

mod device;
mod merge;

use std::path::{Path, PathBuf};

use gossamer_protocol::frame::FrameError;
use gossamer_protocol::ids::RunId;
use gossamer_protocol::manifest::{Base, Manifest, ManifestError, Training};
pub use gossamer_protocol::peft::Adapter;
use gossamer_protocol::peft::{CONFIG_FILE, Files, ORIGIN_FILE, PeftError, Shapes, WEIGHTS_FILE};

use crate::lora::LoraError;
use crate::model::{BaseModel, ModelError};
use crate::state::StateError;

pub use device::received;
pub use merge::merge;

/// Why an adapter can be neither read, written nor merged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// A file or folder failed.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Tensors pickled by an old PEFT: loading them runs code.
    #[error("{0} has adapter_model.bin, expected {WEIGHTS_FILE}")]
    Pickle(PathBuf),
    /// What the files say.
    #[error("{path}")]
    Files {
        /// The folder.
        path: PathBuf,
        /// What is off.
        source: PeftError,
    },
    /// The adapter cannot be written.
    #[error("the adapter cannot be written")]
    Export(#[source] PeftError),
    /// An adapter with a head on a decoder, or without one on an encoder.
    #[error("the adapter does not fit the base model")]
    Fit(#[from] LoraError),
    /// The base model.
    #[error("the base model in {path} cannot be used")]
    Model {
        /// Its folder.
        path: PathBuf,
        /// Why not.
        source: ModelError,
    },
    /// A merge onto the base itself.
    #[error("{0} is the base model's own folder, which a merge leaves as it is")]
    Same(PathBuf),
    /// The base's weights lack what its configuration promises.
    #[error("model.safetensors: {0}")]
    Weights(String),
    /// A merged weight beyond its type's range.
    #[error("{name} plus the adapter is beyond the range of {dtype}")]
    Range {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// A device's state that cannot be read.
    #[error("the device's state cannot be read")]
    State(#[from] StateError),
    /// A device that has no adapter, or of several runs.
    #[error("{dir} holds {found}, expected {expected}")]
    Runs {
        /// The state's folder.
        dir: PathBuf,
        /// What is there.
        found: String,
        /// What is needed.
        expected: &'static str,
    },
    /// A run's manifest in a device's state.
    #[error("the manifest of run {run} in the device's state")]
    Manifest {
        /// The run.
        run: RunId,
        /// What is off.
        source: ManifestError,
    },
    /// A run's snapshot in a device's state.
    #[error("the snapshot of run {run} in the device's state")]
    Snapshot {
        /// The run.
        run: RunId,
        /// What is off.
        source: FrameError,
    },
}

/// Reads the adapter in `dir` for `base`.
///
/// # Errors
/// [`AdapterError::Files`] names the setting or tensor that does not fit, [`AdapterError::Fit`] a head where
/// the base takes none.
pub fn import(dir: &Path, base: &BaseModel) -> Result<Adapter, AdapterError> {
    let linears = base.linears();
    let shapes = Shapes { digest: base.digest(), linears: &linears, hidden: base.hidden() };
    let named = |source| AdapterError::Files { path: dir.to_owned(), source };
    let mut adapter = files(dir)?.import(&shapes).map_err(named)?;
    // As PEFT does: the model knows, whatever its user wrote.
    adapter.lora.fan_in_fan_out = base.fan_in_fan_out();
    match (adapter.head.is_some(), base.bert().is_some()) {
        (true, false) => Err(LoraError::Decoder.into()),
        (false, true) => Err(LoraError::NoHead.into()),
        _ => Ok(adapter),
    }
}

/// Writes the adapter `theta`, shape `[n]`, of `manifest` into `dir`, made where it is not there: the
/// very bytes that the aggregator's export has.
///
/// # Errors
/// [`AdapterError::Export`] where values or base do not fit, [`AdapterError::Io`].
pub fn export(
    dir: &Path,
    manifest: &Manifest,
    base: &BaseModel,
    theta: &[f32],
) -> Result<(), AdapterError> {
    if manifest.base.digest != base.digest() {
        let Base { name, digest: expected } = manifest.base.clone();
        let found = base.digest();
        return Err(AdapterError::Export(PeftError::Base { name, expected, found }));
    }
    let files = Files::export(manifest, Some(&base.linears()), theta);
    let files = files.map_err(AdapterError::Export)?;
    std::fs::create_dir_all(dir).map_err(io("make", dir))?;
    for (name, bytes) in files.iter() {
        let path = dir.join(name);
        std::fs::write(&path, bytes).map_err(io("write", &path))?;
    }
    Ok(())
}

/// The terms under which an adapter is trained on, evaluated or exported without an aggregator.
#[must_use]
pub fn terms(adapter: &Adapter, base: &BaseModel, training: Training) -> Manifest {
    let name = match adapter.base.as_str() {
        "" => base.digest().to_string(),
        name => name.to_owned(),
    };
    let frozen = Base { name, digest: base.digest() };
    let Adapter { lora, layout, head, .. } = adapter.clone();
    Manifest::alone(frozen, lora, layout, head, training)
}

/// The files of an adapter's folder.
fn files(dir: &Path) -> Result<Files, AdapterError> {
    if !dir.join(WEIGHTS_FILE).exists() && dir.join("adapter_model.bin").exists() {
        return Err(AdapterError::Pickle(dir.to_owned()));
    }
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read(&path).map_err(io("read", &path))
    };
    let origin = if dir.join(ORIGIN_FILE).exists() { Some(read(ORIGIN_FILE)?) } else { None };
    Ok(Files { config: read(CONFIG_FILE)?, weights: read(WEIGHTS_FILE)?, origin })
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> AdapterError {
    let path = path.to_owned();
    move |source| AdapterError::Io { what, path, source }
}

#[cfg(test)]
mod tests;
