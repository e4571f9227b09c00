//! Keys that follow one another: an aggregator's, which clients pin, and a client's.
//!
//! A statement names an aggregator's old key and its new one, and both sign it: who knows either believes the
//! other. A client goes along the statements from the key that it pinned to the newest; it never goes back.

use serde::{Deserialize, Serialize};

use crate::ids::ClientId;
use crate::sign::{BadSignature, PublicKey, Purpose, Signature, SigningKey};

/// That one of an aggregator's keys follows another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// The old key.
    pub from: PublicKey,
    /// The new one.
    pub to: PublicKey,
    /// Unix time in milliseconds from which the new one signs.
    pub at_ms: u64,
    /// Until when what the old one signed is still believed.
    pub until_ms: u64,
    /// By the old key.
    pub by_from: Signature,
    /// By the new key.
    pub by_to: Signature,
}

impl Rotation {
    /// States that `to` follows `from`.
    #[must_use]
    pub fn sign(from: &SigningKey, to: &SigningKey, at_ms: u64, until_ms: u64) -> Self {
        let text = server_text(&from.public(), &to.public(), at_ms, until_ms);
        let [by_from, by_to] = [from, to].map(|key| key.sign(Purpose::ServerKey, &text));
        Self { from: from.public(), to: to.public(), at_ms, until_ms, by_from, by_to }
    }

    /// Checks both signatures.
    ///
    /// # Errors
    /// [`BadSignature`] where one of the keys did not sign it.
    pub fn verify(&self) -> Result<(), BadSignature> {
        let Self { from, to, at_ms, until_ms, by_from, by_to } = self;
        let text = server_text(from, to, *at_ms, *until_ms);
        from.verify(Purpose::ServerKey, &text, by_from)?;
        to.verify(Purpose::ServerKey, &text, by_to)
    }
}

fn server_text(from: &PublicKey, to: &PublicKey, at_ms: u64, until_ms: u64) -> Vec<u8> {
    format!("{from}\n{to}\n{at_ms}\n{until_ms}\n").into_bytes()
}

/// An aggregator's key that another follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// The key.
    pub key: PublicKey,
    /// Unix time in milliseconds from which it is believed no more.
    pub until_ms: u64,
}

/// The keys of one aggregator that somebody knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// The newest.
    pub key: PublicKey,
    /// Those before it, the first one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<Retired>,
}

/// Why a signature is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Disbelief {
    /// No key that is known made it.
    #[error(transparent)]
    Stranger(#[from] BadSignature),
    /// A key made it that another one followed.
    #[error("key {key} signed it, which another followed and which was believed until {until_ms}")]
    Retired {
        /// The key.
        key: PublicKey,
        /// Until when it was believed, Unix time in milliseconds.
        until_ms: u64,
    },
}

impl Trust {
    /// Believes the key that was pinned.
    #[must_use]
    pub fn pinned(key: PublicKey) -> Self {
        Self { key, retired: Vec::new() }
    }

    /// Goes along the statements of `chain` that begin at the newest key; whether there were any. At the first
    /// one that does not follow, or that a key did not sign, it stays.
    pub fn follow(&mut self, chain: &[Rotation]) -> bool {
        let before = self.key;
        for next in chain.iter().skip_while(|next| next.from != before) {
            if next.from != self.key || self.knows(&next.to) || next.verify().is_err() {
                break;
            }
            self.retired.push(Retired { key: next.from, until_ms: next.until_ms });
            self.key = next.to;
        }
        self.key != before
    }

    /// Whether it is one of them, believed still or not.
    #[must_use]
    pub fn knows(&self, key: &PublicKey) -> bool {
        self.key == *key || self.retired.iter().any(|retired| retired.key == *key)
    }

    /// The key that signed `bytes` for `purpose`, where it is believed at `now_ms` (Unix time in milliseconds).
    ///
    /// # Errors
    /// [`Disbelief`] where none of the keys did, or one that is believed no more.
    pub fn signer(
        &self,
        purpose: Purpose,
        bytes: &[u8],
        signature: &Signature,
        now_ms: u64,
    ) -> Result<PublicKey, Disbelief> {
        let stranger = match self.key.verify(purpose, bytes, signature) {
            Ok(()) => return Ok(self.key),
            Err(stranger) => stranger,
        };
        let signed = |retired: &&Retired| retired.key.verify(purpose, bytes, signature).is_ok();
        match self.retired.iter().rev().find(signed) {
            Some(Retired { key, until_ms }) if now_ms < *until_ms => Ok(*key),
            Some(&Retired { key, until_ms }) => Err(Disbelief::Retired { key, until_ms }),
            None => Err(stranger.into()),
        }
    }
}

/// A client's next key; the request that carries it is signed by the one that it follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// The new key.
    pub public_key: PublicKey,
    /// By the new key, over the client's name and the key: it is held, and meant for this client.
    pub proof: Signature,
}

