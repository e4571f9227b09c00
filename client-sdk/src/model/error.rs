//! Why a model cannot be used.

use std::path::PathBuf;

use crate::ops::matrix::Storage;

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file that cannot be read.
    #[error("cannot read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not the JSON of a model's configuration.
    #[error("configuration: {0}")]
    Config(String),
    /// A setting this build does not compute.
    #[error("configuration: {field} is {got:?}; this build knows {expected:?}")]
    Unsupported {
        /// The setting.
        field: &'static str,
        /// Its value.
        got: String,
        /// The value known.
        expected: &'static str,
    },
    /// A size that does not fit the others.
    #[error("configuration: {field} is {got}, expected: {why}")]
    Size {
        /// The setting.
        field: &'static str,
        /// Its value.
        got: usize,
        /// What is expected.
        why: &'static str,
    },
    /// Not a whole file of weights.
    #[error("the weights' file: {0}")]
    Weights(String),
    /// A tensor that is not there.
    #[error("the weights' file has no tensor {0}")]
    Missing(String),
    /// A tensor of another shape than the configuration's.
    #[error("tensor {name} has shape {found:?}, the configuration makes it {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// By the configuration.
        expected: Vec<usize>,
        /// In the file.
        found: Vec<usize>,
    },
    /// A weight that the storage has no number for.
    #[error("tensor {name} has the weight {value}, which {storage} cannot hold; f32 can")]
    Beyond {
        /// The tensor.
        name: String,
        /// As which it was to be held.
        storage: Storage,
        /// The weight.
        value: f32,
    },
    /// A tensor of a type that is not read.
    #[error("tensor {name} is {found}; this build reads {known}")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
        /// The types that are read.
        known: &'static str,
    },
    /// A tensor with a NaN or an infinity.
    #[error("tensor {0} has an entry that is not finite")]
    NonFinite(String),
    /// An encoder's tokenizer that puts something else around a text than two tokens.
    #[error("tokenizer.json puts {0} tokens around a text, an encoder wants [CLS] and [SEP]")]
    Specials(usize),
    /// A decoder where an encoder is needed.
    #[error("the base model is a decoder; classification needs an encoder")]
    Decoder,
    /// A folder without a safetensors file and with several of GGUF.
    #[error("{dir} has {n} GGUF files; name one")]
    Ambiguous {
        /// The folder.
        dir: PathBuf,
        /// How many.
        n: usize,
    },
    /// Not a tokenizer's JSON, or none that this build knows.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// Tokens without an embedding.
    #[error("the tokenizer has token {token}, the embedding has {rows} rows")]
    Vocabulary {
        /// The largest token.
        token: u32,
        /// Rows of the embedding.
        rows: usize,
    },
}
