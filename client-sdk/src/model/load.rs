//! Models from files, or from their bytes.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::manifest::base_digest;
use tokenizers::{PostProcessor, Tokenizer};

use super::family::Kind;
use super::files::{self, Found};
use super::{BaseModel, Inner, ModelError, Storage, gguf, safetensors};

impl BaseModel {
    /// Loads a Hugging Face folder: `config.json`, `tokenizer.json`, `model.safetensors`; or a GGUF file,
    /// or a folder that has one in place of the last.
    ///
    /// A GGUF file brings its configuration and, where no `tokenizer.json` lies beside it, its tokenizer.
    /// Its weights are widened to `f32`.
    ///
    /// # Errors
    /// [`ModelError`] at the first thing that is off.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        Self::load_as(path, Storage::F32)
    }

    /// As [`load`](Self::load), its matrices held in `storage`. Not more than a row is held in `f32` on the way
    /// (of a GPT-2 folder, whose linears are transposed, a matrix).
    ///
    /// The [digest](Self::digest) names the files, not the storage, so clients of one run may hold their bases
    /// differently: each then trains beside weights that are rounded as its storage has them. What they send
    /// fits one adapter all the same; a coarse storage costs some of its quality.
    ///
    /// # Errors
    /// [`ModelError`] at the first thing that is off; [`ModelError::Beyond`] for a weight that `storage` cannot
    /// hold.
    pub fn load_as(path: &Path, storage: Storage) -> Result<Self, ModelError> {
        match files::find(path)? {
            Found::Folder => {
                let [config, tokenizer] = ["config.json", "tokenizer.json"];
                let (config, tokenizer) =
                    (files::read(&path.join(config))?, files::read(&path.join(tokenizer))?);
                let (len, mut file) = files::open(&path.join("model.safetensors"))?;
                Self::from_parts(&config, tokenizer, &mut file, len, storage)
            }
            Found::Gguf(path) => {
                let tokenizer = path.with_file_name("tokenizer.json");
                let tokenizer = match tokenizer.exists() {
                    true => Some(files::read(&tokenizer)?),
                    false => None,
                };
                let (len, mut file) = files::open(&path)?;
                Self::from_gguf(tokenizer, &mut file, len, storage)
            }
        }
    }

    /// As [`load`](Self::load), from the files' bytes. Weights may be F32, F16 or BF16.
    ///
    /// # Errors
    /// [`ModelError`] at the first thing that is off.
    pub fn from_bytes(config: &[u8], tokenizer: &[u8], weights: &[u8]) -> Result<Self, ModelError> {
        Self::from_bytes_as(config, tokenizer, weights, Storage::F32)
    }

    /// As [`from_bytes`](Self::from_bytes), held as in [`load_as`](Self::load_as).
    ///
    /// # Errors
    /// As there.
    pub fn from_bytes_as(
        config: &[u8],
        tokenizer: &[u8],
        weights: &[u8],
        storage: Storage,
    ) -> Result<Self, ModelError> {
        let len = weights.len() as u64;
        Self::from_parts(config, tokenizer.to_vec(), &mut &*weights, len, storage)
    }

    fn from_parts(
        config: &[u8],
        tokenizer: Vec<u8>,
        weights: &mut dyn Read,
        len: u64,
        storage: Storage,
    ) -> Result<Self, ModelError> {
        let kind = Kind::from_json(config)?;
        let digests = [config, &tokenizer].map(Digest::of);
        // Its file is given back before there are weights.
        let tokenizer = read_tokenizer(tokenizer, &kind)?;
        let (held, weights) = safetensors::read(kind.tensors(), weights, len, storage)?;
        let digest = base_digest(digests[0], digests[1], weights);
        Ok(Self(Arc::new(Inner { kind, tokenizer, digest, weights: held }), None))
    }

    /// As [`load`](Self::load), from a GGUF file's bytes and those of a `tokenizer.json`, where the file's own
    /// tokenizer is not to be used.
    ///
    /// # Errors
    /// [`ModelError`] at the first thing that is off.
    pub fn from_gguf_bytes(file: &[u8], tokenizer: Option<&[u8]>) -> Result<Self, ModelError> {
        Self::from_gguf_bytes_as(file, tokenizer, Storage::F32)
    }

    /// As [`from_gguf_bytes`](Self::from_gguf_bytes), held as in [`load_as`](Self::load_as).
    ///
    /// # Errors
    /// As there.
    pub fn from_gguf_bytes_as(
        file: &[u8],
        tokenizer: Option<&[u8]>,
        storage: Storage,
    ) -> Result<Self, ModelError> {
        let len = file.len() as u64;
        Self::from_gguf(tokenizer.map(<[u8]>::to_vec), &mut &*file, len, storage)
    }

    fn from_gguf(
        tokenizer: Option<Vec<u8>>,
        file: &mut dyn Read,
        len: u64,
        storage: Storage,
    ) -> Result<Self, ModelError> {
        let mut opened = gguf::Opened::new(file, len, tokenizer.is_none())?;
        // What the file itself brings is named by the file's digest.
        let digests = [b"".as_slice(), tokenizer.as_deref().unwrap_or_default()].map(Digest::of);
        let tokenizer = tokenizer.or_else(|| opened.tokenizer.take()).unwrap_or_default();
        let tokenizer = read_tokenizer(tokenizer, &opened.kind)?;
        let (kind, weights, digest) = opened.weights(storage)?;
        let digest = base_digest(digests[0], digests[1], digest);
        Ok(Self(Arc::new(Inner { kind, tokenizer, digest, weights }), None))
    }
}

/// A tokenizer whose every token has an embedding.
fn read_tokenizer(bytes: Vec<u8>, kind: &Kind) -> Result<Tokenizer, ModelError> {
    let unreadable = |e: tokenizers::Error| ModelError::Tokenizer(e.to_string());
    let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(unreadable)?;
    // Files made for fixed windows cut and pad in silence; here a text is as long as it is.
    tokenizer.with_truncation(None).map_err(unreadable)?;
    tokenizer.with_padding(None);
    let rows = kind.vocab();
    let tokens = tokenizer.get_vocab(true).into_values();
    if let Some(token) = tokens.max().filter(|&token| token as usize >= rows) {
        return Err(ModelError::Vocabulary { token, rows });
    }
    if let Some(token) = kind.named_tokens().into_iter().find(|&t| t as usize >= rows) {
        return Err(ModelError::Vocabulary { token, rows });
    }
    if kind.bert().is_some() {
        let around = tokenizer.get_post_processor().map_or(0, |post| post.added_tokens(false));
        if around != 2 {
            return Err(ModelError::Specials(around));
        }
    }
    Ok(tokenizer)
}
