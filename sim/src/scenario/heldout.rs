//! What no client trains on, how much of it is read, and when.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What no client trains on; at least one of the four is there.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heldout {
    /// Share of clients held out whole, in `[0, 1)`; above 0, at least one is.
    #[serde(default)]
    pub clients: f64,
    /// Share of each other client's characters, from the end, in `[0, 1)`; only for next tokens.
    #[serde(default)]
    pub tail: f64,
    /// Share of each other client's documents, drawn by `partition.seed`, in `[0, 1)`. Above 0, of two or
    /// more at least one is; one is always left to train on.
    #[serde(default)]
    pub examples: f64,
    /// Rows of the same file, in place of those that `data.only` asks for: a test set.
    #[serde(default)]
    pub only: BTreeMap<String, String>,
}

impl Heldout {
    /// Clients of `n` that are held out whole; one is always left to train.
    #[must_use]
    pub fn count(&self, n: usize) -> usize {
        share(self.clients, n)
    }

    /// Documents of a client's `n` that are held out.
    #[must_use]
    pub fn count_examples(&self, n: usize) -> usize {
        share(self.examples, n)
    }
}

/// `share` of `n`: at least one where it is above 0, and never all.
fn share(share: f64, n: usize) -> usize {
    let count = (share * n as f64).round() as usize;
    count.max(usize::from(share > 0.0)).min(n.saturating_sub(1))
}

/// How much held-out text is read, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Eval {
    /// Held-out clients read at most.
    pub clients: Option<usize>,
    /// Tokens read at most in one evaluation, all clients together.
    pub tokens: Option<usize>,
    /// The same in place of `tokens` where there is a head: examples, drawn by `partition.seed`.
    pub examples: Option<usize>,
    /// Whether each held-out client's loss is told, too.
    #[serde(default)]
    pub by_client: bool,
    /// Rounds between evaluations; before the first and after the last there is always one.
    #[serde(default = "one")]
    pub every: u64,
}

fn one() -> u64 {
    1
}

impl Eval {
    /// What rows follow from. What was not always there is only said where it is set, so that what was measured
    /// before it was there still counts.
    pub(crate) fn facts(&self) -> String {
        let Self { clients, tokens, examples, by_client, every } = self;
        let by_client = if *by_client { ", by client" } else { "" };
        format!(
            "Eval {{ clients: {clients:?}, tokens: {tokens:?}, examples: {examples:?}, every: {every} }}{by_client}"
        )
    }

    /// Whether the adapter after `round` of `rounds` is evaluated; 0 is before training.
    #[must_use]
    pub fn is_due(&self, round: u64, rounds: u64) -> bool {
        round == rounds || round.is_multiple_of(self.every)
    }
}
