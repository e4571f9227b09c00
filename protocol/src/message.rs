//! What clients and the aggregator say to each other besides frames; JSON on the wire.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};

use crate::attestation::{self, Attestation};
use crate::digest::{Digest, Hasher};
use crate::ids::{Attempt, ClientId, RoundId, RunId};
use crate::sign::{BadSignature, PublicKey, Purpose, Signature, SigningKey};

/// What an operator hands to a device: it pins the server before the first byte is exchanged.
///
/// Written as `gossamer1.` and the URL-safe base64 of its JSON.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinToken {
    /// Good for enrolling once.
    pub secret: String,
    /// Whose manifests, records and receipts to believe.
    pub server_key: PublicKey,
    /// The certificate authority to trust for TLS, DER in URL-safe base64; none: the usual ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

/// Text that is no join token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an enrolment token: it starts with `gossamer1.` and must be copied whole")]
pub struct BadJoinToken;

impl JoinToken {
    /// As handed over.
    #[must_use]
    pub fn encode(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        format!("gossamer1.{}", BASE64.encode(json))
    }

    /// Reads what was handed over.
    ///
    /// # Errors
    /// [`BadJoinToken`] for anything else.
    pub fn decode(text: &str) -> Result<Self, BadJoinToken> {
        let coded = text.trim().strip_prefix("gossamer1.").ok_or(BadJoinToken)?;
        let json = BASE64.decode(coded).map_err(|_| BadJoinToken)?;
        serde_json::from_slice(&json).map_err(|_| BadJoinToken)
    }
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JoinToken(server {})", self.server_key)
    }
}

/// `POST /v1/enrol`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    /// The token's secret.
    pub secret: String,
    /// The client's new key.
    pub public_key: PublicKey,
    /// Over the secret, by that key: it is held.
    pub proof: Signature,
    /// What the device's platform says of it, over the enrolment's challenge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Attestation>,
}

impl Enrolment {
    /// Enrols the holder of `key` with the token's `secret`.
    #[must_use]
    pub fn new(secret: &str, key: &SigningKey) -> Self {
        let proof = key.sign(Purpose::Enrolment, secret.as_bytes());
        Self { secret: secret.to_owned(), public_key: key.public(), proof, attestation: None }
    }

    /// The same with a statement over its [challenge](Self::challenge).
    #[must_use]
    pub fn attested(self, attestation: Attestation) -> Self {
        Self { attestation: Some(attestation), ..self }
    }

    /// What its attestation must be over.
    #[must_use]
    pub fn challenge(&self) -> Digest {
        attestation::challenge(&self.public_key, &self.secret)
    }

    /// Checks that the key is held.
    ///
    /// # Errors
    /// [`BadSignature`] where it is not.
    pub fn verify(&self) -> Result<(), BadSignature> {
        self.public_key.verify(Purpose::Enrolment, self.secret.as_bytes(), &self.proof)
    }
}

/// The answer to an [`Enrolment`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// The client's name from now on.
    pub client: ClientId,
}

/// `POST /v1/check-in`: what can I do?
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckIn {
    /// Only this run; none: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
}

/// The answer to a [`CheckIn`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// Do this.
    Train(Assignment),
    /// Nothing now; ask again after so long.
    Wait {
        /// Milliseconds, jittered.
        retry_ms: u64,
        /// Why, in words.
        reason: String,
    },
    /// Nothing ever: the run asked for, or every run there is, is over.
    Over {
        /// Why, in words.
        reason: String,
    },
}

/// One client's task in one round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: RoundId,
    /// The attempt at it.
    pub attempt: Attempt,
    /// The snapshot to start from.
    pub snapshot: Digest,
    /// Its frame's length.
    pub snapshot_bytes: u64,
    /// Milliseconds until the round closes.
    pub deadline_ms: u64,
}

/// `PUT .../evaluations/{client}`: how well a round's snapshot predicts what a client holds out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Targets predicted, 1 to [`TARGETS_MAX`](Self::TARGETS_MAX): tokens, or with a head sequences.
    pub targets: u64,
    /// Their losses' sum, in units of 1 / [`UNITS`](Self::UNITS) nats.
    pub loss: u64,
}

impl Measured {
    /// Units of a nat.
    pub const UNITS: u64 = 1 << 16;
    /// Most targets.
    pub const TARGETS_MAX: u64 = 1 << 24;
    /// Most that a target's loss may be on average, in nats. 2^14 clients' sums stay below 2^62.
    pub const NATS_MAX: u64 = 1 << 8;

    /// Of a sum in nats; `None` where that is out of range.
    #[must_use]
    pub fn new(targets: u64, nats: f64) -> Option<Self> {
        // A sum that is no number is 0 as an integer, and must not pass for one.
        let units = (nats * Self::UNITS as f64).round();
        let measured = Self { targets, loss: units as u64 };
        (units >= 0.0 && measured.is_sound()).then_some(measured)
    }

    /// Whether both are in range.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let most = self.targets.saturating_mul(Self::NATS_MAX * Self::UNITS);
        (1..=Self::TARGETS_MAX).contains(&self.targets) && self.loss <= most
    }
}

/// Record version.
pub const RECORD_VERSION: u16 = 1;

