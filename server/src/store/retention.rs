//! Which snapshots and states are kept, and which are gone.
//!
//! An object is removed in three steps: a transaction that holds the run notes that it is to go, then it is dropped,
//! then it is noted as dropped. Whoever is killed in between leaves the rest to the next. It is noted for good, and
//! an object is one record's alone (a snapshot's bytes name run and round, a state's name does), so whoever drops it
//! late, even a process that was frozen meanwhile, takes nothing that anybody needs.

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{RoundId, RunId};
use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row as _};

use super::database::try_transact;
use super::rows::{array, count, int};
use super::steps::hold;
use super::{Done, Kind, Store, StoreError, audit};
use crate::audit::Note;

/// What is kept whatever its age.
#[derive(Clone, Debug)]
pub(crate) struct Keep {
    /// Rounds whose state and snapshot are kept: so many of the last.
    pub(crate) rounds: u64,
    /// The same of snapshots alone: for clients that are late, or come back.
    pub(crate) snapshots: u64,
    /// The best round.
    pub(crate) best: Option<RoundId>,
}

/// What the audit log is to say of it.
pub(crate) type Noting<'a> = &'a (dyn Fn(&[Spent]) -> Note + Sync);

/// An object that is not needed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spent {
    pub(crate) round: RoundId,
    pub(crate) kind: Kind,
    pub(crate) digest: Digest,
}

impl Store {
    /// Notes what of a run is to be removed, of `limit` rounds at most, and gives it; without a note just that. What a
    /// tag names stays.
    pub(crate) async fn retire(
        &self,
        run: RunId,
        keep: &Keep,
        limit: u32,
        note: Option<Noting<'_>>,
    ) -> Result<Vec<Spent>, StoreError> {
        try_transact!(self, |tx| {
            let now = hold(tx, run).await?.round.0;
            let since = |last: u64| int((now + 1).saturating_sub(last));
            let rows = sqlx::query(
                "SELECT round, snapshot, state, CASE WHEN round < $3 THEN snapshot_gone ELSE 2 END \
                     AS snapshot_gone, state_gone FROM records \
                 WHERE run = $1 AND round < $2 AND round <> $4 \
                     AND (state_gone = 0 OR (snapshot_gone = 0 AND round < $3)) \
                     AND round NOT IN (SELECT round FROM tags WHERE run = $1) \
                 ORDER BY round LIMIT $5",
            )
            .bind(&run.0[..])
            .bind(since(keep.rounds))
            .bind(since(keep.snapshots.max(keep.rounds)))
            .bind(keep.best.map_or(-1, |best| int(best.0)))
            .bind(i64::from(limit))
            .fetch_all(&mut *tx)
            .await?;
            let mut spent = Vec::new();
            for row in &rows {
                spent.extend(objects(run, row, 0)?);
            }
            let Some(note) = note.filter(|_| !spent.is_empty()) else {
                return Ok(Done::Undo(spent));
            };
            for Spent { round, kind, .. } in &spent {
                let text = format!(
                    "UPDATE records SET {0} = 1 WHERE run = $1 AND round = $2 AND {0} = 0",
                    column(*kind)
                );
                let update = sqlx::query(AssertSqlSafe(text)).bind(&run.0[..]).bind(int(round.0));
                update.execute(&mut *tx).await?;
            }
            audit::append(tx, &note(&spent)).await?;
            Ok(Done::Keep(spent))
        })
    }

    /// What of a run is noted and not dropped yet.
    pub(crate) async fn spent(&self, run: RunId) -> Result<Vec<Spent>, StoreError> {
        let rows = sqlx::query(
            "SELECT round, snapshot, state, snapshot_gone, state_gone FROM records \
             WHERE run = $1 AND (snapshot_gone = 1 OR state_gone = 1) ORDER BY round",
        )
        .bind(&run.0[..])
        .fetch_all(&self.0.database.writer)
        .await?;
        let mut spent = Vec::new();
        for row in &rows {
            spent.extend(objects(run, row, 1)?);
        }
        Ok(spent)
    }

    /// Drops an object that is noted; gives its bytes.
    pub(crate) async fn drop_spent(&self, run: RunId, spent: &Spent) -> Result<u64, StoreError> {
        let Spent { round, kind, digest } = *spent;
        let bytes = match self.objects().len(kind, digest).await {
            Err(StoreError::Missing(_)) => 0,
            len => len?,
        };
        self.objects().drop(kind, digest).await?;
        let text = format!("UPDATE records SET {} = 2 WHERE run = $1 AND round = $2", column(kind));
        sqlx::query(AssertSqlSafe(text))
            .bind(&run.0[..])
            .bind(int(round.0))
            .execute(&self.0.database.writer)
            .await?;
        Ok(bytes)
    }
}

fn column(kind: Kind) -> &'static str {
    if kind == Kind::Snapshot { "snapshot_gone" } else { "state_gone" }
}

/// The objects of a record that are at this step.
fn objects(run: RunId, row: &AnyRow, step: i64) -> Result<Vec<Spent>, StoreError> {
    let round = RoundId(count(row.try_get("round")?)?);
    let mut spent = Vec::new();
    for (name, kind) in [("snapshot", Kind::Snapshot), ("state", Kind::StateOf(run, round))] {
        if row.try_get::<i64, _>(&*format!("{name}_gone"))? == step {
            spent.push(Spent { round, kind, digest: Digest(array(row.try_get(name)?)?) });
        }
    }
    Ok(spent)
}

/// What a transaction must not name: rounds of a run that are gone.
pub(super) async fn is_kept(
    tx: &mut sqlx::AnyConnection,
    run: RunId,
    round: RoundId,
) -> Result<Option<bool>, StoreError> {
    let row = sqlx::query("SELECT snapshot_gone FROM records WHERE run = $1 AND round = $2")
        .bind(&run.0[..])
        .bind(int(round.0))
        .fetch_optional(tx)
        .await?;
    row.map(|row| Ok(row.try_get::<i64, _>("snapshot_gone")? == 0)).transpose()
}
