//! Projects: each run, client, token and operator is of one, and what is of one is not there for another.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a project is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProjectName(Arc<str>);

/// Which project is seen; none: all of them.
pub type Scope = Option<ProjectName>;

/// A name that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a project's name is 1 to 64 lower-case letters, digits, '-', '_' and '.', not {0:?}")]
pub struct BadProject(String);

/// A project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Project {
    /// What it is called.
    #[schemars(with = "String")]
    pub name: ProjectName,
    /// Unix time in milliseconds at which it was made; 0: with the store.
    pub created_ms: u64,
}

impl ProjectName {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the one that is meant where none is named.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for ProjectName {
    /// The one that every store has.
    fn default() -> Self {
        Self("default".into())
    }
}

impl std::fmt::Display for ProjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ProjectName {
    type Error = BadProject;

    fn try_from(name: String) -> Result<Self, BadProject> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        if (1..=64).contains(&name.len()) && name.chars().all(plain) {
            Ok(Self(name.into()))
        } else {
            Err(BadProject(name.chars().take(64).collect()))
        }
    }
}

impl std::str::FromStr for ProjectName {
    type Err = BadProject;

    fn from_str(name: &str) -> Result<Self, BadProject> {
        name.to_owned().try_into()
    }
}

impl From<ProjectName> for String {
    fn from(name: ProjectName) -> Self {
        name.0.as_ref().to_owned()
    }
}

/// A scope as rows have it: `''` where it is all projects.
pub(crate) fn text(scope: &Scope) -> &str {
    scope.as_ref().map_or("", ProjectName::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_never_the_text_for_all() {
        assert!("default".parse::<ProjectName>().is_ok_and(|name| name.is_default()));
        assert_eq!(text(&Some("a-1_b.c".parse().expect("plain"))), "a-1_b.c");
        for bad in ["", "A", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(bad.parse::<ProjectName>().is_err(), "{bad:?}");
        }
    }
}
