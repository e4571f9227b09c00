//! Connections to the rows' database, and transactions. One SQL text for SQLite and Postgres: `$1`
//! placeholders, and what both know; each has migrations of its own.
//!
//! What a transaction did is durable once it returns: SQLite runs in WAL mode with `synchronous =
//! FULL`, Postgres with `synchronous_commit` at least `on`. A transaction that the database broke off
//! (a deadlock, a connection that was lost before the commit) is done anew after a pause.

use std::path::Path;
use std::time::Duration;

use ring::rand::SecureRandom as _;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::Migrator;
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool};

use super::StoreError;

/// Transactions are tried so often.
const TRIES: u32 = 8;
/// Connections to Postgres for what is durable; nonces have a few of their own.
const CONNECTIONS: u32 = 16;
/// How long a statement waits for a connection.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) const SQLITE: Migrator = sqlx::migrate!("./migrations/sqlite");
const POSTGRES: Migrator = sqlx::migrate!("./migrations/postgres");

/// A process that is frozen must not hold a row for ever: Postgres ends its transaction, and it finds
/// that out when it goes on.
const SESSION: &str = "SET idle_in_transaction_session_timeout = '10s'; SET lock_timeout = '5s'; \
                       SET statement_timeout = '60s'; SET application_name = 'gossamer-server'";
/// A commit is flushed, whatever the database's own setting; more than that may be asked there.
const DURABLE: &str = "SELECT set_config('synchronous_commit', 'on', false) \
                       WHERE current_setting('synchronous_commit') = 'off'";

/// What a transaction came to.
pub(crate) enum Done<T> {
    /// It is committed.
    Keep(T),
    /// It is rolled back.
    Undo(T),
}

/// The rows' database.
pub(crate) struct Database {
    /// Writes what must be durable. SQLite has one such connection, so that writes queue here.
    pub(super) writer: AnyPool,
    pub(super) reader: AnyPool,
    /// Writes nonces and signs of life: safe from a killed process, but not flushed one by one.
    pub(super) nonces: AnyPool,
    postgres: bool,
}

impl Database {
    /// SQLite in memory: gone with its last connection.
    pub(super) async fn in_memory() -> Result<Self, StoreError> {
        // Every connection to `:memory:` is a database of its own, so there is just one.
        let pool = sqlite("sqlite::memory:?cache=private", "", 1).await?;
        Self::migrated(pool.clone(), pool.clone(), pool, false).await
    }

    /// The SQLite file at `path`.
    pub(super) async fn file(path: &Path, create: bool) -> Result<Self, StoreError> {
        let path = encoded(path);
        let mode = if create { "rwc" } else { "rw" };
        let write = format!("sqlite:{path}?mode={mode}");
        let flushed = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL";
        let writer = sqlite(&write, flushed, 1).await?;
        let reader = sqlite(&format!("sqlite:{path}?mode=ro"), "", 4).await?;
        let nonces = sqlite(&write, "PRAGMA synchronous = NORMAL", 1).await?;
        Self::migrated(writer, reader, nonces, false).await
    }

    /// The Postgres database that `url` names.
    pub(super) async fn postgres(url: &str) -> Result<Self, StoreError> {
        let writer = postgres(url, DURABLE, CONNECTIONS).await?;
        let nonces = postgres(url, "SET synchronous_commit = off", CONNECTIONS / 4).await?;
        Self::migrated(writer.clone(), writer, nonces, true).await
    }

    async fn migrated(
        writer: AnyPool,
        reader: AnyPool,
        nonces: AnyPool,
        postgres: bool,
    ) -> Result<Self, StoreError> {
        let migrations = if postgres { POSTGRES } else { SQLITE };
        migrations.run(&writer).await.map_err(StoreError::Migrate)?;
        Ok(Self { writer, reader, nonces, postgres })
    }

    pub(super) fn is_postgres(&self) -> bool {
        self.postgres
    }

    /// Waits for what is in flight and closes every connection.
    pub(super) async fn close(&self) {
        self.reader.close().await;
        self.nonces.close().await;
        self.writer.close().await;
    }