impl NewKey {
    /// Proves that `key` is to be `client`'s.
    #[must_use]
    pub fn new(client: ClientId, key: &SigningKey) -> Self {
        let public_key = key.public();
        Self { public_key, proof: key.sign(Purpose::ClientKey, &client_text(client, &public_key)) }
    }

    /// Checks that the key is held, for `client`.
    ///
    /// # Errors
    /// [`BadSignature`] where it is not.
    pub fn verify(&self, client: ClientId) -> Result<(), BadSignature> {
        let text = client_text(client, &self.public_key);
        self.public_key.verify(Purpose::ClientKey, &text, &self.proof)
    }
}

fn client_text(client: ClientId, key: &PublicKey) -> Vec<u8> {
    format!("{client}\n{key}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(b: u8) -> SigningKey {
        SigningKey::from_seed(&[b; 32])
    }

    fn chain() -> Vec<Rotation> {
        (1..4).map(|b| Rotation::sign(&key(b), &key(b + 1), 100 * u64::from(b), 1_000)).collect()
    }

    /// By `tests/python/rotation.py`, from `docs/wire.md`.
    #[test]
    fn statements_are_the_ones_of_the_script() {
        #[derive(Deserialize)]
        struct Vectors {
            rotation: Rotation,
            client: ClientId,
            new_key: NewKey,
        }
        let text = include_str!("../tests/vectors/rotation.json");
        let vectors: Vectors = serde_json::from_str(text).expect("vectors");
        let made = Rotation::sign(&key(1), &key(2), 1_700_000_000_000, u64::MAX);
        assert_eq!(made, vectors.rotation);
        assert_eq!(vectors.rotation.verify(), Ok(()));
        assert_eq!(vectors.client, ClientId::of(&key(3).public().0));
        assert_eq!(NewKey::new(vectors.client, &key(4)), vectors.new_key);
        assert_eq!(vectors.new_key.verify(vectors.client), Ok(()));
    }

    #[test]
    fn who_was_away_follows_from_where_it_was() {
        for pinned in 1..4 {
            let mut trust = Trust::pinned(key(pinned).public());
            assert!(trust.follow(&chain()));
            assert_eq!(trust.key, key(4).public());
            assert_eq!(trust.retired.len(), 4 - usize::from(pinned));
            assert!(!trust.follow(&chain()), "there is no more");
        }
    }

    #[test]
    fn an_old_key_is_believed_until_its_time_is_over() {
        let mut trust = Trust::pinned(key(1).public());
        let by = |b| key(b).sign(Purpose::Record, b"text");
        let signer = |trust: &Trust, b, now| trust.signer(Purpose::Record, b"text", &by(b), now);
        let stranger = Err(Disbelief::Stranger(BadSignature { purpose: Purpose::Record }));
        assert_eq!(signer(&trust, 1, 999), Ok(key(1).public()));
        assert_eq!(signer(&trust, 2, 999), stranger, "not followed yet");
        trust.follow(&chain());
        for b in 1..5 {
            let public = key(b).public();
            assert_eq!(signer(&trust, b, 999), Ok(public));
            let retired = Disbelief::Retired { key: public, until_ms: 1_000 };
            let then = if b == 4 { Ok(public) } else { Err(retired) };
            assert_eq!(signer(&trust, b, 1_000), then);
        }
        assert_eq!(signer(&trust, 9, 999), stranger);
        let other = trust.signer(Purpose::Receipt, b"text", &by(4), 0);
        assert!(other.is_err(), "for another purpose");
    }

    #[test]
    fn nobody_is_led_away() {
        let mut trust = Trust::pinned(key(1).public());
        assert!(!trust.follow(&chain()[1..]), "not from here");
        let mut forged = chain();
        forged[1].to = key(9).public();
        assert!(trust.follow(&forged));
        assert_eq!(trust.key, key(2).public(), "up to the forged one");
        // A key that was left behind, stolen, cannot lead anybody back.
        let stolen = [Rotation::sign(&key(1), &key(9), 0, 2_000)];
        assert!(!trust.follow(&stolen));
        let back = [Rotation::sign(&key(2), &key(1), 0, 2_000)];
        assert!(!trust.follow(&back), "to where it was");
        let later = Rotation { until_ms: 9_000, ..chain()[1].clone() };
        assert!(!trust.follow(&[later]), "another time than was signed");
        assert!(trust.follow(&chain()), "the true one");
    }

    #[test]
    fn a_new_key_is_one_clients() {
        let client = ClientId([7; 16]);
        let new = NewKey::new(client, &key(1));
        assert!(new.verify(client).is_ok());
        assert!(new.verify(ClientId([8; 16])).is_err());
        let other = NewKey { public_key: key(2).public(), ..new };
        assert!(other.verify(client).is_err());
    }

    #[test]
    fn without_rotations_it_is_written_as_the_pinned_key_was() {
        let trust = Trust::pinned(key(1).public());
        let json = serde_json::to_value(&trust).expect("JSON");
        assert_eq!(json, serde_json::json!({ "key": key(1).public() }));
    }
}
