//! What travels each way, and how it is coded.

use serde::{Deserialize, Serialize};

use super::{Combine, ManifestError, Scaffold, Tier, TierRanks};
use crate::density::Density;
use crate::ids::RoundId;
use crate::layout::{Layout, LayoutError};

/// What travels each way. Source: FLASC, arXiv:2406.05233.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    /// Server to client.
    pub download: Download,
    /// Client to server.
    pub upload: Upload,
    /// Which entries a client trains.
    #[serde(default)]
    pub train: Coverage,
    /// When the download's support is chosen.
    #[serde(default)]
    pub support: SupportRule,
    /// What a coordinate's sum is divided by.
    #[serde(default)]
    pub average: Average,
    /// What the aggregator makes of the clients' factors.
    #[serde(default, skip_serializing_if = "is_default")]
    pub combine: Combine,
    /// Whether A and B take turns.
    #[serde(default, skip_serializing_if = "is_default")]
    pub alternate: Option<Alternation>,
    /// Share of the task head's entries sent, both ways: a segment of its own, so that its larger
    /// values do not crowd the adapter's out.
    #[serde(default = "full", skip_serializing_if = "is_full")]
    pub head_density: Density,
    /// Which codes an encoder may use.
    #[serde(default, skip_serializing_if = "is_default")]
    pub coding: Coding,
    /// Clients that do less. Their names deal them to these evenly; empty: all are alike.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tiers: Vec<Tier>,
    /// Control variates against the drift of clients.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scaffold: Option<Scaffold>,
    /// Which components are those of a tier's rank.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tier_ranks: TierRanks,
}

/// Server to client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Download {
    /// Share of entries sent.
    pub density: Density,
    /// What is ranked and what the wire carries.
    #[serde(default)]
    pub of: Reference,
    /// How values are coded.
    #[serde(default)]
    pub values: Values,
    /// Share that the server's own copy keeps of what a snapshot leaves out, in `[0, 1]`. FLASC: 1.
    ///
    /// What clients never receive they never correct; kept whole, it grows round by round, crowds
    /// learned values out of the top-k, and long runs get worse again. A decayed memory does not.
    #[serde(default = "whole", skip_serializing_if = "is_whole")]
    pub residual: f32,
    /// Which entries.
    #[serde(default, skip_serializing_if = "is_default")]
    pub select: Select,
    /// From which round on other densities or values hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
}

/// Client to server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upload {
    /// Share sent of the entries that may travel. Under [`Coverage::Support`] all of those are sent.
    pub density: Density,
    /// How values are coded.
    #[serde(default)]
    pub values: Values,
    /// Which entries.
    #[serde(default, skip_serializing_if = "is_default")]
    pub select: Select,
    /// How values between two levels are rounded.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rounding: Rounding,
    /// From which round on other densities or values hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
    /// Most bytes of an update's frame. The encoder then picks density and values itself, within
    /// this; `density` and `values` are not used.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bytes_max: Option<u32>,
    /// What clients that return do with what they did not send. Needs clients that keep state.
    #[serde(default, skip_serializing_if = "is_default")]
    pub feedback: Option<Feedback>,
}

/// From `from` on, `density` and `values` hold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// The first round it holds in.
    pub from: u64,
    /// Share of entries sent.
    pub density: Density,
    /// How values are coded.
    pub values: Values,
}

/// Which entries travel: the best-ranked of those that may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Select {
    /// What ranks them.
    pub by: Ranking,
    /// What they compete with.
    pub scope: Scope,
    /// Round-robin segments: of `segments` stripes only one may travel, another each round. 1: all.
    /// Source: EcoLoRA, arXiv:2506.02001.
    #[serde(skip_serializing_if = "is_one")]
    pub segments: Segments,
    /// Seeded random share: only so many coordinates may travel, others each round, drawn from the
    /// run's seed alike on both ends.
    #[serde(skip_serializing_if = "is_default")]
    pub random: Option<Density>,
    /// Only what the round's snapshot carries may travel.
    #[serde(skip_serializing_if = "is_default")]
    pub within_download: bool,
}

/// What ranks entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ranking {
    /// Their magnitude (FLASC).
    #[default]
    Magnitude,
    /// Their magnitude times the norm of what they are multiplied with: `|dB[u,v]| ||A[v,:]||` and
    /// `|dA[u,v]| ||B[:,u]||`. Source: FedSRD, arXiv:2510.04601.
    Importance,
    /// The norm of their whole rank component, A's row and B's column together.
    RankWise,
}

/// What entries compete with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// All entries.
    #[default]
    Global,
    /// Those of their own tensor: each tensor sends the same share.
    Tensor,
    /// All entries, but each tensor sends at least this share of an equal share. In `(0, 1)`.
    Floor(f32),
}

