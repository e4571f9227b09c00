//! Uploads that are still arriving: at most one a client and run, dropped when its round closes.
//!
//! On disk `staging/{run}/{client}/{round}-{digest}`. A chunk is appended only after its signature
//! was checked, so what a killed process leaves is always a beginning of the upload. Nothing here is
//! flushed: it is a convenience, and the whole is checked against its digest at the end.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{ClientId, RoundId, RunId};

use super::StoreError;

/// The directory within a store's.
pub const DIRECTORY: &str = "staging";

/// Which upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// For this run.
    pub run: RunId,
    /// By this client.
    pub client: ClientId,
    /// For this round.
    pub round: RoundId,
    /// The whole frame's digest, as the client says.
    pub digest: Digest,
}

/// What came of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Staged {
    /// It was appended; so many bytes stand.
    Partly(u64),
    /// It does not start where the upload stands.
    Elsewhere(u64),
    /// That was the last one: here is the whole.
    Whole(Vec<u8>),
}

type Waiting = HashMap<(RunId, ClientId), (RoundId, Digest, Vec<u8>)>;

/// Uploads that are still arriving. Its calls block for as long as a small write does.
#[derive(Debug)]
pub struct Staging(Place);

#[derive(Debug)]
enum Place {
    Memory(Mutex<Waiting>),
    /// The lock keeps two chunks of one upload apart.
    Directory(PathBuf, Mutex<()>),
}

impl Staging {
    pub(super) fn in_memory() -> Self {
        Self(Place::Memory(Mutex::default()))
    }

    pub(super) fn local(dir: &Path) -> Self {
        Self(Place::Directory(dir.join(DIRECTORY), Mutex::default()))
    }

    /// How many bytes of an upload stand.
    ///
    /// # Errors
    /// [`StoreError`] where the directory fails.
    pub fn offset(&self, key: &Key) -> Result<u64, StoreError> {
        match &self.0 {
            Place::Memory(waiting) => {
                let waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                let held = waiting.get(&(key.run, key.client));
                let held =
                    held.filter(|(round, digest, _)| (*round, *digest) == (key.round, key.digest));
                Ok(held.map_or(0, |(_, _, bytes)| bytes.len() as u64))
            }
            Place::Directory(root, _) => length(&path(root, key)),
        }
    }

    /// Appends `chunk` at `offset` to an upload of `total` bytes, which the caller has bounded.
    ///
    /// The client's other upload in the run, if any, is dropped. The whole is handed over once and
    /// then forgotten.
    ///
    /// # Errors
    /// [`StoreError`] where the directory fails; a part of the chunk may then stand.
    pub fn append(
        &self,
        key: &Key,
        offset: u64,
        chunk: &[u8],
        total: u64,
    ) -> Result<Staged, StoreError> {
        match &self.0 {
            Place::Memory(waiting) => {
                let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                let held = waiting.get(&(key.run, key.client));
                let same = held.filter(|held| (held.0, held.1) == (key.round, key.digest));
                let stands = same.map_or(0, |(_, _, bytes)| bytes.len() as u64);
                if stands != offset {
                    return Ok(Staged::Elsewhere(stands));
                }
                let place = waiting
                    .entry((key.run, key.client))
                    .or_insert_with(|| (key.round, key.digest, Vec::new()));
                if (place.0, place.1) != (key.round, key.digest) {
                    *place = (key.round, key.digest, Vec::new());
                }
                place.2.extend(chunk);
                if (place.2.len() as u64) < total {
                    return Ok(Staged::Partly(place.2.len() as u64));
                }
                let whole = std::mem::take(&mut place.2);
                waiting.remove(&(key.run, key.client));
                Ok(Staged::Whole(whole))
            }
            Place::Directory(root, lock) => {
                let _one = lock.lock().unwrap_or_else(PoisonError::into_inner);
                append_to_file(root, key, offset, chunk, total)
            }
        }
    }

    /// Drops the uploads of a run for rounds before `round`.
    ///
    /// # Errors
    /// [`StoreError`] where the directory fails.
    pub fn drop_before(&self, run: RunId, round: RoundId) -> Result<(), StoreError> {
        match &self.0 {
            Place::Memory(waiting) => {
                let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.retain(|(of, _), (at, _, _)| *of != run || *at >= round);
                Ok(())
            }
            Place::Directory(root, lock) => {
                let _one = lock.lock().unwrap_or_else(PoisonError::into_inner);
                for client in entries(&root.join(run.to_string()))? {
                    for upload in entries(&client)? {
                        let name = upload.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                        let at = name.split('-').next().and_then(|r| r.parse().ok()).map(RoundId);
                        if at.is_none_or(|at| at < round) {
                            std::fs::remove_file(&upload)?;
                        }
                    }
                    // Fails where an upload is left, which is right.
                    let _ = std::fs::remove_dir(&client);
                }
                Ok(())
            }
        }
    }
}

fn path(root: &Path, key: &Key) -> PathBuf {
    let Key { run, client, round, digest } = key;
    root.join(run.to_string()).join(client.to_string()).join(format!("{round}-{digest}"))
}

/// Bytes of a file; none where it is not there.
fn length(path: &Path) -> Result<u64, StoreError> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(found.len()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(e.into()),
    }
}

fn append_to_file(
    root: &Path,
    key: &Key,
    offset: u64,
    chunk: &[u8],
    total: u64,
) -> Result<Staged, StoreError> {
    let path = path(root, key);
    // Looked at first: what is refused must not drop another upload, or begin one.
    let stands = length(&path)?;
    if stands != offset {
        return Ok(Staged::Elsewhere(stands));
    }
    let folder = path.parent().unwrap_or(root);
    std::fs::create_dir_all(folder)?;
    for other in entries(folder)? {
        if other != path {
            std::fs::remove_file(other)?;
        }
    }
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
    file.write_all(chunk)?;
    let stands = stands + chunk.len() as u64;
    if stands < total {
        return Ok(Staged::Partly(stands));
    }
    let whole = std::fs::read(&path)?;
    std::fs::remove_file(&path)?;
    Ok(Staged::Whole(whole))
}

/// What a directory holds; nothing where it is not there.
pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    match std::fs::read_dir(dir) {
        Ok(found) => Ok(found.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e.into()),
    }
}
