//! Uploads that are still arriving: at most one a client and run, dropped when its round closes.
//!
//! A part is an object `{run}/{client}/{round}-{half of the digest}/{where it begins}`, so that each may reach another
//! process where several share the store. It is kept only after its signature was checked, so what a killed
//! process leaves is always a beginning of the upload. On a directory nothing here is flushed: it is a
//! convenience, and the whole is checked against its digest at the end.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{ClientId, RoundId, RunId};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path as Name;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt as _};

use super::StoreError;

/// The directory within a store's, and the prefix within a bucket.
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

/// Uploads that are still arriving.
#[derive(Debug)]
pub struct Staging(Arc<dyn ObjectStore>);

/// A part: its name, where it begins, and its length.
struct Part {
    name: Name,
    start: u64,
    length: u64,
}

impl Staging {
    pub(super) fn in_memory() -> Self {
        Self(Arc::new(InMemory::new()))
    }

    pub(super) fn local(dir: &Path) -> Result<Self, StoreError> {
        let root = dir.join(DIRECTORY);
        std::fs::create_dir_all(&root)?;
        let place = LocalFileSystem::new_with_prefix(&root)?.with_automatic_cleanup(true);
        Ok(Self(Arc::new(place)))
    }

    pub(super) fn within(place: Arc<dyn ObjectStore>) -> Self {
        Self(Arc::new(PrefixStore::new(place, DIRECTORY)))
    }

    /// How many bytes of an upload stand.
    ///
    /// # Errors
    /// [`StoreError`] where the place fails.
    pub async fn offset(&self, key: &Key) -> Result<u64, StoreError> {
        Ok(stands(&self.parts(key).await?))
    }

    /// Appends `chunk` at `offset` to an upload of `total` bytes, which the caller has bounded.
    ///
    /// The client's other upload in the run, if any, is dropped. The whole is handed over once and
    /// then forgotten.
    ///
    /// # Errors
    /// [`StoreError`] where the place fails; the chunk may then stand.
    pub async fn append(
        &self,
        key: &Key,
        offset: u64,
        chunk: Bytes,
        total: u64,
    ) -> Result<Staged, StoreError> {
        let mut parts = self.parts(key).await?;
        // Looked at first: what is refused must not drop another upload, or begin one.
        let stood = stands(&parts);
        if stood != offset {
            return Ok(Staged::Elsewhere(stood));
        }
        let (own, client) = (folder(key), Name::from(format!("{}/{}", key.run, key.client)));
        for other in self.list(&client).await? {
            if !other.prefix_matches(&own) {
                self.drop(&other).await?;
            }
        }
        let stands = stood + chunk.len() as u64;
        if !chunk.is_empty() {
            let name = own.join(offset.to_string());
            self.0.put(&name, chunk.clone().into()).await?;
            parts.push(Part { name, start: offset, length: chunk.len() as u64 });
        }
        if stands < total {
            return Ok(Staged::Partly(stands));
        }
        let mut whole = Vec::with_capacity(usize::try_from(stands).unwrap_or(0));
        for part in parts.iter().take_while(|part| part.start < offset) {
            whole.extend(self.0.get(&part.name).await?.bytes().await?);
        }
        whole.extend(chunk);
        for part in &parts {
            self.drop(&part.name).await?;
        }
        Ok(Staged::Whole(whole))
    }

    /// Drops the uploads of a run for rounds before `round`.
    ///
    /// # Errors
    /// [`StoreError`] where the place fails.
    pub async fn drop_before(&self, run: RunId, round: RoundId) -> Result<(), StoreError> {
        for name in self.list(&Name::from(run.to_string())).await? {
            let upload = name.parts().nth(2);
            let at = upload.and_then(|upload| upload.as_ref().split('-').next()?.parse().ok());
            if at.is_none_or(|at| RoundId(at) < round) {
                self.drop(&name).await?;
            }
        }
        Ok(())
    }

    /// The parts of an upload that follow on one another, from its beginning.
    async fn parts(&self, key: &Key) -> Result<Vec<Part>, StoreError> {
        let found: Vec<_> = self.0.list(Some(&folder(key))).try_collect().await?;
        let mut parts: Vec<Part> = found
            .into_iter()
            .filter_map(|found| {
                let start = found.location.filename()?.parse().ok()?;
                Some(Part { name: found.location, start, length: found.size })
            })
            .collect();
        parts.sort_by_key(|part| part.start);
        let mut stands = 0;
        let follow = parts.iter().take_while(|part| {
            let follows = part.start == stands;
            stands = part.start.saturating_add(part.length);
            follows
        });
        let following = follow.count();
        parts.truncate(following);
        Ok(parts)
    }

    async fn list(&self, within: &Name) -> Result<Vec<Name>, StoreError> {
        Ok(self.0.list(Some(within)).map_ok(|found| found.location).try_collect().await?)
    }

    async fn drop(&self, name: &Name) -> Result<(), StoreError> {
        match self.0.delete(name).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            done => Ok(done?),
        }
    }
}

fn folder(key: &Key) -> Name {
    let Key { run, client, round, digest } = key;
    // Half of it tells a client's uploads apart; the whole is checked at the end.
    let half = &digest.to_string()[..32];
    Name::from(format!("{run}/{client}/{round}-{half}"))
}

fn stands(parts: &[Part]) -> u64 {
    parts.last().map_or(0, |last| last.start.saturating_add(last.length))
}
