//! Why a scenario cannot be run.

use std::path::PathBuf;

/// Why a scenario cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// The file could not be read.
    #[error("cannot read the scenario {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not the TOML of a scenario: unknown, missing or malformed field.
    #[error("{file}: {why}")]
    Syntax {
        /// The file.
        file: String,
        /// Line, field and what is expected.
        why: String,
    },
    /// A field outside its range.
    #[error("{file}: field {field}: expected {expected}")]
    Field {
        /// The file.
        file: String,
        /// Its dotted name.
        field: String,
        /// What is expected, and what is there instead.
        expected: String,
    },
}
