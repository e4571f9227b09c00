//! A model's files on disk.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::ModelError;

/// What lies at a path.
pub(super) enum Found {
    /// A folder with a safetensors file, or with nothing that is known.
    Folder,
    /// A GGUF file.
    Gguf(PathBuf),
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> ModelError {
    let path = path.to_owned();
    |source| ModelError::File { path, source }
}

pub(super) fn find(path: &Path) -> Result<Found, ModelError> {
    if path.is_file() {
        return Ok(Found::Gguf(path.to_owned()));
    }
    if path.join("model.safetensors").exists() {
        return Ok(Found::Folder);
    }
    let mut ggufs = Vec::new();
    for entry in path.read_dir().map_err(failed(path))? {
        let path = entry.map_err(failed(path))?.path();
        if path.extension().is_some_and(|extension| extension == "gguf") {
            ggufs.push(path);
        }
    }
    match ggufs.len() {
        0 => Ok(Found::Folder),
        1 => Ok(Found::Gguf(ggufs.remove(0))),
        n => Err(ModelError::Ambiguous { dir: path.to_owned(), n }),
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    std::fs::read(path).map_err(failed(path))
}

/// Its length, and a reader of it.
pub(super) fn open(path: &Path) -> Result<(u64, BufReader<File>), ModelError> {
    let file = File::open(path).map_err(failed(path))?;
    let len = file.metadata().map_err(failed(path))?.len();
    Ok((len, BufReader::with_capacity(1 << 16, file)))
}
