//! Parts of a frozen round's accepted set, each summed by whoever holds its lease.
//!
//! A lease has a random token and an end. Whoever was frozen past its end finds, by the token, that the
//! part is another's by now, and its sum is not taken; it would be the same.

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{RoundId, RunId};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe, Row as _};

use super::rows::{array, count, int};
use super::{Store, StoreError};
use crate::clock::Timestamp;

/// A part of a round's accepted set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FoldRow {
    pub(crate) part: u64,
    /// The first update of it, in order of clients.
    pub(crate) start: u64,
    pub(crate) length: u64,
    /// Its sum, once made.
    pub(crate) partial: Option<Digest>,
}

/// Names one lease.
pub(crate) type Lease = [u8; 16];

/// Splits `updates` accepted updates into parts of `length`, in the transaction that freezes the round.
pub(crate) async fn split(
    tx: &mut AnyConnection,
    run: RunId,
    round: RoundId,
    updates: u64,
    length: u64,
) -> Result<(), StoreError> {
    for part in 0..updates.div_ceil(length) {
        let start = part * length;
        sqlx::query(
            "INSERT INTO folds (run, round, part, start, length) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(&run.0[..])
        .bind(int(round.0))
        .bind(int(part))
        .bind(int(start))
        .bind(int(length.min(updates - start)))
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

impl Store {
    /// The parts of a round, in order; none where it is folded as a whole.
    pub(crate) async fn folds(
        &self,
        run: RunId,
        round: RoundId,
    ) -> Result<Vec<FoldRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT part, start, length, partial FROM folds WHERE run = $1 AND round = $2 ORDER BY part",
        )
        .bind(&run.0[..])
        .bind(int(round.0))
        .fetch_all(&self.0.database.writer)
        .await?;
        rows.iter().map(fold).collect()
    }

    /// Takes the lease of a part that has no sum and that nobody is at, until `until`; none where there is
    /// no such part.
    pub(crate) async fn lease(
        &self,
        run: RunId,
        round: RoundId,
        lease: &Lease,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Option<FoldRow>, StoreError> {
        // SQLite has one writer, so no row that another holds.
        let lock = if self.is_shared() { "FOR UPDATE SKIP LOCKED" } else { "" };
        let text = format!(
            "UPDATE folds SET lease = $1, until_ms = $2 WHERE run = $3 AND round = $4 AND part = \
             (SELECT part FROM folds WHERE run = $3 AND round = $4 AND partial IS NULL \
             AND until_ms <= $5 ORDER BY part LIMIT 1 {lock}) \
             RETURNING part, start, length, partial"
        );
        let row = sqlx::query(AssertSqlSafe(text))
            .bind(&lease[..])
            .bind(int(until.0))
            .bind(&run.0[..])
            .bind(int(round.0))
            .bind(int(now.0))
            .fetch_optional(&self.0.database.writer)
            .await?;
        row.as_ref().map(fold).transpose()
    }

    /// Notes a part's sum, where `lease` still stands; false where it does not.
    pub(crate) async fn folded(
        &self,
        run: RunId,
        round: RoundId,
        part: u64,
        lease: &Lease,
        partial: Digest,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE folds SET partial = $1 \
             WHERE run = $2 AND round = $3 AND part = $4 AND lease = $5 AND partial IS NULL",
        )
        .bind(&partial.0[..])
        .bind(&run.0[..])
        .bind(int(round.0))
        .bind(int(part))
        .bind(&lease[..])
        .execute(&self.0.database.writer)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Forgets a part's sum, which cannot be read; another is to be made.
    pub(crate) async fn unfold(
        &self,
        run: RunId,
        round: RoundId,
        part: u64,
        partial: Digest,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE folds SET partial = NULL, until_ms = 0 \
             WHERE run = $1 AND round = $2 AND part = $3 AND partial = $4",
        )
        .bind(&run.0[..])
        .bind(int(round.0))
        .bind(int(part))
        .bind(&partial.0[..])
        .execute(&self.0.database.writer)
        .await?;
        Ok(())
    }

    /// Sums of rounds before `round` that are still stored.
    pub(crate) async fn merged(
        &self,
        run: RunId,
        round: RoundId,
    ) -> Result<Vec<Digest>, StoreError> {
        let rows = sqlx::query(
            "SELECT partial FROM folds WHERE run = $1 AND round < $2 AND partial IS NOT NULL",
        )
        .bind(&run.0[..])
        .bind(int(round.0))
        .fetch_all(&self.0.database.writer)
        .await?;
        rows.iter().map(|row| Ok(Digest(array(row.try_get("partial")?)?))).collect()
    }

    /// Notes that those sums are dropped.
    pub(crate) async fn forget_folds(&self, run: RunId, round: RoundId) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM folds WHERE run = $1 AND round < $2")
            .bind(&run.0[..])
            .bind(int(round.0))
            .execute(&self.0.database.writer)
            .await?;
        Ok(())
    }
}

fn fold(row: &AnyRow) -> Result<FoldRow, StoreError> {
    let partial: Option<Vec<u8>> = row.try_get("partial")?;
    Ok(FoldRow {
        part: count(row.try_get("part")?)?,
        start: count(row.try_get("start")?)?,
        length: count(row.try_get("length")?)?,
        partial: partial.map(|digest| Ok::<_, StoreError>(Digest(array(&digest)?))).transpose()?,
    })
}
