//! `/v1/tags`: list, make or move, drop; and a tag's canary: set its share, promote it, take it back.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use gossamer_protocol::ids::{RoundId, RunId};
use gossamer_protocol::problem::ProblemType;
use schemars::JsonSchema;
use serde::Deserialize;

use super::auth::{Caller, acting};
use super::{Admin, query};
use crate::coordinator::Coordinator;
use crate::http::problem::Refusal;
use crate::http::records::address;
use crate::project::ProjectName;
use crate::tag::{Adapter, Permille, Tag, TagName};

type TagPath = Result<Path<TagName>, PathRejection>;
type Asked = Result<Query<Whose>, QueryRejection>;

/// Whose tag is meant, for an operator of all projects.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Whose {
    /// The project; none: the caller's, or the only one that has a tag of that name.
    #[schemars(with = "Option<String>")]
    project: Option<ProjectName>,
}

pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
) -> Result<Json<Vec<Tag>>, Refusal> {
    Ok(Json(acting(&admin, &caller).tags().await?))
}

/// Of the project whose run is named.
pub(super) async fn set(
    State(admin): State<Admin>,
    caller: Caller,
    at: TagPath,
    request: Request,
) -> Result<Json<Tag>, Refusal> {
    let tag = address(at)?;
    let (parts, body) = request.into_parts();
    let adapter: Adapter = admin.message(&parts.headers, body, 1 << 14).await?;
    Ok(Json(acting(&admin, &caller).set_tag(&tag, adapter).await?))
}

pub(super) async fn remove(
    State(admin): State<Admin>,
    caller: Caller,
    at: TagPath,
    asked: Asked,
) -> Result<StatusCode, Refusal> {
    let (coordinator, tag) = named(&admin, &caller, at, asked).await?;
    coordinator.remove_tag(&tag).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a share of the clients is to be given.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewCanary {
    /// The run; none: what is the tag's canary already.
    #[schemars(with = "Option<String>")]
    run: Option<RunId>,
    /// The round that starts from the adapter, where a run is named.
    #[schemars(with = "Option<u64>")]
    round: Option<RoundId>,
    /// The share, in thousandths.
    #[schemars(with = "u16", range(min = 1, max = 1000))]
    permille: Permille,
}

pub(super) async fn set_canary(
    State(admin): State<Admin>,
    caller: Caller,
    at: TagPath,
    asked: Asked,
    request: Request,
) -> Result<Json<Tag>, Refusal> {
    let (coordinator, tag) = named(&admin, &caller, at, asked).await?;
    let (parts, body) = request.into_parts();
    let NewCanary { run, round, permille } = admin.message(&parts.headers, body, 1 << 14).await?;
    let canary = match (run, round) {
        (Some(run), Some(round)) => Some(Adapter { run, round }),
        (None, None) => None,
        _ => {
            let detail = "expected run and round, or neither";
            return Err(Refusal::new(ProblemType::BadRequest, detail));
        }
    };
    Ok(Json(coordinator.set_canary(&tag, canary, permille).await?))
}

pub(super) async fn end_canary(
    State(admin): State<Admin>,
    caller: Caller,
    at: TagPath,
    asked: Asked,
) -> Result<StatusCode, Refusal> {
    let (coordinator, tag) = named(&admin, &caller, at, asked).await?;
    coordinator.end_canary(&tag, false).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn promote(
    State(admin): State<Admin>,
    caller: Caller,
    at: TagPath,
    asked: Asked,
) -> Result<Json<Tag>, Refusal> {
    let (coordinator, tag) = named(&admin, &caller, at, asked).await?;
    coordinator.end_canary(&tag, true).await?;
    Ok(Json(coordinator.tag(&tag).await?))
}

async fn named(
    admin: &Admin,
    caller: &Caller,
    at: TagPath,
    asked: Asked,
) -> Result<(Coordinator, TagName), Refusal> {
    let (tag, Whose { project }) = (address(at)?, query(asked)?);
    Ok((acting(admin, caller).narrowed(project).await?, tag))
}
