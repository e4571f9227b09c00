//! Operators' rows.

use gossamer_protocol::digest::Digest;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::rows::{count, int};
use super::{Store, StoreError};
use crate::audit::Note;
use crate::clock::Timestamp;
use crate::operator::{Operator, OperatorName, Role};

impl Store {
    /// Adds an operator; false where there is one of that name.
    pub(crate) async fn add_operator(
        &self,
        operator: &Operator,
        hash: Digest,
        note: &Note,
    ) -> Result<bool, StoreError> {
        let statement = || {
            sqlx::query(
                "INSERT INTO operators (name, role, hash, created_ms, expires_ms) \
                 VALUES ($1, $2, $3, $4, $5) ON CONFLICT (name) DO NOTHING",
            )
            .bind(operator.name.as_str())
            .bind(operator.role.name())
            .bind(&hash.0[..])
            .bind(int(operator.created_ms))
            .bind(operator.expires_ms.map(int))
        };
        self.noted(statement, note).await
    }

    /// Drops an operator; false where there is none of that name.
    pub(crate) async fn drop_operator(
        &self,
        name: &OperatorName,
        note: &Note,
    ) -> Result<bool, StoreError> {
        let statement = || sqlx::query("DELETE FROM operators WHERE name = $1").bind(name.as_str());
        self.noted(statement, note).await
    }

    /// Every operator, by name.
    pub(crate) async fn operators(&self) -> Result<Vec<Operator>, StoreError> {
        let rows =
            sqlx::query("SELECT name, role, created_ms, expires_ms FROM operators ORDER BY name")
                .fetch_all(&self.0.database.reader)
                .await?;
        rows.iter().map(operator).collect()
    }

    /// Whose token that is, unless it is void.
    pub(crate) async fn operator(
        &self,
        hash: Digest,
        now: Timestamp,
    ) -> Result<Option<Operator>, StoreError> {
        let row = sqlx::query(
            "SELECT name, role, created_ms, expires_ms FROM operators \
             WHERE hash = $1 AND (expires_ms IS NULL OR expires_ms > $2)",
        )
        .bind(&hash.0[..])
        .bind(int(now.0))
        .fetch_optional(&self.0.database.reader)
        .await?;
        row.as_ref().map(operator).transpose()
    }
}

fn operator(row: &AnyRow) -> Result<Operator, StoreError> {
    let name: String = row.try_get("name")?;
    let expires: Option<i64> = row.try_get("expires_ms")?;
    Ok(Operator {
        name: name.try_into().map_err(|_| StoreError::Row("an operator's name"))?,
        role: Role::named(row.try_get("role")?).ok_or(StoreError::Row("a role"))?,
        created_ms: count(row.try_get("created_ms")?)?,
        expires_ms: expires.map(count).transpose()?,
    })
}
