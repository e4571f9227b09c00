//! Loss on text no client trains on.

use gossamer_client::data::{Batch, TextDataset};
use gossamer_client::model::BaseModel;
use gossamer_client::train::{Evaluation, TrainError, evaluate};
use gossamer_protocol::manifest::Manifest;

use super::EngineError;
use crate::partition::ClientText;
use crate::scenario::Scenario;

/// Windows read side by side where all of a client's are.
const ROWS: usize = 16;

/// Held-out windows, each read once.
pub struct Heldout {
    batches: Vec<Batch>,
    clients: usize,
}

impl Heldout {
    /// About `eval.tokens` tokens in whole windows, as many from each of the first `eval.clients`
    /// held-out clients.
    pub(super) fn new(
        base: &BaseModel,
        clients: &[ClientText],
        scenario: &Scenario,
    ) -> Result<Self, EngineError> {
        let eval = &scenario.eval;
        let clients = &clients[..eval.clients.unwrap_or(clients.len()).min(clients.len())];
        let cols = scenario.training.context as usize;
        let each = eval.tokens.map(|tokens| (tokens / (clients.len() * cols)).max(1));
        let mut batches = Vec::new();
        for client in clients {
            let failed = |source| EngineError::Data { client: client.name.clone(), source };
            let data = TextDataset::new(base, &client.documents).map_err(|e| failed(e.into()))?;
            let mut sequences = data.sequences(each.unwrap_or(ROWS), cols);
            sequences.truncate(if each.is_some() { 1 } else { usize::MAX });
            batches.append(&mut sequences);
        }
        Ok(Self { batches, clients: clients.len() })
    }

    /// Clients read.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients
    }

    /// Tokens predicted in one evaluation.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.batches.iter().map(Batch::learned).sum()
    }

    /// Reads everything with the adapter `theta`.
    pub(super) fn evaluate(
        &self,
        base: &BaseModel,
        manifest: &Manifest,
        theta: &[f32],
    ) -> Result<Evaluation, TrainError> {
        evaluate(base, manifest, theta, &self.batches)
    }
}
