//! What the coordinator refuses, and by which public name.

use std::time::Duration;

use gossamer_protocol::codec::CodecError;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{FrameError, v1};
use gossamer_protocol::ids::{ClientId, RoundId, RunId};
use gossamer_protocol::manifest::ManifestError;
use gossamer_protocol::peft::PeftError;
use gossamer_protocol::problem::{Problem, ProblemType};
use gossamer_protocol::sign::PublicKey;

use crate::advance::AdvanceError;
use crate::aggregate::AggregateError;
use crate::attestation::Unattested;
use crate::operator::OperatorName;
use crate::problem::{problem, told};
use crate::project::ProjectName;
use crate::round::RoundError;
use crate::snapshot::SnapshotError;
use crate::state::BadState;
use crate::store::StoreError;
use crate::tag::TagName;

/// Why something was refused or failed; nothing changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CoordinatorError {
    /// The enrolment token is wrong, used by another key, or too old.
    #[error("the enrolment token is not valid: ask the operator for a new one")]
    BadToken,
    /// The enrolment's key is not held.
    #[error("the enrolment's proof does not match its key")]
    BadProof,
    /// The operator's verifier does not let the device in.
    #[error(transparent)]
    Unattested(#[from] Unattested),
    /// No such enrolment token.
    #[error("there is no enrolment token {0}")]
    UnknownToken(Digest),
    /// There is one of that name.
    #[error("there is an operator {0} already")]
    OperatorExists(OperatorName),
    /// No such operator.
    #[error("there is no operator {0}")]
    UnknownOperator(OperatorName),
    /// There is one of that name.
    #[error("there is a project {0} already")]
    ProjectExists(ProjectName),
    /// No such project.
    #[error("there is no project {0}")]
    UnknownProject(ProjectName),
    /// No such tag.
    #[error("there is no tag {0}")]
    UnknownTag(TagName),
    /// Tags' names are a project's.
    #[error("several projects have a tag {0}: name the project")]
    SeveralTags(TagName),
    /// A tag with nothing on trial.
    #[error("tag {0} has no canary")]
    NoCanary(TagName),
    /// Another project has that very run: ids come from the terms alone.
    #[error("run {0} is another project's, from the same manifest: give another seed")]
    RunTaken(RunId),
    /// The secret of the server's newest key is needed to let another follow it.
    #[error(
        "the secret of {0}, the newest key, is not in keys/: copy it from the server that made it"
    )]
    NoSecret(PublicKey),
    /// Another process let a key follow just now.
    #[error("another key was made to follow just now: see `key list`")]
    RotatedBefore,
    /// The client has replaced the key that signed.
    #[error("client {0} signs with another key now")]
    ReplacedKey(ClientId),
    /// A client's next key that it cannot have.
    #[error("the key {0} is another client's, or was one's: draw a new one")]
    KeyTaken(PublicKey),
    /// The client is bound to another TLS certificate.
    #[error(
        "client {0} is bound to another certificate: renew it for the same names, or ask the operator"
    )]
    OtherCertificate(ClientId),
    /// The client was revoked.
    #[error("client {0} was revoked by the operator")]
    Revoked(ClientId),
    /// The caller is not enrolled.
    #[error("client {0} is not enrolled")]
    UnknownClient(ClientId),
    /// No such run.
    #[error("there is no run {0}")]
    UnknownRun(RunId),
    /// The run was aborted or is complete.
    #[error("run {run} is over: {why}")]
    RunOver {
        /// The run.
        run: RunId,
        /// Why, in words.
        why: String,
    },
    /// No record of that round yet.
    #[error("run {run} has no record of round {round}")]
    UnknownRound {
        /// The run.
        run: RunId,
        /// The round.
        round: RoundId,
    },
    /// No snapshot of that name in the run.
    #[error("run {run} has no snapshot {object}")]
    UnknownObject {
        /// The run.
        run: RunId,
        /// The object.
        object: Digest,
    },
    /// A snapshot, or the state behind it, that was removed.
    #[error("round {round} of run {run} is kept no longer, but for its record")]
    Gone {
        /// The run.
        run: RunId,
        /// The round.
        round: RoundId,
    },
    /// The client has no update among those that the round counted.
    #[error("no update of client {client} is counted in round {round}")]
    NotCounted {
        /// The round.
        round: RoundId,
        /// The client.
        client: ClientId,
    },
    /// The receipts of a round that closed elsewhere.
    #[error("the receipts of round {round} of run {run} are not kept here")]
    NoReceipts {
        /// The run.
        run: RunId,
        /// The round.
        round: RoundId,
    },
    /// The snapshot itself is to be fetched.
    #[error("round {round} has no difference from round {held}: fetch the snapshot itself")]
    NoDifference {
        /// The round asked for.
        round: RoundId,
        /// The round whose snapshot is held.
        held: RoundId,
    },
    /// The update is another client's.
    #[error("client {caller} may not act for client {owner}")]
    NotYours {
        /// Who asks.
        caller: ClientId,
        /// Whose it is.
        owner: ClientId,
    },
    /// The round refuses.
    #[error("{source}")]
    Round {
        /// Why.
        source: RoundError,
        /// When to check in again.
        retry: Duration,
    },
    /// The body is longer than the run allows.
    #[error("a body of {got} bytes is over this run's limit of {limit}")]
    TooLarge {
        /// Bytes found, or announced.
        got: u64,
        /// Most bytes allowed.
        limit: u64,
    },
    /// The bytes are no update of this run.
    #[error("the update is malformed")]
    Frame(#[from] FrameError),
    /// An evaluation that was not asked for, or of no targets, or of a loss out of range.
    #[error("the run asks this client for no evaluation, or what it tells is out of range")]
    Measured,
    /// The staged parts make something else than was announced.
    #[error("the staged bytes do not have the announced digest; the upload starts anew")]
    Staged,
    /// A resumed upload does not start where the server stands.
    #[error("the upload stands at byte {stands}")]
    WrongOffset {
        /// Bytes the server has.
        stands: u64,
    },
    /// The update does not fit the sum.
    #[error("the update does not fit")]
    Aggregate(#[from] AggregateError),
    /// The manifest cannot be run.
    #[error("the manifest cannot be run")]
    Manifest(#[from] ManifestError),
    /// The run's start cannot be sent.
    #[error("the run's first snapshot cannot be made")]
    Snapshot(#[from] SnapshotError),
    /// No adapter to start a run from.
    #[error("the run cannot start from that adapter: {0}")]
    Start(&'static str),
    /// A run that cannot go back.
    #[error("the run cannot go back: {0}")]
    Rollback(&'static str),
    /// A run that was carried here is not what was published.
    #[error("round {round} cannot be restored: {why}")]
    Restore {
        /// The round.
        round: RoundId,
        /// What is off.
        why: &'static str,
    },
    /// A round cannot be closed.
    #[error("the round cannot be closed")]
    Advance(#[from] AdvanceError),
    /// Another process published something else of the same updates.
    #[error("round {round} of run {run} was published with another record than follows from it")]
    Diverged {
        /// The run.
        run: RunId,
        /// The round.
        round: RoundId,
    },
    /// The server's state is damaged.
    #[error("the server's state cannot be read")]
    State(#[from] BadState),
    /// The adapter cannot be written.
    #[error("the adapter cannot be exported")]
    Export(#[from] PeftError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// Processes that fold a simulation's rounds together have lost each other.
    #[error("the processes that fold together: {0}")]
    Peers(String),
    /// Work was cut short: the server is going down.
    #[error("the server is going down")]
    Stopping,
}

impl CoordinatorError {
    /// Its public name.
    #[must_use]
    pub fn problem_type(&self) -> ProblemType {
        match self {
            Self::BadToken => ProblemType::BadToken,
            Self::UnknownToken(_)
            | Self::UnknownOperator(_)
            | Self::UnknownProject(_)
            | Self::UnknownTag(_)
            | Self::NoCanary(_) => ProblemType::UnknownName,
            Self::SeveralTags(_) => ProblemType::BadRequest,
            Self::OperatorExists(_) | Self::ProjectExists(_) | Self::RunTaken(_) => {
                ProblemType::NameTaken
            }
            Self::Revoked(_) => ProblemType::Revoked,
            Self::BadProof => ProblemType::BadSignature,
            Self::Unattested(Unattested::Refused(_)) => ProblemType::Unattested,
            Self::Unattested(Unattested::Away(_)) => ProblemType::Busy,
            Self::OtherCertificate(_) => ProblemType::OtherCertificate,
            Self::ReplacedKey(_) => ProblemType::ReplacedKey,
            Self::KeyTaken(_) => ProblemType::BadRequest,
            Self::UnknownClient(_) => ProblemType::UnknownClient,
            Self::UnknownRun(_) => ProblemType::UnknownRun,
            Self::RunOver { .. } => ProblemType::RunOver,
            Self::UnknownRound { .. } => ProblemType::UnknownRound,
            Self::UnknownObject { .. }
            | Self::NoDifference { .. }
            | Self::NotCounted { .. }
            | Self::NoReceipts { .. } => ProblemType::UnknownObject,
            Self::Gone { .. } => ProblemType::Gone,
            Self::NotYours { .. } => ProblemType::NotYours,
            Self::Round { source, .. } => source.problem(),
            Self::TooLarge { .. } => ProblemType::TooLarge,
            Self::Frame(frame) => frame_problem(frame),
            Self::Staged | Self::WrongOffset { .. } => ProblemType::WrongOffset,
            Self::Aggregate(aggregate) => aggregate.problem(),
            Self::Measured => ProblemType::BadValue,
            Self::Manifest(_) | Self::Snapshot(_) | Self::Start(_) => ProblemType::BadRequest,
            Self::Rollback(_) | Self::RotatedBefore => ProblemType::Conflict,
            Self::Restore { .. }
            | Self::NoSecret(_)
            | Self::Advance(_)
            | Self::Diverged { .. }
            | Self::State(_)
            | Self::Peers(_)
            | Self::Export(_) => ProblemType::Internal,
            Self::Store(store) => store.problem(),
            Self::Stopping => ProblemType::Busy,
        }
    }

    /// As told to the caller. What the caller cannot mend is not told in detail.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let kind = self.problem_type();
        let retry = match self {
            Self::Round { source, retry } if source.problem() == ProblemType::StaleRound => {
                Some(*retry)
            }
            // A round closes in well under this.
            Self::Round { source: RoundError::Closing, .. } => Some(Duration::from_secs(1)),
            Self::Unattested(Unattested::Away(_)) => Some(Duration::from_secs(5)),
            Self::Store(StoreError::Full) => Some(Duration::from_secs(60)),
            Self::Stopping | Self::Store(StoreError::Away(_)) => Some(Duration::from_secs(1)),
            _ => None,
        };
        let detail = match (kind, self) {
            (ProblemType::Internal, _) => "see the server's log".to_owned(),
            (_, Self::Store(StoreError::Away(_))) => "the store does not answer".to_owned(),
            _ => told(self),
        };
        problem(kind, detail, retry)
    }
}

fn frame_problem(frame: &FrameError) -> ProblemType {
    match frame {
        FrameError::Oversized { .. } => ProblemType::TooLarge,
        FrameError::Layout { .. } => ProblemType::BadLayout,
        FrameError::Density { .. } => ProblemType::BadEntries,
        FrameError::Address { field: "client", .. } => ProblemType::NotYours,
        FrameError::Address { field: "snapshot", .. } => ProblemType::WrongBase,
        FrameError::Entries(CodecError::Value { .. })
        | FrameError::EntriesV1(v1::CodecError::Value { .. } | v1::CodecError::Exponent { .. }) => {
            ProblemType::BadValue
        }
        FrameError::Entries(_) | FrameError::EntriesV1(_) => ProblemType::BadEntries,
        // Truncated, magic, version, a code byte, digest, metadata.
        _ => ProblemType::BadFrame,
    }
}
