//! The audit log: what was done, by whom, in a chain that shows where it was changed.
//!
//! ```text
//! entry  JSON: {"seq", "at_ms", "actor", "action", ...}; kept as bytes, never serialised again
//! hash   SHA-256("gossamer/v1/audit\0" | hash before (zeros for entry 1) | entry)
//! ```
//!
//! An entry is written in the transaction that does what it tells. From time to time the server signs
//! where the chain stands, so that whoever can write to the database but has no key cannot make the
//! chain anew. What remains is to cut the end off; a head kept elsewhere (the server's log tells each)
//! shows that too.

mod chain;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::problem::ProblemType;
use gossamer_protocol::sign::PublicKey;
use serde::Serialize;

use crate::clock::Timestamp;
use crate::operator::{OperatorName, Role};
use crate::project::{ProjectName, Scope};
use crate::status::Status;
use crate::tag::{Adapter, Permille, TagName};
pub(crate) use chain::Check;
pub use chain::{Fault, Head, START};

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum Actor {
    /// The server by itself.
    Server,
    /// Whoever works on the server's directory: the command line.
    Local,
    /// The holder of an operator's token.
    Operator(String),
    /// A client.
    Client(ClientId),
}

impl From<Actor> for String {
    fn from(actor: Actor) -> Self {
        match actor {
            Actor::Server => "server".to_owned(),
            Actor::Local => "local".to_owned(),
            Actor::Operator(name) => format!("operator:{name}"),
            Actor::Client(client) => format!("client:{client}"),
        }
    }
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// A process began to serve.
    Serving {
        /// Its version.
        version: &'static str,
    },
    /// A project was made.
    ProjectAdded {
        /// What it is called.
        name: ProjectName,
    },
    /// Enrolment tokens were made.
    TokensMade {
        /// How many.
        count: usize,
        /// For how many clients each.
        quota: u32,
        /// When they are void.
        expires_ms: u64,
    },
    /// An enrolment token was voided.
    TokenRevoked {
        /// The hash of its secret.
        token: Digest,
    },
    /// An operator was made.
    OperatorAdded {
        /// What it is called.
        name: OperatorName,
        /// What it may do.
        role: Role,
        /// When its token is void; none: never.
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_ms: Option<u64>,
    },
    /// An operator's token was voided.
    OperatorRevoked {
        /// What it was called.
        name: OperatorName,
    },
    /// A client enrolled.
    Enrolled {
        /// Which.
        client: ClientId,
        /// SHA-256 of the TLS certificate that it showed and is bound to.
        #[serde(skip_serializing_if = "Option::is_none")]
        certificate: Option<Digest>,
        /// The kind of the statement that the operator's verifier took.
        #[serde(skip_serializing_if = "Option::is_none")]
        attestation: Option<String>,
    },
    /// A client is bound to a TLS certificate, its first one or a renewed one.
    CertificateBound {
        /// Which.
        client: ClientId,
        /// SHA-256 of the certificate.
        certificate: Digest,
    },
    /// A client is bound to no TLS certificate any more.
    CertificateFreed {
        /// Which.
        client: ClientId,
    },
    /// One of the server's keys is followed by another.
    KeyRotated {
        /// The old key.
        from: PublicKey,
        /// The new one.
        to: PublicKey,
        /// From when the new one signs.
        start_ms: u64,
        /// Until when what the old one signed is believed.
        until_ms: u64,
    },
    /// A client signs with another key from now on.
    ClientKeyChanged {
        /// Which.
        client: ClientId,
        /// The new key.
        key: PublicKey,
    },
    /// A client was revoked.
    ClientRevoked {
        /// Which.
        client: ClientId,
        /// Why.
        reason: String,
    },
    /// A run was created.
    RunCreated {
        /// Which.
        run: RunId,
        /// What people call it.
        name: String,
    },
    /// A run was paused, resumed or aborted.
    RunStatus {
        /// Which.
        run: RunId,
        /// What it is now.
        status: Status,
        /// Why, where that is told.
        #[serde(skip_serializing_if = "String::is_empty")]
        note: String,
    },
    /// A round closed; its snapshot is published.
    RoundClosed {
        /// The run.
        run: RunId,
        /// The round.
        round: RoundId,
        /// The attempt that was on.
        attempt: Attempt,
        /// Updates in it.
        accepted: u32,
        /// Digest of the record that says so.
        record: Digest,
        /// Whether it was the run's last.
        last: bool,
        /// The rule that made it so, where that is not its number.
        #[serde(skip_serializing_if = "String::is_empty")]
        why: String,
    },
    /// An operator went back to an earlier round's adapter: a round that counted nobody.
    RolledBack {
        /// The run.
        run: RunId,
        /// The round.
        round: RoundId,
        /// The round that started from that adapter.
        to: RoundId,
        /// Digest of the record of the snapshot made of it.
        record: Digest,
    },
    /// Old snapshots of a run, and states behind them, were removed.
    SnapshotsRemoved {
        /// The run.
        run: RunId,
        /// The last round of which something was.
        last: RoundId,
        /// How many snapshots.
        snapshots: usize,
        /// How many states.
        states: usize,
    },
    /// A tag was made or moved.
    TagSet {
        /// What it is called.
        tag: TagName,
        /// What it names now.
        #[serde(flatten)]
        adapter: Adapter,
    },
    /// A tag was dropped.
    TagRemoved {
        /// What it was called.
        tag: TagName,
    },
    /// A share of the clients that ask for a tag is given another adapter.
    CanarySet {
        /// The tag.
        tag: TagName,
        /// The adapter.
        #[serde(flatten)]
        adapter: Adapter,
        /// The share.
        permille: Permille,
    },
    /// A tag names what was its canary.
    CanaryPromoted {
        /// The tag.
        tag: TagName,
        /// The adapter.
        #[serde(flatten)]
        adapter: Adapter,
    },
    /// A canary was taken back.
    CanaryEnded {
        /// The tag.
        tag: TagName,
        /// The adapter.
        #[serde(flatten)]
        adapter: Adapter,
    },
    /// An attempt ended with too few updates.
    RoundAbandoned {
        /// The run.
        run: RunId,
        /// The round.
        round: RoundId,
        /// The attempt that comes next.
        attempt: Attempt,
        /// Updates there were.
        accepted: usize,
    },
    /// Refusals that good clients do not meet, counted over a while.
    Refused {
        /// Since when.
        since_ms: u64,
        /// Who met what how often.
        counts: Vec<Refused>,
    },
}

