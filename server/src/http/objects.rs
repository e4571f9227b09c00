//! `GET /v1/runs/{run}/objects/{digest}`: a snapshot's frame, or a part of it; and
//! `.../rounds/{round}/differences/{held}`: the same for who holds that of an earlier round.

use std::ops::Range;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{RoundId, RunId};
use gossamer_protocol::problem::ProblemType;

use super::body::{Limits, Share};
use super::problem::Refusal;
use super::records::address;
use super::{App, auth};

/// Immutable under its digest, so it may be kept for ever, by the one who asked.
pub(crate) async fn object(
    State(app): State<App>,
    at: Result<Path<(RunId, Digest)>, PathRejection>,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, _) = request.into_parts();
    let coordinator = auth::caller(&app, &parts).await?.coordinator;
    let (run, digest) = address(at)?;
    let bytes = match coordinator.object_at_hand(run, digest).await? {
        Some(bytes) => bytes,
        // A copy of its own, which is in memory until the client has taken it.
        None => {
            let (len, mut share) = (coordinator.object_len(run, digest).await?, Share::default());
            app.bodies.grow(&mut share, usize::try_from(len).unwrap_or(usize::MAX))?;
            Limits::hold(coordinator.object(run, digest).await?, share).shared()
        }
    };
    let len = bytes.len();
    let mut response = match range(&parts.headers, len)? {
        None => {
            app.coordinator.handed_out(run, len);
            bytes.into_response()
        }
        Some(part) => {
            app.coordinator.handed_out(run, part.len());
            let told = format!("bytes {}-{}/{len}", part.start, part.end - 1);
            let told = HeaderValue::from_str(&told).expect("digits are a header value");
            let headers = [(header::CONTENT_RANGE, told)];
            (StatusCode::PARTIAL_CONTENT, headers, bytes.slice(part)).into_response()
        }
    };
    let tag = HeaderValue::from_str(&format!("\"{digest}\"")).expect("hex is a header value");
    let headers = response.headers_mut();
    headers.insert(header::ETAG, tag);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    describe(headers);
    Ok(response)
}

/// A pure function of two snapshots, so it may be kept as they may.
pub(crate) async fn difference(
    State(app): State<App>,
    at: Result<Path<(RunId, RoundId, RoundId)>, PathRejection>,
    request: Request,
) -> Result<Response, Refusal> {
    let coordinator = auth::caller(&app, &request.into_parts().0).await?.coordinator;
    let (run, round, held) = address(at)?;
    let difference = coordinator.difference(run, round, held).await?;
    app.coordinator.handed_out(run, difference.len());
    let mut response = difference.into_response();
    describe(response.headers_mut());
    Ok(response)
}

fn describe(headers: &mut HeaderMap) {
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("private, immutable, max-age=31536000"),
    );
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
}

/// A single `bytes=a-` or `bytes=a-b`; anything else is not in the object.
fn range(headers: &HeaderMap, len: usize) -> Result<Option<Range<usize>>, Refusal> {
    let Some(asked) = headers.get(header::RANGE) else { return Ok(None) };
    let parse = || {
        let (from, to) = asked.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
        let from: usize = from.parse().ok()?;
        let last: usize = if to.is_empty() { len.checked_sub(1)? } else { to.parse().ok()? };
        (from <= last && from < len).then(|| from..last.min(len - 1) + 1)
    };
    let part = parse().ok_or_else(|| {
        let detail = format!("the object has {len} bytes; one range from a first byte is answered");
        Refusal::new(ProblemType::BadRange, detail)
    })?;
    Ok(Some(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_from_a_first_byte() {
        let part = |text: &'static str| {
            let headers = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static(text))]);
            range(&headers, 10).map_err(|_| ())
        };
        assert_eq!(part("bytes=0-"), Ok(Some(0..10)));
        assert_eq!(part("bytes=3-5"), Ok(Some(3..6)));
        assert_eq!(part("bytes=9-99"), Ok(Some(9..10)));
        for bad in ["bytes=10-", "bytes=-3", "bytes=5-3", "bytes=0-1,3-4", "lines=0-", "bytes=a-"] {
            assert_eq!(part(bad), Err(()), "{bad}");
        }
        assert!(matches!(range(&HeaderMap::new(), 10), Ok(None)));
    }
}
