//! Problems as both ends name them: RFC 9457 with stable types.

use serde::{Deserialize, Serialize};

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident = $slug:literal, $title:literal;)*) => {
        /// What went wrong, by a name that never changes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum ProblemType {
            $($(#[$doc])* #[serde(rename = $slug)] $name,)*
        }

        impl ProblemType {
            /// Every type there is.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The RFC 9457 `type`.
            #[must_use]
            pub fn uri(self) -> &'static str {
                match self { $(Self::$name => $slug),* }
            }

            /// The RFC 9457 `title`.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title),* }
            }
        }
    };
}

problems! {
    /// No such route.
    NoRoute = "urn:gossamer:problem:no-route", "No such route";
    /// The route has other methods.
    Method = "urn:gossamer:problem:method", "The route does not take this method";
    /// A request that cannot be parsed.
    BadRequest = "urn:gossamer:problem:bad-request", "The request is malformed";
    /// No authorization, or one that cannot be parsed.
    Unsigned = "urn:gossamer:problem:unsigned", "The request is not signed";
    /// The signature does not match.
    BadSignature = "urn:gossamer:problem:bad-signature", "The signature does not match";
    /// The signature's expiry is past, too far ahead, or before the server started.
    Expired = "urn:gossamer:problem:expired", "The signature's time is not now";
    /// The signature is by a key that the client has replaced.
    ReplacedKey = "urn:gossamer:problem:replaced-key", "The client signs with another key now";
    /// The connection shows no client certificate, where one is needed.
    NoCertificate = "urn:gossamer:problem:no-certificate", "A client certificate is needed";
    /// The connection shows another certificate than the client's.
    OtherCertificate = "urn:gossamer:problem:other-certificate", "The certificate is not the client's";
    /// What the device says of itself does not convince the operator's verifier.
    Unattested = "urn:gossamer:problem:unattested", "The device is not attested";
    /// The nonce was used before.
    Replayed = "urn:gossamer:problem:replayed", "The request was sent before";
    /// The signer is not enrolled.
    UnknownClient = "urn:gossamer:problem:unknown-client", "The client is not enrolled";
    /// The signer was revoked.
    Revoked = "urn:gossamer:problem:revoked", "The client was revoked";
    /// The enrolment token is wrong, used up or too old.
    BadToken = "urn:gossamer:problem:bad-token", "The enrolment token is not valid";
    /// No such run.
    UnknownRun = "urn:gossamer:problem:unknown-run", "No such run";
    /// The run was aborted or is complete.
    RunOver = "urn:gossamer:problem:run-over", "The run is over";
    /// No such round yet.
    UnknownRound = "urn:gossamer:problem:unknown-round", "No such round";
    /// The round has closed, or this attempt at it has.
    StaleRound = "urn:gossamer:problem:stale-round", "The round has closed";
    /// The client was not asked in this round.
    NotInCohort = "urn:gossamer:problem:not-in-cohort", "The client was not asked in this round";
    /// The update names another client than its signer.
    NotYours = "urn:gossamer:problem:not-yours", "The update is another client's";
    /// Another update of this client was accepted before.
    Conflict = "urn:gossamer:problem:conflict", "The client already sent a different update";
    /// The bytes are no frame, or their digest does not match.
    BadFrame = "urn:gossamer:problem:bad-frame", "The bytes are no valid frame";
    /// The frame's entries are malformed, out of order or out of range.
    BadEntries = "urn:gossamer:problem:bad-entries", "The update's entries are malformed";
    /// A NaN, an infinity, or a magnitude over the limit.
    BadValue = "urn:gossamer:problem:bad-value", "A value is not finite or too large";
    /// The frame is for another layout.
    BadLayout = "urn:gossamer:problem:bad-layout", "The update does not fit the layout";
    /// The update was trained from another snapshot or base.
    WrongBase = "urn:gossamer:problem:wrong-base", "The update starts from another snapshot";
    /// The body is longer than this run allows.
    TooLarge = "urn:gossamer:problem:too-large", "The body is too large";
    /// A resumed upload does not start where the server stands.
    WrongOffset = "urn:gossamer:problem:wrong-offset", "The upload resumes at another offset";
    /// No such object.
    UnknownObject = "urn:gossamer:problem:unknown-object", "No such object";
    /// An object that was there, and is kept no longer.
    Gone = "urn:gossamer:problem:gone", "It is kept no longer";
    /// A range that does not lie in the object.
    BadRange = "urn:gossamer:problem:bad-range", "The range is not in the object";
    /// The caller asks more often than it may.
    RateLimited = "urn:gossamer:problem:rate-limited", "Too many requests from one place";
    /// Admin API: no operator's token, or a void one.
    NoOperator = "urn:gossamer:problem:no-operator", "An operator's token is needed";
    /// Admin API: the operator's role does not allow it.
    Forbidden = "urn:gossamer:problem:forbidden", "The operator may not do this";
    /// No tag or, in the admin API, operator, enrolment token or project of that name.
    UnknownName = "urn:gossamer:problem:unknown-name", "There is nothing of that name";
    /// Admin API: the name is another's.
    NameTaken = "urn:gossamer:problem:name-taken", "The name is taken";
    /// The server is at its limit.
    Busy = "urn:gossamer:problem:busy", "The server is at its limit; try again later";
    /// The store is out of space.
    StoreFull = "urn:gossamer:problem:store-full", "The server's disk is full";
    /// Anything the caller cannot mend.
    Internal = "urn:gossamer:problem:internal", "The server failed";
}

/// An RFC 9457 problem document (`application/problem+json`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// The stable name.
    #[serde(rename = "type")]
    pub kind: ProblemType,
    /// The name in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is off in this case.
    pub detail: String,
    /// When to try again, in milliseconds, where trying again can help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_ms: Option<u64>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.title, self.status, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_and_distinct() {
        let mut seen = std::collections::HashSet::new();
        for &kind in ProblemType::ALL {
            assert!(seen.insert(kind.uri()), "{kind:?}");
            let json = serde_json::to_string(&kind).expect("a string");
            assert_eq!(json, format!("\"{}\"", kind.uri()));
        }
    }
}
