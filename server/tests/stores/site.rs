//! The four stores there are: rows in SQLite or Postgres, objects in a directory or in S3.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gossamer_protocol::digest::Digest;
use gossamer_server::clock::{ManualClock, Timestamp};
use gossamer_server::store::{Places, Store};
use gossamer_services::{postgres, s3};
use tempfile::TempDir;

use crate::world::World;

/// When every test begins.
pub(crate) const BEGIN: Timestamp = Timestamp(1_000_000);

/// A place for one store, which any number of processes may open.
pub(crate) struct Site {
    pub(crate) dir: TempDir,
    pub(crate) places: Places,
    prefix: Option<String>,
    pub(crate) clock: Arc<ManualClock>,
}

impl Site {
    pub(crate) async fn new(in_postgres: bool, in_s3: bool) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut places = Places::within(dir.path());
        places.database = in_postgres.then(|| postgres().database());
        let prefix = in_s3.then(|| s3().prefix());
        Store::create_at(&places).await.expect("a store").close().await;
        Self { dir, places, prefix, clock: Arc::new(ManualClock::at(BEGIN)) }
    }

    /// Another handle on it, as another process has one.
    pub(crate) async fn open(&self) -> Store {
        let opened = match &self.prefix {
            Some(prefix) => Store::open_with(&self.places, s3().place(prefix)).await,
            None => Store::open_at(&self.places).await,
        };
        opened.expect("a store")
    }

    /// The files that S3 has the objects of a kind in.
    pub(crate) fn objects(&self, kind: &str) -> Vec<PathBuf> {
        fn files(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                let path = entry.expect("an entry").path();
                if path.is_dir() { files(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        files(&s3().folder().join(self.prefix.as_deref().expect("in S3")).join(kind), &mut found);
        found
    }

    /// The file that S3 has an object in.
    pub(crate) fn file(&self, kind: &str, object: Digest) -> PathBuf {
        let (name, prefix) = (object.to_string(), self.prefix.as_deref().expect("in S3"));
        s3().folder().join(prefix).join(kind).join(&name[..2]).join(&name)
    }

    /// A coordinator with a handle of its own.
    pub(crate) async fn world(&self) -> World {
        World::over(self.open().await, self.clock.clone()).await
    }

    /// What a killed process leaves to the next.
    pub(crate) async fn again(&self, world: World) -> World {
        world.coordinator.store().close().await;
        self.world().await
    }
}

/// Runs a law on every store, each as a test of its own.
macro_rules! on_every_store {
    ($($law:ident),* $(,)?) => {
        mod sqlite_local {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $law() { super::$law(crate::site::Site::new(false, false).await).await; })*
        }
        mod sqlite_s3 {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $law() { super::$law(crate::site::Site::new(false, true).await).await; })*
        }
        mod postgres_local {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $law() { super::$law(crate::site::Site::new(true, false).await).await; })*
        }
        mod postgres_s3 {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $law() { super::$law(crate::site::Site::new(true, true).await).await; })*
        }
    };
}

pub(crate) use on_every_store;
