//! What moves a round: each step holds the run's row, counts its version up, and writes in the same
//! transaction what came of it.
//!
//! Rows that a step adds carry its version, so that whoever knows the run at an earlier one reads just
//! what came since.

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::message::Signed;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe, Row as _};

use super::rows::{array, count, int};
use super::runs::{StatusRow, attempt, status_row};
use super::{Store, StoreError, audit};
use crate::audit::Note;
use crate::clock::Timestamp;
use crate::round::{Task, staleness};

/// What whoever knows nothing of a run knows: no round has this number.
pub(crate) const NOTHING: (u64, RoundId, Attempt) = (0, RoundId(u64::MAX), Attempt(0));

/// Rows of one statement: far fewer than either database takes, and enough.
const ROWS: usize = 500;

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Counted up by every step.
    pub(crate) version: u64,
    pub(crate) round: RoundId,
    pub(crate) attempt: Attempt,
    pub(crate) deadline: Option<Timestamp>,
    /// Whether the round's accepted set is final.
    pub(crate) frozen: bool,
    pub(crate) status: StatusRow,
}

/// What steps after some version added to a run's round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Clients asked, each with what for.
    pub(crate) asked: Vec<(ClientId, Task)>,
    /// Updates accepted, each with what it was made for.
    pub(crate) accepted: Vec<(ClientId, Digest, Task)>,
}

/// An update to remember.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AcceptRow<'a> {
    pub(crate) run: RunId,
    /// The round it counts in.
    pub(crate) round: RoundId,
    /// What it was made for.
    pub(crate) task: Task,
    pub(crate) client: ClientId,
    pub(crate) frame: Digest,
    pub(crate) receipt: &'a Signed,
}

impl Store {
    /// A run's version, where it is there.
    pub(crate) async fn version(&self, run: RunId) -> Result<Option<u64>, StoreError> {
        let row = sqlx::query("SELECT version FROM runs WHERE id = $1")
            .bind(&run.0[..])
            .fetch_optional(&self.0.database.reader)
            .await?;
        row.map(|row| count(row.try_get("version")?)).transpose()
    }

    /// Where a run stands, and what came after version `since` of its round and attempt; all of it where
    /// that was another round, and everyone asked where it was another attempt.
    pub(crate) async fn news(
        &self,
        run: RunId,
        since: (u64, RoundId, Attempt),
    ) -> Result<(Standing, News), StoreError> {
        let database = &self.0.database;
        database
            .read(&database.writer, async |reading| {
                let text = "SELECT version, round, attempt, deadline_ms, frozen, status, note \
                            FROM runs WHERE id = $1";
                let row = sqlx::query(text).bind(&run.0[..]).fetch_optional(&mut *reading).await?;
                let standing = standing(&row.ok_or(StoreError::Row("a run is gone"))?)?;
                let news = news(reading, run, &standing, since).await?;
                Ok((standing, news))
            })
            .await
    }

    /// Frames accepted in a run's round.
    pub(crate) async fn accepted(&self, run: RunId) -> Result<Vec<Digest>, StoreError> {
        let (_, news) = self.news(run, NOTHING).await?;
        Ok(news.accepted.into_iter().map(|(_, frame, _)| frame).collect())
    }
}

/// Holds a run's row until the transaction ends, with its version counted up.
pub(crate) async fn hold(tx: &mut AnyConnection, run: RunId) -> Result<Standing, StoreError> {
    let text = "UPDATE runs SET version = version + 1 WHERE id = $1 \
                RETURNING version, round, attempt, deadline_ms, frozen, status, note";
    let row = sqlx::query(text).bind(&run.0[..]).fetch_optional(tx).await?;
    standing(&row.ok_or(StoreError::Row("a run is gone"))?)
}

/// As [`Store::news`], in the transaction that holds the run.
pub(crate) async fn news(
    tx: &mut AnyConnection,
    run: RunId,
    standing: &Standing,
    since: (u64, RoundId, Attempt),
) -> Result<News, StoreError> {
    let (version, round, attempt_then) = since;
    let same_round = standing.round == round;
    let same_attempt = same_round && standing.attempt == attempt_then;
    // Every version is above -1.
    let after = |same: bool| if same { int(version) } else { -1 };
    let asked =
        sqlx::query("SELECT client, round, attempt FROM asked WHERE run = $1 AND version > $2")
            .bind(&run.0[..])
            .bind(after(same_attempt))
            .fetch_all(&mut *tx)
            .await?;
    let accepted = sqlx::query(
        "SELECT client, frame, attempt, round - staleness AS round FROM updates \
         WHERE run = $1 AND round = $2 AND version > $3",
    )
    .bind(&run.0[..])
    .bind(int(standing.round.0))
    .bind(after(same_round))
    .fetch_all(tx)
    .await?;
    let task = |row: &AnyRow| {
        let round = RoundId(count(row.try_get("round")?)?);
        Ok::<_, StoreError>(Task { round, attempt: attempt(row.try_get("attempt")?)? })
    };
    let asked = asked.iter().map(|row| Ok((ClientId(array(row.try_get("client")?)?), task(row)?)));
    let accepted = accepted.iter().map(|row| {
        let client = ClientId(array(row.try_get("client")?)?);
        let frame = Digest(array(row.try_get("frame")?)?);
        Ok((client, frame, task(row)?))
    });
    Ok(News {
        asked: asked.collect::<Result<_, StoreError>>()?,
        accepted: accepted.collect::<Result<_, StoreError>>()?,
    })
}