    /// Reads in one transaction: what is there at one moment, whatever is written meanwhile.
    pub(super) async fn read<T, E: From<StoreError>>(
        &self,
        pool: &AnyPool,
        work: impl AsyncFnOnce(&mut AnyConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let begin =
            if self.postgres { "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" } else { "BEGIN" };
        let mut connection = pool.acquire().await.map_err(StoreError::from)?;
        sqlx::query(begin).execute(&mut *connection).await.map_err(StoreError::from)?;
        let done = work(&mut connection).await;
        let ended = sqlx::query("ROLLBACK").execute(&mut *connection).await;
        if ended.is_err() && self.postgres {
            drop(connection.detach());
        }
        done
    }

    /// A transaction that is to be done.
    pub(crate) fn tries(&self) -> Tries<'_> {
        Tries { database: self, tried: 0 }
    }

    async fn roll_back(&self, mut connection: PoolConnection<Any>) {
        let ended = sqlx::query("ROLLBACK").execute(&mut *connection).await;
        // It fails where SQLite has done it already; with Postgres, the connection is of no more use.
        if ended.is_err() && self.postgres {
            drop(connection.detach());
        }
    }
}

/// A transaction that is tried until it is done, or will not be: what [`transact!`] comes to.
///
/// Not by sqlx's own transaction: where the disk is full, SQLite rolls back by itself, and sqlx then
/// counts a transaction that is no more, so that none could begin on that connection ever again.
pub(crate) struct Tries<'a> {
    database: &'a Database,
    tried: u32,
}

impl Tries<'_> {
    /// Begins the next try.
    pub(crate) async fn begin(&mut self) -> Result<PoolConnection<Any>, StoreError> {
        let begin = if self.database.postgres { "BEGIN" } else { "BEGIN IMMEDIATE" };
        loop {
            // Where there is no connection to be had, it has waited long enough.
            let mut connection = self.database.writer.acquire().await?;
            match sqlx::query(begin).execute(&mut *connection).await {
                Ok(_) => return Ok(connection),
                Err(error) => self.again(error.into()).await?,
            }
        }
    }

    /// Ends a try; none where there is to be another.
    pub(crate) async fn end<T>(
        &mut self,
        mut connection: PoolConnection<Any>,
        done: Result<Done<T>, StoreError>,
    ) -> Option<Result<T, StoreError>> {
        let failed = match done {
            Ok(Done::Keep(kept)) => match sqlx::query("COMMIT").execute(&mut *connection).await {
                Ok(_) => return Some(Ok(kept)),
                Err(error) => {
                    // A connection that was lost just then leaves open whether it is committed.
                    let told = error.as_database_error().is_some();
                    self.database.roll_back(connection).await;
                    if !told {
                        return Some(Err(error.into()));
                    }
                    error.into()
                }
            },
            Ok(Done::Undo(undone)) => {
                self.database.roll_back(connection).await;
                return Some(Ok(undone));
            }
            Err(error) => {
                self.database.roll_back(connection).await;
                error
            }
        };
        self.again(failed).await.err().map(Err)
    }

    /// Waits a while, where nothing was done and trying again may help.
    async fn again(&mut self, error: StoreError) -> Result<(), StoreError> {
        self.tried += 1;
        if !matches!(error, StoreError::Away(_)) || self.tried == TRIES {
            return Err(error);
        }
        tracing::debug!(%error, tried = self.tried, "a transaction is done anew");
        tokio::time::sleep(pause(self.tried)).await;
        Ok(())
    }
}

/// Does its work in one transaction on a connection `tx`: all of it, or nothing. The work gives a [`Done`],
/// and may be done more than once. Must not be cancelled half way.
///
/// A macro, since the compiler does not find that the future of a function that takes an async closure
/// can be sent to another thread.
macro_rules! try_transact {
    ($store:expr, |$tx:ident| $work:expr) => {{
        let mut tries = $store.database().tries();
        loop {
            let mut connection = match tries.begin().await {
                Ok(connection) => connection,
                Err(error) => break Err(error),
            };
            let done = async {
                let $tx = &mut *connection;
                $work
            };
            let done = done.await;
            if let Some(ended) = tries.end(connection, done).await {
                break ended;
            }
        }
    }};
}

/// As [`try_transact!`], for work that is always to be kept.
macro_rules! transact {
    ($store:expr, |$tx:ident| $work:expr) => {
        $crate::store::try_transact!($store, |$tx| {
            let work = async { $work };
            let worked: Result<_, $crate::store::StoreError> = work.await;
            worked.map($crate::store::Done::Keep)
        })
    };
}

