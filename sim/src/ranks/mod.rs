//! One simulation in several processes, as `mpirun` starts them: ranks.
//!
//! Every rank has the whole aggregator, in the same state, and a share of the clients: client `i` of the fleet is
//! rank `i mod ranks`'s, in every round, so that what a client remembers never moves. A rank trains its clients of
//! the cohort and folds what they sent; ranks then tell each other who sent what, a digest each, and add the
//! folds' 64-bit sums. Integers add up to the same in any order, so any number of ranks comes to the bytes of one.
//! Rank 0 alone writes files.

mod agree;
#[cfg(feature = "mpi")]
pub mod mpi;
mod peers;
pub mod threads;

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use agree::facts;
pub(crate) use peers::Folding;

/// How ranks speak: all call the same, in the same order.
pub trait Communicator: Send + Sync {
    /// Which one this is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// What each gave, by rank.
    ///
    /// # Errors
    /// [`RanksError`] where one is gone.
    fn gather(&self, mine: Vec<u8>) -> Result<Vec<Vec<u8>>, RanksError>;

    /// Each place's sum over all ranks, which give equally many.
    ///
    /// # Errors
    /// As for [`gather`](Self::gather).
    fn sum(&self, words: Vec<i64>) -> Result<Vec<i64>, RanksError>;
}

/// Why ranks cannot go on together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RanksError {
    /// Others do not come.
    #[error("another rank is gone")]
    Gone,
    /// Two ranks would simulate different things.
    #[error("rank {rank} has another {field} than rank 0")]
    Disagree {
        /// The first that differs.
        rank: usize,
        /// In what.
        field: String,
    },
    /// Updates that are late are of rounds whose fold is past, which ranks do not share.
    #[error("method {0:?}: buffered rounds run in one process only")]
    Buffered(String),
    /// Something failed on another rank.
    #[error("rank {rank}: {why}")]
    Failed {
        /// Where.
        rank: usize,
        /// What it says.
        why: String,
    },
    /// What another sent is none of ours: ranks of different programs.
    #[error("rank {0} sent what cannot be read")]
    Unreadable(usize),
    /// The message-passing library failed, or cannot be used so.
    #[error("MPI: {0}")]
    Library(String),
}

/// This process among its peers; by itself, the only one.
#[derive(Clone, Default)]
pub struct Ranks(Option<Arc<dyn Communicator>>);

impl std::fmt::Debug for Ranks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.rank(), self.size())
    }
}

impl Ranks {
    /// One of those that speak through `communicator`.
    #[must_use]
    pub fn new(communicator: Arc<dyn Communicator>) -> Self {
        Self((communicator.size() > 1).then_some(communicator))
    }

    /// Which one this is, from 0.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.0.as_ref().map_or(0, |communicator| communicator.rank())
    }

    /// How many there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.as_ref().map_or(1, |communicator| communicator.size())
    }

    /// Whether there is no other.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the client at `place` of the fleet is this rank's.
    #[must_use]
    pub fn has(&self, place: usize) -> bool {
        place % self.size() == self.rank()
    }

    /// Each rank's bytes, by rank.
    pub(crate) async fn bytes(&self, mine: Vec<u8>) -> Result<Vec<Vec<u8>>, RanksError> {
        match self.0.clone() {
            None => Ok(vec![mine]),
            Some(ranks) => apart(move || ranks.gather(mine)).await,
        }
    }

    /// Each place's sum over all ranks.
    pub(crate) async fn sum(&self, words: Vec<i64>) -> Result<Vec<i64>, RanksError> {
        match self.0.clone() {
            None => Ok(words),
            Some(ranks) => apart(move || ranks.sum(words)).await,
        }
    }

    /// What each has to say, by rank.
    pub(crate) async fn gather<T>(&self, mine: &T) -> Result<Vec<T>, RanksError>
    where
        T: Serialize + DeserializeOwned,
    {
        let mine = serde_json::to_vec(mine).map_err(|e| RanksError::Library(e.to_string()))?;
        let all = self.bytes(mine).await?.into_iter().enumerate();
        let read = |(rank, bytes): (usize, Vec<u8>)| {
            serde_json::from_slice(&bytes).map_err(|_| RanksError::Unreadable(rank))
        };
        all.map(read).collect()
    }

    /// What rank 0 has to say; what others would is not heard.
    pub(crate) async fn lead<T>(&self, mine: T) -> Result<T, RanksError>
    where
        T: Serialize + DeserializeOwned,
    {
        if self.is_alone() {
            return Ok(mine);
        }
        // Not an option: what is said may be one, and none inside is no other none.
        let said: Vec<T> = (self.rank() == 0).then_some(mine).into_iter().collect();
        let first = self.gather(&said).await?.into_iter().next();
        first.and_then(|said| said.into_iter().next()).ok_or(RanksError::Unreadable(0))
    }
}

async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RanksError> + Send + 'static,
) -> Result<T, RanksError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| RanksError::Gone)?
}
