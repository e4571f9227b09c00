//! Who has which documents.
//!
//! Every rule deals every document exactly once and leaves no client empty. The deal is a pure
//! function of the dataset, the rule and its seed; so is [`hold_out`], which takes away what no
//! client trains on.

use std::collections::HashSet;

use crate::dataset::{Dataset, Document};
use crate::scenario::{Partition, PartitionRule};

mod census;
mod classes;
mod dirichlet;
mod heldout;
mod iid;
mod mix;
mod natural;
mod quantity;
mod shards;

pub use census::{Census, Holding};
pub use dirichlet::{dirichlet, ln_gamma_draw};
pub use heldout::{ClientText, Split, hold_out};

/// A client's documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientShard {
    /// Unique in its deal.
    pub name: String,
    /// Indices into [`Dataset::documents`], rising; never empty.
    pub documents: Vec<usize>,
}

/// Why documents cannot be dealt so.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionError {
    /// Some client would be empty.
    #[error("field partition.clients: expected at most the {documents} documents, got {clients}")]
    TooFew {
        /// Documents there are.
        documents: usize,
        /// Clients asked for.
        clients: usize,
    },
    /// The rule needs a client for every document.
    #[error(
        "field data.client: expected a client for every document (partition.kind = \"natural\"), document {0} has none"
    )]
    NoClient(usize),
    /// The rule needs a class for every document.
    #[error(
        "field data.label: expected a class for every document (partition.kind = {kind:?}), document {document} has none"
    )]
    NoLabel {
        /// The rule.
        kind: &'static str,
        /// The document.
        document: usize,
    },
    /// A concentration that is none.
    #[error("field partition.alpha: expected a number above 0, got {0}")]
    Alpha(f64),
    /// More classes a client than the data have.
    #[error("field partition.classes: expected 1 to the {there} classes of the data, got {asked}")]
    Classes {
        /// Classes a client, as asked for.
        asked: usize,
        /// Classes of the data.
        there: usize,
    },
    /// Some class would be nobody's.
    #[error(
        "field partition.classes: expected an owner for each of {there} classes, {clients} clients of {classes} leave some without"
    )]
    NoOwner {
        /// Clients asked for.
        clients: usize,
        /// Classes a client.
        classes: usize,
        /// Classes of the data.
        there: usize,
    },
    /// A class with fewer documents than clients that should have some.
    #[error(
        "field partition.classes: class {label} has {documents} documents, {owners} clients should have some"
    )]
    RareClass {
        /// The class.
        label: u32,
        /// Its documents.
        documents: usize,
        /// Clients that should have some.
        owners: usize,
    },
    /// Some shard would be empty.
    #[error(
        "field partition.shards: expected at most {documents} shards in all, one a document, got {shards}"
    )]
    Shards {
        /// Documents there are.
        documents: usize,
        /// Shards asked for, of all clients.
        shards: usize,
    },
    /// One client cannot both train and be held out.
    #[error(
        "field heldout: {0} client(s) with text are too few to hold one out and train on another"
    )]
    NothingLeft(usize),
}

/// Deals `dataset` by `partition`.
///
/// # Errors
/// [`PartitionError`] where the dataset lacks what the rule needs.
pub fn deal(dataset: &Dataset, partition: &Partition) -> Result<Vec<ClientShard>, PartitionError> {
    let documents = &dataset.documents;
    let mut shards = match partition.rule {
        PartitionRule::Natural => {
            let clients = documents.iter().enumerate();
            let clients = clients
                .map(|(at, document)| {
                    document.client.as_deref().ok_or(PartitionError::NoClient(at))
                })
                .collect::<Result<Vec<_>, _>>()?;
            natural::natural(&clients)
        }
        PartitionRule::Iid { clients } => {
            named(iid::iid(documents.len(), clients, partition.seed)?)
        }
        PartitionRule::Quantity { alpha, clients } => {
            named(quantity::quantity(documents.len(), clients, alpha, partition.seed)?)
        }
        PartitionRule::Dirichlet { alpha, clients } => {
            named(dirichlet(&labels(dataset, partition.rule)?, clients, alpha, partition.seed)?)
        }
        PartitionRule::Classes { classes: k, clients } => {
            let labels = labels(dataset, partition.rule)?;
            named(classes::classes(&labels, clients, k, partition.seed)?)
        }
        PartitionRule::Shards { shards: each, clients } => {
            let labels = labels(dataset, partition.rule)?;
            named(shards::shards(&labels, clients, each, partition.seed)?)
        }
    };
    if partition.mix > 0.0 {
        mix::mix(&mut shards, partition.mix, partition.seed);
    }
    debug_assert!(is_a_deal(&shards, documents.len()));
    Ok(shards)
}

