//! What this process saw of each client: when it last proved to be there, and what it was refused.
//!
//! In memory, so since the process began; nothing is decided by it. Bounded by the fleet.

use std::collections::{BTreeMap, HashMap};
use std::sync::PoisonError;

use gossamer_protocol::ids::ClientId;
use gossamer_protocol::problem::ProblemType;
use schemars::JsonSchema;
use serde::Serialize;

use super::Coordinator;
use crate::audit::{Event as Told, Note, Refused};
use crate::clock::Timestamp;

/// Pairs of client and refusal that one audit entry tells apart.
const TOLD_MAX: usize = 100;
/// How long refusals are counted before the audit log tells of them.
const WHILE_MS: u64 = 60_000;

/// What was seen of one client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Sighting {
    /// Unix time in milliseconds at which it last signed a request.
    pub seen_ms: Option<u64>,
    /// Requests that were refused.
    pub refusals: u64,
    /// The last refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub refused: Option<ProblemType>,
    /// When that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused_ms: Option<u64>,
}

/// What was seen of all.
#[derive(Default)]
pub(super) struct Sightings {
    clients: HashMap<ClientId, Sighting>,
    /// Refusals of note that the audit log does not tell of yet.
    untold: BTreeMap<(Option<ClientId>, &'static str), (ProblemType, u64)>,
    since: Option<Timestamp>,
}

/// Whether a good client with a good clock and a good server never meets it.
fn of_note(reason: ProblemType) -> bool {
    use ProblemType as P;
    !matches!(
        reason,
        P::Busy
            | P::StoreFull
            | P::Internal
            | P::NoRoute
            | P::Method
            | P::StaleRound
            | P::RunOver
            | P::NotInCohort
            | P::UnknownRun
            | P::UnknownRound
            | P::UnknownObject
            | P::WrongOffset
            | P::BadRange
            | P::Expired
    )
}

impl Coordinator {
    /// Notes that `client` signed a request.
    pub(crate) fn saw(&self, client: ClientId) {
        let now = self.now().0;
        let mut sightings = self.0.sightings.lock().unwrap_or_else(PoisonError::into_inner);
        sightings.clients.entry(client).or_default().seen_ms = Some(now);
    }

    /// Notes a refusal of whoever claimed to be `client`, which may be `proven`: the audit log names
    /// nobody else.
    pub(crate) fn refused(&self, client: Option<ClientId>, proven: bool, reason: ProblemType) {
        self.0.metrics.refused(reason);
        let now = self.now();
        let mut sightings = self.0.sightings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = client {
            let sighting = sightings.clients.entry(client).or_default();
            sighting.refusals += 1;
            (sighting.refused, sighting.refused_ms) = (Some(reason), Some(now.0));
        }
        if of_note(reason) {
            sightings.since.get_or_insert(now);
            let crowded = sightings.untold.len() >= TOLD_MAX;
            let client = client.filter(|_| proven);
            let known = sightings.untold.contains_key(&(client, reason.uri()));
            // Past that, who it was is not told apart; there are few reasons.
            let who = client.filter(|_| known || !crowded);
            sightings.untold.entry((who, reason.uri())).or_insert((reason, 0)).1 += 1;
        }
        drop(sightings);
        self.changed();
    }

    /// What was seen of a client.
    #[must_use]
    pub fn sighting(&self, client: ClientId) -> Sighting {
        let sightings = self.0.sightings.lock().unwrap_or_else(PoisonError::into_inner);
        sightings.clients.get(&client).copied().unwrap_or_default()
    }

    /// How many clients signed a request within the `within_ms` before now.
    #[must_use]
    pub fn seen_within(&self, within_ms: u64) -> usize {
        let since = self.now().0.saturating_sub(within_ms);
        let sightings = self.0.sightings.lock().unwrap_or_else(PoisonError::into_inner);
        let seen =
            sightings.clients.iter().filter(|(_, s)| s.seen_ms.is_some_and(|at| at >= since));
        seen.filter(|(client, _)| self.is_ours(client)).count()
    }

    /// The audit entry that refusals are due, once they were counted for a while.
    pub(super) fn refusals_due(&self, now: Timestamp) -> Option<Note> {
        let mut sightings = self.0.sightings.lock().unwrap_or_else(PoisonError::into_inner);
        let since = sightings.since.filter(|since| since.0.saturating_add(WHILE_MS) <= now.0)?;
        sightings.since = None;
        let untold = std::mem::take(&mut sightings.untold).into_iter();
        let counts = untold
            .map(|((client, _), (reason, count))| Refused { client, reason, count })
            .collect();
        Some(self.own_note(Told::Refused { since_ms: since.0, counts }))
    }
}