/// How values are coded; `docs/wire.md` has the levels.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Values {
    /// IEEE binary32.
    #[default]
    F32,
    /// IEEE binary16.
    F16,
    /// Integers to 127 times a scale per block. In version 1 frames the scale is a power of two.
    Int8,
    /// Sign and 8 equally spaced magnitudes.
    Int4,
    /// Sign and 4 equally spaced magnitudes.
    Int3,
    /// Sign and 2 equally spaced magnitudes.
    Int2,
    /// Sign and the 8 magnitudes that fit an exponential tail best (Lloyd-Max).
    Lloyd4,
    /// Sign and the 4 magnitudes that fit an exponential tail best.
    Lloyd3,
    /// Sign and the 2 magnitudes that fit an exponential tail best.
    Lloyd2,
    /// The sign alone, and one magnitude per block.
    Sign,
    /// E2M1 with a scale per block; what lies beyond the largest level is sent beside it as binary16.
    Fp4,
}

impl Values {
    /// Every one, in the order of their codes in version 2 frames.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::Int8,
        Self::Int4,
        Self::Int3,
        Self::Int2,
        Self::Lloyd4,
        Self::Lloyd3,
        Self::Lloyd2,
        Self::Sign,
        Self::Fp4,
    ];
}

/// How values between two levels are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rounding {
    /// To the nearest.
    #[default]
    Nearest,
    /// To either at random, seeded, so that the mean is the value. Below the least level and above the
    /// largest there is nothing to choose.
    Stochastic,
}

/// Which codes an encoder may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Coding {
    /// Whichever is smallest.
    #[default]
    Smallest,
    /// Fixed-width values and Rice-coded gaps alone: several times faster.
    Packed,
}

/// A and B take turns, so that the mean of products is the product of means: first B for `rounds`
/// rounds, then A, and so on. Source: RoLoRA, arXiv:2502.01755.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alternation {
    /// Rounds before the other one's turn.
    pub rounds: u64,
}

/// What a client that returns adds to its next change: what it did not send the last time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feedback {
    /// Share kept for each round gone by, in `(0, 1]`.
    pub decay: f32,
    /// Rounds after which it is forgotten.
    pub rounds_max: u64,
}

/// What a download's selection ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reference {
    /// `theta - theta_0(seed)`: what was learned. The client adds the seeded start itself, so that
    /// A's random start never travels and never crowds learned values out. Gossamer's default.
    #[default]
    Change,
    /// `theta` itself, missing entries 0: FLASC as published.
    Weights,
}

/// Which entries a client trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Coverage {
    /// All of them: dense local training.
    #[default]
    Dense,
    /// Only the download's support (FedSelect, SparseAdapter); the upload needs no positions.
    Support,
}

/// When the download's support is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SupportRule {
    /// Anew for each round.
    #[default]
    EachRound,
    /// Round 0 is dense both ways; from then on anew for each round. While B is still zero no rule
    /// that ranks magnitudes can find it.
    AfterFirst,
    /// Round 0 is dense both ways; its outcome fixes the support for ever (SparseAdapter).
    Once,
}

/// What a coordinate's sum is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Average {
    /// The number of accepted updates (FLASC).
    #[default]
    Cohort,
    /// The number of accepted updates that sent this coordinate.
    Contributors,
    /// The examples of the accepted updates, each of which counts as often as it has examples
    /// ([`WEIGHT_MAX`](crate::fold::WEIGHT_MAX) at most). Source: FedAvg, arXiv:1602.05629, and FedIT,
    /// arXiv:2305.05644.
    Examples,
}

/// Number of round-robin segments, 1 to 65,536.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Segments(pub u32);

impl Default for Segments {
    fn default() -> Self {
        Self(1)
    }
}

fn whole() -> f32 {
    1.0
}

fn is_whole(share: &f32) -> bool {
    *share == 1.0
}

fn full() -> Density {
    Density::FULL
}

fn is_full(density: &Density) -> bool {
    density.is_full()
}

