//! Snapshots and states that nobody needs any more: which, and their removal.

use std::sync::atomic::Ordering;

use gossamer_protocol::ids::{RoundId, RunId};
use schemars::JsonSchema;
use serde::Serialize;

use super::differences::rounds_back;
use super::{Coordinator, CoordinatorError, Run};
use crate::audit::Event as Told;
use crate::clock::Timestamp;
use crate::problem::told;
use crate::store::{Keep, Kind, Spent, StoreError};

/// How often the server looks.
const EVERY_MS: u64 = 60_000;
/// Rounds of a run that are removed in one go, so that a tick is not held up.
const AT_ONCE: u32 = 64;

/// What was, or would be, removed of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Pruned {
    /// Rounds whose snapshot went, in rising order.
    #[schemars(with = "Vec<u64>")]
    pub snapshots: Vec<RoundId>,
    /// Rounds whose state went, in rising order.
    #[schemars(with = "Vec<u64>")]
    pub states: Vec<RoundId>,
    /// Bytes of all of them.
    pub bytes: u64,
}

impl Coordinator {
    /// How many of each run's last rounds this process keeps from now on; none: all.
    pub fn set_retention(&self, rounds: Option<std::num::NonZeroU32>) {
        self.0.retention.store(rounds.map_or(0, u32::from), Ordering::Relaxed);
    }

    /// Removes snapshots and states of a run older than its `rounds` last rounds, but what a tag names, the best
    /// one, and snapshots that late or returning clients may need. Records, receipts and proofs stay. With `dry`
    /// it only tells.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownRun`], and the store's.
    pub async fn prune(
        &self,
        run: RunId,
        rounds: std::num::NonZeroU32,
        dry: bool,
    ) -> Result<Pruned, CoordinatorError> {
        let run = self.find(run).await?;
        let prune = move |this: Self| async move {
            let mut all = Pruned::default();
            loop {
                let limit = if dry { u32::MAX } else { AT_ONCE };
                if !this.prune_some(&run, rounds.into(), limit, dry, &mut all).await? {
                    return Ok(all);
                }
            }
        };
        self.apart(prune).await
    }

    /// Removes some; whether there may be more.
    async fn prune_some(
        &self,
        run: &Run,
        rounds: u32,
        limit: u32,
        dry: bool,
        pruned: &mut Pruned,
    ) -> Result<bool, CoordinatorError> {
        let frame = self.lock(run).await?.snapshot_bytes.len();
        // The round that is on is one of them, and so are those before it that clients may still have a task of.
        let late = run.manifest.cohort.staleness_max() + 1;
        let snapshots = late.max(rounds_back(frame) + 1);
        let best = self.within(None).best_round(run.id).await?.map(|(round, _)| round);
        let keep = Keep { rounds: rounds.into(), snapshots, best };
        let store = &self.0.store;
        let note = |spent: &[Spent]| {
            let count = |wanted: bool| {
                spent.iter().filter(|spent| (spent.kind == Kind::Snapshot) == wanted).count()
            };
            let last = spent.last().map_or(RoundId(0), |spent| spent.round);
            let (snapshots, states) = (count(true), count(false));
            let event = Told::SnapshotsRemoved { run: run.id, last, snapshots, states };
            self.note(event).of(&run.project)
        };
        let found = store.retire(run.id, &keep, limit, (!dry).then_some(&note)).await?;
        let spent = if dry { found.clone() } else { store.spent(run.id).await? };
        for one in &spent {
            pruned.bytes += match dry {
                true => match store.objects().len(one.kind, one.digest).await {
                    Err(StoreError::Missing(_)) => 0,
                    len => len?,
                },
                false => store.drop_spent(run.id, one).await?,
            };
            let list =
                if one.kind == Kind::Snapshot { &mut pruned.snapshots } else { &mut pruned.states };
            list.push(one.round);
        }
        Ok(!dry && !found.is_empty())
    }

    /// Once a minute, what the setting says: what cannot be removed is no reason for rounds to stand still.
    pub(super) async fn retain(&self, now: Timestamp) {
        let rounds = self.0.retention.load(Ordering::Relaxed);
        let last = self.0.retained_at.load(Ordering::Relaxed);
        // Backwards too: a clock that was put right must not end it.
        if rounds == 0 || (last != 0 && now.0.abs_diff(last) < EVERY_MS) {
            return;
        }
        self.0.retained_at.store(now.0, Ordering::Relaxed);
        for run in self.all() {
            let mut pruned = Pruned::default();
            let own = self.acting(crate::audit::Actor::Server);
            if let Err(error) = own.prune_some(&run, rounds, AT_ONCE, false, &mut pruned).await {
                tracing::warn!(run = %run.id, error = %told(&error), "cannot remove old snapshots");
            }
            let Pruned { snapshots, states, bytes } = &pruned;
            let objects = snapshots.len() + states.len();
            if objects > 0 {
                self.0.metrics.removed_objects.inc_by(objects as u64);
                self.0.metrics.removed_bytes.inc_by(*bytes);
                tracing::info!(run = %run.id, objects, bytes, "removed old snapshots");
            }
        }
    }

