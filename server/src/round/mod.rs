//! One round: who is asked, what is accepted, when it ends. Pure: events in, effects out.
//!
//! `round` never reads a clock, a socket, a disk or a global random source. A round is tried in
//! *attempts*: one whose deadline passes with too few updates is followed by another from the same
//! snapshot. What was accepted stays accepted, since its receipt says that it will be counted.
//!
//! ```text
//! Idle --Tick: enough enrolled--> Open --goal, or deadline with the minimum--> Frozen --Published--> next
//!   ^------deadline, too few-------'
//! ```

pub mod cohort;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{Attempt, ClientId, RoundId};
use gossamer_protocol::manifest::{Cohort, Selection};
use gossamer_protocol::problem::ProblemType;

use crate::clock::Timestamp;

/// Least time that an open attempt has after a restart, unless attempts are shorter altogether: the
/// longest pause between two tries of a client, some times over.
const GRACE: Duration = Duration::from_secs(60);

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
    /// The next snapshot is durable: on to the next round.
    Published,
    /// A process took over from one that is gone; for so long nobody was there to send to.
    TakenOver {
        /// How long.
        away: Duration,
    },
}

/// What must happen outside because of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// An attempt opened; `asked` is empty where whoever comes first is asked.
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
    /// Make and publish the next snapshot of what was accepted.
    Close,
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
            Self::NotInCohort(_) => ProblemType::NotInCohort,
            Self::Conflict(_) => ProblemType::Conflict,
        }
    }
}

/// The round that is on.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    rules: Cohort,
    seed: u64,
    id: RoundId,
    attempt: Attempt,
    phase: Phase,
    /// Asked in this attempt.
    asked: BTreeSet<ClientId>,
    /// Accepted in this round, whatever the attempt.
    accepted: BTreeMap<ClientId, Digest>,
    /// The attempt each of them was made for.
    made_for: BTreeMap<ClientId, Attempt>,
    /// How many were accepted before this attempt opened.
    carried: usize,
}

impl Round {
    /// The round `id` of a run, before anything happened.
    #[must_use]
    pub fn new(rules: Cohort, seed: u64, id: RoundId) -> Self {
        Self {
            rules,
            seed,
            id,
            attempt: Attempt(0),
            phase: Phase::Idle,
            asked: BTreeSet::new(),
            accepted: BTreeMap::new(),
            made_for: BTreeMap::new(),
            carried: 0,
        }
    }

