//! Whether this server can do its work: asked of the store and the disk, not of memory.

use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Serialize;

use super::Coordinator;
use crate::problem::told;
use crate::store::{Kind, StoreError};

/// An answer holds for so long: whoever asks often does not write more often.
const HOLDS: Duration = Duration::from_secs(1);
/// Without a tick for so long, no round ends.
const TICK_LATE_MS: u64 = 15_000;
/// Longest that a probe of the store may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether the server can do its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Health {
    /// Whether nothing is wrong.
    pub ready: bool,
    /// What is wrong, in words.
    pub wrong: Vec<String>,
    /// Bytes free where the store is, where it is on a disk.
    pub disk_free_bytes: Option<u64>,
}

impl Coordinator {
    /// Writes a row and an object, reads the object back, looks at the disk and at the ticks.
    ///
    /// `disk_free_min`: with fewer bytes free, the server is not ready.
    pub async fn health(&self, disk_free_min: u64) -> Health {
        let mut last = self.0.health.lock().await;
        if let Some((at, health)) = &*last
            && at.elapsed() < HOLDS
        {
            return health.clone();
        }
        let mut wrong = Vec::new();
        match tokio::time::timeout(PATIENCE, self.apart(|this| async move { this.probe().await }))
            .await
        {
            Ok(Ok(())) => {}
            Ok(Err(error)) => wrong.push(format!("the store: {}", told(&error))),
            Err(_) => wrong.push(format!("the store: no answer in {} s", PATIENCE.as_secs())),
        }
        let disk_free_bytes = self.disk_free();
        if let Some(free) = disk_free_bytes.filter(|&free| free < disk_free_min) {
            wrong.push(format!("the disk: {free} bytes free, {disk_free_min} are wanted"));
        }
        wrong.extend(self.key_wrong());
        let (ticked, now) = (self.ticked(), self.now().0);
        if let Some(ticked) = ticked.filter(|t| t.saturating_add(TICK_LATE_MS) < now) {
            wrong.push(format!("rounds: the last tick was {} ms ago", now - ticked));
        }
        let health = Health { ready: wrong.is_empty(), wrong, disk_free_bytes };
        *last = Some((Instant::now(), health.clone()));
        health
    }

    async fn probe(&self) -> Result<(), super::CoordinatorError> {
        let store = &self.0.store;
        store.probe(self.now()).await?;
        let probe = Bytes::from_static(b"gossamer probe\n");
        let digest = store.objects().put(Kind::Probe, probe.clone()).await?;
        if store.objects().get(Kind::Probe, digest).await? != probe {
            return Err(StoreError::Damaged(digest).into());
        }
        Ok(())
    }

    /// Bytes free where the store is, where it is on a disk.
    #[must_use]
    pub fn disk_free(&self) -> Option<u64> {
        disk_free(self.0.store.objects().root()?)
    }

    /// When the last tick that did not fail began, where there was one.
    fn ticked(&self) -> Option<u64> {
        *self.0.ticked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes free for this user where `path` is; none where the system does not tell.
#[cfg(unix)]
#[must_use]
pub fn disk_free(path: &Path) -> Option<u64> {
    let told = rustix::fs::statvfs(path).ok()?;
    Some(told.f_bavail.saturating_mul(told.f_frsize))
}

/// Bytes free for this user where `path` is; none where the system does not tell.
#[cfg(not(unix))]
#[must_use]
pub fn disk_free(_: &Path) -> Option<u64> {
    None
}