    /// The frame of the snapshot that `round` starts from.
    pub(super) async fn snapshot_of(
        &self,
        run: &Run,
        round: RoundId,
    ) -> Result<bytes::Bytes, CoordinatorError> {
        let row = self.stored_record(run, round).await?;
        let found = self.0.store.objects().get(Kind::Snapshot, row.snapshot).await;
        self.or_gone(run, round, row.snapshot_kept, found).await
    }

    /// The bytes of the state that `round` starts from.
    pub(super) async fn state_of(
        &self,
        run: &Run,
        round: RoundId,
    ) -> Result<bytes::Bytes, CoordinatorError> {
        let row = self.stored_record(run, round).await?;
        let found = self.0.store.state(run.id, round, row.state).await;
        self.or_gone(run, round, row.state_kept, found).await
    }

    /// What was found of a round's, by the name of what it is where it is removed: perhaps just now.
    async fn or_gone<T>(
        &self,
        run: &Run,
        round: RoundId,
        kept: bool,
        found: Result<T, StoreError>,
    ) -> Result<T, CoordinatorError> {
        let gone = CoordinatorError::Gone { run: run.id, round };
        match found {
            _ if !kept => Err(gone),
            Err(StoreError::Missing(missing)) => {
                let row = self.stored_record(run, round).await?;
                let kept = if missing == row.snapshot { row.snapshot_kept } else { row.state_kept };
                Err(if kept { StoreError::Missing(missing).into() } else { gone })
            }
            found => Ok(found?),
        }
    }
}

#[cfg(test)]
mod tests {
    use gossamer_protocol::problem::ProblemType;

    use super::super::tests::fixtures::manifest;
    use super::super::tests::world::World;
    use super::*;

    /// Two runs that came to the same adapters: what goes of one is there for the other. Whoever was killed between
    /// noting and dropping leaves the rest to the next.
    #[tokio::test]
    async fn a_state_is_its_rounds_alone_and_what_is_noted_is_dropped_later() {
        let world = World::in_memory().await;
        let (mut terms, it) = (manifest(), &world.coordinator);
        terms.rounds = 4;
        let run = world.start(&terms, 2).await;
        world.finish(&terms, run, &[0, 1]).await;
        terms.name = "another".into();
        let other = it.create_run(&terms).await.expect("a run");
        world.finish(&terms, other, &[0, 1]).await;
        let state = |run| async move {
            let run = it.find(run).await.expect("there");
            it.stored_record(&run, RoundId(1)).await.expect("there").state
        };
        let digest = state(run).await;
        assert_eq!(digest, state(other).await, "the same adapters");

        let keep = Keep { rounds: 1, snapshots: 9, best: Some(RoundId(0)) };
        let event = Told::SnapshotsRemoved { run, last: RoundId(3), snapshots: 0, states: 3 };
        let note = it.note(event);
        let noted = it.0.store.retire(run, &keep, 9, Some(&|_| note.clone())).await;
        let rounds: Vec<u64> = noted.expect("noted").iter().map(|spent| spent.round.0).collect();
        assert_eq!(rounds, [1, 2, 3]);
        // Killed here: it is gone to who asks, and still lies there.
        let gone = it.theta(run, RoundId(1)).await.expect_err("gone");
        assert_eq!(gone.problem_type(), ProblemType::Gone);
        let kind = |run| Kind::StateOf(run, RoundId(1));
        let objects = it.0.store.objects();
        assert!(objects.len(kind(run), digest).await.is_ok());
        assert!(it.theta(other, RoundId(1)).await.is_ok(), "its own");
        it.set_retention(std::num::NonZeroU32::new(1));
        world.tick().await;
        let missing = objects.len(kind(run), digest).await;
        assert!(matches!(missing, Err(StoreError::Missing(_))), "{missing:?}");
        assert_eq!(it.0.store.spent(run).await.expect("read"), []);
        let gone = it.theta(other, RoundId(1)).await.expect_err("the setting is for all runs");
        assert_eq!(gone.problem_type(), ProblemType::Gone);
        assert!(
            it.theta(other, RoundId(4)).await.is_ok() && it.theta(run, RoundId(0)).await.is_ok()
        );
        // Three states each, of 24 bytes and 20 parameters with two slots.
        assert_eq!(it.metrics().removed_objects.get(), 6);
        assert_eq!(it.metrics().removed_bytes.get(), 6 * (24 + 3 * 20 * 4));
    }
}
