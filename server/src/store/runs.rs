//! Runs, their open attempts and accepted updates.

use std::collections::{BTreeSet, HashSet};

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::message::Signed;
use gossamer_protocol::sign::Signature;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::rounds::{PublishRow, insert_record};
use super::rows::{array, count, int};
use super::{Store, StoreError, audit};
use crate::audit::Note;
use crate::clock::Timestamp;
use crate::status::Status;

/// A run as stored.
#[derive(Clone, Debug)]
pub(crate) struct RunRow {
    pub(crate) id: RunId,
    pub(crate) manifest: Signed,
    pub(crate) linears: Option<Vec<u8>>,
    pub(crate) status: StatusRow,
    pub(crate) round: RoundId,
    pub(crate) attempt: Attempt,
    pub(crate) deadline: Option<Timestamp>,
}

/// What an operator, or the end, has decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StatusRow {
    pub(crate) status: Status,
    pub(crate) note: String,
}

/// An update to remember.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AcceptRow<'a> {
    pub(crate) run: RunId,
    pub(crate) round: RoundId,
    pub(crate) attempt: Attempt,
    pub(crate) client: ClientId,
    pub(crate) frame: Digest,
    pub(crate) receipt: &'a Signed,
}

impl Store {
    /// Adds a run with its first record, at once; false where it is there already.
    pub(crate) async fn add_run(
        &self,
        row: &RunRow,
        first: &PublishRow<'_>,
        note: &Note,
    ) -> Result<bool, StoreError> {
        self.transact(async |tx| {
            let done = sqlx::query(
                "INSERT INTO runs (id, manifest, signature, linears, status, note, round, attempt) \
             VALUES (?, ?, ?, ?, ?, ?, 0, 0) ON CONFLICT (id) DO NOTHING",
            )
            .bind(&row.id.0[..])
            .bind(&row.manifest.bytes)
            .bind(&row.manifest.signature.0[..])
            .bind(&row.linears)
            .bind(row.status.status.name())
            .bind(&row.status.note)
            .execute(&mut *tx)
            .await?;
            if done.rows_affected() == 0 {
                return Ok(false);
            }
            insert_record(tx, first).await?;
            audit::append(tx, note).await?;
            Ok(true)
        })
        .await
    }

