//! Tags: names for published adapters, which apps ask for, and the canary that a share of them gets.
//!
//! Whether a client is given the canary is a function of its id and of what the canary is, so a client keeps its
//! side while the share stands, nobody leaves where it grows, and another canary has other clients:
//!
//! ```text
//! hash  = SHA-256("gossamer/v1/canary\0" | project, 0, tag, 0 | run | round u64 | client)
//! place = floor(1000 first / 2^64)        first: the first eight bytes as a u64, little-endian
//! in    = place < permille
//! ```

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{ClientId, RoundId, RunId};
pub use gossamer_protocol::tag::TagName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::project::ProjectName;

/// A published adapter: that which a round of a run starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// The run.
    #[schemars(with = "String")]
    pub run: RunId,
    /// The round.
    #[schemars(with = "u64")]
    pub round: RoundId,
}

/// A share of the clients, in thousandths: 1 to 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Permille(u16);

/// A number that is no share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a canary's share is 1 to 1000 thousandths of the clients, not {0}")]
pub struct BadShare(u16);

impl TryFrom<u16> for Permille {
    type Error = BadShare;

    fn try_from(share: u16) -> Result<Self, BadShare> {
        if (1..=1000).contains(&share) { Ok(Self(share)) } else { Err(BadShare(share)) }
    }
}

impl std::str::FromStr for Permille {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share: u16 = text.parse().map_err(|_| "expected a whole number".to_owned())?;
        share.try_into().map_err(|bad: BadShare| bad.to_string())
    }
}

impl From<Permille> for u16 {
    fn from(share: Permille) -> Self {
        share.0
    }
}

/// Another adapter on trial: a share of the clients that ask for the tag is given this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Canary {
    /// Which.
    #[serde(flatten)]
    pub adapter: Adapter,
    /// The share, in thousandths.
    #[schemars(with = "u16")]
    pub permille: Permille,
    /// Unix time in milliseconds at which the share was last set.
    pub at_ms: u64,
}

/// A tag at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Tag {
    /// Whose it is: its runs and the clients that may ask for it are this project's.
    #[schemars(with = "String")]
    pub project: ProjectName,
    /// What it is called.
    #[schemars(with = "String")]
    pub tag: TagName,
    /// What it names.
    #[serde(flatten)]
    pub adapter: Adapter,
    /// Unix time in milliseconds at which it was last moved.
    pub at_ms: u64,
    /// What is on trial in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
}

impl Tag {
    /// What `client` is given.
    #[must_use]
    pub fn of(&self, client: ClientId) -> Adapter {
        match self.canary {
            Some(Canary { adapter, permille, .. }) if self.place(adapter, client) < permille.0 => {
                adapter
            }
            _ => self.adapter,
        }
    }

    /// Where a client stands in the queue for a canary, 0 to 999.
    fn place(&self, canary: Adapter, client: ClientId) -> u16 {
        let Self { project, tag, .. } = self;
        let names = format!("gossamer/v1/canary\0{project}\0{tag}\0");
        let parts = [names.as_bytes(), &canary.run.0, &canary.round.0.to_le_bytes(), &client.0];
        let Digest([a, b, c, d, e, f, g, h, ..]) = Digest::of(&parts.concat());
        let first = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        // Below 1000, since `first` is below 2^64.
        ((u128::from(first) * 1000) >> 64) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(permille: u16, round: u64) -> Tag {
        let adapter = |round| Adapter { run: RunId([7; 16]), round: RoundId(round) };
        let permille = permille.try_into().expect("a share");
        let canary = Canary { adapter: adapter(round), permille, at_ms: 0 };
        Tag {
            project: ProjectName::default(),
            tag: "stable".parse().expect("a name"),
            adapter: adapter(3),
            at_ms: 0,
            canary: Some(canary),
        }
    }

    /// Ids as they come: the first half of a digest.
    fn ids() -> impl Iterator<Item = ClientId> {
        (0..10_000_u32).map(|n| {
            let mut id = [0; 16];
            id.copy_from_slice(&Digest::of(&n.to_le_bytes()).0[..16]);
            ClientId(id)
        })
    }

    fn given(tag: &Tag) -> Vec<bool> {
        ids().map(|client| tag.of(client).round.0 != 3).collect()
    }

    /// Of 10,000 clients the binomial law gives `10 p` on average, for `p` thousandths, with a standard deviation of
    /// `sqrt(10 p (1 - p / 1000))`; four of them hold 99.994 %.
    #[test]
    fn a_share_is_about_so_many() {
        for permille in [1, 10, 50, 250, 500, 900, 999] {
            let count = given(&tag(permille, 9)).into_iter().filter(|given| *given).count() as f64;
            let p = f64::from(permille);
            let sd = (10.0 * p * (1.0 - p / 1000.0)).sqrt();
            assert!((count - 10.0 * p).abs() <= 4.0 * sd, "{permille}: {count}");
        }
        assert!(given(&tag(1000, 9)).into_iter().all(|given| given), "all of them");
    }

    #[test]
    fn who_is_in_stays_in_where_the_share_grows() {
        let mut before = given(&tag(1, 9));
        for permille in [2, 10, 100, 500, 1000] {
            let now = given(&tag(permille, 9));
            assert!(before.iter().zip(&now).all(|(before, now)| !before || *now), "{permille}");
            before = now;
        }
    }

    /// Two draws of a tenth, each by itself, share a hundredth: 100 of 10,000, with a deviation of 10.
    #[test]
    fn another_canary_has_other_clients() {
        let (one, other) = (given(&tag(100, 9)), given(&tag(100, 10)));
        let both = one.iter().zip(&other).filter(|(one, other)| **one && **other).count();
        assert!(both.abs_diff(100) <= 40, "{both}");
    }

    /// Places of Python's hashlib:
    /// `int.from_bytes(sha256(b"gossamer/v1/canary\0default\0stable\0" + b"\7" * 16 + (9).to_bytes(8, "little") +
    /// bytes([n]) * 16).digest()[:8], "little") * 1000 >> 64` for n = 1, 2, 3.
    #[test]
    fn a_place_is_the_documented_one() {
        let tag = tag(500, 9);
        let canary = tag.canary.expect("there").adapter;
        let places = [1, 2, 3].map(|n| tag.place(canary, ClientId([n; 16])));
        assert_eq!(places, [450, 118, 298]);
    }

    #[test]
    fn a_share_is_some_and_at_most_all() {
        assert_eq!("1000".parse::<Permille>().map(u16::from), Ok(1000));
        for bad in ["0", "1001", "-1", "x"] {
            assert!(bad.parse::<Permille>().is_err(), "{bad:?}");
        }
    }
}
