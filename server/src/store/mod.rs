//! Where everything durable lives: rows in SQLite, big bytes as content-addressed objects.
//!
//! What a method reports as done is on the disk: SQLite runs in WAL mode with `synchronous = FULL`,
//! and `object_store`'s local directory flushes file and directory (its `with_fsync`). One process
//! serves a directory; the command line may work on it beside that process.
//!
//! - [`objects`]: bytes by digest. [`staging`]: uploads that are still arriving.
//! - `rows`: nonces. `clients`: clients, enrolment tokens, revocations. `operators`: who may use the
//!   admin API. `runs`: runs, rounds, updates, records. `audit`: the audit log.

mod audit;
mod clients;
pub mod objects;
mod operators;
mod rounds;
mod rows;
mod runs;
pub mod staging;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::problem::ProblemType;
use object_store::ObjectStore;
use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Sqlite, SqliteConnection, SqlitePool};

pub use audit::{AuditError, Entry};
pub(crate) use clients::Enrolling;
pub use clients::{ClientRow, Part, TokenRow};
pub use objects::Kind;
use objects::Objects;
pub(crate) use rounds::PublishRow;
pub use rounds::RoundRow;
pub(crate) use runs::{AcceptRow, RunRow, StatusRow};
use staging::Staging;

use crate::audit::Note;

/// The file the rows are in.
pub const DATABASE: &str = "store.sqlite";

/// A cheap handle on one store.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    /// The one connection that writes what must be durable, so that writes queue here.
    writer: SqlitePool,
    reader: SqlitePool,
    /// Writes nonces and signs of life: safe from a killed process, but not flushed one by one.
    nonces: SqlitePool,
    objects: Objects,
    staging: Staging,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

/// What the store could not do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No space left.
    #[error("the store is out of disk space")]
    Full,
    /// No store in this directory.
    #[error("{0} holds no Gossamer store; `gossamer-server init` makes one")]
    NoStore(std::path::PathBuf),
    /// The database failed.
    #[error("the database failed")]
    Database(#[source] sqlx::Error),
    /// The database is from another build.
    #[error("the database cannot be brought up to date")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// The object directory failed.
    #[error("the object directory failed")]
    Objects(#[source] object_store::Error),
    /// A file failed.
    #[error("a file of the store failed")]
    Io(#[source] std::io::Error),
    /// An object that a row names is not there.
    #[error("object {0} is missing")]
    Missing(Digest),
    /// An object's bytes are not what they were.
    #[error("object {0} is damaged")]
    Damaged(Digest),
    /// A row that this build cannot have written.
    #[error("a row of the database is damaged: {0}")]
    Row(&'static str),
}

impl StoreError {
    /// Its public name.
    #[must_use]
    pub fn problem(&self) -> ProblemType {
        match self {
            Self::Full => ProblemType::StoreFull,
            Self::NoStore(_)
            | Self::Database(_)
            | Self::Migrate(_)
            | Self::Objects(_)
            | Self::Io(_)
            | Self::Missing(_)
            | Self::Damaged(_)
            | Self::Row(_) => ProblemType::Internal,
        }
    }
}

/// SQLite's primary result code for "database or disk is full".
const SQLITE_FULL: i32 = 13;

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|e| e.code()?.parse::<i32>().ok());
        // The low byte of an extended code is the primary one.
        if code.is_some_and(|code| code & 0xFF == SQLITE_FULL) {
            Self::Full
        } else {
            Self::Database(error)
        }
    }
}

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        if is_full(&error) { Self::Full } else { Self::Io(error) }
    }
}

impl From<object_store::Error> for StoreError {
    fn from(error: object_store::Error) -> Self {
        if is_full(&error) { Self::Full } else { Self::Objects(error) }
    }
}

/// Whether an error, or one behind it, says that there is no space.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            if matches!(io.kind(), StorageFull | QuotaExceeded) {
                return true;
            }
            // `source` of a custom `io::Error` passes over the error that it wraps.
            if let Some(inner) = io.get_ref()
                && is_full(inner)
            {
                return true;
            }
        }
        next = error.source();
    }
    false
}