/// How often somebody met a refusal.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refused {
    /// Who, where somebody proved to be it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientId>,
    /// The refusal.
    pub reason: ProblemType,
    /// How often.
    pub count: u64,
}

/// An event to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: Actor,
    /// The project it happened in; none: the server as a whole.
    pub project: Scope,
    /// What.
    pub event: Event,
}

impl Note {
    /// As it happened in `project`.
    #[must_use]
    pub(crate) fn of(self, project: &ProjectName) -> Self {
        Self { project: Some(project.clone()), ..self }
    }

    /// The bytes of entry `seq`.
    pub(crate) fn entry(&self, seq: u64) -> Vec<u8> {
        #[derive(Serialize)]
        struct Entry<'a> {
            seq: u64,
            at_ms: u64,
            actor: &'a Actor,
            /// Only where it is not the one that there always was.
            #[serde(skip_serializing_if = "Option::is_none")]
            project: Option<&'a ProjectName>,
            #[serde(flatten)]
            event: &'a Event,
        }
        let project = self.project.as_ref().filter(|project| !project.is_default());
        let Self { at, actor, event, .. } = self;
        let entry = Entry { seq, at_ms: at.0, actor, project, event };
        serde_json::to_vec(&entry).expect("names and numbers are always JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reads_as_documented() {
        let run = RunId([1; 16]);
        let event = Event::RunStatus { run, status: Status::Aborted, note: "by hand".into() };
        let project = Some(ProjectName::default());
        let note = Note { at: Timestamp(5), actor: Actor::Operator("eva".into()), project, event };
        let entry = String::from_utf8(note.entry(3)).expect("text");
        let expected = format!(
            "{{\"seq\":3,\"at_ms\":5,\"actor\":\"operator:eva\",\"action\":\"run-status\",\
             \"run\":\"{run}\",\"status\":\"aborted\",\"note\":\"by hand\"}}"
        );
        assert_eq!(entry, expected);
        let note = note.of(&"acme".parse().expect("a name"));
        let entry = String::from_utf8(note.entry(3)).expect("text");
        let actor = "\"actor\":\"operator:eva\",";
        assert_eq!(entry, expected.replace(actor, &format!("{actor}\"project\":\"acme\",")));
    }
}
