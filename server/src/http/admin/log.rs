//! `GET /v1/audit`: the audit log, latest first.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use schemars::JsonSchema;
use serde::Deserialize;

use super::auth::{Caller, acting};
use super::{Admin, page, query};
use crate::http::problem::Refusal;
use crate::store::Entry;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    before: Option<u64>,
    limit: Option<u32>,
}

pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
    asked: Result<Query<Log>, QueryRejection>,
) -> Result<Json<Vec<Entry>>, Refusal> {
    let Log { before, limit } = query(asked)?;
    let coordinator = acting(&admin, &caller);
    Ok(Json(coordinator.audit(before.unwrap_or(u64::MAX), page(limit, 100)?).await?))
}
