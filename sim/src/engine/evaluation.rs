//! Loss on text no client trains on.

use gossamer_client::data::{Batch, TextDataset};
use gossamer_client::model::BaseModel;
use gossamer_client::train::{Evaluation, TrainError, evaluate};
use gossamer_protocol::manifest::Manifest;

use super::EngineError;
use crate::partition::ClientText;
use crate::scenario::Scenario;

/// Windows read side by side, at most: logits are `rows x cols x vocabulary`.
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
            batches.extend(first_windows(data.sequences(ROWS, cols), each.unwrap_or(usize::MAX)));
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

/// The first `most` rows of `batches`.
fn first_windows(batches: Vec<Batch>, most: usize) -> impl Iterator<Item = Batch> {
    let mut left = most;
    batches.into_iter().map_while(move |mut batch| {
        let rows = batch.rows.min(left);
        left -= rows;
        batch.rows = rows;
        batch.inputs.truncate(rows * batch.cols);
        batch.targets.truncate(rows * batch.cols);
        (rows > 0).then_some(batch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many tokens are read, never more than a few windows at once.
    #[test]
    fn many_windows_are_many_batches() {
        let data = TextDataset::from_tokens((0..=400).collect(), 1).expect("tokens");
        let cut = |most| -> Vec<Batch> { first_windows(data.sequences(ROWS, 10), most).collect() };
        let rows = |most| cut(most).iter().map(|batch| batch.rows).collect::<Vec<_>>();
        assert_eq!(rows(usize::MAX), [16, 16, 8]);
        assert_eq!(rows(20), [16, 4]);
        assert_eq!(rows(1), [1]);
        let learned: Vec<u32> = cut(20).into_iter().flat_map(|batch| batch.targets).collect();
        assert_eq!(learned, (1..=200).collect::<Vec<_>>());
    }
}
