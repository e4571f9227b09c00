//! Operators' rows.

use gossamer_protocol::digest::Digest;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::rows::{count, int};
use super::{Store, StoreError, projects};
use crate::audit::Note;
use crate::clock::Timestamp;
use crate::operator::{Operator, OperatorName, Role};
use crate::project::{Scope, text};

impl Store {
    /// Adds an operator; false where its project has one of that name.
    pub(crate) async fn add_operator(
        &self,
        operator: &Operator,
        hash: Digest,
        note: &Note,
    ) -> Result<bool, StoreError> {
        let statement = || {
            sqlx::query(
                "INSERT INTO operators (name, role, hash, created_ms, expires_ms, project) \
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (project, name) DO NOTHING",
            )
            .bind(operator.name.as_str())
            .bind(operator.role.name())
            .bind(&hash.0[..])
            .bind(int(operator.created_ms))
            .bind(operator.expires_ms.map(int))
            .bind(text(&operator.project))
        };
        self.noted(statement, note).await
    }

    /// Drops an operator of `project`, or of all; false where there is none of that name.
    pub(crate) async fn drop_operator(
        &self,
        project: &Scope,
        name: &OperatorName,
        note: &Note,
    ) -> Result<bool, StoreError> {
        let statement = || {
            let row = "DELETE FROM operators WHERE name = $1 AND project = $2";
            sqlx::query(row).bind(name.as_str()).bind(text(project))
        };
        self.noted(statement, note).await
    }

    /// The operators in `scope`, by name.
    pub(crate) async fn operators(&self, scope: &Scope) -> Result<Vec<Operator>, StoreError> {
        let rows = sqlx::query(
            "SELECT name, project, role, created_ms, expires_ms FROM operators \
             WHERE $1 = '' OR project = $1 ORDER BY name, project",
        )
        .bind(text(scope))
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
            "SELECT name, project, role, created_ms, expires_ms FROM operators \
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
    let project: String = row.try_get("project")?;
    let expires: Option<i64> = row.try_get("expires_ms")?;
    Ok(Operator {
        name: name.try_into().map_err(|_| StoreError::Row("an operator's name"))?,
        project: if project.is_empty() { None } else { Some(projects::name(project)?) },
        role: Role::named(row.try_get("role")?).ok_or(StoreError::Row("a role"))?,
        created_ms: count(row.try_get("created_ms")?)?,
        expires_ms: expires.map(count).transpose()?,
    })
}
