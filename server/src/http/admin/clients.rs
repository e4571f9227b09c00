//! `/v1/clients`: list, show, revoke, free of a certificate.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use gossamer_protocol::ids::ClientId;
use gossamer_protocol::problem::ProblemType;
use schemars::JsonSchema;
use serde::Deserialize;

use super::auth::{Caller, acting};
use super::{Admin, page, query};
use crate::coordinator::ClientView;
use crate::http::problem::Refusal;
use crate::http::records::address;

const REASON_MAX: usize = 500;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Clients {
    #[schemars(with = "Option<String>")]
    after: Option<ClientId>,
    limit: Option<u32>,
}

pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
    asked: Result<Query<Clients>, QueryRejection>,
) -> Result<Json<Vec<ClientView>>, Refusal> {
    let Clients { after, limit } = query(asked)?;
    Ok(Json(acting(&admin, &caller).clients(after, page(limit, 100)?).await?))
}

pub(super) async fn show(
    State(admin): State<Admin>,
    caller: Caller,
    at: Result<Path<ClientId>, PathRejection>,
) -> Result<Json<ClientView>, Refusal> {
    Ok(Json(acting(&admin, &caller).client(address(at)?).await?))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Revoke {
    reason: String,
}

pub(super) async fn revoke(
    State(admin): State<Admin>,
    caller: Caller,
    at: Result<Path<ClientId>, PathRejection>,
    request: Request,
) -> Result<Json<ClientView>, Refusal> {
    let client = address(at)?;
    let (parts, body) = request.into_parts();
    let Revoke { reason } = admin.message(&parts.headers, body, 1 << 14).await?;
    if reason.len() > REASON_MAX {
        let detail = format!("reason: expected at most {REASON_MAX} bytes, not {}", reason.len());
        return Err(Refusal::new(ProblemType::BadRequest, detail));
    }
    let coordinator = acting(&admin, &caller);
    coordinator.revoke(client, &reason).await?;
    Ok(Json(coordinator.client(client).await?))
}

pub(super) async fn free_certificate(
    State(admin): State<Admin>,
    caller: Caller,
    at: Result<Path<ClientId>, PathRejection>,
) -> Result<Json<ClientView>, Refusal> {
    let (client, coordinator) = (address(at)?, acting(&admin, &caller));
    coordinator.free_certificate(client).await?;
    Ok(Json(coordinator.client(client).await?))
}
