//! Why there is no dataset.

use std::path::PathBuf;

use crate::languages::NoSuchLanguage;

/// Why there is no dataset.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// A file or folder could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not a Parquet file, or not a sound one.
    #[error("{path} cannot be read as Parquet: {why}")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The library's words.
        why: String,
    },
    /// Not a JSON object.
    #[error("{path}, line {line}: not a JSON object")]
    Json {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
    /// A record with another number of fields than the first.
    #[error("{path}, line {line}: {expected} fields expected, found {found}")]
    Fields {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Columns that the first record names.
        expected: u64,
        /// Fields of this one.
        found: u64,
    },
    /// A record that is no UTF-8.
    #[error("{path}, line {line}: UTF-8 text expected")]
    Text {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// A column that the first record does not name.
    #[error("{path}: no column {key:?}; it has {found}")]
    Column {
        /// The file.
        path: PathBuf,
        /// The key, as the scenario names it.
        key: String,
        /// The columns there are.
        found: String,
    },
    /// A key that is missing or holds something else.
    #[error("{path}, line {line}: key {key:?}: {expected} expected")]
    Key {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The key, as the scenario names it.
        key: String,
        /// What should be there.
        expected: &'static str,
    },
    /// Whole-number labels on some lines, words on others.
    #[error("{path}: key {key:?} is a number on some lines and a word on others")]
    MixedLabels {
        /// The file.
        path: PathBuf,
        /// The label's key.
        key: String,
    },
    /// A language without sentences here.
    #[error(transparent)]
    Language(#[from] NoSuchLanguage),
    /// No text is left.
    #[error("no document in {from} ({read} rows read, the others too short or not asked for)")]
    Empty {
        /// Where from.
        from: String,
        /// Rows that passed `data.only`.
        read: usize,
    },
}