/// What the server signs of each snapshot; the chain of records is the audit log.
///
/// A pure function of the accepted set: no clock reading, so that a crash cannot change a bit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`RECORD_VERSION`].
    pub version: u16,
    /// The run.
    pub run: RunId,
    /// The round that starts from this snapshot.
    pub round: RoundId,
    /// Digest of the record before; none for round 0's.
    pub parent: Option<Digest>,
    /// Digest of the signed manifest.
    pub manifest: Digest,
    /// Digest of the snapshot's frame.
    pub snapshot: Digest,
    /// Its length in bytes.
    pub snapshot_bytes: u64,
    /// Digest of the server's own state behind it.
    pub state: Digest,
    /// The attempt at the round before that was accepted.
    pub attempt: Attempt,
    /// Updates accepted in the round before.
    pub accepted: u32,
    /// [`accepted_digest`] of those.
    pub accepted_set: Digest,
    /// In buffered runs, how many rounds had closed since the snapshot of each of them, in client order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub staleness: Vec<u32>,
}

/// Names an accepted set: the SHA-256 over client and update digest, in client order.
#[must_use]
pub fn accepted_digest(accepted: &std::collections::BTreeMap<ClientId, Digest>) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(b"gossamer/v1/accepted\0");
    for (client, update) in accepted {
        hasher.update(&client.0);
        hasher.update(&update.0);
    }
    hasher.finish()
}

/// The server's signed word that an update is durable and will be counted once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: RoundId,
    /// The attempt.
    pub attempt: Attempt,
    /// The client.
    pub client: ClientId,
    /// Digest of the update's frame.
    pub update: Digest,
}

/// Bytes with the server's signature over them; kept and passed on as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// What was signed.
    pub bytes: Vec<u8>,
    /// The signature.
    pub signature: Signature,
}

/// Why signed bytes are not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignedError {
    /// Not the pinned key's signature.
    #[error(transparent)]
    Signature(#[from] BadSignature),
    /// Signed, but not what was expected.
    #[error("signed bytes are malformed")]
    Malformed(#[from] serde_json::Error),
}

impl Signed {
    /// Signs `bytes`.
    #[must_use]
    pub fn new(key: &SigningKey, purpose: Purpose, bytes: Vec<u8>) -> Self {
        let signature = key.sign(purpose, &bytes);
        Self { bytes, signature }
    }

    /// Checks the signature, then parses.
    ///
    /// # Errors
    /// [`SignedError`] where either fails.
    pub fn open<T: serde::de::DeserializeOwned>(
        &self,
        key: &PublicKey,
        purpose: Purpose,
    ) -> Result<T, SignedError> {
        key.verify(purpose, &self.bytes, &self.signature)?;
        Ok(serde_json::from_slice(&self.bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_round_trip() {
        let key = SigningKey::from_seed(&[1; 32]).public();
        let token = JoinToken { secret: "s".into(), server_key: key, ca: Some("AA".into()) };
        assert_eq!(JoinToken::decode(&format!(" {}\n", token.encode())), Ok(token.clone()));
        let text = token.encode();
        for bad in ["", "gossamer1.", "gossamer1.!!", &text[..text.len() - 9], &text[1..]] {
            assert_eq!(JoinToken::decode(bad), Err(BadJoinToken), "{bad}");
        }
    }

    #[test]
    fn an_enrolment_proves_its_key() {
        let good = Enrolment::new("secret", &SigningKey::from_seed(&[1; 32]));
        assert!(good.verify().is_ok());
        let stolen = Enrolment { public_key: SigningKey::from_seed(&[2; 32]).public(), ..good };
        assert!(stolen.verify().is_err());
    }

    #[test]
    fn signed_bytes_open_only_with_their_key_and_purpose() {
        let key = SigningKey::from_seed(&[1; 32]);
        let signed = Signed::new(&key, Purpose::Record, b"[1]".to_vec());
        assert_eq!(signed.open::<Vec<u8>>(&key.public(), Purpose::Record).ok(), Some(vec![1]));
        assert!(signed.open::<Vec<u8>>(&key.public(), Purpose::Receipt).is_err());
        let tampered = Signed { bytes: b"[2]".to_vec(), ..signed };
        assert!(tampered.open::<Vec<u8>>(&key.public(), Purpose::Record).is_err());
    }

    /// 3 nats are 3 * 2^16 units; what is no number, negative or too much is nothing.
    #[test]
    fn a_measured_loss_is_a_bounded_integer() {
        assert_eq!(Measured::new(2, 3.0), Some(Measured { targets: 2, loss: 196_608 }));
        assert_eq!(Measured::new(1, 256.0).map(|m| m.loss), Some(16_777_216));
        for (targets, nats) in [
            (0, 0.0),
            (1, 256.1),
            (1, f64::NAN),
            (1, f64::INFINITY),
            (1, -1.0),
            ((1 << 24) + 1, 1.0),
        ] {
            assert_eq!(Measured::new(targets, nats), None, "{targets} {nats}");
        }
    }

    #[test]
    fn an_accepted_set_has_one_name() {
        let id = |b| ClientId([b; 16]);
        let a = [(id(1), Digest::of(b"1")), (id(2), Digest::of(b"2"))];
        let b = [a[1], a[0]];
        assert_eq!(accepted_digest(&a.into()), accepted_digest(&b.into()));
        assert_ne!(accepted_digest(&a.into()), accepted_digest(&[a[0]].into()));
    }
}