impl Store {
    /// A store that is gone with its last handle: for simulations and tests, which let every call come to
    /// its end, since sqlx drops the connection of one that is cut off, and here the rows with it.
    ///
    /// # Errors
    /// [`StoreError`] where SQLite does not start.
    pub async fn in_memory() -> Result<Self, StoreError> {
        // Every connection to `:memory:` is a database of its own, so there is just one.
        let options = SqliteConnectOptions::new().in_memory(true);
        let pool = one(&options).await?;
        Self::with(pool.clone(), pool.clone(), pool, Objects::in_memory(), Staging::in_memory())
            .await
    }

    /// Makes the store of directory `dir`, which exists.
    ///
    /// # Errors
    /// [`StoreError`] where it cannot be written.
    pub async fn create(dir: &Path) -> Result<Self, StoreError> {
        Self::at(dir, true, Objects::local(dir)?).await
    }

    /// Opens the store of directory `dir`.
    ///
    /// # Errors
    /// [`StoreError`] where there is none or it cannot be read.
    pub async fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::at(Self::must_be(dir)?, false, Objects::local(dir)?).await
    }

    /// Opens the rows of directory `dir`, with the objects in `place`, which must have stored for
    /// good what it says it has.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub async fn open_with(dir: &Path, place: Arc<dyn ObjectStore>) -> Result<Self, StoreError> {
        Self::at(Self::must_be(dir)?, false, Objects::at(place)).await
    }

    fn must_be(dir: &Path) -> Result<&Path, StoreError> {
        let there = dir.join(DATABASE).is_file();
        if there { Ok(dir) } else { Err(StoreError::NoStore(dir.to_owned())) }
    }

    async fn at(dir: &Path, create: bool, objects: Objects) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(dir.join(DATABASE))
            .create_if_missing(create)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10));
        let writer = one(&options).await?;
        let reader = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_lazy_with(options.clone().read_only(true));
        let nonces = one(&options.synchronous(SqliteSynchronous::Normal)).await?;
        Self::with(writer, reader, nonces, objects, Staging::local(dir)).await
    }

    async fn with(
        writer: SqlitePool,
        reader: SqlitePool,
        nonces: SqlitePool,
        objects: Objects,
        staging: Staging,
    ) -> Result<Self, StoreError> {
        sqlx::migrate!("./migrations").run(&writer).await.map_err(StoreError::Migrate)?;
        Ok(Self(Arc::new(Inner { writer, reader, nonces, objects, staging })))
    }

    /// Bytes by digest.
    #[must_use]
    pub fn objects(&self) -> &Objects {
        &self.0.objects
    }

    /// Uploads that are still arriving.
    #[must_use]
    pub fn staging(&self) -> &Staging {
        &self.0.staging
    }

    /// Waits for what is in flight and closes the database.
    pub async fn close(&self) {
        self.0.reader.close().await;
        self.0.nonces.close().await;
        self.0.writer.close().await;
    }

    /// Does `work` in one transaction: all of it, or nothing. Must not be cancelled half way.
    ///
    /// Not by sqlx's own: where the disk is full, SQLite rolls back by itself, and sqlx then counts a
    /// transaction that is no more, so that none could begin on that connection ever again.
    async fn transact<T>(
        &self,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut connection = self.0.writer.acquire().await?;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
        let mut done = work(&mut connection).await;
        if done.is_ok()
            && let Err(error) = sqlx::query("COMMIT").execute(&mut *connection).await
        {
            done = Err(error.into());
        }
        if done.is_err() {
            // Fails where SQLite has done it already.
            let _ = sqlx::query("ROLLBACK").execute(&mut *connection).await;
        }
        done
    }

    /// Runs a statement; where it changes a row, `note` goes into the audit log with it. Whether it did.
    async fn noted(
        &self,
        statement: Query<'_, Sqlite, SqliteArguments>,
        note: &Note,
    ) -> Result<bool, StoreError> {
        self.transact(async |tx| {
            let done = statement.execute(&mut *tx).await?;
            let changed = done.rows_affected() == 1;
            if changed {
                audit::append(tx, note).await?;
            }
            Ok(changed)
        })
        .await
    }

    /// Sets a pragma on the connection that writes: how tests make SQLite fail for real.
    #[cfg(test)]
    pub(crate) async fn pragma(&self, pragma: &'static str) {
        sqlx::query(pragma).execute(&self.0.writer).await.expect("a pragma");
    }
}

async fn one(options: &SqliteConnectOptions) -> Result<SqlitePool, StoreError> {
    let pool = SqlitePoolOptions::new()
        .min_connections(1)
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options.clone())
        .await?;
    Ok(pool)
}

#[cfg(test)]
mod tests;
