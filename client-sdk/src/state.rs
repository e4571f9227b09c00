//! What a device remembers between processes: its key, its server, the runs it knows, the training
//! it is in, and the update it has not delivered yet.
//!
//! ```text
//! lock                     held by the one process that uses the folder
//! identity.key             32-byte Ed25519 seed, hex; readable by its owner alone
//! identity.next            the seed of the key that is to follow, until the aggregator has it
//! server.json              whom it is enrolled with: the aggregator's keys that it knows, its own name
//! runs/{run}/manifest      signed bytes, and runs/{run}/manifest.sig
//! runs/{run}/seen          the last record it believed
//! runs/{run}/snapshot      the last snapshot's frame
//! runs/{run}/snapshot.part what is there of the next one
//! runs/{run}/training      a training between two steps
//! runs/{run}/update        a frame that has no receipt yet
//! tags/{tag}/snapshot      the adapter that a tag named last, and tags/{tag}/snapshot.part
//! receipt                  the last receipt, until its update is proven to be counted
//! ```
//!
//! A file is written beside its name, synced and renamed, so that a kill leaves the old or the new.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Named bytes, in a folder or in memory.
#[derive(Debug)]
pub enum State {
    /// Gone with the process: the simulator's clients, and tests.
    Memory(Mutex<BTreeMap<String, Bytes>>),
    /// A folder that this process has locked.
    Folder {
        /// The folder.
        dir: PathBuf,
        /// Keeps the lock.
        lock: File,
    },
}

/// Why a device cannot remember.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// A file could not be read or written.
    #[error("cannot use {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Two processes would be one client.
    #[error("{0} is in use by another process")]
    Locked(PathBuf),
    /// A file that does not hold what it should.
    #[error("{name} in the client's state is malformed")]
    Malformed {
        /// Its name.
        name: String,
    },
}

impl State {
    /// Remembers nothing beyond the process.
    #[must_use]
    pub fn memory() -> Self {
        Self::Memory(Mutex::default())
    }

    /// All that is remembered in memory; of a folder, nothing: its files say it.
    #[must_use]
    pub fn entries(&self) -> BTreeMap<String, Bytes> {
        match self {
            Self::Memory(map) => map.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Self::Folder { .. } => BTreeMap::new(),
        }
    }

    /// Uses `dir`, which is made where it is not there.
    ///
    /// # Errors
    /// [`StateError`] where it cannot be used, or another process uses it.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        let failed = |path: &Path, source| StateError::Io { path: path.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(|e| failed(dir, e))?;
        let path = dir.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|e| failed(&path, e))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self::Folder { dir: dir.to_owned(), lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::Locked(dir.to_owned())),
            Err(TryLockError::Error(source)) => Err(failed(&path, source)),
        }
    }

    /// Whether the next process finds what this one keeps.
    #[must_use]
    pub fn outlives_process(&self) -> bool {
        match self {
            Self::Memory(_) => false,
            Self::Folder { .. } => true,
        }
    }

    /// The bytes called `name`.
    ///
    /// # Errors
    /// [`StateError::Io`] where they are there but cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Bytes>, StateError> {
        match self {
            // A map is whole after every call, whatever panicked elsewhere.
            Self::Memory(map) => {
                let map = map.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(map.get(name).cloned())
            }
            Self::Folder { dir, .. } => {
                let path = dir.join(name);
                match std::fs::read(&path) {
                    Ok(bytes) => Ok(Some(bytes.into())),
                    Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
                    Err(source) => Err(StateError::Io { path, source }),
                }
            }
        }
    }

    /// Keeps `bytes` as `name`; on the disk when this returns. In memory they are shared, not copied.
    ///
    /// # Errors
    /// [`StateError::Io`] where they cannot be written; then the old ones stand.
    pub fn write(&self, name: &str, bytes: impl Into<Bytes>) -> Result<(), StateError> {
        let bytes = bytes.into();
        match self {
            Self::Memory(map) => {
                let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
                map.insert(name.to_owned(), bytes);
                Ok(())
            }
            Self::Folder { dir, .. } => {
                let path = dir.join(name);
                replace(&path, &bytes).map_err(|source| StateError::Io { path, source })
            }
        }
    }

    /// Puts `bytes` behind what `name` holds. A kill may leave a part of them.
    ///
    /// # Errors
    /// [`StateError::Io`] where they cannot be written.
    pub fn append(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        match self {
            Self::Memory(map) => {
                let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
                let whole = map.entry(name.to_owned()).or_default();
                *whole = [&**whole, bytes].concat().into();
                Ok(())
            }
            Self::Folder { dir, .. } => {
                let path = dir.join(name);
                let file = OpenOptions::new().append(true).create(true).open(&path);
                let written = file.and_then(|mut file| file.write_all(bytes));
                written.map_err(|source| StateError::Io { path, source })
            }
        }
    }

    /// Forgets `name`.
    ///
    /// # Errors
    /// [`StateError::Io`] where it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        match self {
            Self::Memory(map) => {
                map.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
                Ok(())
            }
            Self::Folder { dir, .. } => {
                let path = dir.join(name);
                match std::fs::remove_file(&path) {
                    Err(source) if source.kind() != ErrorKind::NotFound => {
                        Err(StateError::Io { path, source })
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let beside = path.with_added_extension("new");
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    #[cfg(unix)]
    File::open(dir)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_keep_replace_and_forget() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for state in [State::memory(), State::open(dir.path()).expect("free")] {
            assert_eq!(state.read("runs/a/seen").expect("readable"), None);
            state.write("runs/a/seen", "1").expect("writable");
            state.write("runs/a/seen", "2").expect("writable");
            state.append("runs/a/seen", b"3").expect("writable");
            assert_eq!(state.read("runs/a/seen").expect("readable"), Some("23".into()));
            let entries = usize::from(!state.outlives_process());
            assert_eq!(state.entries().len(), entries, "memory can be looked into");
            state.remove("runs/a/seen").expect("removable");
            state.remove("runs/a/seen").expect("already gone");
            assert_eq!(state.read("runs/a/seen").expect("readable"), None);
        }
    }

    #[test]
    fn one_folder_one_process() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let first = State::open(dir.path()).expect("free");
        assert!(matches!(State::open(dir.path()), Err(StateError::Locked(_))));
        drop(first);
        assert!(State::open(dir.path()).is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn secrets_are_their_owners() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a temporary folder");
        let state = State::open(dir.path()).expect("free");
        state.write("identity.key", "00").expect("writable");
        let mode = std::fs::metadata(dir.path().join("identity.key")).expect("there");
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    }
}
