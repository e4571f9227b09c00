//! `keys/`: the secret of the server's first signing key, `server.key`, and those of keys that followed it, each
//! named by the beginning of its public key. A key that is believed no more can be taken out.

use std::path::{Path, PathBuf};

use gossamer_protocol::hex;
use gossamer_protocol::sign::{PublicKey, SigningKey};
use ring::rand::SecureRandom as _;

use super::{KEY, KEYS, SetupError, write};
use crate::coordinator::Keyring;

/// The secrets in a folder.
pub(super) struct Folder(pub(super) PathBuf);

impl Keyring for Folder {
    fn find(&self, key: &PublicKey) -> Option<SigningKey> {
        let found = files(&self.0).into_iter().filter_map(|path| read(&path).ok());
        found.into_iter().find(|found| found.public() == *key)
    }
}

/// One of the server's signing keys: the first one, or where that was taken out, one that followed it.
///
/// # Errors
/// [`SetupError`] where it cannot be read.
pub fn signing_key(dir: &Path) -> Result<SigningKey, SetupError> {
    let first = dir.join(KEY);
    let others = key_files(dir);
    match others.into_iter().find(|path| *path != first) {
        Some(other) if !first.exists() => read(&other),
        _ => read(&first),
    }
}

/// Whether a directory has a key's secret.
#[must_use]
pub fn has_key(dir: &Path, key: &PublicKey) -> bool {
    Folder(dir.join(KEYS)).find(key).is_some()
}

/// Keeps a new key's secret in a directory's `keys/`; gives the key, and its file.
///
/// # Errors
/// [`SetupError::Io`] where it cannot be written.
///
/// # Panics
/// Where the system has no randomness: a key made without would be known to all.
pub fn new_key(dir: &Path) -> Result<(SigningKey, PathBuf), SetupError> {
    let seed = new_seed();
    let key = SigningKey::from_seed(&seed);
    let path = dir.join(KEYS).join(format!("{}.key", &key.public().to_string()[..16]));
    write(&path, hex::encode(&seed).as_bytes(), true)?;
    // A statement that names it outlives a power cut, and so must its name.
    let folder = dir.join(KEYS);
    let flushed = std::fs::File::open(&folder).and_then(|folder| folder.sync_all());
    flushed.map_err(|source| SetupError::Io { what: "flush", path: folder, source })?;
    Ok((key, path))
}

pub(super) fn new_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    ring::rand::SystemRandom::new().fill(&mut seed).expect("the system has randomness");
    seed
}

/// The files of a directory that are to be keys, by name.
pub(crate) fn key_files(dir: &Path) -> Vec<PathBuf> {
    files(&dir.join(KEYS))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_key = |path: &PathBuf| path.extension().is_some_and(|end| end == "key");
    let mut files: Vec<PathBuf> = files.map(|file| file.path()).filter(is_key).collect();
    files.sort();
    files
}

fn read(path: &Path) -> Result<SigningKey, SetupError> {
    let io = |source| SetupError::Io { what: "read", path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(io)?;
    let seed = hex::decode_array(text.trim()).map_err(|_| SetupError::BadKey(path.to_owned()))?;
    Ok(SigningKey::from_seed(&seed))
}
