//! The words of a round: what happens to it, what follows, where it stands, and what it refuses.

use std::time::Duration;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{Attempt, ClientId, RoundId};
use gossamer_protocol::problem::ProblemType;
use schemars::JsonSchema;
use serde::Serialize;

use crate::clock::Timestamp;

/// What a client was asked for: the round whose snapshot it trains from, and the attempt at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Task {
    /// The round.
    pub round: RoundId,
    /// The attempt.
    pub attempt: Attempt,
}

/// Where a round stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No attempt is open.
    Idle,
    /// Clients are asked, and their updates accepted, until the deadline.
    Open {
        /// When this attempt ends.
        deadline: Timestamp,
    },
    /// The accepted set is final; the next snapshot is being made of it.
    Frozen,
}

/// What happens to a round.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// Time passed.
    Tick {
        /// Everyone enrolled, in rising order.
        fleet: &'a [ClientId],
        /// Whether an attempt may open.
        may_open: bool,
    },
    /// A client asks what to do.
    CheckIn(ClientId),
    /// A client's update arrived, decoded and durable.
    Submit {
        /// The round it is for.
        round: RoundId,
        /// The attempt it is for.
        attempt: Attempt,
        /// Who sent it.
        client: ClientId,
        /// Digest of its frame.
        update: Digest,
    },
    /// A process took over from one that is gone; for so long nobody was there to send to.
    TakenOver {
        /// How long.
        away: Duration,
    },
}

/// What must happen outside because of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// An attempt opened; `asked` is empty where whoever comes first is asked. In buffered rounds who was
    /// asked in earlier rounds stays so.
    Open {
        /// Which one.
        attempt: Attempt,
        /// When it ends.
        deadline: Timestamp,
        /// Who is asked.
        asked: Vec<ClientId>,
    },
    /// The open attempt now ends then.
    Deadline(Timestamp),
    /// The attempt ended with too few updates.
    Abandon(Attempt),
    /// The client has work in this attempt; `new` where that must still be remembered.
    Assign {
        /// Who.
        client: ClientId,
        /// Whether this is its first assignment in the attempt.
        new: bool,
    },
    /// The client has nothing to do now.
    Wait(Idle),
    /// Remember the update, then send its receipt.
    Accept {
        /// Who sent it.
        client: ClientId,
        /// Digest of its frame.
        update: Digest,
    },
    /// The same update was accepted before: send the same receipt.
    Repeat(ClientId),
    /// The accepted set is final.
    Freeze,
    /// Make and publish the next snapshot of what was accepted.
    Close,
}

impl Effect {
    /// Whether it is to be made durable before anybody hears of it.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        match self {
            Self::Open { .. }
            | Self::Deadline(_)
            | Self::Abandon(_)
            | Self::Assign { new: true, .. }
            | Self::Accept { .. }
            | Self::Freeze => true,
            Self::Assign { new: false, .. } | Self::Wait(_) | Self::Repeat(_) | Self::Close => {
                false
            }
        }
    }
}

/// Where a store says that a round stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The attempt at it.
    pub attempt: Attempt,
    /// When that ends; none: it is not open.
    pub deadline: Option<Timestamp>,
    /// Whether the accepted set is final.
    pub frozen: bool,
}

/// Who is lacking for a round to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Lacks {
    /// Enrolled clients.
    Clients,
    /// Clients that count seldom enough of late: the others have had their turn, and no round closes that would
    /// give them another.
    Participation,
}

impl Lacks {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Clients => "enrolled clients",
            Self::Participation => {
                "clients that have not had their turn: enrol more, or the run stands still"
            }
        }
    }
}

/// Why a client has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Fewer clients are enrolled than a round needs.
    Fleet,
    /// Its update was accepted.
    Done,
    /// Others are asked this time.
    NotAsked,
    /// The round is being closed.
    Closing,
    /// It counted as often of late as the manifest lets it.
    Resting,
    /// So many others did that the round cannot begin.
    Few,
}

impl Idle {
    /// In words.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Fleet => "waiting for enough enrolled clients",
            Self::Done => "this client's update is accepted; waiting for the others",
            Self::NotAsked => "other clients are asked in this round",
            Self::Closing => "the round is being closed",
            Self::Few => "waiting for enough clients that have not taken part of late",
            Self::Resting => "this client has taken part as often as the run lets it for now",
        }
    }
}

/// Why an update is refused; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RoundError {
    /// A round that is still to come.
    #[error("round {got} has not begun (open: {open})")]
    Unknown {
        /// The round named.
        got: RoundId,
        /// The round that is on.
        open: RoundId,
    },
    /// A round, or an attempt at it, that is over.
    #[error("round {got} attempt {attempt} has closed")]
    Stale {
        /// The round named.
        got: RoundId,
        /// The attempt named.
        attempt: Attempt,
    },
    /// In buffered rounds: it counts in the next one, which is about to begin.
    #[error("the round is being closed; the update is taken in the next one")]
    Closing,
    /// Not asked.
    #[error("client {0} was not asked in this attempt")]
    NotInCohort(ClientId),
    /// Another update of this client stands.
    #[error("client {0} already sent a different update")]
    Conflict(ClientId),
}

impl RoundError {
    /// Its public name.
    #[must_use]
    pub fn problem(&self) -> ProblemType {
        match self {
            Self::Unknown { .. } => ProblemType::UnknownRound,
            Self::Stale { .. } => ProblemType::StaleRound,
            Self::Closing => ProblemType::Busy,
            Self::NotInCohort(_) => ProblemType::NotInCohort,
            Self::Conflict(_) => ProblemType::Conflict,
        }
    }
}
