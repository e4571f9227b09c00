//! The sum of a frozen round's updates: in one piece, or of a large round in parts that any process folds.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Origin, Snapshot, Terms, Update};
use gossamer_protocol::ids::ClientId;
use gossamer_protocol::sparse::Support;
use ring::rand::SecureRandom as _;

use super::close::blocking;
use super::{Coordinator, CoordinatorError, Peers, Run};
use crate::advance::{AdvanceError, Combining};
use crate::aggregate::Start;
use crate::round::{Round, Task, staleness};
use crate::state::ServerState;
use crate::store::{FoldRow, Kind, Lease, StoreError};

/// Bytes of run, round and part before a partial sum.
const ADDRESS: usize = 32;
/// Updates in memory at a time while they are folded: so many, of so many bytes at most.
const PIECE: usize = 64;
const PIECE_BYTES: usize = 1 << 26;
/// Updates that a thread decodes before they are summed.
const EACH: usize = 4;

/// How rounds are folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folding {
    /// Where processes share the store: rounds of more updates than this are folded in parts of so many: enough that a sum is much less to
    /// read than what it is of.
    pub part: NonZeroU32,
    /// Seconds that a process has for a part: more than it takes. Whoever is slower, or frozen meanwhile,
    /// has done it in vain.
    pub lease_s: NonZeroU32,
    /// Threads that decode; they sum in one order however many there are.
    pub threads: NonZeroU32,
}

impl Default for Folding {
    fn default() -> Self {
        let not_0 = |value| NonZeroU32::new(value).unwrap_or(NonZeroU32::MIN);
        Self { part: not_0(256), lease_s: not_0(30), threads: not_0(1) }
    }
}

/// A frozen round, as closing needs it.
pub(super) struct Frozen {
    pub(super) round: Round,
    pub(super) parent: Digest,
    pub(super) snapshot: Digest,
    pub(super) shared: Option<Arc<Support>>,
    pub(super) state: Digest,
    pub(super) state_cached: Option<Arc<ServerState>>,
}

type Accepted = [(ClientId, Digest)];
/// What an update is read with.
type Base = (Origin, Option<Arc<Support>>);

