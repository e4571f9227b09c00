//! What an operator, or the end, has decided about a run.

use schemars::JsonSchema;
use serde::Serialize;

/// Whether a run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It goes on.
    Running,
    /// Nobody is asked anew; what was asked for is still taken.
    Paused,
    /// Its last round is published.
    Complete,
    /// It was ended early.
    Aborted,
}

impl Status {
    pub(crate) const ALL: [Self; 4] = [Self::Running, Self::Paused, Self::Complete, Self::Aborted];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Complete => "complete",
            Self::Aborted => "aborted",
        }
    }

    /// The status of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// Whether nothing more comes of it.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Complete | Self::Aborted)
    }
}
