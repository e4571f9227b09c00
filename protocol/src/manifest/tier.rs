//! Tiers: clients of less memory or a slower link train, or send, less.

use serde::{Deserialize, Serialize};

use super::{Coverage, ManifestError, Method};
use crate::density::Density;

/// Most tiers.
const TIERS_MAX: usize = 64;

/// What a client of one tier may do less of; a client's name says which one it is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tier {
    /// So many components of each linear's factors are its own: it starts from those, with zeros for the
    /// others, trains them and sends them. Source: HetLoRA, arXiv:2401.06432.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// It starts from this share of the adapter's entries, the largest by what a snapshot ranks, trains all,
    /// and sends this share. Source: FLASC, arXiv:2406.05233.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub density: Option<Density>,
}

/// Which components are those of a smaller rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TierRanks {
    /// The first ones (HetLoRA).
    #[default]
    First,
    /// The longest rows of A and the longest columns of B, each by itself, as FLASC's comparison has it; so
    /// they need not be of the same components.
    Norm,
}

impl Method {
    pub(super) fn check_tiers(
        &self,
        field: impl Fn(bool, &'static str, &'static str) -> Result<(), ManifestError>,
    ) -> Result<(), ManifestError> {
        if self.tiers.is_empty() {
            let plain = self.tier_ranks == TierRanks::First;
            return field(plain, "method.tier_ranks", "absent without tiers");
        }
        field(self.tiers.len() <= TIERS_MAX, "method.tiers", "at most 64")?;
        field(self.train == Coverage::Dense, "method.tiers", "absent under train = \"support\"")?;
        let some = self.tiers.iter().all(|tier| tier.rank != Some(0));
        field(some, "method.tiers", "every rank at least 1")?;
        let one = self.tiers.iter().all(|tier| tier.rank.is_none() || tier.density.is_none());
        field(one, "method.tiers", "each a rank or a density")
    }
}