/// `work` done on each, on so many threads, in order.
fn each<T: Sync, R: Send>(threads: usize, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let share = items.len().div_ceil(threads).max(1);
    let Some((own, others)) = items.split_at_checked(share) else {
        return items.iter().map(work).collect();
    };
    std::thread::scope(|scope| {
        let all = |items: &[T]| items.iter().map(&work).collect::<Vec<R>>();
        let others: Vec<_> =
            others.chunks(share).map(|some| scope.spawn(move || all(some))).collect();
        let mut done = all(own);
        for other in others {
            done.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    })
}

impl Coordinator {
    /// The sum of what was accepted; none where other processes are still at parts of it.
    pub(super) async fn combine(
        &self,
        run: &Arc<Run>,
        frozen: &Frozen,
    ) -> Result<Option<Combining>, CoordinatorError> {
        // In client order, though the sum would be the same in any.
        let accepted: Vec<(ClientId, Digest)> =
            frozen.round.accepted().iter().map(|(&client, &digest)| (client, digest)).collect();
        let (store, round) = (&self.0.store, frozen.round.id());
        if let Some(peers) = self.peers() {
            return Ok(Some(self.fold_with_peers(run, frozen, accepted, peers.as_ref()).await?));
        }
        if !store.is_shared() || store.folds(run.id, round).await?.is_empty() {
            return Ok(Some(self.fold(run, frozen, &accepted).await?));
        }
        let mut lease: Lease = [0; 16];
        let drawn = ring::rand::SystemRandom::new().fill(&mut lease);
        drawn.map_err(|_| StoreError::Row("the system has no randomness for a lease"))?;
        loop {
            let now = self.now();
            let until = now.after(Duration::from_secs(self.folding().lease_s.get().into()));
            let leased = store.lease(run.id, round, &lease, now, until).await?;
            let Some(part) = leased else { break };
            self.fold_part(run, frozen, &accepted, &lease, part).await?;
        }
        let mut combining = self.combining(run, frozen).await?;
        for part in store.folds(run.id, round).await? {
            let Some(partial) = part.partial else { return Ok(None) };
            match store.objects().get(Kind::Partial, partial).await {
                Ok(bytes) => combining.merge(bytes.get(ADDRESS..).unwrap_or_default())?,
                Err(error @ (StoreError::Missing(_) | StoreError::Damaged(_))) => {
                    // Its updates are all still there.
                    tracing::warn!(run = %run.id, %round, %error, "a part is folded anew");
                    store.unfold(run.id, round, part.part, partial).await?;
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(combining))
    }

    /// Folds what this process has, and adds what its peers have.
    async fn fold_with_peers(
        &self,
        run: &Arc<Run>,
        frozen: &Frozen,
        mut accepted: Vec<(ClientId, Digest)>,
        peers: &dyn Peers,
    ) -> Result<Combining, CoordinatorError> {
        accepted.retain(|(client, _)| peers.has(*client));
        let mut combining = self.fold(run, frozen, &accepted).await?;
        let failed = CoordinatorError::Peers;
        if let Some(words) = combining.words() {
            let words = peers.sum(words).await.map_err(failed)?;
            let trained = peers.gather(combining.training().to_bytes()).await.map_err(failed)?;
            combining.set(&words, &trained)?;
            return Ok(combining);
        }
        // A rule of products has no sum: each gets what all were sent.
        let partials = peers.gather(combining.partial()).await.map_err(failed)?;
        let mut whole = self.combining(run, frozen).await?;
        for partial in partials {
            whole.merge(&partial)?;
        }
        Ok(whole)
    }

    /// Folds the part that `lease` is for.
    async fn fold_part(
        &self,
        run: &Arc<Run>,
        frozen: &Frozen,
        accepted: &Accepted,
        lease: &Lease,
        part: FoldRow,
    ) -> Result<(), CoordinatorError> {
        let round = frozen.round.id();
        let at = |count| usize::try_from(count).unwrap_or(usize::MAX);
        let (start, end) = (at(part.start), at(part.start.saturating_add(part.length)));
        let updates = accepted.get(start..end);
        let updates = updates.ok_or(StoreError::Row("a part of updates that are not there"))?;
        let sum = self.fold(run, frozen, updates).await?.partial();
        // With its address in front: another round may have the same sum, and drops its own.
        let address = [&run.id.0[..], &round.0.to_le_bytes(), &part.part.to_le_bytes()].concat();
        let partial = [address, sum].concat();
        let partial = self.0.store.objects().put(Kind::Partial, partial.into()).await?;
        if !self.0.store.folded(run.id, round, part.part, lease, partial).await? {
            tracing::warn!(run = %run.id, %round, part = part.part, "the lease was over");
        }
        Ok(())
    }

    /// Nothing summed yet; a rule that looks at products is told what the round started from.
    async fn combining(&self, run: &Run, frozen: &Frozen) -> Result<Combining, CoordinatorError> {
        if !run.manifest.method.combine.is_of_products() {
            return Ok(Combining::new(&run.manifest, None)?);
        }
        let theta = match &frozen.state_cached {
            Some(state) => state.theta.clone(),
            None => self.read_state(run, frozen.round.id(), frozen.state).await?.theta,
        };
        let frame = self.0.store.objects().get(Kind::Snapshot, frozen.snapshot).await?;
        let terms = Terms::new(&run.manifest, run.id, frozen.round.id());
        let snapshot = Snapshot::decode(&frame, &terms)?;
        Ok(Combining::new(&run.manifest, Some(Start { theta, snapshot }))?)
    }

    /// Decodes and sums updates, a piece at a time, away from the async threads.
    async fn fold(
        &self,
        run: &Arc<Run>,
        frozen: &Frozen,
        updates: &Accepted,
    ) -> Result<Combining, CoordinatorError> {
        let mut combining = self.combining(run, frozen).await?;
        let round = frozen.round.id();
        let made = frozen.round.made_for();
        // Where rounds are buffered, each update is read as that round has it whose snapshot it is from.
        let mut bases = BTreeMap::from([(round, (frozen.snapshot, frozen.shared.clone()))]);
        for (client, _) in updates {
            let Some(task) = made.get(client) else { continue };
            if let Entry::Vacant(place) = bases.entry(task.round) {
                place.insert(self.base(run, task.round).await?);
            }
        }
        let longest =
            bases.keys().map(|&round| Terms::new(&run.manifest, run.id, round).update_len_max());
        let longest = longest.max().unwrap_or(1);
        for piece in updates.chunks((PIECE_BYTES / longest).clamp(1, PIECE)) {
            let origin = |&(client, _): &(ClientId, Digest)| {
                let task =
                    made.get(&client).ok_or(StoreError::Row("an update made for nothing"))?;
                let Task { round, attempt } = *task;
                let (snapshot, shared) = bases[&round].clone();
                Ok((Origin { run: run.id, round, attempt, client, snapshot }, shared))
            };
            let origins: Vec<Base> = piece.iter().map(origin).collect::<Result<_, StoreError>>()?;
            let get = |&(_, frame)| self.0.store.objects().get(Kind::Update, frame);
            let piece: Vec<Bytes> = try_join_all(piece.iter().map(get)).await?;
            let (run, threads) = (run.clone(), self.folding().threads.get() as usize);
            combining = blocking(move || {
                let all: Vec<(&Bytes, &Base)> = piece.iter().zip(&origins).collect();
                let decode = |&(frame, (origin, shared)): &(&Bytes, &Base)| {
                    let terms = Terms::new(&run.manifest, run.id, origin.round);
                    Update::decode(frame, &terms, origin, shared.as_deref())
                };
                for some in all.chunks(EACH * threads) {
                    for (update, (frame, _)) in each(threads, some, decode).into_iter().zip(some) {
                        let update = update?;
                        let late = staleness(round, update.origin.round);
                        combining.add_decoded(&update, frame.len(), late)?;
                    }
                }
                Ok::<_, AdvanceError>(combining)
            })
            .await??;
        }
        Ok(combining)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_change_neither_order_nor_number() {
        let items: Vec<u32> = (0..7).collect();
        let squares: Vec<u32> = items.iter().map(|n| n * n).collect();
        for threads in 1..10 {
            assert_eq!(each(threads, &items, |n| n * n), squares);
        }
        assert_eq!(each(3, &[], |n: &u32| *n), Vec::<u32>::new());
    }
}
