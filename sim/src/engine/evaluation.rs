//! Loss, and accuracy where there is a head, on text no client trains on; of all together, or also of each client.

use std::collections::HashMap;
use std::ops::Range;

use gossamer_client::data::{Batch, Example, LabelledDataset, TextDataset};
use gossamer_client::model::BaseModel;
use gossamer_client::train::{Evaluation, TrainError, evaluate, evaluate_each};
use gossamer_protocol::manifest::{Head, Manifest};
use gossamer_protocol::rng::Stream;

use super::EngineError;
use crate::partition::{ClientText, Split};
use crate::scenario::Scenario;

/// Sequences read side by side, at most: logits are `rows x cols x vocabulary`.
const ROWS: usize = 16;

/// Held-out windows or examples, each read once.
pub struct Heldout {
    batches: Vec<Batch>,
    /// Whose they are, where clients are told apart.
    owners: Vec<Owner>,
    clients: usize,
}

/// One client's share of the batches.
pub(super) struct Owner {
    pub(super) name: String,
    /// Its place among those that text is dealt to, where it trains.
    pub(super) place: Option<usize>,
    batches: Range<usize>,
}

impl Heldout {
    /// Of the first `eval.clients` held-out clients: about `eval.tokens` tokens in whole windows, as many
    /// from each; or with a head `eval.examples` examples, drawn from all of theirs.
    pub(super) fn new(
        base: &BaseModel,
        split: &Split,
        scenario: &Scenario,
    ) -> Result<Self, EngineError> {
        let (eval, clients) = (&scenario.eval, &split.heldout);
        let clients = &clients[..eval.clients.unwrap_or(clients.len()).min(clients.len())];
        let cols = scenario.training.context as usize;
        let by_client = match scenario.head {
            Some(head) => examples(base, clients, scenario, head)?,
            None => {
                let each = eval.tokens.map(|tokens| (tokens / (clients.len() * cols)).max(1));
                let mut by_client = Vec::new();
                for (at, client) in clients.iter().enumerate() {
                    let data = TextDataset::new(base, &client.documents);
                    let data = data.map_err(|e| EngineError::data(client, e))?;
                    let windows = data.sequences(ROWS, cols);
                    by_client
                        .push((at, first_windows(windows, each.unwrap_or(usize::MAX)).collect()));
                }
                by_client
            }
        };
        let places: HashMap<&str, usize> =
            split.train.iter().enumerate().map(|(at, client)| (client.name.as_str(), at)).collect();
        let (mut batches, mut owners) = (Vec::new(), Vec::new());
        for (at, mut of) in by_client {
            let from = batches.len();
            batches.append(&mut of);
            // Too short a text has no window.
            if eval.by_client && batches.len() > from {
                let name = clients[at].name.clone();
                let place = places.get(name.as_str()).copied();
                owners.push(Owner { name, place, batches: from..batches.len() });
            }
        }
        Ok(Self { batches, owners, clients: clients.len() })
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

    /// Whose text it is, where clients are told apart.
    pub(super) fn owners(&self) -> &[Owner] {
        &self.owners
    }

    /// How many batches there are.
    pub(super) fn batches(&self) -> usize {
        self.batches.len()
    }

    /// Reads some batches with the adapter `theta`.
    pub(super) fn evaluate(
        &self,
        base: &BaseModel,
        manifest: &Manifest,
        theta: &[f32],
        batches: Range<usize>,
    ) -> Result<Vec<Evaluation>, TrainError> {
        evaluate_each(base, manifest, theta, &self.batches[batches])
    }

    /// Reads one client's text with the adapter `theta`.
    pub(super) fn evaluate_owner(
        &self,
        base: &BaseModel,
        manifest: &Manifest,
        theta: &[f32],
        owner: &Owner,
    ) -> Result<Evaluation, TrainError> {
        evaluate(base, manifest, theta, &self.batches[owner.batches.clone()])
    }
}

/// The examples drawn, by client; where clients are not told apart, all as if they were the first's.
fn examples(
    base: &BaseModel,
    clients: &[ClientText],
    scenario: &Scenario,
    head: Head,
) -> Result<Vec<(usize, Vec<Batch>)>, EngineError> {
    let eval = &scenario.eval;
    let of = |(at, client): (usize, &ClientText)| {
        client.examples().into_iter().map(move |example| (at, example)).collect::<Vec<_>>()
    };
    let mut all: Vec<(usize, Example)> = clients.iter().enumerate().flat_map(of).collect();
    // A file may have its classes one after the other.
    Stream::new(scenario.partition.seed, "sim/heldout/examples", &[]).shuffle(&mut all);
    all.truncate(eval.examples.unwrap_or(usize::MAX));
    if eval.by_client {
        all.sort_by_key(|(at, _)| *at);
    } else {
        all.iter_mut().for_each(|(at, _)| *at = 0);
    }
    let batches = |group: &[(usize, Example)]| {
        let examples: Vec<Example> = group.iter().map(|(_, example)| example.clone()).collect();
        let data = LabelledDataset::new(base, &examples, head.classes);
        let data = data.map_err(EngineError::Heldout)?;
        Ok((group[0].0, data.batches(ROWS, scenario.training.context as usize)))
    };
    all.chunk_by(|(a, _), (b, _)| a == b).map(batches).collect()
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