fn is_one(segments: &Segments) -> bool {
    segments.0 == 1
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Method {
    /// Everything, or an even share of everything, both ways; all else at its default.
    #[must_use]
    pub fn sparse(download: Density, upload: Density) -> Self {
        Self {
            download: Download {
                density: download,
                of: Reference::Change,
                values: Values::F32,
                residual: 1.0,
                select: Select::default(),
                stages: Vec::new(),
            },
            upload: Upload {
                density: upload,
                values: Values::F32,
                select: Select::default(),
                rounding: Rounding::Nearest,
                stages: Vec::new(),
                bytes_max: None,
                feedback: None,
            },
            train: Coverage::Dense,
            support: SupportRule::EachRound,
            average: Average::Cohort,
            combine: Combine::Mean,
            alternate: None,
            head_density: Density::FULL,
            coding: Coding::Smallest,
            tiers: Vec::new(),
            scaffold: None,
            tier_ranks: TierRanks::First,
        }
    }

    /// `layout` with what this method needs beside it: weights that the aggregator changes, cores, control variates.
    ///
    /// # Errors
    /// Those of [`Layout::new`].
    pub fn complete(&self, layout: Layout) -> Result<Layout, LayoutError> {
        let layout = self.combine.complete(layout)?;
        if self.scaffold.is_some() { layout.with_controls() } else { Ok(layout) }
    }

    /// Whether tensors take turns, round by round: not all that is trained is trained in each.
    #[must_use]
    pub fn takes_turns(&self) -> bool {
        self.alternate.is_some() || self.combine == Combine::Core
    }

    /// Whether version 1 can say all of this.
    fn is_version_1(&self) -> bool {
        let plain = |values| matches!(values, Values::F32 | Values::Int8);
        let Self { download: d, upload: u, .. } = self;
        let shape = Self {
            train: self.train,
            support: self.support,
            average: self.average,
            ..{
                let mut shape = Self::sparse(d.density, u.density);
                shape.download =
                    Download { of: d.of, values: d.values, residual: d.residual, ..shape.download };
                shape.upload.values = u.values;
                shape
            }
        };
        let average = self.average != Average::Examples;
        average && plain(d.values) && plain(u.values) && *self == shape
    }

    pub(super) fn check(
        &self,
        version: u16,
        field: impl Fn(bool, &'static str, &'static str) -> Result<(), ManifestError>,
    ) -> Result<(), ManifestError> {
        let Self { download: d, upload: u, .. } = self;
        field(version > 1 || self.is_version_1(), "method", "what version 1 has")?;
        field((0.0..=1.0).contains(&d.residual), "method.download.residual", "in [0, 1]")?;
        let once_dense = self.support == SupportRule::EachRound || self.train == Coverage::Support;
        field(once_dense, "method.support", "other than \"each-round\" needs train = \"support\"")?;

        self.combine.check(self, &field)?;
        self.check_tiers(&field)?;
        let turns = self.alternate.is_none_or(|a| a.rounds > 0);
        field(turns, "method.alternate.rounds", "at least 1")?;
        let free = self.alternate.is_none() || self.train == Coverage::Dense;
        field(free, "method.alternate", "absent under train = \"support\"")?;
        for (select, stages, segments, floor, rising) in [
            (
                &d.select,
                &d.stages,
                "method.download.select.segments",
                "method.download.select.scope",
                "method.download.stages",
            ),
            (
                &u.select,
                &u.stages,
                "method.upload.select.segments",
                "method.upload.select.scope",
                "method.upload.stages",
            ),
        ] {
            field((1..=1 << 16).contains(&select.segments.0), segments, "1 to 65,536")?;
            let ok = !matches!(select.scope, Scope::Floor(share) if !(0.0 < share && share < 1.0));
            field(ok, floor, "a floor in (0, 1)")?;
            let ok = stages.windows(2).all(|pair| pair[0].from < pair[1].from);
            field(ok, rising, "of rising \"from\"")?;
        }
        let whole =
            d.select.segments.0 == 1 && d.select.random.is_none() && !d.select.within_download;
        field(whole, "method.download.select", "a ranking and a scope only")?;
        let implied = u.select == Select::default() || self.train == Coverage::Dense;
        field(implied, "method.upload.select", "absent under train = \"support\"")?;
        let free = u.bytes_max.is_none() || self.train == Coverage::Dense;
        field(free, "method.upload.bytes_max", "absent under train = \"support\"")?;
        field(u.bytes_max.is_none_or(|b| b >= 256), "method.upload.bytes_max", "at least 256")?;
        let ok = u.feedback.is_none_or(|f| 0.0 < f.decay && f.decay <= 1.0);
        field(ok, "method.upload.feedback.decay", "in (0, 1]")?;
        // A client multiplies once for each round gone by.
        let ok = u.feedback.is_none_or(|f| f.rounds_max <= 1_000_000);
        field(ok, "method.upload.feedback.rounds_max", "at most 1,000,000")
    }
}

impl Download {
    /// Density and values of `round`.
    #[must_use]
    pub fn at(&self, round: RoundId) -> (Density, Values) {
        at(self.density, self.values, &self.stages, round)
    }
}

impl Upload {
    /// Density and values of `round`.
    #[must_use]
    pub fn at(&self, round: RoundId) -> (Density, Values) {
        at(self.density, self.values, &self.stages, round)
    }
}

fn at(density: Density, values: Values, stages: &[Stage], round: RoundId) -> (Density, Values) {
    let now = stages.iter().rev().find(|stage| stage.from <= round.0);
    now.map_or((density, values), |stage| (stage.density, stage.values))
}
