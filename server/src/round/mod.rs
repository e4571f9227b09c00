//! One round: who is asked, what is accepted, when it ends. Pure: events in, effects out.
//!
//! `round` never reads a clock, a socket, a disk or a global random source. A round is tried in
//! *attempts*: one whose deadline passes with too few updates is followed by another from the same
//! snapshot. What was accepted stays accepted, since its receipt says that it will be counted.
//!
//! [`Round::decide`] changes nothing: whoever decides makes the effects durable, then
//! [`Round::apply`]s them. What other processes made durable comes in by [`Round::follow`].
//!
//! In buffered rounds an update counts in the round that is on when it arrives, if so many have not closed
//! since the snapshot it was made from: a [`Task`] outlives its round. Source: FedBuff, arXiv:2106.06639.
//!
//! ```text
//! Idle --Tick: enough enrolled--> Open --goal, or deadline with the minimum--> Frozen --Published--> next
//!   ^------deadline, too few-------'
//! ```

pub mod cohort;
mod event;
pub mod stop;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{Attempt, ClientId, RoundId};
use gossamer_protocol::manifest::{Cohort, Selection};

use crate::clock::Timestamp;
pub use event::{Effect, Event, Idle, Lacks, Phase, Place, RoundError, Task};

/// Least time that an open attempt has after a restart, unless attempts are shorter altogether: the
/// longest pause between two tries of a client, some times over.
const GRACE: Duration = Duration::from_secs(60);

