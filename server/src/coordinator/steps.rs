//! A run's copy in memory, and what changes it.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::Terms;
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::manifest::{Manifest, Participation};
use sqlx::AnyConnection;
use tokio::sync::MutexGuard;

use super::rounds::over;
use super::{Admission, Coordinator, CoordinatorError, Open, Run};
use crate::advance;
use crate::audit::Event as Told;
use crate::clock::Timestamp;
use crate::round::{Effect, Event, Place, Round, Task, after};
use crate::status::Status;
use crate::store::{
    AcceptRow, Done, Kind, News, RecordRow, Standing, StoreError, folds, steps, try_transact,
};

/// What somebody wants of a round.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    /// Whatever is due.
    Tick,
    /// A task for this client.
    CheckIn(ClientId),
    /// This update taken.
    Submit(Admission, Digest),
    /// Time given back in which nobody was there.
    TakenOver(Duration),
}

impl Open {
    /// What of the run this knows.
    fn known(&self) -> (u64, RoundId, Attempt) {
        (self.version, self.round.id(), self.round.attempt())
    }

    fn follow(&mut self, version: u64, standing: &Standing, news: News) {
        self.round.follow(place(standing), news.asked, news.accepted);
        self.version = version;
    }
}

fn place(standing: &Standing) -> Place {
    let Standing { attempt, deadline, frozen, .. } = *standing;
    Place { attempt, deadline, frozen }
}

