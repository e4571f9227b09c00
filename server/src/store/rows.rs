//! Nonces, and when the serving process was last there.

use gossamer_protocol::ids::ClientId;
use sqlx::Row as _;

use super::{Store, StoreError};
use crate::clock::Timestamp;

const ALIVE: &str =
    "INSERT INTO alive (one, at_ms) VALUES (1, ?1) ON CONFLICT DO UPDATE SET at_ms = ?1";

impl Store {
    /// Notes a nonce; false where it was noted before.
    pub(crate) async fn use_nonce(
        &self,
        client: ClientId,
        nonce: &[u8; 16],
        expires: Timestamp,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "INSERT INTO nonces (client, nonce, expires_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(&client.0[..])
        .bind(&nonce[..])
        .bind(int(expires.0))
        .execute(&self.0.nonces)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Forgets nonces of requests that are void by now.
    pub(crate) async fn forget_nonces(&self, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM nonces WHERE expires_ms < ?")
            .bind(int(now.0))
            .execute(&self.0.nonces)
            .await?;
        Ok(())
    }

    /// Notes that the serving process is there.
    pub(crate) async fn set_alive(&self, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query(ALIVE).bind(int(now.0)).execute(&self.0.nonces).await?;
        Ok(())
    }

    /// The same, flushed, through the connection that writes what must be durable.
    pub(crate) async fn probe(&self, now: Timestamp) -> Result<(), StoreError> {
        self.transact(async |tx| {
            sqlx::query(ALIVE).bind(int(now.0)).execute(tx).await?;
            Ok(())
        })
        .await
    }

    /// What SQLite finds wrong with the database; nothing, as it should be.
    pub(crate) async fn integrity(&self) -> Result<Vec<String>, StoreError> {
        let rows = sqlx::query("PRAGMA integrity_check(10)").fetch_all(&self.0.reader).await?;
        let said = rows.iter().map(|row| Ok(row.try_get::<String, _>(0)?));
        let said = said.collect::<Result<Vec<_>, StoreError>>()?;
        Ok(said.into_iter().filter(|line| line != "ok").collect())
    }

    /// When the last one was there, where one ever was.
    pub(crate) async fn alive(&self) -> Result<Option<Timestamp>, StoreError> {
        let row = sqlx::query("SELECT at_ms FROM alive").fetch_optional(&self.0.nonces).await?;
        row.map(|row| Ok(Timestamp(count(row.try_get("at_ms")?)?))).transpose()
    }
}

/// SQLite's integers are signed; nothing counted here comes near 2^63.
pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn count(value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Row("a negative number"))
}

pub(super) fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Row("an id of another length"))
}
