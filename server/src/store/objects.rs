//! Immutable bytes under their SHA-256: `objects/{kind}/{first two digits}/{digest}`, states under their run and
//! round too: `objects/states/{run}/{round}-{digest}`.
//!
//! The local directory flushes each file and its directory before it answers. An object is always
//! written anew, even where one of that name exists: one left by a crash may not be on the disk yet,
//! and rewriting the same bytes harms nobody.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{RoundId, RunId};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt as _};

use super::StoreError;
use crate::clock::Timestamp;

/// The directory of objects within a store's.
pub const DIRECTORY: &str = "objects";

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A snapshot's frame; clients may have it.
    Snapshot,
    /// The server's state; private. Where it was kept before each round had its own.
    State,
    /// The server's state that a round of a run starts from; private. Another round's that is the same has its own
    /// object, so that each can be dropped without a look at the others.
    StateOf(RunId, RoundId),
    /// An accepted update's frame; private, dropped once counted.
    Update,
    /// The sum of a part of a round's updates; private, dropped once merged.
    Partial,
    /// A few bytes that are written only to see whether they can be.
    Probe,
}

impl Kind {
    fn folder(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshots",
            Self::State | Self::StateOf(..) => "states",
            Self::Update => "updates",
            Self::Partial => "partials",
            Self::Probe => "probes",
        }
    }

    fn path(self, digest: Digest) -> object_store::path::Path {
        let (folder, name) = (self.folder(), digest.to_string());
        object_store::path::Path::from(match self {
            Self::StateOf(run, round) => format!("{folder}/{run}/{round}-{name}"),
            _ => format!("{folder}/{}/{name}", &name[..2]),
        })
    }
}

/// Bytes by digest.
#[derive(Debug)]
pub struct Objects {
    place: Arc<dyn ObjectStore>,
    /// Where that is a directory of this machine.
    root: Option<PathBuf>,
    /// Whether the place is this process's memory.
    in_memory: bool,
}

impl Objects {
    pub(super) fn in_memory() -> Self {
        Self { in_memory: true, ..Self::at(Arc::new(InMemory::new())) }
    }

    pub(super) fn at(place: Arc<dyn ObjectStore>) -> Self {
        Self { place, root: None, in_memory: false }
    }

    pub(super) fn local(dir: &Path) -> Result<Self, StoreError> {
        let root = dir.join(DIRECTORY);
        if !root.is_dir() {
            std::fs::create_dir_all(&root)?;
            // What lies in it is flushed by itself; its own name is not.
            #[cfg(unix)]
            std::fs::File::open(dir)?.sync_all()?;
        }
        let place = Arc::new(LocalFileSystem::new_with_prefix(&root)?.with_fsync(true));
        Ok(Self { place, root: Some(root), in_memory: false })
    }

    /// The directory, where it is one of this machine.
    #[must_use]
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// Drops every update's frame but those in `keep`: of uploads that were refused after their
    /// bytes were stored, or cut off by a crash. Only while nobody stores any. Blocks.
    ///
    /// # Errors
    /// [`StoreError`] where the directory fails.
    pub(crate) fn drop_other_updates(&self, keep: &HashSet<Digest>) -> Result<usize, StoreError> {
        let Some(root) = &self.root else { return Ok(0) };
        let mut dropped = 0;
        for folder in entries(&root.join(Kind::Update.folder()))? {
            for file in entries(&folder)? {
                let name = file.file_name().and_then(|name| name.to_str());
                let digest = name.and_then(|name| name.parse::<Digest>().ok());
                if digest.is_none_or(|digest| !keep.contains(&digest)) {
                    std::fs::remove_file(&file)?;
                    dropped += 1;
                }
            }
        }
        Ok(dropped)
    }

    /// Drops every update's frame but those in `keep` that was last written before `before`: of uploads that
    /// were refused, or cut off. While others store some, `before` is so long ago that nobody can still
    /// be about to have one accepted.
    ///
    /// # Errors
    /// [`StoreError`] where the place fails.
    pub(crate) async fn drop_updates_before(
        &self,
        keep: &HashSet<Digest>,
        before: Timestamp,
    ) -> Result<usize, StoreError> {
        let prefix = object_store::path::Path::from(Kind::Update.folder());
        let mut found = self.place.list(Some(&prefix));
        let mut dropped = 0;
        while let Some(object) = found.try_next().await? {
            let digest = object.location.filename().and_then(|name| name.parse::<Digest>().ok());
            let written = u64::try_from(object.last_modified.timestamp_millis()).unwrap_or(0);
            if written < before.0 && digest.is_some_and(|digest| !keep.contains(&digest)) {
                self.place.delete(&object.location).await?;
                dropped += 1;
            }
        }
        Ok(dropped)
    }

    /// Keeps `bytes`; durable on return.
    ///
    /// # Errors
    /// [`StoreError`] where they are not.
    pub async fn put(&self, kind: Kind, bytes: Bytes) -> Result<Digest, StoreError> {
        let digest = Digest::of(&bytes);
        self.put_named(kind, digest, bytes).await?;
        Ok(digest)
    }

    /// Keeps `bytes`, of which `digest` is the digest; durable on return.
    ///
    /// # Errors
    /// [`StoreError`] where they are not.
    pub(crate) async fn put_named(
        &self,
        kind: Kind,
        digest: Digest,
        bytes: Bytes,
    ) -> Result<(), StoreError> {
        self.place.put(&kind.path(digest), bytes.into()).await?;
        Ok(())
    }

    /// The bytes of that name, checked.
    ///
    /// # Errors
    /// [`StoreError::Missing`] and [`StoreError::Damaged`], and the directory's own.
    pub async fn get(&self, kind: Kind, digest: Digest) -> Result<Bytes, StoreError> {
        let found = match self.place.get(&kind.path(digest)).await {
            Err(object_store::Error::NotFound { .. }) => return Err(StoreError::Missing(digest)),
            found => found?,
        };
        let bytes = found.bytes().await?;
        // What never left this process's memory is what it was.
        let whole = self.in_memory || Digest::of(&bytes) == digest;
        if whole { Ok(bytes) } else { Err(StoreError::Damaged(digest)) }
    }

    /// Whether there is an answer, whatever it is.
    ///
    /// # Errors
    /// [`StoreError`] where there is none, or where it is that nothing may be read.
    pub(crate) async fn reach(&self) -> Result<(), StoreError> {
        match self.len(Kind::Probe, Digest([0; 32])).await {
            Ok(_) | Err(StoreError::Missing(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How many bytes there are of that name.
    ///
    /// # Errors
    /// [`StoreError::Missing`], and the directory's own.
    pub async fn len(&self, kind: Kind, digest: Digest) -> Result<u64, StoreError> {
        match self.place.head(&kind.path(digest)).await {
            Err(object_store::Error::NotFound { .. }) => Err(StoreError::Missing(digest)),
            found => Ok(found?.size),
        }
    }

    /// Drops the bytes of that name, if they are there.
    ///
    /// # Errors
    /// [`StoreError`] where they could not be dropped.
    pub async fn drop(&self, kind: Kind, digest: Digest) -> Result<(), StoreError> {
        match self.place.delete(&kind.path(digest)).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            done => Ok(done?),
        }
    }
}

/// What a directory holds; nothing where it is not there.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    match std::fs::read_dir(dir) {
        Ok(found) => Ok(found.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e.into()),
    }
}
