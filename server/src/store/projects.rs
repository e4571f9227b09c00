//! Projects' rows.

use sqlx::Row as _;

use super::rows::{count, int};
use super::{Store, StoreError};
use crate::audit::Note;
use crate::project::{Project, ProjectName, Scope, text};

impl Store {
    /// Adds a project; false where there is one of that name.
    pub(crate) async fn add_project(
        &self,
        project: &Project,
        note: &Note,
    ) -> Result<bool, StoreError> {
        let statement = || {
            let text = "INSERT INTO projects (name, created_ms) VALUES ($1, $2) \
                        ON CONFLICT (name) DO NOTHING";
            sqlx::query(text).bind(project.name.as_str()).bind(int(project.created_ms))
        };
        self.noted(statement, note).await
    }

    /// The projects in `scope`, by name.
    pub(crate) async fn projects(&self, scope: &Scope) -> Result<Vec<Project>, StoreError> {
        let rows = sqlx::query(
            "SELECT name, created_ms FROM projects WHERE $1 = '' OR name = $1 ORDER BY name",
        )
        .bind(text(scope))
        .fetch_all(&self.0.database.reader)
        .await?;
        rows.iter()
            .map(|row| {
                let created_ms = count(row.try_get("created_ms")?)?;
                Ok(Project { name: name(row.try_get("name")?)?, created_ms })
            })
            .collect()
    }
}

/// A project's name as a row has it.
pub(super) fn name(text: String) -> Result<ProjectName, StoreError> {
    text.try_into().map_err(|_| StoreError::Row("a project's name"))
}
