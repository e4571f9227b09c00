//! The HTTP status of each problem.

use std::time::Duration;

use gossamer_protocol::problem::{Problem, ProblemType};

/// The status that goes with a problem's name.
#[must_use]
pub fn status(kind: ProblemType) -> u16 {
    use ProblemType as P;
    match kind {
        P::BadRequest | P::BadFrame => 400,
        P::Unsigned | P::BadSignature | P::Expired | P::Replayed | P::NoOperator => 401,
        P::ReplacedKey => 401,
        P::NoCertificate | P::OtherCertificate | P::Unattested => 403,
        P::BadToken | P::NotInCohort | P::NotYours | P::Revoked | P::Forbidden => 403,
        P::NoRoute | P::UnknownClient | P::UnknownRun | P::UnknownRound | P::UnknownObject => 404,
        P::UnknownName => 404,
        P::Method => 405,
        P::Conflict | P::WrongOffset | P::NameTaken => 409,
        P::RunOver | P::StaleRound | P::Gone => 410,
        P::TooLarge => 413,
        P::BadRange => 416,
        P::BadEntries | P::BadValue | P::BadLayout | P::WrongBase => 422,
        P::RateLimited => 429,
        P::Busy => 503,
        P::StoreFull => 507,
        // The list may grow in the protocol first; a test here then asks for its status.
        _ => 500,
    }
}

/// A problem document.
#[must_use]
pub fn problem(kind: ProblemType, detail: String, retry: Option<Duration>) -> Problem {
    Problem {
        kind,
        title: kind.title().to_owned(),
        status: status(kind),
        detail,
        retry_ms: retry.map(|r| u64::try_from(r.as_millis()).unwrap_or(u64::MAX)),
    }
}

/// An error and what is behind it, in one line.
#[must_use]
pub fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let behind = error.to_string();
        // A transparent variant repeats what is behind it.
        if !text.ends_with(&behind) {
            text.push_str(": ");
            text.push_str(&behind);
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_status_and_only_internal_is_500() {
        for &kind in ProblemType::ALL {
            assert_eq!(status(kind) == 500, kind == ProblemType::Internal, "{kind:?}");
            assert!((400..600).contains(&status(kind)));
        }
    }
}
