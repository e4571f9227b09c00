//! Tags: names for published adapters, which apps ask for.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ids::{ClientId, RoundId, RunId};

/// What a tag is called: 1 to 64 lower-case letters, digits, `-`, `_` and `.`, a letter or digit first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TagName(String);

/// A name that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a tag's name is 1 to 64 lower-case letters, digits, '-', '_' and '.', a letter or digit first, not {0:?}"
)]
pub struct BadTag(String);

impl TagName {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for TagName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for TagName {
    type Error = BadTag;

    fn try_from(name: String) -> Result<Self, BadTag> {
        let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let plain = |c: char| letter(c) || "-_.".contains(c);
        if (1..=64).contains(&name.len()) && name.starts_with(letter) && name.chars().all(plain) {
            Ok(Self(name))
        } else {
            Err(BadTag(name.chars().take(64).collect()))
        }
    }
}

impl std::str::FromStr for TagName {
    type Err = BadTag;

    fn from_str(name: &str) -> Result<Self, BadTag> {
        name.to_owned().try_into()
    }
}

impl From<TagName> for String {
    fn from(name: TagName) -> Self {
        name.0
    }
}

/// The server's signed word on which adapter a tag names for a client: that which a round of a run starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tagged {
    /// The tag.
    pub tag: TagName,
    /// The client that asked: others may be given another adapter.
    pub client: ClientId,
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: RoundId,
    /// Digest of the round's record, as signed.
    pub record: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_no_path() {
        assert!("stable-2.de_x".parse::<TagName>().is_ok());
        for bad in ["", ".", "..", "-a", "A", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(bad.parse::<TagName>().is_err(), "{bad:?}");
            assert!(serde_json::from_str::<TagName>(&format!("{bad:?}")).is_err(), "{bad:?}");
        }
    }
}
