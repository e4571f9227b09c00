//! Rounds that were published: records, and what came of them.

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{Attempt, RoundId, RunId};
use gossamer_protocol::message::Signed;
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::Row as _;

use super::database::{transact, try_transact};
use super::evaluations::{Evaluated, evaluated};
use super::rows::{array, count, int};
use super::runs::{StatusRow, attempt, signed};
use super::steps::hold;
use super::{Done, Store, StoreError, audit};
use crate::audit::Note;
use crate::status::Status;

/// A snapshot to publish.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublishRow<'a> {
    pub(crate) run: RunId,
    pub(crate) round: RoundId,
    pub(crate) record: &'a Signed,
    pub(crate) snapshot: Digest,
    pub(crate) state: Digest,
    /// Whether that is here: of a run that was carried here, only the last one is.
    pub(crate) state_kept: bool,
    /// Whether it is the run's last.
    pub(crate) last: bool,
    /// Why it is, where its number does not say so.
    pub(crate) why: &'a str,
    /// Who was asked in rounds before this one need not send any more.
    pub(crate) oldest: RoundId,
}

/// A record as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordRow {
    pub(crate) signed: Signed,
    pub(crate) snapshot: Digest,
    pub(crate) state: Digest,
    /// Whether the snapshot is still there.
    pub(crate) snapshot_kept: bool,
    /// Whether the state is.
    pub(crate) state_kept: bool,
}

/// Who published a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Publishing {
    /// This call did; where the run stands now.
    Now { version: u64, status: StatusRow },
    /// Another process did.
    Before,
}

/// What came of a round, for people to look at.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RoundRow {
    /// The round.
    #[schemars(with = "u64")]
    pub round: RoundId,
    /// Unix time in milliseconds at which it closed.
    pub closed_ms: u64,
    /// The attempt that was on.
    #[schemars(with = "u32")]
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
    /// What clients tell of the snapshot that it started from; none: nobody was asked, or told.
    pub evaluation: Option<Evaluated>,
}

impl Store {
    /// Publishes the snapshot of a round that is frozen and goes on to the next, at once; where another
    /// process did that before, nothing is done.
    pub(crate) async fn publish(
        &self,
        row: &PublishRow<'_>,
        closed: &RoundRow,
        note: &Note,
    ) -> Result<Publishing, StoreError> {
        try_transact!(self, |tx| {
            let held = hold(tx, row.run).await?;
            if (held.round, held.frozen) != (closed.round, true) {
                return Ok(Done::Undo(Publishing::Before));
            }
            insert_record(tx, row).await?;
            insert_round(tx, row.run, closed).await?;
            let status = go_on(tx, row, held.status).await?;
            sqlx::query(
                "DELETE FROM asked WHERE run = $1 AND (round < $2 OR client IN \
                     (SELECT client FROM updates WHERE run = $1 AND round = $3))",
            )
            .bind(&row.run.0[..])
            .bind(int(row.oldest.0))
            .bind(int(closed.round.0))
            .execute(&mut *tx)
            .await?;
            audit::append(tx, note).await?;
            Ok(Done::Keep(Publishing::Now { version: held.version, status }))
        })
    }

    /// Publishes another snapshot in place of what the round that is on would come to; where the run is not
    /// paused, has moved on, or has updates in that round, nothing is done.
    pub(crate) async fn roll_back(
        &self,
        row: &PublishRow<'_>,
        closed: &RoundRow,
        note: &Note,
    ) -> Result<bool, StoreError> {
        try_transact!(self, |tx| {
            let held = hold(tx, row.run).await?;
            let sent =
                sqlx::query("SELECT COUNT(*) AS sent FROM updates WHERE run = $1 AND round = $2")
                    .bind(&row.run.0[..])
                    .bind(int(closed.round.0))
                    .fetch_one(&mut *tx)
                    .await?;
            let nobody = sent.try_get::<i64, _>("sent")? == 0;
            let waits = held.status.status == Status::Paused && !held.frozen;
            if held.round != closed.round || !waits || !nobody {
                return Ok(Done::Undo(false));
            }
            insert_record(tx, row).await?;
            insert_round(tx, row.run, closed).await?;
            go_on(tx, row, held.status).await?;
            sqlx::query("DELETE FROM asked WHERE run = $1")
                .bind(&row.run.0[..])
                .execute(&mut *tx)
                .await?;
            audit::append(tx, note).await?;
            Ok(Done::Keep(true))
        })
    }

