//! Operators: who may use the admin API, and for what.

use gossamer_protocol::digest::Digest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::project::{ProjectName, Scope};

/// What an operator may do; each role may what those before it may.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// See everything but secrets.
    Viewer,
    /// Create and change runs, make enrolment tokens, revoke clients.
    Operator,
    /// Make and revoke operators.
    Admin,
}

impl Role {
    const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// The role of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// What an operator is called: 1 to 64 letters, digits, `-`, `_`, `.` and `@`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OperatorName(String);

/// A name that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an operator's name is 1 to 64 letters, digits, '-', '_', '.' and '@', not {0:?}")]
pub struct BadName(String);

impl OperatorName {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for OperatorName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for OperatorName {
    type Error = BadName;

    fn try_from(name: String) -> Result<Self, BadName> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
        if (1..=64).contains(&name.len()) && name.chars().all(plain) {
            Ok(Self(name))
        } else {
            Err(BadName(name.chars().take(64).collect()))
        }
    }
}

impl std::str::FromStr for OperatorName {
    type Err = BadName;

    fn from_str(name: &str) -> Result<Self, BadName> {
        name.to_owned().try_into()
    }
}

impl From<OperatorName> for String {
    fn from(name: OperatorName) -> Self {
        name.0
    }
}

/// An operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Operator {
    /// What it is called.
    #[schemars(with = "String")]
    pub name: OperatorName,
    /// The project it is for; none: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub project: Scope,
    /// What it may do.
    pub role: Role,
    /// Unix time in milliseconds at which its token was made.
    pub created_ms: u64,
    /// When its token is void; none: never.
    pub expires_ms: Option<u64>,
}

impl Operator {
    /// As the audit log calls it: with its project, where it has one, since names are a project's.
    #[must_use]
    pub fn called(&self) -> String {
        called(self.project.as_ref(), &self.name)
    }
}

/// An operator's name with its project's, where it has one.
pub(crate) fn called(project: Option<&ProjectName>, name: &OperatorName) -> String {
    project.map_or_else(|| name.to_string(), |project| format!("{project}/{name}"))
}

/// How an operator's token begins, so that a leaked one is recognised.
const PREFIX: &str = "gossamer-operator-";

/// A token's text.
pub(crate) fn token(secret: &str) -> String {
    format!("{PREFIX}{secret}")
}

/// What is kept of a token: secrets have 192 random bits, so a plain hash cannot be searched.
pub(crate) fn token_hash(token: &str) -> Option<Digest> {
    let secret = token.strip_prefix(PREFIX)?;
    Some(Digest::of(format!("gossamer/v1/operator\0{secret}").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_rise_and_names_are_plain() {
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
        for role in Role::ALL {
            assert_eq!(Role::named(role.name()), Some(role));
        }
        assert!("eva.b@x-1_2".parse::<OperatorName>().is_ok());
        for bad in ["", "a b", "a\n", "ä", "a:b", &"x".repeat(65)] {
            assert!(bad.parse::<OperatorName>().is_err(), "{bad:?}");
        }
    }
}
