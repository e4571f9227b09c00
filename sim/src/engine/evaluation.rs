//! Loss, and accuracy where there is a head, on text no client trains on.

use gossamer_client::data::{Batch, LabelledDataset, TextDataset};
use gossamer_client::model::BaseModel;
use gossamer_client::train::{Evaluation, TrainError, evaluate};
use gossamer_protocol::manifest::{Head, Manifest};
use gossamer_protocol::rng::Stream;

use super::EngineError;
use crate::partition::ClientText;
use crate::scenario::Scenario;

/// Sequences read side by side, at most: logits are `rows x cols x vocabulary`.
const ROWS: usize = 16;

/// Held-out windows or examples, each read once.
pub struct Heldout {
    batches: Vec<Batch>,
    clients: usize,
}

impl Heldout {
    /// Of the first `eval.clients` held-out clients: about `eval.tokens` tokens in whole windows, as many
    /// from each; or with a head `eval.examples` examples, drawn from all of theirs.
    pub(super) fn new(
        base: &BaseModel,
        clients: &[ClientText],
        scenario: &Scenario,
    ) -> Result<Self, EngineError> {
        let eval = &scenario.eval;
        let clients = &clients[..eval.clients.unwrap_or(clients.len()).min(clients.len())];
        let cols = scenario.training.context as usize;
        if let Some(head) = scenario.head {
            let batches = examples(base, clients, scenario, head)?;
            return Ok(Self { batches, clients: clients.len() });
        }
        let each = eval.tokens.map(|tokens| (tokens / (clients.len() * cols)).max(1));
        let mut batches = Vec::new();
        for client in clients {
            let data = TextDataset::new(base, &client.documents);
            let data = data.map_err(|e| EngineError::data(client, e))?;
            batches.extend(first_windows(data.sequences(ROWS, cols), each.unwrap_or(usize::MAX)));
        }
        Ok(Self { batches, clients: clients.len() })
    }

    /// Clients read.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients
    }

    /// Tokens, or examples, predicted in one evaluation.
    #[must_use]
    pub fn targets(&self) -> u64 {
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

fn examples(
    base: &BaseModel,
    clients: &[ClientText],
    scenario: &Scenario,
    head: Head,
) -> Result<Vec<Batch>, EngineError> {
    let mut all: Vec<_> = clients.iter().flat_map(ClientText::examples).collect();
    // A file may have its classes one after the other.
    Stream::new(scenario.partition.seed, "sim/heldout/examples", &[]).shuffle(&mut all);
    all.truncate(scenario.eval.examples.unwrap_or(usize::MAX));
    let data = LabelledDataset::new(base, &all, head.classes);
    let data = data.map_err(EngineError::Heldout)?;
    Ok(data.batches(ROWS, scenario.training.context as usize))
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
