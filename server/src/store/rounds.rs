//! Rounds that were published: records, and what came of them.

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{Attempt, RoundId, RunId};
use gossamer_protocol::message::Signed;
use serde::Serialize;
use sqlx::Row as _;

use super::rows::{array, count, int};
use super::runs::{attempt, signed};
use super::{Store, StoreError, audit};
use crate::audit::Note;

/// A snapshot to publish.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublishRow<'a> {
    pub(crate) run: RunId,
    pub(crate) round: RoundId,
    pub(crate) record: &'a Signed,
    pub(crate) snapshot: Digest,
    pub(crate) state: Digest,
    /// Whether it is the run's last.
    pub(crate) last: bool,
}

/// What came of a round, for people to look at.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RoundRow {
    /// The round.
    pub round: RoundId,
    /// Unix time in milliseconds at which it closed.
    pub closed_ms: u64,
    /// The attempt that was on.
    pub attempt: Attempt,
    /// Clients asked in it.
    pub asked: u64,
    /// Updates accepted.
    pub accepted: u32,
    /// Sequences they were trained on.
    pub examples: u64,
    /// Their mean training loss, nats a token, weighed by examples.
    pub loss: Option<f64>,
    /// Bytes of their frames.
    pub bytes_up: u64,
    /// Bytes of snapshots and differences handed out meanwhile, by the process that closed it.
    pub bytes_down: u64,
}

impl Store {
    /// Publishes a snapshot and goes on to its round, at once.
    pub(crate) async fn publish(
        &self,
        row: &PublishRow<'_>,
        closed: &RoundRow,
        note: &Note,
    ) -> Result<(), StoreError> {
        self.transact(async |tx| {
            insert_record(tx, row).await?;
            insert_round(tx, row.run, closed).await?;
            audit::append(tx, note).await?;
            // An abort that came meanwhile stands.
            sqlx::query(
                "UPDATE runs SET round = ?, attempt = 0, deadline_ms = NULL, \
             status = CASE WHEN ? AND status IN ('running', 'paused') THEN 'complete' \
             ELSE status END WHERE id = ?",
            )
            .bind(int(row.round.0))
            .bind(row.last)
            .bind(&row.run.0[..])
            .execute(&mut *tx)
            .await?;
            sqlx::query("DELETE FROM asked WHERE run = ?")
                .bind(&row.run.0[..])
                .execute(&mut *tx)
                .await?;
            Ok(())
        })
        .await
    }

    /// Adds rounds behind a run's first as they were published elsewhere, all or none.
    pub(crate) async fn restore_rounds(&self, rows: &[PublishRow<'_>]) -> Result<(), StoreError> {
        let Some(end) = rows.last() else { return Ok(()) };
        self.transact(async |tx| {
            for row in rows {
                insert_record(tx, row).await?;
            }
            sqlx::query(
                "UPDATE runs SET round = ?, attempt = 0, deadline_ms = NULL, \
             status = CASE WHEN ? THEN 'complete' ELSE status END WHERE id = ?",
            )
            .bind(int(end.round.0))
            .bind(end.last)
            .bind(&end.run.0[..])
            .execute(&mut *tx)
            .await?;
            Ok(())
        })
        .await
    }

    /// What came of `limit` rounds of a run from `from` on, in order.
    pub(crate) async fn rounds(
        &self,
        run: RunId,
        from: RoundId,
        limit: u32,
    ) -> Result<Vec<RoundRow>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM rounds WHERE run = ? AND round >= ? ORDER BY round LIMIT ?")
                .bind(&run.0[..])
                .bind(int(from.0))
                .bind(limit)
                .fetch_all(&self.0.reader)
                .await?;
        rows.iter()
            .map(|row| {
                Ok(RoundRow {
                    round: RoundId(count(row.try_get("round")?)?),
                    closed_ms: count(row.try_get("closed_ms")?)?,
                    attempt: attempt(row.try_get("attempt")?)?,
                    asked: count(row.try_get("asked")?)?,
                    accepted: row.try_get("accepted")?,
                    examples: count(row.try_get("examples")?)?,
                    loss: row.try_get("loss")?,
                    bytes_up: count(row.try_get("bytes_up")?)?,
                    bytes_down: count(row.try_get("bytes_down")?)?,
                })
            })
            .collect()
    }

    /// A record, and the digests of its snapshot and state.
    pub(crate) async fn record(
        &self,
        run: RunId,
        round: RoundId,
    ) -> Result<Option<(Signed, Digest, Digest)>, StoreError> {
        let row = sqlx::query(
            "SELECT bytes, signature, snapshot, state FROM records WHERE run = ? AND round = ?",
        )
        .bind(&run.0[..])
        .bind(int(round.0))
        .fetch_optional(&self.0.reader)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let snapshot = Digest(array(row.try_get("snapshot")?)?);
        Ok(Some((signed(&row, "bytes")?, snapshot, Digest(array(row.try_get("state")?)?))))
    }

    /// Whether a record of the run names this snapshot.
    pub(crate) async fn names_snapshot(
        &self,
        run: RunId,
        snapshot: Digest,
    ) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT 1 FROM records WHERE run = ? AND snapshot = ? LIMIT 1")
            .bind(&run.0[..])
            .bind(&snapshot.0[..])
            .fetch_optional(&self.0.reader)
            .await?;
        Ok(row.is_some())
    }
}

async fn insert_round(
    tx: &mut sqlx::SqliteConnection,
    run: RunId,
    row: &RoundRow,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO rounds VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
        .bind(&run.0[..])
        .bind(int(row.round.0))
        .bind(int(row.closed_ms))
        .bind(i64::from(row.attempt.0))
        .bind(int(row.asked))
        .bind(row.accepted)
        .bind(int(row.examples))
        .bind(row.loss)
        .bind(int(row.bytes_up))
        .bind(int(row.bytes_down))
        .execute(tx)
        .await?;
    Ok(())
}

pub(super) async fn insert_record(
    tx: &mut sqlx::SqliteConnection,
    row: &PublishRow<'_>,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO records (run, round, bytes, signature, snapshot, state) \
         VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(&row.run.0[..])
    .bind(int(row.round.0))
    .bind(&row.record.bytes)
    .bind(&row.record.signature.0[..])
    .bind(&row.snapshot.0[..])
    .bind(&row.state.0[..])
    .execute(tx)
    .await?;
    Ok(())
}
