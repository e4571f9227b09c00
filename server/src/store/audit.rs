//! The audit log's rows.

use gossamer_protocol::digest::Digest;
use gossamer_protocol::sign::{PublicKey, Purpose, Signature, SigningKey};
use serde_json::value::RawValue;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::database::transact;
use super::rows::{array, count, int};
use super::{Store, StoreError, keys};
use crate::audit::{Check, Fault, Head, Note, START};
use crate::project::{Scope, text};

/// Rows read at a time.
const PAGE: i64 = 1_000;

/// Why a log is not believed, or not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// Something is wrong with it.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// It cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An entry as it is told.
#[derive(Debug, serde::Serialize, schemars::JsonSchema)]
pub struct Entry {
    /// Its number.
    #[serde(skip)]
    pub seq: u64,
    /// Its bytes: JSON.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub entry: Box<RawValue>,
    /// Its hash.
    #[schemars(with = "String")]
    pub hash: Digest,
}

/// Waits until this transaction alone may append; with SQLite every writer waits for the others anyway.
/// Whoever needs a run's row too takes that first, so that no two wait for each other.
pub(super) async fn lock(tx: &mut AnyConnection) -> Result<(), StoreError> {
    if tx.backend_name() == "PostgreSQL" {
        sqlx::query("LOCK TABLE audit IN SHARE ROW EXCLUSIVE MODE").execute(tx).await?;
    }
    Ok(())
}

/// Writes `note` behind the last entry, in the transaction that does what it tells; gives its number.
pub(super) async fn append(tx: &mut AnyConnection, note: &Note) -> Result<u64, StoreError> {
    lock(tx).await?;
    let last = sqlx::query("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")
        .fetch_optional(&mut *tx)
        .await?;
    let head = match last {
        None => START,
        Some(row) => {
            Head { seq: count(row.try_get("seq")?)?, hash: Digest(array(row.try_get("hash")?)?) }
        }
    };
    let entry = note.entry(head.seq + 1);
    let head = head.then(&entry);
    sqlx::query("INSERT INTO audit (seq, entry, hash, project) VALUES ($1, $2, $3, $4)")
        .bind(int(head.seq))
        .bind(&entry)
        .bind(&head.hash.0[..])
        .bind(text(&note.project))
        .execute(tx)
        .await?;
    Ok(head.seq)
}

impl Store {
    /// Writes an entry that tells of nothing else in the store.
    pub(crate) async fn note(&self, note: &Note) -> Result<(), StoreError> {
        transact!(self, |tx| append(tx, note).await)?;
        Ok(())
    }

    /// The `limit` entries in `scope` before entry `before`, latest first; those of the server itself are in
    /// no project.
    ///
    /// # Errors
    /// [`StoreError`] where they cannot be read.
    pub async fn audit(
        &self,
        scope: &Scope,
        before: u64,
        limit: u32,
    ) -> Result<Vec<Entry>, StoreError> {
        let rows = sqlx::query(
            "SELECT seq, entry, hash FROM audit WHERE seq < $1 AND ($3 = '' OR project = $3) \
             ORDER BY seq DESC LIMIT $2",
        )
        .bind(int(before))
        .bind(i64::from(limit))
        .bind(text(scope))
        .fetch_all(&self.0.database.reader)
        .await?;
        rows.iter().map(entry).collect()
    }

