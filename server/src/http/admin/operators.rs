//! `/v1/operators`: make, list, revoke.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::auth::{Caller, acting};
use super::{Admin, ttl};
use crate::http::problem::Refusal;
use crate::http::records::address;
use crate::operator::{Operator, OperatorName, Role};

pub(super) async fn list(State(admin): State<Admin>) -> Result<Json<Vec<Operator>>, Refusal> {
    Ok(Json(admin.coordinator.operators().await?))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewOperator {
    #[schemars(with = "String")]
    name: OperatorName,
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
    let made = acting(&admin, &caller).add_operator(new.name, new.role, ttl).await?;
    let (operator, token) = made;
    Ok((StatusCode::CREATED, Json(Made { operator, token })))
}

pub(super) async fn revoke(
    State(admin): State<Admin>,
    caller: Caller,
    at: Result<Path<OperatorName>, PathRejection>,
) -> Result<StatusCode, Refusal> {
    acting(&admin, &caller).revoke_operator(&address(at)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