    /// Adds rounds behind a run's first as they were published elsewhere, all or none.
    pub(crate) async fn restore_rounds(&self, rows: &[PublishRow<'_>]) -> Result<(), StoreError> {
        let Some(end) = rows.last() else { return Ok(()) };
        transact!(self, |tx| {
            let held = hold(tx, end.run).await?;
            for row in rows {
                insert_record(tx, row).await?;
            }
            go_on(tx, end, held.status).await?;
            Ok(())
        })
    }

    /// What came of `limit` rounds of a run from `from` on, in order.
    pub(crate) async fn rounds(
        &self,
        run: RunId,
        from: RoundId,
        limit: u32,
    ) -> Result<Vec<RoundRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT r.round, closed_ms, attempt, asked, accepted, examples, r.loss, bytes_up, \
                 bytes_down, COALESCE(evaluators, 0) AS evaluators, \
                 COALESCE(targets, 0) AS targets, COALESCE(units, 0) AS units \
             FROM rounds r LEFT JOIN \
                 (SELECT round, COUNT(*) AS evaluators, CAST(SUM(targets) AS BIGINT) AS targets, \
                      CAST(SUM(loss) AS BIGINT) AS units FROM evaluations \
                  WHERE run = $1 AND round >= $2 GROUP BY round) e ON e.round = r.round \
             WHERE run = $1 AND r.round >= $2 ORDER BY r.round LIMIT $3",
        )
        .bind(&run.0[..])
        .bind(int(from.0))
        .bind(i64::from(limit))
        .fetch_all(&self.0.database.reader)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(RoundRow {
                    round: RoundId(count(row.try_get("round")?)?),
                    closed_ms: count(row.try_get("closed_ms")?)?,
                    attempt: attempt(row.try_get("attempt")?)?,
                    asked: count(row.try_get("asked")?)?,
                    accepted: u32::try_from(row.try_get::<i64, _>("accepted")?)
                        .map_err(|_| StoreError::Row("a number of updates"))?,
                    examples: count(row.try_get("examples")?)?,
                    loss: row.try_get::<Option<f64>, _>("loss")?.filter(|loss| !loss.is_nan()),
                    bytes_up: count(row.try_get("bytes_up")?)?,
                    bytes_down: count(row.try_get("bytes_down")?)?,
                    evaluation: evaluated(row)?,
                })
            })
            .collect()
    }

    /// A round's record.
    pub(crate) async fn record(
        &self,
        run: RunId,
        round: RoundId,
    ) -> Result<Option<RecordRow>, StoreError> {
        let row = sqlx::query(
            "SELECT bytes, signature, snapshot, state, snapshot_gone, state_gone FROM records \
             WHERE run = $1 AND round = $2",
        )
        .bind(&run.0[..])
        .bind(int(round.0))
        .fetch_optional(&self.0.database.reader)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let kept = |gone| Ok::<_, StoreError>(row.try_get::<i64, _>(gone)? == 0);
        Ok(Some(RecordRow {
            signed: signed(&row, "bytes")?,
            snapshot: Digest(array(row.try_get("snapshot")?)?),
            state: Digest(array(row.try_get("state")?)?),
            snapshot_kept: kept("snapshot_gone")?,
            state_kept: kept("state_gone")?,
        }))
    }

    /// The round whose record names this snapshot, and whether it is kept.
    pub(crate) async fn names_snapshot(
        &self,
        run: RunId,
        snapshot: Digest,
    ) -> Result<Option<(RoundId, bool)>, StoreError> {
        let row = sqlx::query(
            "SELECT round, snapshot_gone FROM records WHERE run = $1 AND snapshot = $2 \
             ORDER BY snapshot_gone LIMIT 1",
        )
        .bind(&run.0[..])
        .bind(&snapshot.0[..])
        .fetch_optional(&self.0.database.reader)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let round = RoundId(count(row.try_get("round")?)?);
        Ok(Some((round, row.try_get::<i64, _>("snapshot_gone")? == 0)))
    }
}

/// Takes a run to the round that `row` publishes; an abort that came meanwhile stands.
async fn go_on(
    tx: &mut sqlx::AnyConnection,
    row: &PublishRow<'_>,
    mut status: StatusRow,
) -> Result<StatusRow, StoreError> {
    if row.last && !status.status.is_over() {
        status = StatusRow { status: Status::Complete, note: row.why.to_owned() };
    }
    sqlx::query(
        "UPDATE runs SET round = $1, attempt = 0, deadline_ms = NULL, frozen = 0, status = $2, \
             note = $3 \
         WHERE id = $4",
    )
    .bind(int(row.round.0))
    .bind(status.status.name())
    .bind(&status.note[..])
    .bind(&row.run.0[..])
    .execute(tx)
    .await?;
    Ok(status)
}

async fn insert_round(
    tx: &mut sqlx::AnyConnection,
    run: RunId,
    row: &RoundRow,
) -> Result<(), StoreError> {
    let text = "INSERT INTO rounds (run, round, closed_ms, attempt, asked, accepted, examples, loss, \
                bytes_up, bytes_down) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    sqlx::query(text)
        .bind(&run.0[..])
        .bind(int(row.round.0))
        .bind(int(row.closed_ms))
        .bind(i64::from(row.attempt.0))
        .bind(int(row.asked))
        .bind(i64::from(row.accepted))
        .bind(int(row.examples))
        // Not a number is what stands for none: SQLite stores it as NULL by itself, and sqlx would tell
        // Postgres another type for a NULL than for a number, in a statement that it prepares once.
        .bind(row.loss.unwrap_or(f64::NAN))
        .bind(int(row.bytes_up))
        .bind(int(row.bytes_down))
        .execute(tx)
        .await?;
    Ok(())
}

pub(super) async fn insert_record(
    tx: &mut sqlx::AnyConnection,
    row: &PublishRow<'_>,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO records (run, round, bytes, signature, snapshot, state, state_gone) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(&row.run.0[..])
    .bind(int(row.round.0))
    .bind(&row.record.bytes[..])
    .bind(&row.record.signature.0[..])
    .bind(&row.snapshot.0[..])
    .bind(&row.state.0[..])
    .bind(if row.state_kept { 0_i64 } else { 2 })
    .execute(tx)
    .await?;
    Ok(())
}
