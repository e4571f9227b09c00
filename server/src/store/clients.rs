//! Clients, enrolment tokens and revocations.

use std::collections::BTreeMap;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{ClientId, RoundId, RunId};
use gossamer_protocol::sign::PublicKey;
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::database::transact;
use super::rows::{array, count, int};
use super::{Store, StoreError, audit};
use crate::audit::Note;
use crate::clock::Timestamp;

/// What an enrolment came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enrolling {
    /// The token is now used by this key.
    New,
    /// This key used this token before: its reply was lost.
    Again,
    /// No such token, or used up by other keys, or too old.
    Refused,
    /// The key was revoked.
    Revoked,
}

/// An enrolment token as listed: not its secret, which is not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TokenRow {
    /// Names it: the hash of its secret.
    #[schemars(with = "String")]
    pub token: Digest,
    /// Unix time in milliseconds at which it is void.
    pub expires_ms: u64,
    /// How many clients it is good for.
    pub quota: u32,
    /// How many enrolled with it.
    pub used: u32,
}

/// A client as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ClientRow {
    /// Its name.
    #[schemars(with = "String")]
    pub client: ClientId,
    /// Unix time in milliseconds at which it enrolled; none: before that was noted.
    pub enrolled_ms: Option<u64>,
    /// When it was revoked, if it was.
    pub revoked_ms: Option<u64>,
    /// Why it was revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a client did in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Part {
    /// Updates of it that were accepted.
    pub updates: u64,
    /// The last round it has one in.
    #[schemars(with = "u64")]
    pub last: RoundId,
}

impl Store {
    /// Keeps the hashes of tokens' secrets, each good for `quota` clients, at once.
    pub(crate) async fn add_tokens(
        &self,
        hashes: &[Digest],
        quota: u32,
        expires: Timestamp,
        note: &Note,
    ) -> Result<(), StoreError> {
        transact!(self, |tx| {
            audit::lock(tx).await?;
            audit::append(tx, note).await?;
            for hash in hashes {
                sqlx::query("INSERT INTO tokens (hash, expires_ms, quota) VALUES ($1, $2, $3)")
                    .bind(&hash.0[..])
                    .bind(int(expires.0))
                    .bind(i64::from(quota))
                    .execute(&mut *tx)
                    .await?;
            }
            Ok(())
        })
    }

