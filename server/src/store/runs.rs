//! Runs, and what is kept of accepted updates.

use std::collections::HashSet;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::message::Signed;
use gossamer_protocol::sign::Signature;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::database::{transact, try_transact};
use super::rounds::{PublishRow, insert_record};
use super::rows::{array, count, int};
use super::steps::hold;
use super::{Done, Store, StoreError, audit, projects};
use crate::audit::Note;
use crate::project::ProjectName;
use crate::status::Status;

/// A run as stored.
#[derive(Clone, Debug)]
pub(crate) struct RunRow {
    pub(crate) id: RunId,
    pub(crate) project: ProjectName,
    pub(crate) manifest: Signed,
    pub(crate) linears: Option<Vec<u8>>,
    pub(crate) status: StatusRow,
    /// The round it is at.
    pub(crate) round: RoundId,
}

/// What an operator, or the end, has decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StatusRow {
    pub(crate) status: Status,
    pub(crate) note: String,
}

impl Store {
    /// Adds a run with its first record, at once; false where it is there already.
    pub(crate) async fn add_run(
        &self,
        row: &RunRow,
        first: &PublishRow<'_>,
        note: &Note,
    ) -> Result<bool, StoreError> {
        transact!(self, |tx| {
            audit::lock(tx).await?;
            let done = sqlx::query(
                "INSERT INTO runs (id, manifest, signature, linears, status, note, project, round, attempt) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0) ON CONFLICT (id) DO NOTHING",
            )
            .bind(&row.id.0[..])
            .bind(&row.manifest.bytes[..])
            .bind(&row.manifest.signature.0[..])
            .bind(row.linears.clone())
            .bind(row.status.status.name())
            .bind(&row.status.note[..])
            .bind(row.project.as_str())
            .execute(&mut *tx)
            .await?;
            if done.rows_affected() == 0 {
                return Ok(false);
            }
            insert_record(tx, first).await?;
            audit::append(tx, note).await?;
            Ok(true)
        })
    }

