//! Clients, enrolment tokens, nonces, and when the serving process was last there.

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::ClientId;
use gossamer_protocol::sign::PublicKey;
use sqlx::Row as _;

use super::{Store, StoreError, audit};
use crate::audit::Note;
use crate::clock::Timestamp;

/// What an enrolment came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enrolling {
    /// The token is now used up by this key.
    New,
    /// This key used this token before: its reply was lost.
    Again,
    /// No such token, or used by another key, or too old.
    Refused,
}

impl Store {
    /// Keeps the hashes of tokens' secrets, at once.
    pub(crate) async fn add_tokens(
        &self,
        hashes: &[Digest],
        expires: Timestamp,
        note: &Note,
    ) -> Result<(), StoreError> {
        self.transact(async |tx| {
            audit::append(tx, note).await?;
            for hash in hashes {
                sqlx::query("INSERT INTO tokens (hash, expires_ms) VALUES (?, ?)")
                    .bind(&hash.0[..])
                    .bind(int(expires.0))
                    .execute(&mut *tx)
                    .await?;
            }
            Ok(())
        })
        .await
    }

    /// Whether there is such a token, used or not.
    pub(crate) async fn has_token(&self, hash: Digest) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT 1 FROM tokens WHERE hash = ?")
            .bind(&hash.0[..])
            .fetch_optional(&self.0.reader)
            .await?;
        Ok(row.is_some())
    }

    /// Uses a token up for `key`, at once with the client's row.
    pub(crate) async fn enrol(
        &self,
        token: Digest,
        key: &PublicKey,
        now: Timestamp,
        note: &Note,
    ) -> Result<Enrolling, StoreError> {
        let client = ClientId::of(&key.0);
        self.transact(async |tx| {
            let row = sqlx::query("SELECT expires_ms, client FROM tokens WHERE hash = ?")
                .bind(&token.0[..])
                .fetch_optional(&mut *tx)
                .await?;
            let Some(row) = row else { return Ok(Enrolling::Refused) };
            let user: Option<Vec<u8>> = row.try_get("client")?;
            if let Some(user) = user {
                let same = user == client.0;
                return Ok(if same { Enrolling::Again } else { Enrolling::Refused });
            }
            if row.try_get::<i64, _>("expires_ms")? <= int(now.0) {
                return Ok(Enrolling::Refused);
            }
            sqlx::query("UPDATE tokens SET client = ? WHERE hash = ?")
                .bind(&client.0[..])
                .bind(&token.0[..])
                .execute(&mut *tx)
                .await?;
            sqlx::query("INSERT OR IGNORE INTO clients (id, public_key) VALUES (?, ?)")
                .bind(&client.0[..])
                .bind(&key.0[..])
                .execute(&mut *tx)
                .await?;
            audit::append(tx, note).await?;
            Ok(Enrolling::New)
        })
        .await
    }

    /// Everyone enrolled.
    pub(crate) async fn clients(&self) -> Result<Vec<(ClientId, PublicKey)>, StoreError> {
        let rows = sqlx::query("SELECT id, public_key FROM clients ORDER BY id")
            .fetch_all(&self.0.writer)
            .await?;
        rows.iter()
            .map(|row| {
                let id = array(row.try_get("id")?)?;
                Ok((ClientId(id), PublicKey(array(row.try_get("public_key")?)?)))
            })
            .collect()
    }

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
}

impl Store {
    /// Notes that the serving process is there.
    pub(crate) async fn set_alive(&self, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO alive (one, at_ms) VALUES (1, ?1) ON CONFLICT DO UPDATE SET at_ms = ?1",
        )
        .bind(int(now.0))
        .execute(&self.0.nonces)
        .await?;
        Ok(())
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
