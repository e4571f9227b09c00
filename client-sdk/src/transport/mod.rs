//! How a client's words reach the aggregator.
//!
//! [`Transport`] has one method for each thing a client can say. [`https`] is the deployed one; the
//! simulator has another that calls the aggregator in process. [`retry`] and [`metered`] wrap any. [`signer`]: who
//! signs. [`certificate`]: what TLS shows.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::inclusion::Inclusion;
use gossamer_protocol::message::{Answer, CheckIn, Enrolled, Enrolment, Measured, Signed};
use gossamer_protocol::problem::{Problem, ProblemType};
use gossamer_protocol::rotation::{NewKey, Rotation};
use gossamer_protocol::tag::TagName;

pub mod certificate;
pub mod https;
pub mod metered;
pub mod retry;
pub mod signer;

/// Where an update goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: RoundId,
    /// The attempt at it.
    pub attempt: Attempt,
    /// The client whose update it is.
    pub client: ClientId,
}

/// Says a client's words to the aggregator and brings back its answers.
#[async_trait::async_trait]
pub trait Transport: Send + Sync {
    /// Enrols a new key.
    async fn enrol(&self, enrolment: &Enrolment) -> Result<Enrolled, TransportError>;

    /// Asks what to do.
    async fn check_in(&self, ask: &CheckIn) -> Result<Answer, TransportError>;

    /// A run's signed manifest.
    async fn manifest(&self, run: RunId) -> Result<Signed, TransportError>;

    /// The signed record of the snapshot that `round` starts from.
    async fn record(&self, run: RunId, round: RoundId) -> Result<Signed, TransportError>;

    /// The bytes `range` of a snapshot.
    async fn object(
        &self,
        run: RunId,
        of: Digest,
        range: Range<u64>,
    ) -> Result<Bytes, TransportError>;

    /// The snapshot of the open `round` as a difference to that of round `held`; at most `most` bytes.
    async fn difference(
        &self,
        run: RunId,
        round: RoundId,
        held: RoundId,
        most: u64,
    ) -> Result<Bytes, TransportError>;

    /// Delivers an update's frame; what comes back is the signed receipt.
    async fn upload(&self, slot: &Slot, frame: &Bytes) -> Result<Signed, TransportError>;

    /// Tells how well the snapshot of `slot`'s round does on what the client holds out. A transport that
    /// does not carry it, which is the default, leaves the round without.
    async fn measured(&self, slot: &Slot, measured: &Measured) -> Result<(), TransportError> {
        let _ = (slot, measured);
        Err(TransportError::Malformed("this transport carries no evaluations".to_owned()))
    }

    /// The signed word on which adapter a tag names for this client. A way that has none says so.
    async fn tagged(&self, tag: &TagName) -> Result<Signed, TransportError> {
        Err(TransportError::Malformed(format!("no way to the tag {tag}")))
    }

    /// The statements by which the aggregator's keys follow one another. A way that has none gives none.
    async fn keys(&self) -> Result<Vec<Rotation>, TransportError> {
        Ok(Vec::new())
    }

    /// Gives this client another key. A way that has none says so.
    async fn change_key(&self, _: &NewKey) -> Result<Enrolled, TransportError> {
        Err(TransportError::Malformed("this transport changes no keys".to_owned()))
    }

    /// The proof that this client's update in a closed round is counted. A way that has none says so.
    async fn inclusion(&self, _: RunId, round: RoundId) -> Result<Inclusion, TransportError> {
        Err(TransportError::Malformed(format!("no way to a proof for round {round}")))
    }
}

/// Why an answer did not come, or was a refusal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The aggregator said no, by name.
    #[error("the aggregator refused: {0}")]
    Refused(Problem),
    /// No answer: no route, no TLS, a broken connection, a timeout.
    #[error("no answer from {peer}")]
    Unreachable {
        /// Who was asked.
        peer: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An answer that cannot be read.
    #[error("malformed answer: {0}")]
    Malformed(String),
}

impl TransportError {
    /// The refusal's stable name, where it is one.
    #[must_use]
    pub fn problem(&self) -> Option<ProblemType> {
        match self {
            Self::Refused(problem) => Some(problem.kind),
            Self::Unreachable { .. } | Self::Malformed(_) => None,
        }
    }

    /// Whether the same request may succeed later: each try is signed anew, and a resumed upload asks
    /// anew where the aggregator stands.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused(problem) => matches!(
                problem.kind,
                ProblemType::Busy
                    | ProblemType::RateLimited
                    | ProblemType::StoreFull
                    | ProblemType::Internal
                    | ProblemType::WrongOffset
                    | ProblemType::Replayed
            ),
            Self::Unreachable { .. } => true,
            Self::Malformed(_) => false,
        }
    }

    /// When the aggregator asked to try again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(problem) => problem.retry_ms.map(Duration::from_millis),
            Self::Unreachable { .. } | Self::Malformed(_) => None,
        }
    }
}
