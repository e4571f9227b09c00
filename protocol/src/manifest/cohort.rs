//! Who takes part in a round, and when it ends.

use serde::{Deserialize, Serialize};

use super::{Average, COHORT_MAX, Combine, Manifest, ManifestError};

/// Most rounds by which an update may be late: so many snapshots are what clients may train from.
pub const STALENESS_MAX: u32 = 64;

/// Who takes part in a round, and when it ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cohort {
    /// Updates that end a round.
    pub goal: u32,
    /// Clients asked; more than `goal` is over-selection. Buffered: clients at work at a time.
    pub ask: u32,
    /// Updates without which a round is tried again at its deadline.
    pub min: u32,
    /// Enrolled clients without which a round does not open.
    #[serde(default)]
    pub enrolled_min: u32,
    /// Seconds a round stays open.
    pub deadline_s: u32,
    /// Who is asked.
    #[serde(default)]
    pub selection: Selection,
    /// Seconds after which an idle client should ask again, before jitter.
    #[serde(default = "retry_s")]
    pub retry_s: f64,
    /// Updates made from earlier rounds' snapshots count too; none: they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffered: Option<Buffered>,
    /// How often one client may count; none: in each round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub participation: Option<Participation>,
}

pub(super) fn retry_s() -> f64 {
    5.0
}

/// Who is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// Whoever checks in first.
    #[default]
    FirstCome,
    /// A uniform sample of the enrolled clients without replacement, drawn from the run's seed, the
    /// round and the attempt when the round opens. The same fleet gives the same cohorts.
    Seeded,
}

/// Buffered asynchronous rounds: a client trains from the snapshot that is current when it is asked, and
/// its update counts in the round that is on when it arrives. Source: FedBuff, arXiv:2106.06639.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Buffered {
    /// Most rounds that may have closed since its snapshot, 0 to [`STALENESS_MAX`].
    pub staleness_max: u32,
}

/// A client counts in at most `rounds` of any `window` rounds in a row: `{ rounds = 1, window = k }` is every
/// k-th round at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Participation {
    /// Rounds, at least 1.
    pub rounds: u32,
    /// Rounds in a row, more than `rounds`.
    pub window: u32,
}

impl Cohort {
    /// Rounds that may have closed since the snapshot that an update was made from.
    #[must_use]
    pub fn staleness_max(&self) -> u64 {
        self.buffered.map_or(0, |buffered| buffered.staleness_max.into())
    }

    pub(super) fn check(
        manifest: &Manifest,
        field: impl Fn(bool, &'static str, &'static str) -> Result<(), ManifestError>,
    ) -> Result<(), ManifestError> {
        let c = &manifest.cohort;
        field((1..=COHORT_MAX).contains(&c.ask), "cohort.ask", "1 to 16,384")?;
        field((1..=c.ask).contains(&c.goal), "cohort.goal", "1 to cohort.ask")?;
        field((1..=c.goal).contains(&c.min), "cohort.min", "1 to cohort.goal")?;
        field(c.deadline_s > 0, "cohort.deadline_s", "at least 1")?;
        let ok = c.retry_s.is_finite() && c.retry_s > 0.0 && c.retry_s <= 86_400.0;
        field(ok, "cohort.retry_s", "in (0, 86400]")?;
        if let Some(Participation { rounds, window }) = c.participation {
            field(manifest.version > 1, "cohort.participation", "absent in version 1")?;
            field(rounds > 0, "cohort.participation.rounds", "at least 1")?;
            field(window > rounds, "cohort.participation.window", "more than its rounds")?;
        }
        let Some(Buffered { staleness_max }) = c.buffered else { return Ok(()) };
        field(manifest.version > 1, "cohort.buffered", "absent in version 1")?;
        let ok = staleness_max <= STALENESS_MAX;
        field(ok, "cohort.buffered.staleness_max", "at most 64")?;
        let ok = c.selection == Selection::FirstCome;
        field(ok, "cohort.selection", "\"first-come\" in buffered rounds")?;
        let m = &manifest.method;
        let ok = m.average != Average::Examples;
        field(ok, "method.average", "other than \"examples\" in buffered rounds")?;
        field(m.combine == Combine::Mean, "method.combine", "\"mean\" in buffered rounds")?;
        field(m.scaffold.is_none(), "method.scaffold", "absent in buffered rounds")
    }
}