impl Coordinator {
    /// A run's copy, as the store has it.
    pub(super) async fn lock<'a>(
        &self,
        run: &'a Run,
    ) -> Result<MutexGuard<'a, Open>, CoordinatorError> {
        let mut open = run.open.lock().await;
        let moved =
            self.0.store.is_shared() && self.0.store.version(run.id).await? != Some(open.version);
        if open.dirty || moved {
            self.catch_up(run, &mut open).await?;
        }
        Ok(open)
    }

    /// Reads what came since.
    pub(super) async fn catch_up(
        &self,
        run: &Run,
        open: &mut Open,
    ) -> Result<(), CoordinatorError> {
        open.dirty = true;
        let (standing, news) = self.0.store.news(run.id, open.known()).await?;
        if standing.round == open.round.id() {
            open.follow(standing.version, &standing, news);
        } else {
            *open = self.begin(run.id, &run.manifest, &standing, news).await?;
        }
        open.dirty = false;
        if run.status() != standing.status {
            run.set_status(standing.status);
        }
        self.changed();
        Ok(())
    }

    /// What the store says of a run's round.
    pub(super) async fn read_open(
        &self,
        run: RunId,
        manifest: &Manifest,
    ) -> Result<Open, CoordinatorError> {
        let (standing, news) = self.0.store.news(run, steps::NOTHING).await?;
        self.begin(run, manifest, &standing, news).await
    }

    async fn begin(
        &self,
        run: RunId,
        manifest: &Manifest,
        standing: &Standing,
        news: News,
    ) -> Result<Open, CoordinatorError> {
        let store = &self.0.store;
        let record = store.record(run, standing.round).await?;
        let RecordRow { signed: record, snapshot, state, .. } =
            record.ok_or(StoreError::Row("a round has no record"))?;
        let snapshot_bytes = store.objects().get(Kind::Snapshot, snapshot).await?;
        let terms = Terms::new(manifest, run, standing.round);
        let shared = advance::shared_support(&snapshot_bytes, &terms)?.map(Arc::new);
        let round = Round::new(manifest.cohort.clone(), manifest.seed, standing.round);
        let mut round = round.resting(self.resting(run, manifest, standing.round).await?);
        round.follow(place(standing), news.asked, news.accepted);
        Ok(Open {
            version: standing.version,
            round,
            record: Digest::of(&record.bytes),
            snapshot,
            snapshot_bytes,
            shared,
            state,
            state_cached: None,
            dirty: false,
        })
    }

    /// Who may not count in `round`.
    pub(super) async fn resting(
        &self,
        run: RunId,
        manifest: &Manifest,
        round: RoundId,
    ) -> Result<BTreeSet<ClientId>, CoordinatorError> {
        let Some(Participation { rounds, window }) = manifest.cohort.participation else {
            return Ok(BTreeSet::new());
        };
        let from = RoundId((round.0 + 1).saturating_sub(window.into()));
        Ok(self.0.store.frequent(run, from..round, rounds).await?.into_iter().collect())
    }

    /// What `act` comes to, made durable; the copy then has it.
    pub(super) async fn step(
        &self,
        run: &Run,
        open: &mut Open,
        act: &Act,
        now: Timestamp,
    ) -> Result<Vec<Effect>, CoordinatorError> {
        loop {
            let effects = self.decide(run, open, act, now)?;
            if !effects.iter().any(Effect::is_durable) {
                return Ok(effects);
            }
            if let Some(effects) = self.carry_out(run, open, act, now, effects).await? {
                return Ok(effects);
            }
            self.catch_up(run, open).await?;
        }
    }

    fn decide(
        &self,
        run: &Run,
        open: &Open,
        act: &Act,
        now: Timestamp,
    ) -> Result<Vec<Effect>, CoordinatorError> {
        let decided = match *act {
            Act::Tick => {
                let open_round = open.round.id().0 < run.manifest.rounds;
                let may_open = run.is(Status::Running) && open_round;
                let fleet = self.0.fleet.read().unwrap_or_else(PoisonError::into_inner);
                open.round.decide(&Event::Tick { fleet: fleet.of(&run.project), may_open }, now)
            }
            Act::CheckIn(client) => open.round.decide(&Event::CheckIn(client), now),
            Act::Submit(..) if run.is_over() => return Err(over(run)),
            Act::Submit(Admission { round, attempt, client, .. }, update) => {
                open.round.decide(&Event::Submit { round, attempt, client, update }, now)
            }
            Act::TakenOver(away) => open.round.decide(&Event::TakenOver { away }, now),
        };
        decided.map_err(|source| {
            let retry = self.retry_any(run, now);
            CoordinatorError::Round { source, retry }
        })
    }

    /// Makes effects durable that were decided on the copy, or what `act` comes to instead where the
    /// store has moved on; none where it is at another round.
    async fn carry_out(
        &self,
        run: &Run,
        open: &mut Open,
        act: &Act,
        now: Timestamp,
        effects: Vec<Effect>,
    ) -> Result<Option<Vec<Effect>>, CoordinatorError> {
        // Until it is known that the copy is what the store has.
        open.dirty = true;
        let mut decided = Ok(effects);
        let version = try_transact!(self.0.store, |tx| {
            let held = steps::hold(tx, run.id).await?;
            let stood = held.version - 1;
            if stood != open.version {
                if held.round != open.round.id() {
                    return Ok(Done::Undo(None));
                }
                let news = steps::news(tx, run.id, &held, open.known()).await?;
                open.follow(stood, &held, news);
                run.set_status(held.status);
                decided = self.decide(run, open, act, now);
            }
            let effects = match &decided {
                Ok(effects) if effects.iter().any(Effect::is_durable) => effects,
                _ => return Ok(Done::Undo(Some(stood))),
            };
            self.write(tx, run, open, held.version, effects).await?;
            Ok(Done::Keep(Some(held.version)))
        })?;
        open.dirty = false;
        let Some(version) = version else { return Ok(None) };
        let effects = decided?;
        if version != open.version {
            open.version = version;
            for effect in &effects {
                self.tell(run, open, effect);
                open.round.apply(effect);
            }
            if let (Act::Submit(..), Some(Effect::Close)) = (act, effects.last()) {
                self.0.due.notify_one();
            }
            self.changed();
        }
        Ok(Some(effects))
    }

    /// Writes what of `effects` is to be durable.
    async fn write(
        &self,
        tx: &mut AnyConnection,
        run: &Run,
        open: &Open,
        version: u64,
        effects: &[Effect],
    ) -> Result<(), StoreError> {
        let round = open.round.id();
        for effect in effects {
            match effect {
                Effect::Open { attempt, deadline, asked } => {
                    let task = Task { round, attempt: *attempt };
                    steps::open_attempt(tx, run.id, version, task, *deadline, asked).await?;
                }
                Effect::Deadline(deadline) => steps::set_deadline(tx, run.id, *deadline).await?,
                Effect::Abandon(attempt) => {
                    let (attempt, accepted) = (after(*attempt), open.round.accepted().len());
                    let told = Told::RoundAbandoned { run: run.id, round, attempt, accepted };
                    steps::abandon(tx, run.id, attempt, &self.own_note(told).of(&run.project))
                        .await?;
                }
                Effect::Assign { client, new: true } => {
                    let task = open.round.asked_for(*client);
                    steps::add_asked(tx, run.id, version, task, &[*client]).await?;
                }
                Effect::Accept { client, update } => {
                    let (client, frame, task) = (*client, *update, open.round.asked_for(*client));
                    let receipt = &self.receipt(run, task, client, frame);
                    let row = AcceptRow { run: run.id, round, task, client, frame, receipt };
                    steps::accept(tx, version, &row).await?;
                }
                Effect::Freeze => {
                    steps::freeze(tx, run.id).await?;
                    let new = effects.iter().filter(|e| matches!(e, Effect::Accept { .. })).count();
                    let updates = (open.round.accepted().len() + new) as u64;
                    let part = u64::from(self.folding().part.get());
                    if self.0.store.is_shared() && updates > part {
                        folds::split(tx, run.id, round, updates, part).await?;
                    }
                }
                Effect::Assign { new: false, .. }
                | Effect::Wait(_)
                | Effect::Repeat(_)
                | Effect::Close => {}
            }
        }
        Ok(())
    }

    /// Counts and logs what just became durable, before the copy has it.
    fn tell(&self, run: &Run, open: &Open, effect: &Effect) {
        let (round, accepted) = (open.round.id(), open.round.accepted().len());
        match effect {
            Effect::Open { attempt, asked, .. } => {
                tracing::debug!(run = %run.id, %round, %attempt, asked = asked.len(), "open");
            }
            Effect::Deadline(_) => {
                let attempt = open.round.attempt();
                tracing::info!(run = %run.id, %round, %attempt, "deadline moved");
            }
            Effect::Abandon(_) => {
                self.0.metrics.abandoned.inc();
                tracing::warn!(run = %run.id, %round, accepted, "too few updates: trying again");
            }
            Effect::Accept { .. } => {
                self.0.metrics.accepted.inc();
            }
            Effect::Assign { .. }
            | Effect::Wait(_)
            | Effect::Repeat(_)
            | Effect::Freeze
            | Effect::Close => {}
        }
    }
}
