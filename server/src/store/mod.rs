//! Where everything durable lives: rows in a database, big bytes as content-addressed objects.
//!
//! Embedded, that is SQLite and a directory: one process serves it, and the command line may work on
//! it beside that process. Shared, it is Postgres and an S3-compatible store: any number of processes
//! serve it at once. What a method reports as done is durable either way.
//!
//! - `database`: connections and transactions. `error`: what the store could not do. [`places`]: where.
//! - [`objects`]: bytes by digest. [`staging`]: uploads that are still arriving.
//! - `rows`: nonces, whose store it is. `keys`: those that followed its first. `projects`: whose the rest is. `clients`: clients, revocations. `client_keys`: their keys.
//!   `certificates`: those that they show.
//!   `tokens`: enrolment tokens. `operators`: who may use the admin API. `runs`: runs. `steps`: what moves a round. `folds`: parts of one that is closed. `rounds`:
//!   what was published. `evaluations`: what clients tell of it. `tags`: names for it. `retention`: what of it is gone. `audit`: the audit log.

mod audit;
mod certificates;
mod client_keys;
mod clients;
mod database;
mod error;
mod evaluations;
pub(crate) mod folds;
mod keys;
pub mod objects;
mod operators;
pub mod places;
mod projects;
mod retention;
mod rounds;
mod rows;
mod runs;
pub mod staging;
pub(crate) mod steps;
mod tags;
mod tokens;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{RoundId, RunId};
use object_store::ObjectStore;
use sqlx::Any;
use sqlx::any::AnyArguments;
use sqlx::query::Query;

pub use audit::{AuditError, Entry};
pub(crate) use client_keys::Rekeying;
pub use clients::{ClientRow, Part};
pub(crate) use clients::{Enrolling, Member};
use database::{Database, transact};
pub(crate) use database::{Done, try_transact};
pub use error::StoreError;
pub use evaluations::Evaluated;
pub(crate) use folds::{FoldRow, Lease};
pub(crate) use keys::joined;
pub use objects::Kind;
use objects::Objects;
pub use places::Places;
pub(crate) use retention::{Keep, Spent};
pub use rounds::RoundRow;
pub(crate) use rounds::{PublishRow, Publishing, RecordRow};
pub(crate) use runs::{RunRow, StatusRow};
use staging::Staging;
pub(crate) use steps::{AcceptRow, News, Standing};
pub(crate) use tags::{TagRow, Tagging};
pub use tokens::TokenRow;

use crate::audit::Note;

/// The file the rows are in, where that is SQLite.
pub const DATABASE: &str = "store.sqlite";

/// A cheap handle on one store.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    database: Database,
    objects: Objects,
    staging: Staging,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// A store that is gone with its last handle: for simulations and tests, which let every call come to
    /// its end, since sqlx drops the connection of one that is cut off, and here the rows with it.
    ///
    /// # Errors
    /// [`StoreError`] where SQLite does not start.
    pub async fn in_memory() -> Result<Self, StoreError> {
        let database = Database::in_memory().await?;
        Ok(Self::with(database, Objects::in_memory(), Staging::in_memory()))
    }

    /// Makes the store of directory `dir`, which exists.
    ///
    /// # Errors
    /// [`StoreError`] where it cannot be written.
    pub async fn create(dir: &Path) -> Result<Self, StoreError> {
        Self::create_at(&Places::within(dir)).await
    }

    /// Opens the store of directory `dir`.
    ///
    /// # Errors
    /// [`StoreError`] where there is none or it cannot be read.
    pub async fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_at(&Places::within(dir)).await
    }

    /// Makes the store at `places`; one that is shared may be there already.
    ///
    /// # Errors
    /// [`StoreError`] where it cannot be written.
    pub async fn create_at(places: &Places) -> Result<Self, StoreError> {
        Self::at(places, true, places.place()?).await
    }

    /// Opens the store at `places`.
    ///
    /// # Errors
    /// [`StoreError`] where there is none or it cannot be read.
    pub async fn open_at(places: &Places) -> Result<Self, StoreError> {
        Self::at(places, false, places.place()?).await
    }

    /// Opens the store at `places`, but with the objects in `place`, which must have stored for good what
    /// it says it has.
    ///
    /// # Errors
    /// As for [`open_at`](Self::open_at).
    pub async fn open_with(
        places: &Places,
        place: Arc<dyn ObjectStore>,
    ) -> Result<Self, StoreError> {
        Self::at(places, false, Some(place)).await
    }

    async fn at(
        places: &Places,
        create: bool,
        place: Option<Arc<dyn ObjectStore>>,
    ) -> Result<Self, StoreError> {
        let database = match &places.database {
            Some(url) => Database::postgres(url).await?,
            None => {
                let path = places.dir.join(DATABASE);
                if !create && !path.is_file() {
                    return Err(StoreError::NoStore(places.dir.clone()));
                }
                Database::file(&path, create).await?
            }
        };
        let dir = &places.dir;
        Ok(match place {
            None => Self::with(database, Objects::local(dir)?, Staging::local(dir)?),
            Some(place) => Self::with(database, Objects::at(place.clone()), Staging::within(place)),
        })
    }

    fn with(database: Database, objects: Objects, staging: Staging) -> Self {
        Self(Arc::new(Inner { database, objects, staging }))
    }

    /// Whether other processes may serve it at the same time.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.0.database.is_postgres()
    }

    /// Bytes by digest.
    #[must_use]
    pub fn objects(&self) -> &Objects {
        &self.0.objects
    }

    /// The state that a round starts from.
    pub(crate) async fn state(
        &self,
        run: RunId,
        round: RoundId,
        digest: Digest,
    ) -> Result<Bytes, StoreError> {
        match self.objects().get(Kind::StateOf(run, round), digest).await {
            Err(StoreError::Missing(_)) => self.objects().get(Kind::State, digest).await,
            found => found,
        }
    }

    /// Uploads that are still arriving.
    #[must_use]
    pub fn staging(&self) -> &Staging {
        &self.0.staging
    }

    /// Waits for what is in flight and closes the database.
    pub async fn close(&self) {
        self.0.database.close().await;
    }

    /// The rows' database, for a transaction.
    pub(crate) fn database(&self) -> &Database {
        &self.0.database
    }

    /// Runs a statement; where it changes a row, `note` goes into the audit log with it. Whether it did.
    async fn noted<'q>(
        &self,
        statement: impl Fn() -> Query<'q, Any, AnyArguments>,
        note: &Note,
    ) -> Result<bool, StoreError> {
        transact!(self, |tx| {
            audit::lock(tx).await?;
            let done = statement().execute(&mut *tx).await?;
            let changed = done.rows_affected() == 1;
            if changed {
                audit::append(tx, note).await?;
            }
            Ok(changed)
        })
    }

    /// Sets a pragma on the connection that writes: how tests make SQLite fail for real.
    #[cfg(test)]
    pub(crate) async fn pragma(&self, pragma: &'static str) {
        sqlx::query(pragma).execute(&self.0.database.writer).await.expect("a pragma");
    }
}

#[cfg(test)]
mod tests;
