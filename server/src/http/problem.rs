//! Refusals as RFC 9457 problem documents.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use gossamer_protocol::problem::{Problem, ProblemType};

use crate::coordinator::CoordinatorError;
use crate::problem::{problem, told};
use crate::store::StoreError;

/// A problem on its way out.
#[derive(Debug)]
pub(crate) struct Refusal(Problem);

impl Refusal {
    pub(crate) fn new(kind: ProblemType, detail: impl Into<String>) -> Self {
        Self(problem(kind, detail.into(), None))
    }

    pub(crate) fn after(kind: ProblemType, detail: impl Into<String>, retry: Duration) -> Self {
        Self(problem(kind, detail.into(), Some(retry)))
    }
}

impl From<CoordinatorError> for Refusal {
    fn from(error: CoordinatorError) -> Self {
        let problem = error.problem();
        // Handled here, so logged here; what the caller did wrong is no news.
        match problem.kind {
            _ if matches!(error, CoordinatorError::Store(StoreError::Away(_))) => {
                tracing::warn!(error = %told(&error), "request failed");
            }
            ProblemType::Internal => tracing::error!(error = %told(&error), "request failed"),
            ProblemType::StoreFull => tracing::error!("the disk is full"),
            _ => tracing::debug!(error = %told(&error), "request refused"),
        }
        Self(problem)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status);
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let (kind, retry_ms) = (self.0.kind, self.0.retry_ms);
        let mut response = (status, Json(self.0)).into_response();
        // For who counts refusals.
        response.extensions_mut().insert(kind);
        let headers = response.headers_mut();
        let document = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, document);
        if let Some(ms) = retry_ms {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000)));
        }
        if status == StatusCode::UNAUTHORIZED {
            let scheme = if kind == ProblemType::NoOperator { "Bearer" } else { "Gossamer" };
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
        }
        response
    }
}