pub(crate) use {transact, try_transact};

/// A pause before try `tried + 1`: somewhere below 20 ms, twice as much each time.
fn pause(tried: u32) -> Duration {
    let mut random = [0; 2];
    // Without randomness it is just the longest.
    let drawn = ring::rand::SystemRandom::new().fill(&mut random);
    let share = drawn.map_or(1.0, |()| f64::from(u16::from_le_bytes(random)) / 65_536.0);
    Duration::from_millis(20 << tried.min(6)).mul_f64(share)
}

/// Every byte but letters and digits as `%xx`: whatever a path holds, it stays one.
fn encoded(path: &Path) -> String {
    let byte = |byte: &u8| match byte {
        b if b.is_ascii_alphanumeric() => char::from(*b).to_string(),
        b => format!("%{b:02x}"),
    };
    path.as_os_str().as_encoded_bytes().iter().map(byte).collect()
}

async fn sqlite(url: &str, settings: &'static str, most: u32) -> Result<AnyPool, StoreError> {
    let pool = AnyPoolOptions::new()
        .min_connections(u32::from(most == 1))
        .max_connections(most)
        .idle_timeout(None)
        .max_lifetime(None)
        // It cannot be lost: it is a thread of this process.
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                let waiting = "PRAGMA busy_timeout = 10000";
                sqlx::raw_sql(waiting).execute(&mut *connection).await?;
                sqlx::raw_sql(settings).execute(&mut *connection).await?;
                Ok(())
            })
        });
    let options = options(url)?;
    Ok(if most == 1 { pool.connect_with(options).await? } else { pool.connect_lazy_with(options) })
}

async fn postgres(url: &str, settings: &'static str, most: u32) -> Result<AnyPool, StoreError> {
    let pool = AnyPoolOptions::new()
        .min_connections(1)
        .max_connections(most)
        .acquire_timeout(PATIENCE)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                sqlx::raw_sql(SESSION).execute(&mut *connection).await?;
                sqlx::raw_sql(settings).execute(&mut *connection).await?;
                Ok(())
            })
        });
    Ok(pool.connect_with(options(url)?).await?)
}

fn options(url: &str) -> Result<AnyConnectOptions, StoreError> {
    sqlx::any::install_default_drivers();
    Ok(url.parse::<AnyConnectOptions>()?)
}

/// What a database's error means.
pub(super) fn classified(error: sqlx::Error) -> StoreError {
    use sqlx::Error as E;
    /// SQLite's primary result codes.
    const BUSY: i32 = 5;
    const FULL: i32 = 13;
    let code = error.as_database_error().and_then(|error| error.code());
    match (code.as_deref(), &error) {
        // SQLSTATE, five characters: out of disk; cut off by the server, or by another transaction.
        (Some("53100"), _) => StoreError::Full,
        (Some("40001" | "40P01" | "55P03" | "25P03" | "57014"), _) => {
            StoreError::Away(error.into())
        }
        (Some(code), _) if code.len() == 5 => {
            let away = ["08", "53", "57P"].iter().any(|class| code.starts_with(class));
            if away { StoreError::Away(error.into()) } else { StoreError::Database(error) }
        }
        // The low byte of an extended code is the primary one.
        (Some(code), _) => match code.parse::<i32>().map(|code| code & 0xFF) {
            Ok(FULL) => StoreError::Full,
            Ok(BUSY) => StoreError::Away(error.into()),
            _ => StoreError::Database(error),
        },
        (None, E::Io(_) | E::Tls(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed) => {
            StoreError::Away(error.into())
        }
        (None, E::Protocol(_)) => StoreError::Away(error.into()),
        _ => StoreError::Database(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_whatever_it_holds() {
        let path = encoded(Path::new("/a b/?c#%/../d"));
        assert_eq!(path, "%2fa%20b%2f%3fc%23%25%2f%2e%2e%2fd");
    }

    #[test]
    fn pauses_grow_and_end() {
        for tried in 1..20 {
            assert!(pause(tried) <= Duration::from_millis(20 << tried.min(6)), "{tried}");
        }
    }
}
