//! Why a client cannot go on, or a round is lost.

use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::FrameError;
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::message::BadJoinToken;
use gossamer_protocol::problem::ProblemType;
use gossamer_protocol::sign::PublicKey;

use super::gate::Need;
use crate::state::StateError;
use crate::train::TrainError;
use crate::transport::TransportError;
use crate::transport::https::HttpsError;
use crate::verify::VerifyError;

/// Why a client cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Not enrolled, and no token to enrol with.
    #[error("not enrolled yet: an enrolment token is needed")]
    NoToken,
    /// The token is not one.
    #[error(transparent)]
    Token(#[from] BadJoinToken),
    /// The token is another server's than this state folder is enrolled with.
    #[error("enrolled with the server {enrolled}, but the token is of {token}; use another folder")]
    OtherServer {
        /// The pinned key.
        enrolled: PublicKey,
        /// The token's key.
        token: PublicKey,
    },
    /// The server answered an enrolment with another name than the key's.
    #[error("enrolled as {got}, but this key is {expected}")]
    OtherClient {
        /// The key's name.
        expected: ClientId,
        /// The answer's.
        got: ClientId,
    },
    /// The app keeps the client's key, or has a transport of its own.
    #[error("only a key that the state folder keeps can be changed, and over HTTPS alone")]
    NotItsKey,
    /// The app's attester has no statement about the device.
    #[error("the device cannot be attested")]
    Attestation(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No random numbers for a key.
    #[error("the system gives no random numbers")]
    Random,
    /// No connection can be set up.
    #[error(transparent)]
    Https(#[from] HttpsError),
    /// No answer, or a refusal.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The device's folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// An answer that is not believed.
    #[error("the aggregator's answer is not believed")]
    Verify(#[from] VerifyError),
    /// The run needs a base model this client does not have.
    #[error("the run adapts base {name} ({wanted}), this client has {have}")]
    WrongBase {
        /// What people call it.
        name: String,
        /// Its digest.
        wanted: Digest,
        /// What is here.
        have: String,
    },
    /// The training would take more memory than the app allows.
    #[error("the training takes about {needs} bytes at least, the app allows {most}")]
    Memory {
        /// Estimated, with the smallest [footprint](crate::train::Footprint); see
        /// [`Memory`](crate::train::Memory).
        needs: u64,
        /// The app's [cap](super::Builder::memory_max).
        most: u64,
    },
    /// Nothing to train on.
    #[error("the training task has no example")]
    NoExamples,
    /// A signed snapshot that cannot be read.
    #[error("the snapshot cannot be read")]
    Snapshot(#[source] FrameError),
    /// Training failed; nothing was sent.
    #[error("training failed")]
    Train(#[from] TrainError),
    /// The trained change cannot travel.
    #[error("the update cannot travel")]
    Update(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The app asked to stop.
    #[error("stopped by the app")]
    Stopped,
    /// The gate was closed until the round was over; nothing was sent.
    #[error("round {round} is given up at its deadline: {need}")]
    Closed {
        /// The round.
        round: RoundId,
        /// What was lacking.
        need: Need,
    },
    /// The app's own code panicked.
    #[error("{what} panicked: {message}")]
    Panicked {
        /// Which code.
        what: &'static str,
        /// Its message.
        message: String,
    },
    /// The training thread ended without a result.
    #[error("the training thread failed: {message}")]
    Thread {
        /// How.
        message: String,
    },
}

impl ClientError {
    /// Whether the round is lost but the next may go well. Of a run that ended meanwhile, the next
    /// check-in tells.
    pub(super) fn abandons_round(&self) -> bool {
        match self {
            Self::Train(_) | Self::Update(_) | Self::Thread { .. } | Self::Closed { .. } => true,
            Self::Memory { .. } => true,
            Self::Transport(error) => matches!(
                error.problem(),
                Some(
                    ProblemType::StaleRound
                        | ProblemType::RunOver
                        | ProblemType::Conflict
                        | ProblemType::NotInCohort
                        | ProblemType::WrongBase
                        | ProblemType::UnknownRound
                        | ProblemType::UnknownObject
                        | ProblemType::Gone
                )
            ),
            _ => false,
        }
    }

    /// Whether the round closed first, as it does on slow devices wherever more are asked than needed,
    /// and on those whose gate is closed.
    pub(super) fn is_late(&self) -> bool {
        let late = ProblemType::StaleRound;
        match self {
            Self::Transport(error) => error.problem() == Some(late),
            Self::Closed { .. } => true,
            _ => false,
        }
    }
}

/// An error and its causes, on one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
