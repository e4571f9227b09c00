//! Nonces, when a serving process was last there, and whose store it is.

use gossamer_protocol::ids::ClientId;
use gossamer_protocol::sign::PublicKey;
use sqlx::Row as _;

use super::database::transact;
use super::{Store, StoreError};
use crate::clock::Timestamp;

const ALIVE: &str =
    "INSERT INTO alive (one, at_ms) VALUES (1, $1) ON CONFLICT (one) DO UPDATE SET at_ms = $1";

const OWNER: &str = "SELECT public_key FROM identity";

impl Store {
    /// Notes a nonce; false where it was noted before.
    pub(crate) async fn use_nonce(
        &self,
        client: ClientId,
        nonce: &[u8; 16],
        expires: Timestamp,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "INSERT INTO nonces (client, nonce, expires_ms) VALUES ($1, $2, $3) \
             ON CONFLICT DO NOTHING",
        )
        .bind(&client.0[..])
        .bind(&nonce[..])
        .bind(int(expires.0))
        .execute(&self.0.database.nonces)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Forgets nonces of requests that are void by now.
    pub(crate) async fn forget_nonces(&self, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM nonces WHERE expires_ms < $1")
            .bind(int(now.0))
            .execute(&self.0.database.nonces)
            .await?;
        Ok(())
    }

    /// Notes that a serving process is there.
    pub(crate) async fn set_alive(&self, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query(ALIVE).bind(int(now.0)).execute(&self.0.database.nonces).await?;
        Ok(())
    }

    /// The same, flushed, through a connection that writes what must be durable.
    pub(crate) async fn probe(&self, now: Timestamp) -> Result<(), StoreError> {
        transact!(self, |tx| {
            sqlx::query(ALIVE).bind(int(now.0)).execute(tx).await?;
            Ok(())
        })
    }

    /// What is wrong with the database, as far as it tells; nothing, as it should be.
    pub(crate) async fn integrity(&self) -> Result<Vec<String>, StoreError> {
        let reader = &self.0.database.reader;
        if self.is_shared() {
            let row =
                sqlx::query("SELECT current_setting('fsync') AS fsync").fetch_one(reader).await?;
            let on = row.try_get::<String, _>("fsync")? == "on";
            return Ok(if on { Vec::new() } else { vec!["fsync is off".to_owned()] });
        }
        let rows = sqlx::query("PRAGMA integrity_check(10)").fetch_all(reader).await?;
        let said = rows.iter().map(|row| Ok(row.try_get::<String, _>(0)?));
        let said = said.collect::<Result<Vec<_>, StoreError>>()?;
        Ok(said.into_iter().filter(|line| line != "ok").collect())
    }

    /// When the last one was there, where one ever was.
    pub(crate) async fn alive(&self) -> Result<Option<Timestamp>, StoreError> {
        let row =
            sqlx::query("SELECT at_ms FROM alive").fetch_optional(&self.0.database.nonces).await?;
        row.map(|row| Ok(Timestamp(count(row.try_get("at_ms")?)?))).transpose()
    }

    /// Notes that a serving process is there now where the last sign is still `last`: of several that
    /// begin at once, one takes over.
    pub(crate) async fn take_over(
        &self,
        last: Timestamp,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query("UPDATE alive SET at_ms = $1 WHERE at_ms = $2")
            .bind(int(now.0))
            .bind(int(last.0))
            .execute(&self.0.database.nonces)
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// The key of the servers that this store belongs to, where it belongs to any.
    pub(crate) async fn owner(&self) -> Result<Option<PublicKey>, StoreError> {
        let row = sqlx::query(OWNER).fetch_optional(&self.0.database.reader).await?;
        row.map(|row| Ok(PublicKey(array(row.try_get("public_key")?)?))).transpose()
    }

    /// The same; `key`, where it belonged to none.
    pub(crate) async fn belongs_to(&self, key: &PublicKey) -> Result<PublicKey, StoreError> {
        if let Some(owner) = self.owner().await? {
            return Ok(owner);
        }
        transact!(self, |tx| {
            let claim =
                "INSERT INTO identity (one, public_key) VALUES (1, $1) ON CONFLICT DO NOTHING";
            sqlx::query(claim).bind(&key.0[..]).execute(&mut *tx).await?;
            let row = sqlx::query(OWNER).fetch_one(tx).await?;
            Ok(PublicKey(array(row.try_get("public_key")?)?))
        })
    }
}

/// The databases' integers are signed; nothing counted here comes near 2^63.
pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn count(value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Row("a negative number"))
}

pub(super) fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Row("an id of another length"))
}
