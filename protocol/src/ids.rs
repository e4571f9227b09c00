//! Names of runs, rounds, attempts and clients.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::hex;

macro_rules! id16 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = hex::BadHex;

            fn from_str(text: &str) -> Result<Self, hex::BadHex> {
                hex::decode_array(text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = hex::BadHex;

            fn try_from(text: String) -> Result<Self, hex::BadHex> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

id16! {
    /// One training job: the first half of its manifest's digest, so that a run cannot be
    /// confused with another that has other terms.
    RunId
}

id16! {
    /// One enrolled device: the first half of the SHA-256 of the public key that it enrolled with.
    ClientId
}

impl RunId {
    /// The id of the run that `manifest` (its signed bytes' digest) describes.
    #[must_use]
    pub fn of(manifest: Digest) -> Self {
        Self(first_half(manifest))
    }
}

impl ClientId {
    /// The id of the holder of `public_key`.
    #[must_use]
    pub fn of(public_key: &[u8; 32]) -> Self {
        Self(first_half(Digest::of(public_key)))
    }
}

fn first_half(digest: Digest) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&digest.0[..16]);
    half
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Counts rounds from 0. Round `r` starts from snapshot `r` and makes snapshot `r + 1`.
    RoundId(u64)
}

number! {
    /// Counts the tries at one round from 0.
    Attempt(u32)
}

impl RoundId {
    /// The round after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
