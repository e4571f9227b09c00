//! What clients tell of the snapshots they received.

use gossamer_protocol::ids::{ClientId, RoundId, RunId};
use gossamer_protocol::message::Measured;
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::rows::{count, int};
use super::{Store, StoreError};

/// The sum over the clients that evaluated a round's snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Evaluated {
    /// Clients.
    pub clients: u64,
    /// Targets they predicted: tokens, or with a head sequences.
    pub targets: u64,
    /// Mean loss a target, in nats.
    pub loss: f64,
}

impl Store {
    /// Notes what `client` told of a round's snapshot; its first word stands.
    pub(crate) async fn evaluate(
        &self,
        run: RunId,
        round: RoundId,
        client: ClientId,
        measured: &Measured,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO evaluations (run, round, client, targets, loss) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
        )
        .bind(&run.0[..])
        .bind(int(round.0))
        .bind(&client.0[..])
        .bind(int(measured.targets))
        .bind(int(measured.loss))
        .execute(&self.0.database.writer)
        .await?;
        Ok(())
    }

    /// What was told of a round's snapshot so far.
    pub(crate) async fn evaluated(
        &self,
        run: RunId,
        round: RoundId,
    ) -> Result<Option<Evaluated>, StoreError> {
        // Postgres sums to a type that has no end.
        let row = sqlx::query(
            "SELECT COUNT(*) AS evaluators, CAST(COALESCE(SUM(targets), 0) AS BIGINT) AS targets, \
                 CAST(COALESCE(SUM(loss), 0) AS BIGINT) AS units \
             FROM evaluations WHERE run = $1 AND round = $2",
        )
        .bind(&run.0[..])
        .bind(int(round.0))
        .fetch_one(&self.0.database.reader)
        .await?;
        evaluated(&row)
    }
}

/// Reads `evaluators`, `targets` and `units`.
pub(super) fn evaluated(row: &AnyRow) -> Result<Option<Evaluated>, StoreError> {
    let clients = count(row.try_get("evaluators")?)?;
    let targets = count(row.try_get("targets")?)?;
    let units = count(row.try_get("units")?)?;
    // The integers are exact; this is one rounding of their quotient.
    let loss = units as f64 / (targets as f64 * Measured::UNITS as f64);
    Ok((clients > 0).then_some(Evaluated { clients, targets, loss }))
}
