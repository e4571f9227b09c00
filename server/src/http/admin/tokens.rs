//! `/v1/enrolment-tokens`: make, list, void.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::problem::ProblemType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::auth::{Caller, acting};
use super::{Admin, page, query, ttl};
use crate::http::problem::Refusal;
use crate::http::records::address;
use crate::project::ProjectName;
use crate::setup;
use crate::store::TokenRow;

/// Most tokens that one request makes.
const COUNT_MAX: usize = 1_000;
/// Most clients that one token is good for.
const QUOTA_MAX: u32 = 1_000_000;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tokens {
    limit: Option<u32>,
}

pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
    asked: Result<Query<Tokens>, QueryRejection>,
) -> Result<Json<Vec<TokenRow>>, Refusal> {
    Ok(Json(acting(&admin, &caller).tokens(page(query(asked)?.limit, 100)?).await?))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTokens {
    #[serde(default = "one")]
    count: usize,
    #[serde(default = "one_client")]
    quota: u32,
    ttl_s: u64,
    /// Whose clients are to enrol with them; none: the caller's project, or the default one.
    #[schemars(with = "Option<String>")]
    project: Option<ProjectName>,
}

fn one() -> usize {
    1
}

fn one_client() -> u32 {
    1
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Made {
    /// Each as a device is handed it. Told once: only hashes are kept.
    tokens: Vec<String>,
}

pub(super) async fn create(
    State(admin): State<Admin>,
    caller: Caller,
    request: Request,
) -> Result<(StatusCode, Json<Made>), Refusal> {
    let (parts, body) = request.into_parts();
    let new: NewTokens = admin.message(&parts.headers, body, 1 << 14).await?;
    let NewTokens { count, quota, ttl_s, project } = new;
    let refuse = |field: &str, max: u64, got: u64| {
        let detail = format!("{field}: expected 1 to {max}, not {got}");
        Err(Refusal::new(ProblemType::BadRequest, detail))
    };
    if !(1..=COUNT_MAX).contains(&count) {
        return refuse("count", COUNT_MAX as u64, count as u64);
    }
    if !(1..=QUOTA_MAX).contains(&quota) {
        return refuse("quota", QUOTA_MAX.into(), quota.into());
    }
    let ttl = ttl(ttl_s)?;
    let coordinator = acting(&admin, &caller).narrowed(project).await?;
    let secrets = coordinator.new_tokens(count, quota, ttl).await?;
    let key = coordinator.public_key();
    let tokens = secrets
        .into_iter()
        .map(|secret| Ok(setup::join_token_of(&admin.config, secret, key)?.encode()))
        .collect::<Result<_, setup::SetupError>>();
    let tokens = tokens.map_err(|error| {
        tracing::error!(error = %crate::problem::told(&error), "request failed");
        Refusal::new(ProblemType::Internal, "see the server's log")
    })?;
    Ok((StatusCode::CREATED, Json(Made { tokens })))
}

pub(super) async fn revoke(
    State(admin): State<Admin>,
    caller: Caller,
    at: Result<Path<Digest>, PathRejection>,
) -> Result<StatusCode, Refusal> {
    acting(&admin, &caller).revoke_token(address(at)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