    /// Every run, oldest first.
    pub(crate) async fn run_rows(&self) -> Result<Vec<RunRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM runs ORDER BY seq").fetch_all(&self.0.writer).await?;
        rows.iter().map(run_row).collect()
    }

    /// One run.
    pub(crate) async fn run_row(&self, run: RunId) -> Result<Option<RunRow>, StoreError> {
        let row = sqlx::query("SELECT * FROM runs WHERE id = ?")
            .bind(&run.0[..])
            .fetch_optional(&self.0.writer)
            .await?;
        row.as_ref().map(run_row).transpose()
    }

    /// Every run's status, oldest first: cheap enough for every tick.
    pub(crate) async fn statuses(&self) -> Result<Vec<(RunId, StatusRow)>, StoreError> {
        let rows = sqlx::query("SELECT id, status, note FROM runs ORDER BY seq")
            .fetch_all(&self.0.reader)
            .await?;
        rows.iter().map(|row| Ok((RunId(array(row.try_get("id")?)?), status_row(row)?))).collect()
    }

    /// Sets the status of a run that is not over; gives the status that stands.
    pub(crate) async fn set_status(
        &self,
        run: RunId,
        to: &StatusRow,
        note: &Note,
    ) -> Result<Option<StatusRow>, StoreError> {
        let statement = sqlx::query(
            "UPDATE runs SET status = ?1, note = ?2 \
                 WHERE id = ?3 AND status IN ('running', 'paused') AND status <> ?1",
        )
        .bind(to.status.name())
        .bind(&to.note)
        .bind(&run.0[..]);
        self.noted(statement, note).await?;
        Ok(self.run_row(run).await?.map(|row| row.status))
    }

    /// Opens an attempt: who is asked is remembered at once with its deadline.
    pub(crate) async fn open_attempt(
        &self,
        run: RunId,
        attempt: Attempt,
        deadline: Timestamp,
        asked: &[ClientId],
    ) -> Result<(), StoreError> {
        self.transact(async |tx| {
            sqlx::query("UPDATE runs SET attempt = ?, deadline_ms = ? WHERE id = ?")
                .bind(i64::from(attempt.0))
                .bind(int(deadline.0))
                .bind(&run.0[..])
                .execute(&mut *tx)
                .await?;
            sqlx::query("DELETE FROM asked WHERE run = ?")
                .bind(&run.0[..])
                .execute(&mut *tx)
                .await?;
            for client in asked {
                sqlx::query("INSERT INTO asked (run, client) VALUES (?, ?)")
                    .bind(&run.0[..])
                    .bind(&client.0[..])
                    .execute(&mut *tx)
                    .await?;
            }
            Ok(())
        })
        .await
    }

    /// Ends an attempt that had too few updates; `next` is not open yet.
    pub(crate) async fn abandon(
        &self,
        run: RunId,
        next: Attempt,
        note: &Note,
    ) -> Result<(), StoreError> {
        self.transact(async |tx| {
            sqlx::query("UPDATE runs SET attempt = ?, deadline_ms = NULL WHERE id = ?")
                .bind(i64::from(next.0))
                .bind(&run.0[..])
                .execute(&mut *tx)
                .await?;
            audit::append(tx, note).await
        })
        .await
    }

    /// Moves the end of the attempt that is open.
    pub(crate) async fn set_deadline(
        &self,
        run: RunId,
        deadline: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE runs SET deadline_ms = ? WHERE id = ?")
            .bind(int(deadline.0))
            .bind(&run.0[..])
            .execute(&self.0.writer)
            .await?;
        Ok(())
    }

    /// Remembers one more client that is asked.
    pub(crate) async fn add_asked(&self, run: RunId, client: ClientId) -> Result<(), StoreError> {
        sqlx::query("INSERT OR IGNORE INTO asked (run, client) VALUES (?, ?)")
            .bind(&run.0[..])
            .bind(&client.0[..])
            .execute(&self.0.writer)
            .await?;
        Ok(())
    }

    /// Who is asked in the attempt that is open.
    pub(crate) async fn asked(&self, run: RunId) -> Result<BTreeSet<ClientId>, StoreError> {
        let rows = sqlx::query("SELECT client FROM asked WHERE run = ?")
            .bind(&run.0[..])
            .fetch_all(&self.0.writer)
            .await?;
        rows.iter().map(|row| Ok(ClientId(array(row.try_get("client")?)?))).collect()
    }

    /// Remembers an accepted update. The primary key refuses a second one of a client and round.
    pub(crate) async fn accept(&self, row: &AcceptRow<'_>) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO updates (run, round, client, attempt, frame, receipt, signature) \
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&row.run.0[..])
        .bind(int(row.round.0))
        .bind(&row.client.0[..])
        .bind(i64::from(row.attempt.0))
        .bind(&row.frame.0[..])
        .bind(&row.receipt.bytes)
        .bind(&row.receipt.signature.0[..])
        .execute(&self.0.writer)
        .await?;
        Ok(())
    }

    /// What was accepted in a round: client, frame, attempt.
    pub(crate) async fn accepted(
        &self,
        run: RunId,
        round: RoundId,
    ) -> Result<Vec<(ClientId, Digest, Attempt)>, StoreError> {
        let rows = sqlx::query(
            "SELECT client, frame, attempt FROM updates WHERE run = ? AND round = ? ORDER BY client",
        )
        .bind(&run.0[..])
        .bind(int(round.0))
        .fetch_all(&self.0.writer)
        .await?;
        rows.iter()
            .map(|row| {
                let client = ClientId(array(row.try_get("client")?)?);
                let frame = Digest(array(row.try_get("frame")?)?);
                Ok((client, frame, attempt(row.try_get("attempt")?)?))
            })
            .collect()
    }

    /// A client's accepted update in a round: its frame's digest, and the receipt.
    pub(crate) async fn receipt(
        &self,
        run: RunId,
        round: RoundId,
        client: ClientId,
    ) -> Result<Option<(Digest, Signed)>, StoreError> {
        let row = sqlx::query(
            "SELECT frame, receipt, signature FROM updates \
             WHERE run = ? AND round = ? AND client = ?",
        )
        .bind(&run.0[..])
        .bind(int(round.0))
        .bind(&client.0[..])
        .fetch_optional(&self.0.writer)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some((Digest(array(row.try_get("frame")?)?), signed(&row, "receipt")?)))
    }

    /// Frames of rounds before `round` that are still stored.
    pub(crate) async fn counted_frames(
        &self,
        run: RunId,
        round: RoundId,
    ) -> Result<Vec<Digest>, StoreError> {
        let rows =
            sqlx::query("SELECT frame FROM updates WHERE run = ? AND round < ? AND kept = 1")
                .bind(&run.0[..])
                .bind(int(round.0))
                .fetch_all(&self.0.writer)
                .await?;
        rows.iter().map(|row| Ok(Digest(array(row.try_get("frame")?)?))).collect()
    }

    /// Every frame that is still needed, of whatever run.
    pub(crate) async fn kept_frames(&self) -> Result<HashSet<Digest>, StoreError> {
        let rows = sqlx::query("SELECT frame FROM updates WHERE kept = 1")
            .fetch_all(&self.0.writer)
            .await?;
        rows.iter().map(|row| Ok(Digest(array(row.try_get("frame")?)?))).collect()
    }

    /// Notes that those frames are dropped.
    pub(crate) async fn forget_frames(&self, run: RunId, round: RoundId) -> Result<(), StoreError> {
        sqlx::query("UPDATE updates SET kept = 0 WHERE run = ? AND round < ? AND kept = 1")
            .bind(&run.0[..])
            .bind(int(round.0))
            .execute(&self.0.writer)
            .await?;
        Ok(())
    }
}

fn run_row(row: &SqliteRow) -> Result<RunRow, StoreError> {
    let deadline: Option<i64> = row.try_get("deadline_ms")?;
    Ok(RunRow {
        id: RunId(array(row.try_get("id")?)?),
        manifest: signed(row, "manifest")?,
        linears: row.try_get("linears")?,
        status: status_row(row)?,
        round: RoundId(count(row.try_get("round")?)?),
        attempt: attempt(row.try_get("attempt")?)?,
        deadline: deadline.map(count).transpose()?.map(Timestamp),
    })
}

fn status_row(row: &SqliteRow) -> Result<StatusRow, StoreError> {
    let status = Status::named(row.try_get("status")?).ok_or(StoreError::Row("a status"))?;
    Ok(StatusRow { status, note: row.try_get("note")? })
}

pub(super) fn signed(row: &SqliteRow, bytes: &str) -> Result<Signed, StoreError> {
    let signature = Signature(array(row.try_get("signature")?)?);
    Ok(Signed { bytes: row.try_get(bytes)?, signature })
}

pub(super) fn attempt(value: i64) -> Result<Attempt, StoreError> {
    u32::try_from(value).map(Attempt).map_err(|_| StoreError::Row("an attempt"))
}