    /// Goes on where a store says the round stood. `accepted` has the attempt of each update.
    #[must_use]
    pub fn resume(
        self,
        attempt: Attempt,
        deadline: Option<Timestamp>,
        asked: BTreeSet<ClientId>,
        accepted: impl IntoIterator<Item = (ClientId, Digest, Attempt)>,
    ) -> Self {
        let phase = deadline.map_or(Phase::Idle, |deadline| Phase::Open { deadline });
        let mut round = Self { attempt, phase, asked, ..self };
        for (client, update, at) in accepted {
            round.carried += usize::from(at < attempt || deadline.is_none());
            round.accepted.insert(client, update);
            round.made_for.insert(client, at);
        }
        // The close may have begun: one more now would make another accepted set.
        if round.is_complete() {
            round.phase = Phase::Frozen;
        }
        round
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> RoundId {
        self.id
    }

    /// The attempt at it.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Who is asked in this attempt.
    #[must_use]
    pub fn asked(&self) -> &BTreeSet<ClientId> {
        &self.asked
    }

    /// What was accepted in this round.
    #[must_use]
    pub fn accepted(&self) -> &BTreeMap<ClientId, Digest> {
        &self.accepted
    }

    /// The attempt that each accepted update was made for.
    #[must_use]
    pub fn made_for(&self) -> &BTreeMap<ClientId, Attempt> {
        &self.made_for
    }

    /// Whether an update would be taken now, before its bytes are read.
    ///
    /// # Errors
    /// As for [`Event::Submit`], but never a conflict: that needs the bytes.
    pub fn admits(
        &self,
        round: RoundId,
        attempt: Attempt,
        client: ClientId,
        now: Timestamp,
    ) -> Result<(), RoundError> {
        if round > self.id || (round == self.id && attempt > self.attempt) {
            return Err(RoundError::Unknown { got: round, open: self.id });
        }
        if round == self.id && self.accepted.contains_key(&client) {
            return Ok(());
        }
        let open = matches!(self.phase, Phase::Open { deadline } if now < deadline);
        if round < self.id || attempt < self.attempt || !open {
            return Err(RoundError::Stale { got: round, attempt });
        }
        if !self.asked.contains(&client) {
            return Err(RoundError::NotInCohort(client));
        }
        Ok(())
    }

    /// Advances by one event; what must happen outside is returned.
    ///
    /// # Errors
    /// [`RoundError`]; then nothing changed.
    pub fn step(&mut self, event: Event<'_>, now: Timestamp) -> Result<Vec<Effect>, RoundError> {
        match event {
            Event::Tick { fleet, may_open } => Ok(self.tick(fleet, may_open, now)),
            Event::CheckIn(client) => Ok(vec![self.check_in(client, now)]),
            Event::Submit { round, attempt, client, update } => {
                self.submit(round, attempt, client, update, now)
            }
            Event::Published => {
                *self = Self::new(self.rules.clone(), self.seed, self.id.next());
                Ok(Vec::new())
            }
            Event::TakenOver { away } => Ok(self.taken_over(away, now)),
        }
    }

    /// Gives the open attempt back the time that nobody was there, and [`GRACE`] at least: clients
    /// wait a while between tries. It goes on as if there had been no gap.
    fn taken_over(&mut self, away: Duration, now: Timestamp) -> Vec<Effect> {
        let Phase::Open { deadline } = self.phase else { return Vec::new() };
        let later = deadline.after(away).max(now.after(GRACE.min(self.longest())));
        self.end_at(later.min(now.after(self.longest())))
    }

    /// How long an attempt may last.
    fn longest(&self) -> Duration {
        Duration::from_secs(self.rules.deadline_s.into())
    }

    fn end_at(&mut self, deadline: Timestamp) -> Vec<Effect> {
        let before = std::mem::replace(&mut self.phase, Phase::Open { deadline });
        if before == self.phase { Vec::new() } else { vec![Effect::Deadline(deadline)] }
    }

    fn tick(&mut self, fleet: &[ClientId], may_open: bool, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.is_complete() {
            self.phase = Phase::Frozen;
        }
        match self.phase {
            Phase::Frozen => return vec![Effect::Close],
            // Never further off than it can have been set: the clock went back.
            Phase::Open { deadline } if now < deadline => {
                return self.end_at(deadline.min(now.after(self.longest())));
            }
            Phase::Open { .. } if self.accepted.len() >= self.rules.min as usize => {
                self.phase = Phase::Frozen;
                return vec![Effect::Close];
            }
            Phase::Open { .. } => {
                effects.push(Effect::Abandon(self.attempt));
                self.attempt = Attempt(self.attempt.0.saturating_add(1));
                self.phase = Phase::Idle;
                self.asked.clear();
                self.carried = self.accepted.len();
            }
            Phase::Idle => {}
        }
        if may_open && fleet.len() >= self.fleet_min() {
            effects.push(self.open(fleet, now));
        }
        effects
    }

    /// Clients without whom opening is pointless: fewer could never reach the minimum.
    fn fleet_min(&self) -> usize {
        self.rules.enrolled_min.max(self.rules.min) as usize
    }

    /// Places left in this attempt, keeping the over-selection for what is still missing.
    fn seats(&self) -> usize {
        (self.rules.ask as usize).saturating_sub(self.carried).max(1)
    }

    fn open(&mut self, fleet: &[ClientId], now: Timestamp) -> Effect {
        let deadline = now.after(self.longest());
        self.phase = Phase::Open { deadline };
        let asked = match self.rules.selection {
            Selection::FirstCome => Vec::new(),
            Selection::Seeded => {
                let sent = |client: &ClientId| self.accepted.contains_key(client);
                cohort::draw(self.seed, self.id, self.attempt, fleet, self.seats(), sent)
            }
        };
        self.asked = asked.iter().copied().collect();
        Effect::Open { attempt: self.attempt, deadline, asked }
    }

    /// Goal reached, or nobody is left who could still send.
    fn is_complete(&self) -> bool {
        let sent = self.accepted.len();
        let exhausted = self.rules.selection == Selection::Seeded
            && matches!(self.phase, Phase::Open { .. })
            && sent >= self.rules.min as usize
            && self.asked.iter().all(|client| self.accepted.contains_key(client));
        sent >= self.rules.goal as usize || exhausted
    }

    fn check_in(&mut self, client: ClientId, now: Timestamp) -> Effect {
        if self.accepted.contains_key(&client) {
            return Effect::Wait(Idle::Done);
        }
        match self.phase {
            Phase::Idle => return Effect::Wait(Idle::Fleet),
            Phase::Frozen => return Effect::Wait(Idle::Closing),
            Phase::Open { deadline } if now >= deadline => return Effect::Wait(Idle::Closing),
            Phase::Open { .. } => {}
        }
        if self.asked.contains(&client) {
            return Effect::Assign { client, new: false };
        }
        if self.rules.selection == Selection::FirstCome && self.asked.len() < self.seats() {
            self.asked.insert(client);
            return Effect::Assign { client, new: true };
        }
        Effect::Wait(Idle::NotAsked)
    }

    fn submit(
        &mut self,
        round: RoundId,
        attempt: Attempt,
        client: ClientId,
        update: Digest,
        now: Timestamp,
    ) -> Result<Vec<Effect>, RoundError> {
        self.admits(round, attempt, client, now)?;
        if let Some(&stands) = self.accepted.get(&client) {
            let same = stands == update;
            return if same {
                Ok(vec![Effect::Repeat(client)])
            } else {
                Err(RoundError::Conflict(client))
            };
        }
        self.accepted.insert(client, update);
        self.made_for.insert(client, attempt);
        let mut effects = vec![Effect::Accept { client, update }];
        if self.is_complete() {
            self.phase = Phase::Frozen;
            effects.push(Effect::Close);
        }
        Ok(effects)
    }
}

#[cfg(test)]
mod tests;
