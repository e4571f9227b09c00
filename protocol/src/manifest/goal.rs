//! When a run has done enough, and how that is measured.

use serde::{Deserialize, Serialize};

use super::{Manifest, ManifestError};
use crate::density::Density;
use crate::ids::ClientId;
use crate::rng::Stream;

/// Federated evaluation: some clients tell how well what they received predicts examples that they hold
/// out, before they train. Told is a count and a sum a client and round, nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Share of clients that do: the same ones in every round.
    pub clients: Density,
}

/// What ends a run before its last round. Any rule that holds when a round closes does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Which loss `target` and `patience` look at.
    #[serde(default)]
    pub metric: Metric,
    /// A loss that is low enough, in nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<f64>,
    /// Rounds in a row that measured no loss below the best one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<u32>,
    /// Bytes of updates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_up: Option<u64>,
    /// Bytes of snapshots and differences handed out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_down: Option<u64>,
}

/// A loss of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// The mean training loss of its updates.
    #[default]
    Training,
    /// That of the federated evaluation of the snapshot that it started from.
    Evaluation,
}

impl Evaluation {
    /// Whether `client` evaluates, in every round of a run with that seed.
    #[must_use]
    pub fn asks(&self, seed: u64, client: ClientId) -> bool {
        Stream::new(seed, "evaluation", &[&client.0]).unit_f64() < f64::from(self.clients)
    }
}

impl Stop {
    pub(super) fn check(
        manifest: &Manifest,
        field: impl Fn(bool, &'static str, &'static str) -> Result<(), ManifestError>,
    ) -> Result<(), ManifestError> {
        let known = manifest.version > 1;
        field(known || manifest.evaluation.is_none(), "evaluation", "absent in version 1")?;
        let Some(stop) = manifest.stop else { return Ok(()) };
        field(known, "stop", "absent in version 1")?;
        field(stop.target.is_none_or(f64::is_finite), "stop.target", "finite")?;
        field(stop.patience != Some(0), "stop.patience", "at least 1")?;
        let measured = stop.metric == Metric::Training || manifest.evaluation.is_some();
        field(measured, "stop.metric", "\"training\", or an evaluation beside it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_evaluate_and_always_the_same() {
        let evaluation = Evaluation { clients: Density::try_from(0.25).expect("a share") };
        let asked = |seed| {
            let client = |n: u64| ClientId(u128::from(n).to_le_bytes());
            (0..4_000).filter(|&n| evaluation.asks(seed, client(n))).collect::<Vec<_>>()
        };
        // Mean 1000, sd sqrt(4000 * 0.25 * 0.75) = 27.4.
        assert!(asked(1).len().abs_diff(1_000) < 137, "{}", asked(1).len());
        assert_eq!(asked(1), asked(1));
        assert_ne!(asked(1), asked(2));
        let all = Evaluation { clients: Density::FULL };
        assert!(all.asks(1, ClientId([7; 16])));
    }
}