/// Opens an attempt: who is asked is remembered at once with its deadline.
pub(crate) async fn open_attempt(
    tx: &mut AnyConnection,
    run: RunId,
    version: u64,
    task: Task,
    deadline: Timestamp,
    asked: &[ClientId],
) -> Result<(), StoreError> {
    sqlx::query("UPDATE runs SET attempt = $1, deadline_ms = $2 WHERE id = $3")
        .bind(i64::from(task.attempt.0))
        .bind(int(deadline.0))
        .bind(&run.0[..])
        .execute(&mut *tx)
        .await?;
    for some in asked.chunks(ROWS) {
        add_asked(tx, run, version, task, some).await?;
    }
    Ok(())
}

/// Remembers more clients that are asked, [`ROWS`] at most.
pub(crate) async fn add_asked(
    tx: &mut AnyConnection,
    run: RunId,
    version: u64,
    task: Task,
    clients: &[ClientId],
) -> Result<(), StoreError> {
    let values: Vec<String> =
        (0..clients.len()).map(|at| format!("($1, $2, $3, $4, ${})", at + 5)).collect();
    let values = values.join(", ");
    let text = format!("INSERT INTO asked (run, version, round, attempt, client) VALUES {values}");
    let mut statement = sqlx::query(AssertSqlSafe(text))
        .bind(&run.0[..])
        .bind(int(version))
        .bind(int(task.round.0))
        .bind(i64::from(task.attempt.0));
    for client in clients {
        statement = statement.bind(&client.0[..]);
    }
    statement.execute(tx).await?;
    Ok(())
}

/// Ends an attempt that had too few updates; `next` is not open yet.
pub(crate) async fn abandon(
    tx: &mut AnyConnection,
    run: RunId,
    next: Attempt,
    note: &Note,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE runs SET attempt = $1, deadline_ms = NULL WHERE id = $2")
        .bind(i64::from(next.0))
        .bind(&run.0[..])
        .execute(&mut *tx)
        .await?;
    sqlx::query("DELETE FROM asked WHERE run = $1").bind(&run.0[..]).execute(&mut *tx).await?;
    audit::append(tx, note).await?;
    Ok(())
}

/// Moves the end of the attempt that is open.
pub(crate) async fn set_deadline(
    tx: &mut AnyConnection,
    run: RunId,
    deadline: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE runs SET deadline_ms = $1 WHERE id = $2")
        .bind(int(deadline.0))
        .bind(&run.0[..])
        .execute(tx)
        .await?;
    Ok(())
}

/// Remembers an accepted update. The primary key refuses a second one of a client and round.
pub(crate) async fn accept(
    tx: &mut AnyConnection,
    version: u64,
    row: &AcceptRow<'_>,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO updates \
             (run, round, client, attempt, frame, receipt, signature, version, staleness) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(&row.run.0[..])
    .bind(int(row.round.0))
    .bind(&row.client.0[..])
    .bind(i64::from(row.task.attempt.0))
    .bind(&row.frame.0[..])
    .bind(&row.receipt.bytes[..])
    .bind(&row.receipt.signature.0[..])
    .bind(int(version))
    .bind(i64::from(staleness(row.round, row.task.round)))
    .execute(tx)
    .await?;
    Ok(())
}

/// Makes the accepted set of the run's round final.
pub(crate) async fn freeze(tx: &mut AnyConnection, run: RunId) -> Result<(), StoreError> {
    sqlx::query("UPDATE runs SET frozen = 1 WHERE id = $1").bind(&run.0[..]).execute(tx).await?;
    Ok(())
}

fn standing(row: &AnyRow) -> Result<Standing, StoreError> {
    let deadline: Option<i64> = row.try_get("deadline_ms")?;
    Ok(Standing {
        version: count(row.try_get("version")?)?,
        round: RoundId(count(row.try_get("round")?)?),
        attempt: attempt(row.try_get("attempt")?)?,
        deadline: deadline.map(count).transpose()?.map(Timestamp),
        frozen: row.try_get::<i64, _>("frozen")? != 0,
        status: status_row(row)?,
    })
}
