//! `GET /v1/runs/{run}/manifest` and `.../records/{round}`: what the server signed, as it signed it.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use gossamer_protocol::ids::{RoundId, RunId};
use gossamer_protocol::message::Signed;
use gossamer_protocol::problem::ProblemType;

use super::problem::Refusal;
use super::{App, auth};

/// The header with the signature over the body.
pub(crate) const SIGNATURE: &str = "gossamer-signature";

/// Signed bytes on their way out.
pub(crate) struct SignedBytes(pub(crate) Signed);

impl IntoResponse for SignedBytes {
    fn into_response(self) -> Response {
        let Signed { bytes, signature } = self.0;
        let signature = HeaderValue::from_str(&signature.to_string());
        let signature = signature.expect("base64 is a header value");
        let kind = HeaderValue::from_static("application/json");
        let headers =
            [(header::CONTENT_TYPE, kind), (header::HeaderName::from_static(SIGNATURE), signature)];
        (headers, bytes).into_response()
    }
}

pub(crate) async fn manifest(
    State(app): State<App>,
    at: Result<Path<RunId>, PathRejection>,
    request: Request,
) -> Result<SignedBytes, Refusal> {
    let coordinator = auth::caller(&app, &request.into_parts().0).await?.coordinator;
    let run = address(at)?;
    Ok(SignedBytes(coordinator.manifest(run).await?))
}

pub(crate) async fn record(
    State(app): State<App>,
    at: Result<Path<(RunId, RoundId)>, PathRejection>,
    request: Request,
) -> Result<SignedBytes, Refusal> {
    let coordinator = auth::caller(&app, &request.into_parts().0).await?.coordinator;
    let (run, round) = address(at)?;
    Ok(SignedBytes(coordinator.record(run, round).await?))
}

/// The ids in a path.
pub(crate) fn address<T>(at: Result<Path<T>, PathRejection>) -> Result<T, Refusal> {
    match at {
        Ok(Path(at)) => Ok(at),
        Err(e) => Err(Refusal::new(ProblemType::BadRequest, e.body_text())),
    }
}
