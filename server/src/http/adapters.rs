//! `GET /v1/adapters/{tag}`: which adapter a tag names for the caller, signed. Record and snapshot are then
//! asked for as in a round.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};

use super::problem::Refusal;
use super::records::{SignedBytes, address};
use super::{App, auth};
use crate::tag::TagName;

pub(crate) async fn adapter(
    State(app): State<App>,
    at: Result<Path<TagName>, PathRejection>,
    request: Request,
) -> Result<Response, Refusal> {
    let caller = auth::caller(&app, &request.into_parts().0).await?;
    let tag = address(at)?;
    let mut response =
        SignedBytes(caller.coordinator.tagged(caller.client, &tag).await?).into_response();
    // A tag moves.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
