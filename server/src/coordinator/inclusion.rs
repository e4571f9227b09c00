//! That an update was counted, to who has its receipt: a path in the tree of a closed round's receipts.
//!
//! Made from the rows when the first client asks, and kept for the next ones. It is a function of the accepted
//! set that the round's record names, so every aggregator makes the same.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{ClientId, RoundId, RunId};
use gossamer_protocol::inclusion::{Inclusion, Tree, TreeHead, leaf};
use gossamer_protocol::message::{Record, accepted_digest};

use super::{Coordinator, CoordinatorError, Run};

/// Rounds whose trees are kept: clients ask for one that has just closed.
const KEPT: usize = 8;

/// Those that were made last, the newest first.
pub(super) type Counted = VecDeque<((RunId, RoundId), Arc<Round>)>;

/// What a closed round accepted.
pub(super) struct Round {
    /// In rising order, as the leaves are.
    clients: Vec<ClientId>,
    tree: Tree,
    /// Digest of the record that names them.
    record: Digest,
}

impl Coordinator {
    /// The proof that `client`'s update made for `round` is one of those that a record counts: that of the round after it
    /// or, where it came late in buffered rounds, of a later one.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownRun`], [`CoordinatorError::UnknownRound`] while the round is on,
    /// [`CoordinatorError::NotCounted`] where it has none of the client's, and the store's.
    pub async fn inclusion(
        &self,
        run: RunId,
        round: RoundId,
        client: ClientId,
    ) -> Result<Inclusion, CoordinatorError> {
        let run = self.find(run).await?;
        let late = run.manifest.cohort.staleness_max();
        // In a later round than it was made for, where it came late.
        let counts = self.0.store.counts_in(run.id, round, client, late).await?;
        let round = counts.unwrap_or(round);
        let counted = self.counted(&run, round).await?;
        let place = counted.clients.binary_search(&client).ok();
        let place = place.and_then(|at| Some((at as u64, counted.tree.path(at as u64)?)));
        let (index, path) = place.ok_or(CoordinatorError::NotCounted { round, client })?;
        let (size, root) = (counted.tree.size(), counted.tree.root());
        let head = TreeHead { run: run.id, round, record: counted.record, size, root };
        let signature = head.sign(&self.key());
        Ok(Inclusion { head, signature, index, path })
    }

    async fn counted(&self, run: &Run, round: RoundId) -> Result<Arc<Round>, CoordinatorError> {
        // One at a time: a round has as many receipts as it has clients.
        let mut kept = self.0.counted.lock().await;
        if let Some((_, counted)) = kept.iter().find(|(of, _)| *of == (run.id, round)) {
            return Ok(counted.clone());
        }
        let signed = self.stored_record(run, round.next()).await?.signed;
        let receipts = self.0.store.receipts(run.id, round).await?;
        let accepted: BTreeMap<ClientId, Digest> =
            receipts.iter().map(|(client, frame, _)| (*client, *frame)).collect();
        let record: Record = serde_json::from_slice(&signed.bytes)
            .map_err(|_| crate::store::StoreError::Row("a record is malformed"))?;
        // Of a run that was carried here, the receipts did not come along.
        if accepted_digest(&accepted) != record.accepted_set {
            return Err(CoordinatorError::NoReceipts { run: run.id, round });
        }
        let counted = Arc::new(Round {
            clients: accepted.into_keys().collect(),
            tree: Tree::new(receipts.iter().map(|(.., receipt)| leaf(receipt)).collect()),
            record: Digest::of(&signed.bytes),
        });
        kept.push_front(((run.id, round), counted.clone()));
        kept.truncate(KEPT);
        Ok(counted)
    }
}
