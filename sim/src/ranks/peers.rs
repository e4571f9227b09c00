//! The deployed fold, over ranks.

use std::sync::Arc;

use gossamer_protocol::ids::ClientId;
use gossamer_server::coordinator::Peers;

use super::{Ranks, RanksError};

/// Folds with the other ranks what each one's clients sent.
pub(crate) struct Folding {
    ranks: Ranks,
    /// A client's place in the fleet.
    place: Arc<dyn Fn(ClientId) -> Option<usize> + Send + Sync>,
}

impl Folding {
    pub(crate) fn new(
        ranks: Ranks,
        place: Arc<dyn Fn(ClientId) -> Option<usize> + Send + Sync>,
    ) -> Self {
        Self { ranks, place }
    }
}

#[async_trait::async_trait]
impl Peers for Folding {
    fn has(&self, client: ClientId) -> bool {
        (self.place)(client).is_some_and(|place| self.ranks.has(place))
    }

    async fn sum(&self, words: Vec<i64>) -> Result<Vec<i64>, String> {
        self.ranks.sum(words).await.map_err(told)
    }

    async fn gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, String> {
        self.ranks.bytes(bytes).await.map_err(told)
    }
}

fn told(error: RanksError) -> String {
    error.to_string()
}
