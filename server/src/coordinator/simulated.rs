//! What a simulator asks of a coordinator and no server does: a fleet that enrolled long ago, and a round that
//! several processes fold together, each with a coordinator of its own in the same state.

use std::sync::{Arc, PoisonError};

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::ClientId;

use super::{Admission, Coordinator, CoordinatorError};

/// The processes that fold each round of this coordinator together.
#[async_trait::async_trait]
pub trait Peers: Send + Sync {
    /// Whether this process has what `client` sent. Each client's has one.
    fn has(&self, client: ClientId) -> bool;

    /// Each place's sum over all processes; equal on all of them.
    ///
    /// # Errors
    /// Why it cannot be had.
    async fn sum(&self, words: Vec<i64>) -> Result<Vec<i64>, String>;

    /// What each process gave, in one order on all of them.
    ///
    /// # Errors
    /// As for [`sum`](Self::sum).
    async fn gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, String>;
}

impl Coordinator {
    /// Takes `clients` as enrolled, in this process alone and without their keys, 16 bytes each: they are asked and
    /// heard in process; over a network nobody could prove to be one of them.
    pub fn enrol_all(&self, clients: impl IntoIterator<Item = ClientId>) {
        let mut fleet = self.0.fleet.write().unwrap_or_else(PoisonError::into_inner);
        let ids = fleet.ids.entry(self.home()).or_default();
        ids.extend(clients);
        ids.sort_unstable();
        ids.dedup();
        ids.shrink_to_fit();
    }

    /// Folds rounds with `peers` from now on.
    pub fn fold_with(&self, peers: Arc<dyn Peers>) {
        *self.0.peers.write().unwrap_or_else(PoisonError::into_inner) = Some(peers);
    }

    pub(super) fn peers(&self) -> Option<Arc<dyn Peers>> {
        self.0.peers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts an update whose frame a [peer](Peers) accepted and has.
    ///
    /// # Errors
    /// As for [`submit`](Self::submit).
    pub async fn accepted_by_peer(
        &self,
        to: Admission,
        update: Digest,
    ) -> Result<(), CoordinatorError> {
        let take = move |this: Self| async move {
            let run = this.find(to.run).await?;
            this.accept(&run, &to, update).await
        };
        self.apart(take).await.map(drop)
    }
}
