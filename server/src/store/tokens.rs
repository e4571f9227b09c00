//! Enrolment tokens' rows.

use gossamer_protocol::digest::Digest;
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::Row as _;

use super::database::transact;
use super::rows::{array, count, int};
use super::{Store, StoreError, audit, projects};
use crate::audit::Note;
use crate::clock::Timestamp;
use crate::project::{ProjectName, Scope, text};

/// An enrolment token as listed: not its secret, which is not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TokenRow {
    /// Names it: the hash of its secret.
    #[schemars(with = "String")]
    pub token: Digest,
    /// Whose clients enrol with it.
    #[schemars(with = "String")]
    pub project: ProjectName,
    /// Unix time in milliseconds at which it is void.
    pub expires_ms: u64,
    /// How many clients it is good for.
    pub quota: u32,
    /// How many enrolled with it.
    pub used: u32,
}

impl Store {
    /// Keeps the hashes of tokens' secrets, each good for `quota` clients of `project`, at once.
    pub(crate) async fn add_tokens(
        &self,
        hashes: &[Digest],
        project: &ProjectName,
        quota: u32,
        expires: Timestamp,
        note: &Note,
    ) -> Result<(), StoreError> {
        transact!(self, |tx| {
            audit::lock(tx).await?;
            audit::append(tx, note).await?;
            for hash in hashes {
                let row =
                    "INSERT INTO tokens (hash, expires_ms, quota, project) VALUES ($1, $2, $3, $4)";
                sqlx::query(row)
                    .bind(&hash.0[..])
                    .bind(int(expires.0))
                    .bind(i64::from(quota))
                    .bind(project.as_str())
                    .execute(&mut *tx)
                    .await?;
            }
            Ok(())
        })
    }

    /// Whose clients enrol with a token, where there is such a one, used or not.
    pub(crate) async fn token_project(
        &self,
        hash: Digest,
    ) -> Result<Option<ProjectName>, StoreError> {
        let row = sqlx::query("SELECT project FROM tokens WHERE hash = $1")
            .bind(&hash.0[..])
            .fetch_optional(&self.0.database.reader)
            .await?;
        row.map(|row| projects::name(row.try_get("project")?)).transpose()
    }

    /// The tokens in `scope`, the one that lasts longest first.
    pub(crate) async fn tokens(
        &self,
        scope: &Scope,
        limit: u32,
    ) -> Result<Vec<TokenRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT hash, project, expires_ms, quota, \
             (SELECT COUNT(*) FROM token_uses AS u WHERE u.hash = tokens.hash) AS used \
             FROM tokens WHERE $1 = '' OR project = $1 ORDER BY expires_ms DESC, hash LIMIT $2",
        )
        .bind(text(scope))
        .bind(i64::from(limit))
        .fetch_all(&self.0.database.reader)
        .await?;
        let small = |value: i64| u32::try_from(value).map_err(|_| StoreError::Row("a quota"));
        rows.iter()
            .map(|row| {
                Ok(TokenRow {
                    token: Digest(array(row.try_get("hash")?)?),
                    project: projects::name(row.try_get("project")?)?,
                    expires_ms: count(row.try_get("expires_ms")?)?,
                    quota: small(row.try_get("quota")?)?,
                    used: small(row.try_get("used")?)?,
                })
            })
            .collect()
    }

    /// Voids a token; false where there is none of that hash.
    pub(crate) async fn drop_token(&self, hash: Digest, note: &Note) -> Result<bool, StoreError> {
        let statement = || sqlx::query("DELETE FROM tokens WHERE hash = $1").bind(&hash.0[..]);
        self.noted(statement, note).await
    }
}
