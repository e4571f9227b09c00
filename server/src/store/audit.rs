//! The audit log's rows.

use gossamer_protocol::digest::Digest;
use gossamer_protocol::sign::{PublicKey, Purpose, Signature, SigningKey};
use serde_json::value::RawValue;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::rows::{array, count, int};
use super::{Store, StoreError};
use crate::audit::{Check, Fault, Head, Note, START};

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
#[derive(Debug, serde::Serialize)]
pub struct Entry {
    /// Its number.
    #[serde(skip)]
    pub seq: u64,
    /// Its bytes: JSON.
    pub entry: Box<RawValue>,
    /// Its hash.
    pub hash: Digest,
}

/// Writes `note` behind the last entry, in the transaction that does what it tells.
pub(super) async fn append(tx: &mut SqliteConnection, note: &Note) -> Result<(), StoreError> {
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
    sqlx::query("INSERT INTO audit (seq, entry, hash) VALUES (?, ?, ?)")
        .bind(int(head.seq))
        .bind(&entry)
        .bind(&head.hash.0[..])
        .execute(tx)
        .await?;
    Ok(())
}

impl Store {
    /// Writes an entry that tells of nothing else in the store.
    pub(crate) async fn note(&self, note: &Note) -> Result<(), StoreError> {
        self.transact(async |tx| append(tx, note).await).await
    }

    /// The `limit` entries before entry `before`, latest first.
    ///
    /// # Errors
    /// [`StoreError`] where they cannot be read.
    pub async fn audit(&self, before: u64, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let rows = sqlx::query(
            "SELECT seq, entry, hash FROM audit WHERE seq < ? ORDER BY seq DESC LIMIT ?",
        )
        .bind(int(before))
        .bind(limit)
        .fetch_all(&self.0.reader)
        .await?;
        rows.iter().map(entry).collect()
    }

    /// The `limit` entries behind entry `after`, in order.
    pub(crate) async fn audit_after(
        &self,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Entry>, StoreError> {
        let rows =
            sqlx::query("SELECT seq, entry, hash FROM audit WHERE seq > ? ORDER BY seq LIMIT ?")
                .bind(int(after))
                .bind(limit)
                .fetch_all(&self.0.reader)
                .await?;
        rows.iter().map(entry).collect()
    }

    /// Signs where the log stands; gives it, unless that was done before.
    pub(crate) async fn sign_audit(&self, key: &SigningKey) -> Result<Option<Head>, StoreError> {
        let last = "SELECT a.seq, a.hash, c.seq IS NOT NULL AS signed FROM audit a \
                    LEFT JOIN audit_checkpoints c ON c.seq = a.seq ORDER BY a.seq DESC LIMIT 1";
        let Some(row) = sqlx::query(last).fetch_optional(&self.0.reader).await? else {
            return Ok(None);
        };
        let seq = count(row.try_get("seq")?)?;
        let head = Head { seq, hash: Digest(array(row.try_get("hash")?)?) };
        if row.try_get::<bool, _>("signed")? {
            return Ok(None);
        }
        let signature = key.sign(Purpose::Audit, &head.signed_bytes());
        sqlx::query(
            "INSERT OR IGNORE INTO audit_checkpoints (seq, hash, signature) VALUES (?, ?, ?)",
        )
        .bind(int(seq))
        .bind(&head.hash.0[..])
        .bind(&signature.0[..])
        .execute(&self.0.writer)
        .await?;
        Ok(Some(head))
    }

    /// Checks the whole log against its own chain, what `key` signed, and `seen`, a head that was
    /// kept elsewhere; gives where it stands.
    ///
    /// # Errors
    /// [`AuditError::Fault`] for the first thing that is wrong, and the store's.
    pub async fn verify_audit(
        &self,
        key: &PublicKey,
        seen: Option<Head>,
    ) -> Result<Head, AuditError> {
        // One snapshot of both tables, whatever is written meanwhile.
        let mut reading = self.0.reader.begin().await.map_err(StoreError::from)?;
        let mut check = Check::new(checkpoints(&mut reading).await?, key, seen)?;
        let mut after = 0;
        loop {
            let rows = sqlx::query(
                "SELECT seq, entry, hash FROM audit WHERE seq > ? ORDER BY seq LIMIT ?",
            )
            .bind(int(after))
            .bind(PAGE)
            .fetch_all(&mut *reading)
            .await
            .map_err(StoreError::from)?;
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
    }
}

fn entry(row: &SqliteRow) -> Result<Entry, StoreError> {
    Ok(Entry {
        seq: count(row.try_get("seq")?)?,
        entry: serde_json::from_slice(row.try_get("entry")?)
            .map_err(|_| StoreError::Row("an audit entry is no JSON"))?,
        hash: Digest(array(row.try_get("hash")?)?),
    })
}

async fn checkpoints(reading: &mut SqliteConnection) -> Result<Vec<(Head, Signature)>, AuditError> {
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