    /// Whether there is such a token, used or not.
    pub(crate) async fn has_token(&self, hash: Digest) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT hash FROM tokens WHERE hash = $1")
            .bind(&hash.0[..])
            .fetch_optional(&self.0.database.reader)
            .await?;
        Ok(row.is_some())
    }

    /// Every token, the one that lasts longest first.
    pub(crate) async fn tokens(&self, limit: u32) -> Result<Vec<TokenRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT hash, expires_ms, quota, \
             (SELECT COUNT(*) FROM token_uses AS u WHERE u.hash = tokens.hash) AS used \
             FROM tokens ORDER BY expires_ms DESC, hash LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(&self.0.database.reader)
        .await?;
        let small = |value: i64| u32::try_from(value).map_err(|_| StoreError::Row("a quota"));
        rows.iter()
            .map(|row| {
                Ok(TokenRow {
                    token: Digest(array(row.try_get("hash")?)?),
                    expires_ms: count(row.try_get("expires_ms")?)?,
                    quota: small(row.try_get("quota")?)?,
                    used: small(row.try_get("used")?)?,
                })
            })
            .collect()
    }

    /// Voids a token; false where there is none of that hash.
    pub(crate) async fn drop_token(&self, hash: Digest, note: &Note) -> Result<bool, StoreError> {
        let statement = || sqlx::query("DELETE FROM tokens WHERE hash = $1").bind(&hash.0[..]);
        self.noted(statement, note).await
    }

    /// Uses a token for `key`, at once with the client's row.
    pub(crate) async fn enrol(
        &self,
        token: Digest,
        key: &PublicKey,
        now: Timestamp,
        note: &Note,
    ) -> Result<Enrolling, StoreError> {
        let client = ClientId::of(&key.0);
        transact!(self, |tx| {
            audit::lock(tx).await?;
            let row = sqlx::query(
                "SELECT expires_ms, quota, \
                 (SELECT COUNT(*) FROM token_uses WHERE hash = $1) AS used, \
                 (SELECT COUNT(*) FROM token_uses WHERE hash = $1 AND client = $2) AS again, \
                 (SELECT COUNT(*) FROM revocations WHERE client = $2) AS revoked \
                 FROM tokens WHERE hash = $1",
            )
            .bind(&token.0[..])
            .bind(&client.0[..])
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok(Enrolling::Refused) };
            if row.try_get::<i64, _>("revoked")? > 0 {
                return Ok(Enrolling::Revoked);
            }
            if row.try_get::<i64, _>("again")? > 0 {
                return Ok(Enrolling::Again);
            }
            let (quota, used): (i64, i64) = (row.try_get("quota")?, row.try_get("used")?);
            if used >= quota || row.try_get::<i64, _>("expires_ms")? <= int(now.0) {
                return Ok(Enrolling::Refused);
            }
            sqlx::query("INSERT INTO token_uses (hash, client) VALUES ($1, $2)")
                .bind(&token.0[..])
                .bind(&client.0[..])
                .execute(&mut *tx)
                .await?;
            let entry = audit::append(tx, note).await?;
            sqlx::query(
                "INSERT INTO clients (id, public_key, enrolled_ms, entry) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT DO NOTHING",
            )
            .bind(&client.0[..])
            .bind(&key.0[..])
            .bind(int(now.0))
            .bind(int(entry))
            .execute(&mut *tx)
            .await?;
            Ok(Enrolling::New)
        })
    }

    /// Who enrolled after audit entry `after` (none: everyone), the revoked too, each with its entry.
    pub(crate) async fn enrolled(
        &self,
        after: Option<u64>,
    ) -> Result<Vec<(u64, ClientId, PublicKey)>, StoreError> {
        // Who enrolled before entries were noted has none.
        let text = "SELECT id, public_key, COALESCE(entry, 0) AS entry FROM clients";
        let rows = match after {
            None => sqlx::query(text).fetch_all(&self.0.database.writer).await?,
            Some(after) => {
                sqlx::query(
                    "SELECT id, public_key, entry FROM clients WHERE entry > $1 ORDER BY entry",
                )
                .bind(int(after))
                .fetch_all(&self.0.database.reader)
                .await?
            }
        };
        rows.iter()
            .map(|row| {
                let id = ClientId(array(row.try_get("id")?)?);
                let key = PublicKey(array(row.try_get("public_key")?)?);
                Ok((count(row.try_get("entry")?)?, id, key))
            })
            .collect()
    }

    /// Who was revoked after revocation `after`, in order, each with its number.
    pub(crate) async fn revoked(&self, after: u64) -> Result<Vec<(u64, ClientId)>, StoreError> {
        let rows = sqlx::query("SELECT seq, client FROM revocations WHERE seq > $1 ORDER BY seq")
            .bind(int(after))
            .fetch_all(&self.0.database.reader)
            .await?;
        rows.iter()
            .map(|row| Ok((count(row.try_get("seq")?)?, ClientId(array(row.try_get("client")?)?))))
            .collect()
    }

    /// Revokes a client for good; false where that was done before.
    pub(crate) async fn revoke(
        &self,
        client: ClientId,
        reason: &str,
        note: &Note,
    ) -> Result<bool, StoreError> {
        let statement = || {
            sqlx::query(
                "INSERT INTO revocations (client, at_ms, reason) VALUES ($1, $2, $3) \
                 ON CONFLICT (client) DO NOTHING",
            )
            .bind(&client.0[..])
            .bind(int(note.at.0))
            .bind(reason)
        };
        self.noted(statement, note).await
    }

    /// `limit` clients behind `after`, by id.
    pub(crate) async fn client_rows(
        &self,
        after: Option<ClientId>,
        limit: u32,
    ) -> Result<Vec<ClientRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, enrolled_ms, at_ms, reason FROM clients \
             LEFT JOIN revocations ON client = id WHERE id > $1 ORDER BY id LIMIT $2",
        )
        .bind(after.map_or_else(Vec::new, |after| after.0.to_vec()))
        .bind(i64::from(limit))
        .fetch_all(&self.0.database.reader)
        .await?;
        rows.iter().map(client).collect()
    }

    /// One client, and what it did in each run.
    pub(crate) async fn client_row(
        &self,
        id: ClientId,
    ) -> Result<Option<(ClientRow, BTreeMap<RunId, Part>)>, StoreError> {
        let row = sqlx::query(
            "SELECT id, enrolled_ms, at_ms, reason FROM clients \
             LEFT JOIN revocations ON client = id WHERE id = $1",
        )
        .bind(&id.0[..])
        .fetch_optional(&self.0.database.reader)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let parts = sqlx::query(
            "SELECT run, COUNT(*) AS updates, MAX(round) AS last FROM updates \
             WHERE client = $1 GROUP BY run",
        )
        .bind(&id.0[..])
        .fetch_all(&self.0.database.reader)
        .await?;
        let part = |row: &AnyRow| {
            let run = RunId(array(row.try_get("run")?)?);
            let updates = count(row.try_get("updates")?)?;
            Ok((run, Part { updates, last: RoundId(count(row.try_get("last")?)?) }))
        };
        let parts = parts.iter().map(part).collect::<Result<_, StoreError>>()?;
        Ok(Some((client(&row)?, parts)))
    }
}

fn client(row: &AnyRow) -> Result<ClientRow, StoreError> {
    let moment = |at: Option<i64>| at.map(count).transpose();
    Ok(ClientRow {
        client: ClientId(array(row.try_get("id")?)?),
        enrolled_ms: moment(row.try_get("enrolled_ms")?)?,
        revoked_ms: moment(row.try_get("at_ms")?)?,
        reason: row.try_get("reason")?,
    })
}