/// Every document's class.
fn labels(dataset: &Dataset, rule: PartitionRule) -> Result<Vec<u32>, PartitionError> {
    let of = |(document, of): (usize, &Document)| {
        of.label.ok_or(PartitionError::NoLabel { kind: rule.kind(), document })
    };
    dataset.documents.iter().enumerate().map(of).collect()
}

/// Names made-up clients so that their names sort as their numbers do.
fn named(shards: Vec<Vec<usize>>) -> Vec<ClientShard> {
    let digits = shards.len().saturating_sub(1).to_string().len();
    let name = |(at, documents)| ClientShard { name: format!("client-{at:0digits$}"), documents };
    shards.into_iter().enumerate().map(name).collect()
}

/// Whether every one of `n` documents is dealt exactly once, and nobody is empty.
fn is_a_deal(shards: &[ClientShard], n: usize) -> bool {
    let mut seen = HashSet::new();
    let names: HashSet<&str> = shards.iter().map(|shard| shard.name.as_str()).collect();
    names.len() == shards.len()
        && shards.iter().all(|shard| !shard.documents.is_empty())
        && shards.iter().flat_map(|shard| &shard.documents).all(|&at| at < n && seen.insert(at))
        && seen.len() == n
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dataset(n: usize, classes: u32, owners: usize) -> Dataset {
        let document = |at: usize| Document {
            client: Some(format!("owner {}", at * 7 % owners)),
            label: Some(at as u32 * 13 % classes),
            text: format!("text {at}"),
        };
        Dataset::from_documents((0..n).map(document).collect()).expect("some")
    }

    proptest! {
        /// Each document once, nobody empty, the same seed the same deal: for every rule.
        #[test]
        fn every_rule_deals(
            n in 1..200_usize,
            classes in 1..12_u32,
            clients in 1..40_usize,
            ln_alpha in -9.0..6.0_f64,
            k in 1..4_usize,
            mix in 0.0..1.0_f64,
            seed: u64,
        ) {
            let dataset = dataset(n, classes, clients);
            for rule in [
                PartitionRule::Natural,
                PartitionRule::Iid { clients },
                PartitionRule::Dirichlet { alpha: ln_alpha.exp(), clients },
                PartitionRule::Quantity { alpha: ln_alpha.exp(), clients },
                PartitionRule::Shards { shards: k, clients },
                PartitionRule::Classes { classes: k, clients },
            ] {
                let partition = Partition { rule, mix, seed };
                match deal(&dataset, &partition) {
                    Ok(shards) => {
                        prop_assert!(is_a_deal(&shards, n), "{rule:?}: {shards:?}");
                        prop_assert_eq!(&deal(&dataset, &partition), &Ok(shards));
                    }
                    Err(error) => {
                        let impossible = match error {
                            PartitionError::TooFew { .. } => n < clients,
                            PartitionError::Shards { .. } => n < clients * k,
                            PartitionError::Classes { there, .. } => k > there,
                            PartitionError::NoOwner { there, .. } => clients * k < there,
                            PartitionError::RareClass { documents, owners, .. } => documents < owners,
                            _ => false,
                        };
                        prop_assert!(impossible, "{rule:?}: {error}");
                    }
                }
            }
        }
    }

    #[test]
    fn another_seed_deals_otherwise() {
        let dataset = dataset(100, 5, 10);
        for rule in [
            PartitionRule::Iid { clients: 9 },
            PartitionRule::Dirichlet { alpha: 1.0, clients: 9 },
            PartitionRule::Quantity { alpha: 1.0, clients: 9 },
            PartitionRule::Shards { shards: 2, clients: 9 },
            PartitionRule::Classes { classes: 2, clients: 9 },
        ] {
            let with = |seed| deal(&dataset, &Partition { rule, mix: 0.0, seed }).expect("enough");
            assert_ne!(with(1), with(2));
        }
    }

    #[test]
    fn what_a_rule_needs_is_named() {
        let document = Document { client: None, label: None, text: "x".into() };
        let dataset = Dataset::from_documents(vec![document]).expect("one");
        let with = |rule| deal(&dataset, &Partition { rule, mix: 0.0, seed: 0 });
        assert_eq!(with(PartitionRule::Natural), Err(PartitionError::NoClient(0)));
        let rule = PartitionRule::Dirichlet { alpha: 1.0, clients: 1 };
        assert_eq!(with(rule), Err(PartitionError::NoLabel { kind: "dirichlet", document: 0 }));
    }

    #[test]
    fn made_up_names_sort_as_numbers() {
        let shards = named(vec![vec![0]; 12]);
        assert_eq!(shards[3].name, "client-03");
        assert!(shards.is_sorted_by_key(|shard| shard.name.clone()));
    }
}
