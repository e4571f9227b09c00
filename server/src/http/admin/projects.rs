//! `/v1/projects`: make, list.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Admin;
use super::auth::{Caller, acting, must_see_all};
use crate::http::problem::Refusal;
use crate::project::{Project, ProjectName};

pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
) -> Result<Json<Vec<Project>>, Refusal> {
    Ok(Json(acting(&admin, &caller).projects().await?))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewProject {
    #[schemars(with = "String")]
    name: ProjectName,
}

pub(super) async fn create(
    State(admin): State<Admin>,
    caller: Caller,
    request: Request,
) -> Result<(StatusCode, Json<Project>), Refusal> {
    must_see_all(&caller)?;
    let (parts, body) = request.into_parts();
    let NewProject { name } = admin.message(&parts.headers, body, 1 << 14).await?;
    Ok((StatusCode::CREATED, Json(acting(&admin, &caller).add_project(name).await?)))
}
