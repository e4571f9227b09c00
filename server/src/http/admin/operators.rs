//! `/v1/operators`: make, list, revoke.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::auth::{Caller, acting};
use super::{Admin, query, ttl};
use crate::http::problem::Refusal;
use crate::http::records::address;
use crate::operator::{Operator, OperatorName, Role};
use crate::project::ProjectName;

pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
) -> Result<Json<Vec<Operator>>, Refusal> {
    Ok(Json(acting(&admin, &caller).operators().await?))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewOperator {
    #[schemars(with = "String")]
    name: OperatorName,
    /// The project it is to be for; none: the caller's, or all of them.
    #[schemars(with = "Option<String>")]
    project: Option<ProjectName>,
    role: Role,
    ttl_s: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Made {
    operator: Operator,
    /// Told once: only its hash is kept.
    token: String,
}

pub(super) async fn create(
    State(admin): State<Admin>,
    caller: Caller,
    request: Request,
) -> Result<(StatusCode, Json<Made>), Refusal> {
    let (parts, body) = request.into_parts();
    let new: NewOperator = admin.message(&parts.headers, body, 1 << 14).await?;
    let ttl = new.ttl_s.map(ttl).transpose()?;
    let coordinator = acting(&admin, &caller).narrowed(new.project).await?;
    let (operator, token) = coordinator.add_operator(new.name, new.role, ttl).await?;
    Ok((StatusCode::CREATED, Json(Made { operator, token })))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// The project it is for; none: the caller's, or all of them.
    #[schemars(with = "Option<String>")]
    project: Option<ProjectName>,
}

pub(super) async fn revoke(
    State(admin): State<Admin>,
    caller: Caller,
    at: Result<Path<OperatorName>, PathRejection>,
    asked: Result<Query<Which>, QueryRejection>,
) -> Result<StatusCode, Refusal> {
    let (name, Which { project }) = (address(at)?, query(asked)?);
    let coordinator = acting(&admin, &caller).narrowed(project).await?;
    coordinator.revoke_operator(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