    /// Every run, oldest first.
    pub(crate) async fn run_rows(&self) -> Result<Vec<RunRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, project, manifest, signature, linears, status, note, round FROM runs \
             ORDER BY seq",
        )
        .fetch_all(&self.0.database.writer)
        .await?;
        rows.iter().map(run_row).collect()
    }

    /// One run.
    pub(crate) async fn run_row(&self, run: RunId) -> Result<Option<RunRow>, StoreError> {
        let row = sqlx::query(
            "SELECT id, project, manifest, signature, linears, status, note, round FROM runs \
             WHERE id = $1",
        )
        .bind(&run.0[..])
        .fetch_optional(&self.0.database.writer)
        .await?;
        row.as_ref().map(run_row).transpose()
    }

    /// Every run's status, oldest first: cheap enough for every tick.
    pub(crate) async fn statuses(&self) -> Result<Vec<(RunId, StatusRow)>, StoreError> {
        let rows = sqlx::query("SELECT id, status, note FROM runs ORDER BY seq")
            .fetch_all(&self.0.database.reader)
            .await?;
        rows.iter().map(|row| Ok((RunId(array(row.try_get("id")?)?), status_row(row)?))).collect()
    }

    /// Sets the status of a run that is not over; gives the status that stands.
    pub(crate) async fn set_status(
        &self,
        run: RunId,
        to: &StatusRow,
        note: &Note,
    ) -> Result<StatusRow, StoreError> {
        try_transact!(self, |tx| {
            let stands = hold(tx, run).await?.status;
            if stands.status.is_over() || stands.status == to.status {
                return Ok(Done::Undo(stands));
            }
            sqlx::query("UPDATE runs SET status = $1, note = $2 WHERE id = $3")
                .bind(to.status.name())
                .bind(&to.note[..])
                .bind(&run.0[..])
                .execute(&mut *tx)
                .await?;
            audit::append(tx, note).await?;
            Ok(Done::Keep(to.clone()))
        })
    }

    /// A client's accepted update from a round's snapshot: its frame's digest, and the receipt. It may
    /// count in a round up to `late` after that.
    pub(crate) async fn receipt(
        &self,
        run: RunId,
        round: RoundId,
        client: ClientId,
        late: u64,
    ) -> Result<Option<(Digest, Signed)>, StoreError> {
        let row = sqlx::query(
            "SELECT frame, receipt, signature FROM updates \
             WHERE run = $1 AND client = $2 AND round >= $3 AND round <= $4 AND round - staleness = $3",
        )
        .bind(&run.0[..])
        .bind(&client.0[..])
        .bind(int(round.0))
        .bind(int(round.0.saturating_add(late)))
        .fetch_optional(&self.0.database.writer)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some((Digest(array(row.try_get("frame")?)?), signed(&row, "receipt")?)))
    }

    /// The round that a client's update made for `round` counts in: that one, or one of the `late` after it.
    pub(crate) async fn counts_in(
        &self,
        run: RunId,
        round: RoundId,
        client: ClientId,
        late: u64,
    ) -> Result<Option<RoundId>, StoreError> {
        let row = sqlx::query(
            "SELECT round FROM updates \
             WHERE run = $1 AND client = $2 AND round >= $3 AND round <= $4 AND round - staleness = $3",
        )
        .bind(&run.0[..])
        .bind(&client.0[..])
        .bind(int(round.0))
        .bind(int(round.0.saturating_add(late)))
        .fetch_optional(&self.0.database.reader)
        .await?;
        row.map(|row| Ok(RoundId(count(row.try_get("round")?)?))).transpose()
    }

    /// Clients of which at least `most` updates count in these rounds.
    pub(crate) async fn frequent(
        &self,
        run: RunId,
        rounds: std::ops::Range<RoundId>,
        most: u32,
    ) -> Result<Vec<ClientId>, StoreError> {
        let rows = sqlx::query(
            "SELECT client FROM updates WHERE run = $1 AND round >= $2 AND round < $3 \
             GROUP BY client HAVING COUNT(*) >= $4",
        )
        .bind(&run.0[..])
        .bind(int(rounds.start.0))
        .bind(int(rounds.end.0))
        .bind(i64::from(most))
        .fetch_all(&self.0.database.writer)
        .await?;
        rows.iter().map(|row| Ok(ClientId(array(row.try_get("client")?)?))).collect()
    }

    /// What a round accepted, in rising order of clients: each with its frame's digest and its receipt.
    pub(crate) async fn receipts(
        &self,
        run: RunId,
        round: RoundId,
    ) -> Result<Vec<(ClientId, Digest, Vec<u8>)>, StoreError> {
        let rows = sqlx::query(
            "SELECT client, frame, receipt FROM updates WHERE run = $1 AND round = $2 \
             ORDER BY client",
        )
        .bind(&run.0[..])
        .bind(int(round.0))
        .fetch_all(&self.0.database.reader)
        .await?;
        rows.iter()
            .map(|row| {
                let client = ClientId(array(row.try_get("client")?)?);
                let frame = Digest(array(row.try_get("frame")?)?);
                Ok((client, frame, row.try_get("receipt")?))
            })
            .collect()
    }

    /// Frames of rounds before `round` that are still stored.
    pub(crate) async fn counted_frames(
        &self,
        run: RunId,
        round: RoundId,
    ) -> Result<Vec<Digest>, StoreError> {
        let rows =
            sqlx::query("SELECT frame FROM updates WHERE run = $1 AND round < $2 AND kept = 1")
                .bind(&run.0[..])
                .bind(int(round.0))
                .fetch_all(&self.0.database.writer)
                .await?;
        rows.iter().map(|row| Ok(Digest(array(row.try_get("frame")?)?))).collect()
    }

    /// Every frame that is still needed, of whatever run.
    pub(crate) async fn kept_frames(&self) -> Result<HashSet<Digest>, StoreError> {
        let rows = sqlx::query("SELECT frame FROM updates WHERE kept = 1")
            .fetch_all(&self.0.database.writer)
            .await?;
        rows.iter().map(|row| Ok(Digest(array(row.try_get("frame")?)?))).collect()
    }

    /// Notes that those frames are dropped.
    pub(crate) async fn forget_frames(&self, run: RunId, round: RoundId) -> Result<(), StoreError> {
        sqlx::query("UPDATE updates SET kept = 0 WHERE run = $1 AND round < $2 AND kept = 1")
            .bind(&run.0[..])
            .bind(int(round.0))
            .execute(&self.0.database.writer)
            .await?;
        Ok(())
    }
}

fn run_row(row: &AnyRow) -> Result<RunRow, StoreError> {
    Ok(RunRow {
        id: RunId(array(row.try_get("id")?)?),
        project: projects::name(row.try_get("project")?)?,
        manifest: signed(row, "manifest")?,
        linears: row.try_get("linears")?,
        status: status_row(row)?,
        round: RoundId(count(row.try_get("round")?)?),
    })
}

pub(super) fn status_row(row: &AnyRow) -> Result<StatusRow, StoreError> {
    let status = Status::named(row.try_get("status")?).ok_or(StoreError::Row("a status"))?;
    Ok(StatusRow { status, note: row.try_get("note")? })
}

pub(super) fn signed(row: &AnyRow, bytes: &str) -> Result<Signed, StoreError> {
    let signature = Signature(array(row.try_get("signature")?)?);
    Ok(Signed { bytes: row.try_get(bytes)?, signature })
}

pub(super) fn attempt(value: i64) -> Result<Attempt, StoreError> {
    u32::try_from(value).map(Attempt).map_err(|_| StoreError::Row("an attempt"))
}