/// The round that is on.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    rules: Cohort,
    seed: u64,
    id: RoundId,
    attempt: Attempt,
    phase: Phase,
    /// Asked in this attempt, or in an earlier round whose updates still count.
    asked: BTreeMap<ClientId, Task>,
    /// Accepted in this round, whatever the attempt.
    accepted: BTreeMap<ClientId, Digest>,
    /// What each of them was made for.
    made_for: BTreeMap<ClientId, Task>,
    /// How many were accepted before this attempt opened.
    carried: usize,
    /// Who counted so often of late that it may not in this round.
    resting: BTreeSet<ClientId>,
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
            asked: BTreeMap::new(),
            accepted: BTreeMap::new(),
            made_for: BTreeMap::new(),
            carried: 0,
            resting: BTreeSet::new(),
        }
    }

    /// With those who counted so often of late that they may not in this round.
    #[must_use]
    pub fn resting(self, resting: BTreeSet<ClientId>) -> Self {
        Self { resting, ..self }
    }

    /// Goes on where a store says the round stands. `asked` and `accepted` have what the store has and this
    /// round has not, at least; after a change of attempt, `asked` has everyone. `accepted` has the
    /// task of each update.
    pub fn follow(
        &mut self,
        place: Place,
        asked: impl IntoIterator<Item = (ClientId, Task)>,
        accepted: impl IntoIterator<Item = (ClientId, Digest, Task)>,
    ) {
        let same = place.attempt == self.attempt && matches!(self.phase, Phase::Open { .. });
        if place.attempt != self.attempt {
            self.asked.clear();
        }
        self.attempt = place.attempt;
        self.asked.extend(asked);
        for (client, update, at) in accepted {
            self.accepted.insert(client, update);
            self.made_for.insert(client, at);
        }
        // In an attempt that is still the same, nothing was carried into it since.
        if !same || place.deadline.is_none() {
            let idle = place.deadline.is_none();
            let now = Task { round: self.id, attempt: place.attempt };
            let before = |at: &&Task| idle || **at < now;
            self.carried = self.made_for.values().filter(before).count();
        }
        self.phase = match place.deadline {
            _ if place.frozen => Phase::Frozen,
            Some(deadline) => Phase::Open { deadline },
            None => Phase::Idle,
        };
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

    /// Who is asked, and for what: in this attempt or, where rounds are buffered, in an earlier round.
    #[must_use]
    pub fn asked(&self) -> &BTreeMap<ClientId, Task> {
        &self.asked
    }

    /// What was accepted in this round.
    #[must_use]
    pub fn accepted(&self) -> &BTreeMap<ClientId, Digest> {
        &self.accepted
    }

    /// What each accepted update was made for.
    #[must_use]
    pub fn made_for(&self) -> &BTreeMap<ClientId, Task> {
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
        let task = Task { round, attempt };
        if self.made_for.get(&client).is_some_and(|made| made.round == round) {
            return Ok(());
        }
        let buffered = self.rules.buffered.is_some();
        let open = match self.phase {
            Phase::Open { deadline } => now < deadline || buffered,
            // It is counted once there is an attempt, or the goal is reached.
            Phase::Idle => buffered,
            Phase::Frozen => false,
        };
        let known = self.asked.get(&client);
        let stale = match (known, self.accepted.contains_key(&client)) {
            (Some(asked), false) => *asked != task,
            // Another update of it counts in this round.
            (_, true) => true,
            (None, false) => task != (Task { round: self.id, attempt: self.attempt }),
        };
        if !stale && buffered && known.is_some() && !open {
            return Err(RoundError::Closing);
        }
        if stale || !open {
            return Err(RoundError::Stale { got: round, attempt });
        }
        if known.is_none() {
            return Err(RoundError::NotInCohort(client));
        }
        Ok(())
    }

    /// What an event comes to; nothing changes.
    ///
    /// # Errors
    /// [`RoundError`] where it is refused.
    pub fn decide(&self, event: &Event<'_>, now: Timestamp) -> Result<Vec<Effect>, RoundError> {
        match *event {
            Event::Tick { fleet, may_open } => Ok(self.tick(fleet, may_open, now)),
            Event::CheckIn(client) => Ok(vec![self.check_in(client, now)]),
            Event::Submit { round, attempt, client, update } => {
                self.submit(round, attempt, client, update, now)
            }
            Event::TakenOver { away } => Ok(self.taken_over(away, now)),
        }
    }

    /// Changes as an effect says that was decided on this round, and is durable by now.
    pub fn apply(&mut self, effect: &Effect) {
        match effect {
            Effect::Open { attempt, deadline, asked } => {
                self.attempt = *attempt;
                self.phase = Phase::Open { deadline: *deadline };
                let task = self.task();
                self.asked.extend(asked.iter().map(|&client| (client, task)));
            }
            Effect::Deadline(deadline) => self.phase = Phase::Open { deadline: *deadline },
            Effect::Abandon(attempt) => {
                self.attempt = after(*attempt);
                self.phase = Phase::Idle;
                self.asked.clear();
                self.carried = self.accepted.len();
            }
            Effect::Assign { client, .. } => {
                self.asked.insert(*client, self.asked_for(*client));
            }
            Effect::Accept { client, update } => {
                self.accepted.insert(*client, *update);
                self.made_for.insert(*client, self.asked_for(*client));
                // What is late comes also before the next attempt opens, and is carried into it.
                if self.phase == Phase::Idle {
                    self.carried = self.accepted.len();
                }
            }
            Effect::Freeze => self.phase = Phase::Frozen,
            Effect::Wait(_) | Effect::Repeat(_) | Effect::Close => {}
        }
    }

    /// [`decide`](Self::decide) and [`apply`](Self::apply), where nothing has to be durable in between.
    ///
    /// # Errors
    /// [`RoundError`]; then nothing changed.
    pub fn step(&mut self, event: &Event<'_>, now: Timestamp) -> Result<Vec<Effect>, RoundError> {
        let effects = self.decide(event, now)?;
        for effect in &effects {
            self.apply(effect);
        }
        Ok(effects)
    }

    /// The next round: this one's snapshot is published.
    #[must_use]
    pub fn next(&self) -> Self {
        let mut next = Self::new(self.rules.clone(), self.seed, self.id.next());
        let first = next.oldest();
        let goes_on = |(client, task): &(&ClientId, &Task)| {
            task.round >= first && !self.accepted.contains_key(client)
        };
        let goes_on = self.asked.iter().filter(goes_on);
        next.asked.extend(goes_on.map(|(&client, &task)| (client, task)));
        next
    }

    /// The first round whose tasks are still good: this one, unless rounds are buffered.
    #[must_use]
    pub fn oldest(&self) -> RoundId {
        oldest(&self.rules, self.id)
    }

    /// How many rounds have closed since the snapshot of each accepted update, in the order of
    /// [`accepted`](Self::accepted); nothing where rounds are not buffered.
    #[must_use]
    pub fn staleness(&self) -> Vec<u32> {
        if self.rules.buffered.is_none() {
            return Vec::new();
        }
        let stale = |task: &Task| staleness(self.id, task.round);
        self.made_for.values().map(stale).collect()
    }

    /// What `client` is asked for, or would be now.
    #[must_use]
    pub fn asked_for(&self, client: ClientId) -> Task {
        self.asked.get(&client).copied().unwrap_or_else(|| self.task())
    }

    /// What clients are asked for now.
    fn task(&self) -> Task {
        Task { round: self.id, attempt: self.attempt }
    }

    /// Gives the open attempt back the time that nobody was there, and [`GRACE`] at least: clients
    /// wait a while between tries. It goes on as if there had been no gap.
    fn taken_over(&self, away: Duration, now: Timestamp) -> Vec<Effect> {
        let Phase::Open { deadline } = self.phase else { return Vec::new() };
        let later = deadline.after(away).max(now.after(GRACE.min(self.longest())));
        self.end_at(later.min(now.after(self.longest())))
    }

    /// How long an attempt may last.
    fn longest(&self) -> Duration {
        Duration::from_secs(self.rules.deadline_s.into())
    }

    fn end_at(&self, deadline: Timestamp) -> Vec<Effect> {
        if self.phase == (Phase::Open { deadline }) {
            Vec::new()
        } else {
            vec![Effect::Deadline(deadline)]
        }
    }

    fn tick(&self, fleet: &[ClientId], may_open: bool, now: Timestamp) -> Vec<Effect> {
        let (attempt, carried, mut effects) = match self.phase {
            Phase::Frozen => return vec![Effect::Close],
            _ if self.is_complete(None) => return vec![Effect::Freeze, Effect::Close],
            // Never further off than it can have been set: the clock went back.
            Phase::Open { deadline } if now < deadline => {
                return self.end_at(deadline.min(now.after(self.longest())));
            }
            Phase::Open { .. } if self.accepted.len() >= self.rules.min as usize => {
                return vec![Effect::Freeze, Effect::Close];
            }
            Phase::Open { .. } => {
                (after(self.attempt), self.accepted.len(), vec![Effect::Abandon(self.attempt)])
            }
            Phase::Idle => (self.attempt, self.carried, Vec::new()),
        };
        if may_open && self.lacks(fleet).is_none() {
            effects.push(self.open(attempt, carried, fleet, now));
        }
        effects
    }

    /// Who is lacking for an attempt to open: with fewer it could never reach the minimum.
    #[must_use]
    pub fn lacks(&self, fleet: &[ClientId]) -> Option<Lacks> {
        if fleet.len() < self.fleet_min() {
            return Some(Lacks::Clients);
        }
        if self.resting.is_empty() {
            return None;
        }
        let may = |client: &&ClientId| {
            !self.resting.contains(client) && !self.accepted.contains_key(client)
        };
        let could = fleet.iter().filter(may).count() + self.accepted.len();
        (could < self.rules.min as usize).then_some(Lacks::Participation)
    }

    /// Clients without whom opening is pointless: fewer could never reach the minimum.
    fn fleet_min(&self) -> usize {
        self.rules.enrolled_min.max(self.rules.min) as usize
    }

    /// Places in an attempt that `carried` updates were accepted before, keeping the over-selection for
    /// what is still missing.
    fn seats(&self, carried: usize) -> usize {
        (self.rules.ask as usize).saturating_sub(carried).max(1)
    }

    fn open(&self, attempt: Attempt, carried: usize, fleet: &[ClientId], now: Timestamp) -> Effect {
        let asked = match self.rules.selection {
            Selection::FirstCome => Vec::new(),
            Selection::Seeded => {
                let sent = |client: &ClientId| {
                    self.accepted.contains_key(client) || self.resting.contains(client)
                };
                cohort::draw(self.seed, self.id, attempt, fleet, self.seats(carried), sent)
            }
        };
        Effect::Open { attempt, deadline: now.after(self.longest()), asked }
    }

    /// Goal reached, or nobody is left who could still send: as things are, or with `one` more update.
    fn is_complete(&self, one: Option<ClientId>) -> bool {
        let sent = self.accepted.len() + usize::from(one.is_some());
        let has_sent = |client| self.accepted.contains_key(client) || one.as_ref() == Some(client);
        let exhausted = self.rules.selection == Selection::Seeded
            && matches!(self.phase, Phase::Open { .. })
            && sent >= self.rules.min as usize
            && self.asked.keys().all(has_sent);
        sent >= self.rules.goal as usize || exhausted
    }

    fn check_in(&self, client: ClientId, now: Timestamp) -> Effect {
        if self.accepted.contains_key(&client) {
            return Effect::Wait(Idle::Done);
        }
        match self.phase {
            Phase::Idle if self.resting.contains(&client) => return Effect::Wait(Idle::Resting),
            Phase::Idle if !self.resting.is_empty() => return Effect::Wait(Idle::Few),
            Phase::Idle => return Effect::Wait(Idle::Fleet),
            Phase::Frozen => return Effect::Wait(Idle::Closing),
            Phase::Open { deadline } if now >= deadline => return Effect::Wait(Idle::Closing),
            Phase::Open { .. } => {}
        }
        if self.asked.contains_key(&client) {
            return Effect::Assign { client, new: false };
        }
        if self.resting.contains(&client) {
            return Effect::Wait(Idle::Resting);
        }
        let seats = match self.rules.buffered {
            None => self.seats(self.carried),
            // So many are at work at a time; who has sent is not.
            Some(_) => {
                let sent = |client: &&ClientId| self.accepted.contains_key(client);
                self.rules.ask as usize + self.asked.keys().filter(sent).count()
            }
        };
        if self.rules.selection == Selection::FirstCome && self.asked.len() < seats {
            return Effect::Assign { client, new: true };
        }
        Effect::Wait(Idle::NotAsked)
    }

    fn submit(
        &self,
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
        let mut effects = vec![Effect::Accept { client, update }];
        if self.is_complete(Some(client)) {
            effects.extend([Effect::Freeze, Effect::Close]);
        }
        Ok(effects)
    }
}

/// The attempt that follows.
pub(crate) fn after(attempt: Attempt) -> Attempt {
    Attempt(attempt.0.saturating_add(1))
}

/// The first round whose snapshot an update may be made from that arrives in `round`.
pub(crate) fn oldest(rules: &Cohort, round: RoundId) -> RoundId {
    RoundId(round.0.saturating_sub(rules.staleness_max()))
}

/// Rounds that have closed since `from`, where `now` is on.
pub(crate) fn staleness(now: RoundId, from: RoundId) -> u32 {
    u32::try_from(now.0.saturating_sub(from.0)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
