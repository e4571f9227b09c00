//! How many trainings of a process run at once.

use std::num::NonZeroUsize;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// More than any machine has.
const LIMIT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(u16::MAX as usize);

/// A budget of threads, which clients of a process may share; cloning shares it.
///
/// A training runs on [`each`](Self::each) threads, by default one of the runtime's blocking pool. It takes them
/// from the budget while it runs, not while its gate is closed, and waits its turn where too few are left. (An
/// app's own loss by candle's operations on 65,536 entries or more is outside of it: those share candle's pool,
/// which `RAYON_NUM_THREADS` bounds.)
#[derive(Clone, Debug)]
pub struct Threads {
    free: Arc<Semaphore>,
    most: NonZeroUsize,
    each: NonZeroUsize,
}

impl Threads {
    /// At most `most` at once, one for each training.
    #[must_use]
    pub fn new(most: NonZeroUsize) -> Self {
        let most = most.min(LIMIT);
        Self { free: Arc::new(Semaphore::new(most.get())), most, each: NonZeroUsize::MIN }
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
}
