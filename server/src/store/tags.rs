//! Tags' rows: one for what a tag names, and one more for its canary.
//!
//! Whoever names an adapter holds its run's row, as does whoever takes one away.

use gossamer_protocol::ids::{RoundId, RunId};
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::database::try_transact;
use super::retention::is_kept;
use super::rows::{array, count, int};
use super::steps::hold;
use super::{Done, Store, StoreError, audit, projects};
use crate::audit::Note;
use crate::clock::Timestamp;
use crate::project::{ProjectName, Scope, text};
use crate::tag::{Adapter, Canary, Permille, Tag, TagName};

/// A name for an adapter.
#[derive(Clone, Debug)]
pub(crate) struct TagRow {
    pub(crate) project: ProjectName,
    pub(crate) tag: TagName,
    pub(crate) adapter: Adapter,
    /// Of a canary, its share; none: what the tag itself names.
    pub(crate) share: Option<Permille>,
    pub(crate) at: Timestamp,
}

/// What came of naming an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tagging {
    Done,
    /// The run has no record of that round.
    NoRecord,
    /// Its snapshot is gone.
    Gone,
    /// A canary of a tag that is not there.
    NoTag,
}

impl Store {
    /// Makes or moves a tag, or a tag's canary.
    pub(crate) async fn put_tag(&self, row: &TagRow, note: &Note) -> Result<Tagging, StoreError> {
        let Adapter { run, round } = row.adapter;
        try_transact!(self, |tx| {
            hold(tx, run).await?;
            audit::lock(tx).await?;
            match is_kept(tx, run, round).await? {
                None => return Ok(Done::Undo(Tagging::NoRecord)),
                Some(false) => return Ok(Done::Undo(Tagging::Gone)),
                Some(true) => {}
            }
            let canary = i64::from(row.share.is_some());
            if canary == 1 {
                let tag = "SELECT tag FROM tags WHERE project = $1 AND tag = $2 AND canary = 0";
                let tag = sqlx::query(tag).bind(row.project.as_str()).bind(row.tag.as_str());
                if tag.fetch_optional(&mut *tx).await?.is_none() {
                    return Ok(Done::Undo(Tagging::NoTag));
                }
            }
            sqlx::query(
                "INSERT INTO tags (project, tag, canary, run, round, permille, at_ms) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (project, tag, canary) \
                 DO UPDATE SET run = $4, round = $5, permille = $6, at_ms = $7",
            )
            .bind(row.project.as_str())
            .bind(row.tag.as_str())
            .bind(canary)
            .bind(&run.0[..])
            .bind(int(round.0))
            .bind(row.share.map_or(0, |share| i64::from(u16::from(share))))
            .bind(int(row.at.0))
            .execute(&mut *tx)
            .await?;
            audit::append(tx, note).await?;
            Ok(Done::Keep(Tagging::Done))
        })
    }

    /// Drops a tag with its canary; false where there is none of that name.
    pub(crate) async fn drop_tag(
        &self,
        project: &ProjectName,
        tag: &TagName,
        note: &Note,
    ) -> Result<bool, StoreError> {
        try_transact!(self, |tx| {
            audit::lock(tx).await?;
            let done = sqlx::query("DELETE FROM tags WHERE project = $1 AND tag = $2")
                .bind(project.as_str())
                .bind(tag.as_str())
                .execute(&mut *tx)
                .await?;
            if done.rows_affected() == 0 {
                return Ok(Done::Undo(false));
            }
            audit::append(tx, note).await?;
            Ok(Done::Keep(true))
        })
    }

    /// Ends a tag's canary, or makes it what the tag names; false where that is not its canary any more.
    pub(crate) async fn end_canary(
        &self,
        tag: &Tag,
        canary: Adapter,
        promote: Option<Timestamp>,
        note: &Note,
    ) -> Result<bool, StoreError> {
        let Tag { project, tag, .. } = tag;
        let key = "project = $1 AND tag = $2 AND canary = 1 AND run = $3 AND round = $4";
        try_transact!(self, |tx| {
            audit::lock(tx).await?;
            let done = sqlx::query(sqlx::AssertSqlSafe(format!("DELETE FROM tags WHERE {key}")))
                .bind(project.as_str())
                .bind(tag.as_str())
                .bind(&canary.run.0[..])
                .bind(int(canary.round.0))
                .execute(&mut *tx)
                .await?;
            if done.rows_affected() == 0 {
                return Ok(Done::Undo(false));
            }
            if let Some(at) = promote {
                sqlx::query(
                    "UPDATE tags SET run = $3, round = $4, at_ms = $5 \
                     WHERE project = $1 AND tag = $2 AND canary = 0",
                )
                .bind(project.as_str())
                .bind(tag.as_str())
                .bind(&canary.run.0[..])
                .bind(int(canary.round.0))
                .bind(int(at.0))
                .execute(&mut *tx)
                .await?;
            }
            audit::append(tx, note).await?;
            Ok(Done::Keep(true))
        })
    }

    /// The tags in `scope`, by project and name.
    pub(crate) async fn tags(&self, scope: &Scope) -> Result<Vec<Tag>, StoreError> {
        let rows = sqlx::query(
            "SELECT project, tag, canary, run, round, permille, at_ms FROM tags \
             WHERE $1 = '' OR project = $1 ORDER BY project, tag, canary",
        )
        .bind(text(scope))
        .fetch_all(&self.0.database.reader)
        .await?;
        tags(&rows)
    }

    /// One of a project's tags.
    pub(crate) async fn tag(
        &self,
        project: &ProjectName,
        tag: &TagName,
    ) -> Result<Option<Tag>, StoreError> {
        let rows = sqlx::query(
            "SELECT project, tag, canary, run, round, permille, at_ms FROM tags \
             WHERE project = $1 AND tag = $2 ORDER BY canary",
        )
        .bind(project.as_str())
        .bind(tag.as_str())
        .fetch_all(&self.0.database.reader)
        .await?;
        Ok(tags(&rows)?.pop())
    }
}

/// Tags of rows in which a canary follows its tag.
fn tags(rows: &[AnyRow]) -> Result<Vec<Tag>, StoreError> {
    let mut tags: Vec<Tag> = Vec::new();
    for row in rows {
        let project = projects::name(row.try_get("project")?)?;
        let tag: String = row.try_get("tag")?;
        let tag = TagName::try_from(tag).map_err(|_| StoreError::Row("a tag's name"))?;
        let run = RunId(array(row.try_get("run")?)?);
        let adapter = Adapter { run, round: RoundId(count(row.try_get("round")?)?) };
        let at_ms = count(row.try_get("at_ms")?)?;
        if row.try_get::<i64, _>("canary")? == 0 {
            tags.push(Tag { project, tag, adapter, at_ms, canary: None });
            continue;
        }
        let permille = u16::try_from(row.try_get::<i64, _>("permille")?).ok();
        let permille = permille.and_then(|share| Permille::try_from(share).ok());
        let permille = permille.ok_or(StoreError::Row("a canary's share"))?;
        let whose = tags.last_mut().filter(|last| (&last.project, &last.tag) == (&project, &tag));
        let whose = whose.ok_or(StoreError::Row("a canary without its tag"))?;
        whose.canary = Some(Canary { adapter, permille, at_ms });
    }
    Ok(tags)
}
