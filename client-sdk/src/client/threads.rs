//! How many trainings of a process run at once.

use std::num::NonZeroUsize;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A budget of threads, which clients of a process may share; cloning shares it.
///
/// A training runs on one thread of the runtime's blocking pool and starts none. It takes that thread from
/// the budget while it runs, not while its gate is closed, and waits its turn where none is left. (An app's
/// own loss by candle's operations on 65,536 entries or more is outside of it: those share candle's pool,
/// which `RAYON_NUM_THREADS` bounds.)
#[derive(Clone, Debug)]
pub struct Threads(Arc<Semaphore>);

impl Threads {
    /// At most `most` at once.
    #[must_use]
    pub fn new(most: NonZeroUsize) -> Self {
        Self(Arc::new(Semaphore::new(most.get().min(Semaphore::MAX_PERMITS))))
    }

    /// Waits for one; given back on its drop. `None` never comes: the budget is not closed.
    pub(super) async fn one(&self) -> Option<OwnedSemaphorePermit> {
        self.0.clone().acquire_owned().await.ok()
    }
}
