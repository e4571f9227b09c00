//! What the store could not do.

use gossamer_protocol::digest::Digest;
use gossamer_protocol::problem::ProblemType;

use super::database;

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
    /// The database, or the object store, does not answer, or broke the work off: it may be tried again.
    #[error("the store does not answer")]
    Away(#[source] Box<dyn std::error::Error + Send + Sync>),
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
    /// A place that nothing is kept in.
    #[error("{place} cannot hold a store: {why}")]
    Place {
        /// As configured.
        place: String,
        /// What is off.
        why: String,
    },
}

impl StoreError {
    /// Its public name.
    #[must_use]
    pub fn problem(&self) -> ProblemType {
        match self {
            Self::Full => ProblemType::StoreFull,
            Self::Away(_) => ProblemType::Busy,
            Self::NoStore(_)
            | Self::Database(_)
            | Self::Migrate(_)
            | Self::Objects(_)
            | Self::Io(_)
            | Self::Missing(_)
            | Self::Damaged(_)
            | Self::Row(_)
            | Self::Place { .. } => ProblemType::Internal,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        database::classified(error)
    }
}

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        if is_full(&error) { Self::Full } else { Self::Io(error) }
    }
}

impl From<object_store::Error> for StoreError {
    fn from(error: object_store::Error) -> Self {
        use object_store::Error as E;
        match &error {
            error if is_full(error) => Self::Full,
            // Tried again for a while already; a directory of this machine has no such failures.
            E::Generic { store: "S3", .. } => Self::Away(error.into()),
            _ => Self::Objects(error),
        }
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
