//! The frozen model underneath a simulation: the one in the binary, or a folder.

use gossamer_client::model::{BaseModel, ModelError};
use gossamer_protocol::manifest::Base;

use crate::scenario::BaseModel as Choice;

/// The embedded base's files; `assets/tiny/README.md` says how they were made.
pub mod tiny {
    /// Its `config.json`.
    pub const CONFIG: &[u8] = include_bytes!("../assets/tiny/config.json");
    /// Its `tokenizer.json`.
    pub const TOKENIZER: &[u8] = include_bytes!("../assets/tiny/tokenizer.json");
    /// Its `model.safetensors`, in `f16`.
    pub const WEIGHTS: &[u8] = include_bytes!("../assets/tiny/model.safetensors");
}

/// Loads what a scenario names.
///
/// # Errors
/// [`ModelError`] where it is no model that can be trained.
pub fn load(choice: &Choice) -> Result<BaseModel, ModelError> {
    match choice {
        Choice::Tiny => BaseModel::from_bytes(tiny::CONFIG, tiny::TOKENIZER, tiny::WEIGHTS),
        Choice::Folder(dir) => BaseModel::load(dir),
    }
}

/// What a manifest says of it.
#[must_use]
pub fn describe(choice: &Choice, base: &BaseModel) -> Base {
    let name = match choice {
        Choice::Tiny => "gossamer-tiny".to_owned(),
        Choice::Folder(dir) => dir
            .file_name()
            .map_or_else(|| "base".into(), |name| name.to_string_lossy().into_owned()),
    };
    Base { name, digest: base.digest() }
}