    /// The `limit` entries in `scope` behind entry `after`, in order.
    pub(crate) async fn audit_after(
        &self,
        scope: &Scope,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Entry>, StoreError> {
        let rows = sqlx::query(
            "SELECT seq, entry, hash FROM audit WHERE seq > $1 AND ($3 = '' OR project = $3) \
             ORDER BY seq LIMIT $2",
        )
        .bind(int(after))
        .bind(i64::from(limit))
        .bind(text(scope))
        .fetch_all(&self.0.database.reader)
        .await?;
        rows.iter().map(entry).collect()
    }

    /// Signs where the log stands; gives it, unless that was done before.
    pub(crate) async fn sign_audit(&self, key: &SigningKey) -> Result<Option<Head>, StoreError> {
        let last = "SELECT a.seq, a.hash, c.seq AS signed FROM audit a \
                    LEFT JOIN audit_checkpoints c ON c.seq = a.seq ORDER BY a.seq DESC LIMIT 1";
        let Some(row) = sqlx::query(last).fetch_optional(&self.0.database.reader).await? else {
            return Ok(None);
        };
        let seq = count(row.try_get("seq")?)?;
        let head = Head { seq, hash: Digest(array(row.try_get("hash")?)?) };
        if row.try_get::<Option<i64>, _>("signed")?.is_some() {
            return Ok(None);
        }
        let signature = key.sign(Purpose::Audit, &head.signed_bytes());
        sqlx::query(
            "INSERT INTO audit_checkpoints (seq, hash, signature) VALUES ($1, $2, $3) \
             ON CONFLICT DO NOTHING",
        )
        .bind(int(seq))
        .bind(&head.hash.0[..])
        .bind(&signature.0[..])
        .execute(&self.0.database.writer)
        .await?;
        Ok(Some(head))
    }

    /// Checks the whole log against its own chain, what `key` and the server's keys before and after it
    /// signed, and `seen`, a head that was kept elsewhere; gives where it stands.
    ///
    /// # Errors
    /// [`AuditError::Fault`] for the first thing that is wrong, and the store's.
    pub async fn verify_audit(
        &self,
        key: &PublicKey,
        seen: Option<Head>,
    ) -> Result<Head, AuditError> {
        // Both tables at one moment, whatever is written meanwhile.
        let reader = &self.0.database.reader;
        self.0
            .database
            .read(reader, async |reading| {
                let keys = keys::joined(key, &keys::rotations(reading).await?);
                let mut check = Check::new(checkpoints(reading).await?, &keys, seen)?;
                let mut after = 0;
                loop {
                    let rows = page(reading, after).await?;
                    for row in &rows {
                        let seq = count(row.try_get("seq").map_err(StoreError::from)?)?;
                        let entry: Vec<u8> = row.try_get("entry").map_err(StoreError::from)?;
                        let hash: Vec<u8> = row.try_get("hash").map_err(StoreError::from)?;
                        // A hash of another length is none of ours, so a changed one.
                        let hash = hash.as_slice().try_into().map_err(|_| Fault::Changed(seq))?;
                        check.step(seq, &entry, Digest(hash))?;
                        after = seq;
                    }
                    if rows.is_empty() {
                        return Ok(check.end()?);
                    }
                }
            })
            .await
    }
}

async fn page(reading: &mut AnyConnection, after: u64) -> Result<Vec<AnyRow>, StoreError> {
    let text = "SELECT seq, entry, hash FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2";
    Ok(sqlx::query(text).bind(int(after)).bind(PAGE).fetch_all(reading).await?)
}

fn entry(row: &AnyRow) -> Result<Entry, StoreError> {
    Ok(Entry {
        seq: count(row.try_get("seq")?)?,
        entry: serde_json::from_slice(row.try_get("entry")?)
            .map_err(|_| StoreError::Row("an audit entry is no JSON"))?,
        hash: Digest(array(row.try_get("hash")?)?),
    })
}

async fn checkpoints(reading: &mut AnyConnection) -> Result<Vec<(Head, Signature)>, AuditError> {
    let rows = sqlx::query("SELECT seq, hash, signature FROM audit_checkpoints ORDER BY seq")
        .fetch_all(reading)
        .await
        .map_err(StoreError::from)?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let seq = count(row.try_get("seq").map_err(StoreError::from)?)?;
        let bytes = |column| row.try_get::<Vec<u8>, _>(column).map_err(StoreError::from);
        let bad = |_| Fault::BadCheckpoint(seq);
        let hash = bytes("hash")?.as_slice().try_into().map_err(bad)?;
        let signature = bytes("signature")?.as_slice().try_into().map_err(bad)?;
        found.push((Head { seq, hash: Digest(hash) }, Signature(signature)));
    }
    Ok(found)
}
