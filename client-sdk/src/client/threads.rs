//! How many trainings of a process run at once, and which go through the same passes.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::ClientError;
use super::sitting::{Ended, Sitting};

/// More than any machine has.
const LIMIT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(u16::MAX as usize);

/// A budget of threads, which clients of a process may share; cloning shares it.
///
/// A training runs on [`each`](Self::each) threads, by default one of the runtime's blocking pool. It takes them
/// from the budget while it runs, not while its gate is closed, and waits its turn where too few are left. Who
/// waits with the same run and base goes through [shared passes](crate::train::Passes), to the same bytes. (An
/// app's own loss by candle's operations on 65,536 entries or more is outside of it: those share candle's pool,
/// which `RAYON_NUM_THREADS` bounds.)
#[derive(Clone)]
pub struct Threads {
    free: Arc<Semaphore>,
    most: NonZeroUsize,
    each: NonZeroUsize,
    line: Arc<Mutex<VecDeque<Waiting>>>,
}

/// A training that waits for a thread, and who waits for the training.
pub(super) struct Waiting {
    pub(super) sitting: Arc<Sitting>,
    pub(super) told: oneshot::Sender<Result<Ended, ClientError>>,
}

impl Threads {
    /// At most `most` at once, one for each training.
    #[must_use]
    pub fn new(most: NonZeroUsize) -> Self {
        let most = most.min(LIMIT);
        let free = Arc::new(Semaphore::new(most.get()));
        Self { free, most, each: NonZeroUsize::MIN, line: Arc::default() }
    }

    /// As many for each training, as a [`Team`](crate::train::Team); no more than the budget has. The result has
    /// the same bytes whatever their number.
    #[must_use]
    pub fn each(self, threads: NonZeroUsize) -> Self {
        Self { each: threads.min(self.most), ..self }
    }

    /// Threads of a training.
    pub(super) fn size(&self) -> NonZeroUsize {
        self.each
    }

    /// Waits for a training's share; given back on its drop. `None` never comes: the budget is not closed.
    pub(super) async fn share(&self) -> Option<OwnedSemaphorePermit> {
        let each = u32::try_from(self.each.get()).unwrap_or(u32::MAX);
        self.free.clone().acquire_many_owned(each).await.ok()
    }

    /// Puts a training at the end of the line. Whoever does so then [trains those that are next](Self::train_next)
    /// when it has its share of the threads, so that all in line come to their turn.
    pub(super) fn wait(&self, waiting: Waiting) {
        self.line().push_back(waiting);
    }

    /// Trains the first in line and others like it: as many as a pass has room for, but no more than leaves the
    /// other threads as many.
    pub(super) fn train_next(&self) {
        let (sittings, told): (Vec<_>, Vec<_>) =
            self.next().into_iter().map(|waiting| (waiting.sitting, waiting.told)).unzip();
        for (ended, told) in Sitting::together(&sittings).into_iter().zip(told) {
            // Nobody may wait for it any more.
            let _ = told.send(ended);
        }
    }

    fn next(&self) -> Vec<Waiting> {
        let mut line = self.line();
        // Nobody will take the turn of one that is given up.
        line.retain(|waiting| waiting.sitting.is_awaited());
        let Some(first) = line.pop_front() else { return Vec::new() };
        let threads = self.most.get() / self.each.get();
        let most = first.sitting.most().min((line.len() + 1).div_ceil(threads));
        let mut taken = vec![first];
        let mut rest = VecDeque::with_capacity(line.len());
        for waiting in line.drain(..) {
            let like = taken.len() < most && taken[0].sitting.is_like(&waiting.sitting);
            if like { taken.push(waiting) } else { rest.push_back(waiting) }
        }
        *line = rest;
        taken
    }

    fn line(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        // Whole after every call.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Threads({}, {} each)", self.most, self.each)
    }
}
