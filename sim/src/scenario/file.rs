//! The scenario file as written, before its parts are checked against each other.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;

use gossamer_protocol::manifest::{Cohort, Head, Lora, ServerOptimizer, Training};
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

use super::{Data, Eval, Heldout, MethodSpec, Partition, PartitionRule, Rows};

/// A field and what is expected of it.
pub(super) type Misfit = (String, String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) name: String,
    pub(super) base: String,
    pub(super) rounds: u64,
    pub(super) seeds: Vec<u64>,
    pub(super) data: RawData,
    pub(super) partition: RawPartition,
    pub(super) heldout: Heldout,
    pub(super) eval: Eval,
    pub(super) lora: Lora,
    pub(super) head: Option<Head>,
    pub(super) training: Training,
    pub(super) cohort: Cohort,
    pub(super) optimizer: ServerOptimizer,
    #[serde(default)]
    pub(super) method: Vec<MethodSpec>,
}

/// Flat, not a tagged enum: serde then keeps the line of every mistake.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawData {
    #[serde(default)]
    kind: DataKind,
    path: Option<String>,
    #[serde(default)]
    text: Keys,
    client: Option<String>,
    label: Option<String>,
    #[serde(default)]
    only: BTreeMap<String, String>,
    min_chars: Option<usize>,
    max_chars: Option<usize>,
    limit: Option<usize>,
    names: Option<Vec<String>>,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum DataKind {
    #[default]
    Rows,
    Languages,
}

impl RawData {
    pub(super) fn typed(self, dir: &Path) -> Result<Data, Misfit> {
        let unused = |set: bool, field: &str, kind: &str| {
            let why = || format!("nothing: kind = {kind:?} does not use it");
            if set { Err((format!("data.{field}"), why())) } else { Ok(()) }
        };
        match self.kind {
            DataKind::Languages => {
                for (field, set) in [
                    ("path", self.path.is_some()),
                    ("text", !self.text.0.is_empty()),
                    ("client", self.client.is_some()),
                    ("label", self.label.is_some()),
                    ("only", !self.only.is_empty()),
                    ("min_chars", self.min_chars.is_some()),
                    ("max_chars", self.max_chars.is_some()),
                    ("limit", self.limit.is_some()),
                ] {
                    unused(set, field, "languages")?;
                }
                let names = self.names.unwrap_or_default();
                let distinct: HashSet<_> = names.iter().collect();
                if names.is_empty() || distinct.len() != names.len() {
                    let why = "a list of languages, each only once".to_owned();
                    return Err(("data.names".to_owned(), why));
                }
                Ok(Data::Languages(names))
            }
            DataKind::Rows => {
                unused(self.names.is_some(), "names", "rows")?;
                let missing = || {
                    let why = "a .jsonl, a .jsonl.gz or a folder of .txt".to_owned();
                    ("data.path".to_owned(), why)
                };
                let path = self.path.filter(|path| !path.is_empty()).ok_or_else(missing)?;
                if self.limit == Some(0) || self.max_chars == Some(0) {
                    let field = if self.limit == Some(0) { "limit" } else { "max_chars" };
                    return Err((format!("data.{field}"), "at least 1".to_owned()));
                }
                Ok(Data::Rows(Rows {
                    path: dir.join(path),
                    text: self.text.0,
                    client: self.client,
                    label: self.label,
                    only: self.only,
                    min_chars: self.min_chars.unwrap_or(1),
                    max_chars: self.max_chars,
                    limit: self.limit,
                }))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPartition {
    kind: PartitionKind,
    clients: Option<usize>,
    alpha: Option<f64>,
    #[serde(default)]
    seed: u64,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PartitionKind {
    Natural,
    Iid,
    Dirichlet,
}

impl RawPartition {
    pub(super) fn typed(self) -> Result<Partition, Misfit> {
        let misfit = |field: &str, why: &str| Err((format!("partition.{field}"), why.to_owned()));
        let clients = match (self.kind, self.clients) {
            (PartitionKind::Natural, Some(_)) => {
                return misfit("clients", "nothing: kind = \"natural\" finds them in the data");
            }
            (PartitionKind::Natural, None) => 0,
            (_, Some(clients)) if clients >= 2 => clients,
            (_, _) => return misfit("clients", "a whole number, at least 2"),
        };
        let rule = match (self.kind, self.alpha) {
            (PartitionKind::Dirichlet, Some(alpha)) if alpha > 0.0 && alpha.is_finite() => {
                PartitionRule::Dirichlet { alpha, clients }
            }
            (PartitionKind::Dirichlet, _) => return misfit("alpha", "a number above 0"),
            (_, Some(_)) => return misfit("alpha", "nothing: only kind = \"dirichlet\" uses it"),
            (PartitionKind::Natural, None) => PartitionRule::Natural,
            (PartitionKind::Iid, None) => PartitionRule::Iid { clients },
        };
        Ok(Partition { rule, seed: self.seed })
    }
}

/// One key or several.
#[derive(Default)]
struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key or a list of keys")
            }

            fn visit_str<E>(self, key: &str) -> Result<Keys, E> {
                Ok(Keys(vec![key.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some(key) = seq.next_element()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
}
