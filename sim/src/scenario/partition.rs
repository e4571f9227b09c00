//! `[partition]`: how documents are dealt to clients.

use serde::Deserialize;

use super::file::Misfit;

/// How documents are dealt to clients. The same for every repetition: seeds vary training only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Partition {
    /// The rule.
    pub rule: PartitionRule,
    /// Share of each client's documents that are pooled and dealt anew, in `[0, 1]`: 0 leaves the
    /// rule's deal, 1 makes all clients alike; sizes stay.
    pub mix: f64,
    /// Seeds the deal and the held-out draw.
    pub seed: u64,
}

/// See [`crate::partition`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PartitionRule {
    /// As the data say.
    Natural,
    /// Shuffled and dealt in turn.
    Iid {
        /// Clients to deal to.
        clients: usize,
    },
    /// Each class in Dirichlet proportions.
    Dirichlet {
        /// Concentration: small is skewed, large is even.
        alpha: f64,
        /// Clients to deal to.
        clients: usize,
    },
    /// Each client has documents of just so many classes.
    Classes {
        /// Classes a client.
        classes: usize,
        /// Clients to deal to.
        clients: usize,
    },
    /// Sorted by class, cut into equal shards, and so many of them a client.
    Shards {
        /// Shards a client.
        shards: usize,
        /// Clients to deal to.
        clients: usize,
    },
    /// Sizes in Dirichlet proportions, classes as they come.
    Quantity {
        /// Concentration: small is skewed, large is even.
        alpha: f64,
        /// Clients to deal to.
        clients: usize,
    },
}

impl PartitionRule {
    /// Clients dealt to, where that does not depend on the data.
    #[must_use]
    pub fn clients(self) -> Option<usize> {
        match self {
            Self::Natural => None,
            Self::Iid { clients }
            | Self::Dirichlet { clients, .. }
            | Self::Classes { clients, .. }
            | Self::Shards { clients, .. }
            | Self::Quantity { clients, .. } => Some(clients),
        }
    }

    /// Whether it looks at classes.
    #[must_use]
    pub fn needs_labels(self) -> bool {
        matches!(self, Self::Dirichlet { .. } | Self::Classes { .. } | Self::Shards { .. })
    }

    /// As written in a scenario.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Natural => "natural",
            Self::Iid { .. } => "iid",
            Self::Dirichlet { .. } => "dirichlet",
            Self::Classes { .. } => "classes",
            Self::Shards { .. } => "shards",
            Self::Quantity { .. } => "quantity",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPartition {
    kind: Kind,
    clients: Option<usize>,
    alpha: Option<f64>,
    classes: Option<usize>,
    shards: Option<usize>,
    #[serde(default)]
    mix: f64,
    #[serde(default)]
    seed: u64,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Natural,
    Iid,
    Dirichlet,
    Classes,
    Shards,
    Quantity,
}

impl RawPartition {
    pub(super) fn typed(self) -> Result<Partition, Misfit> {
        let misfit = |field: &str, why: &str| Err((format!("partition.{field}"), why.to_owned()));
        let clients = match (self.kind, self.clients) {
            (Kind::Natural, Some(_)) => {
                return misfit("clients", "nothing: kind = \"natural\" finds them in the data");
            }
            (Kind::Natural, None) => 0,
            (_, Some(clients)) if clients >= 2 => clients,
            (_, _) => return misfit("clients", "a whole number, at least 2"),
        };
        let used = |own: &[Kind]| own.contains(&self.kind);
        let why = |kinds: &str| format!("nothing: only kind = {kinds} uses it");
        let of_alpha = [Kind::Dirichlet, Kind::Quantity];
        if self.alpha.is_some() && !used(&of_alpha) {
            return misfit("alpha", &why("\"dirichlet\" or \"quantity\""));
        }
        if self.classes.is_some() && !used(&[Kind::Classes]) {
            return misfit("classes", &why("\"classes\""));
        }
        if self.shards.is_some() && !used(&[Kind::Shards]) {
            return misfit("shards", &why("\"shards\""));
        }
        let alpha = match self.alpha {
            Some(alpha) if alpha > 0.0 && alpha.is_finite() => alpha,
            None if !used(&of_alpha) => 1.0,
            _ => return misfit("alpha", "a number above 0"),
        };
        let count = |value: Option<usize>, field: &str| match value {
            Some(count) if count > 0 => Ok(count),
            _ => Err((format!("partition.{field}"), "a whole number, at least 1".to_owned())),
        };
        if !(0.0..=1.0).contains(&self.mix) {
            return misfit("mix", &format!("a share in [0, 1], got {}", self.mix));
        }
        let rule = match self.kind {
            Kind::Natural => PartitionRule::Natural,
            Kind::Iid => PartitionRule::Iid { clients },
            Kind::Dirichlet => PartitionRule::Dirichlet { alpha, clients },
            Kind::Classes => {
                PartitionRule::Classes { classes: count(self.classes, "classes")?, clients }
            }
            Kind::Shards => {
                PartitionRule::Shards { shards: count(self.shards, "shards")?, clients }
            }
            Kind::Quantity => PartitionRule::Quantity { alpha, clients },
        };
        Ok(Partition { rule, mix: self.mix, seed: self.seed })
    }
}
