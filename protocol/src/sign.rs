//! Ed25519 signatures (ring), each bound to what it is for.
//!
//! Signed are `"gossamer/v1/{purpose}\0"` and then the bytes, so that a signature made for one
//! purpose is worth nothing for another.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::hex;

/// What a signature is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purpose {
    /// A run's manifest, by the server.
    Manifest,
    /// A round's record, by the server.
    Record,
    /// An update's receipt, by the server.
    Receipt,
    /// An HTTP request, by a client.
    Request,
    /// Possession of a key at enrolment, by a client.
    Enrolment,
    /// A place in the audit log, by the server.
    Audit,
    /// The tree of a closed round's receipts, by the server.
    TreeHead,
    /// What a tag names for a client, by the server.
    Tag,
    /// That one of the server's keys follows another, by both.
    ServerKey,
    /// Possession of a client's next key, by that key.
    ClientKey,
}

impl Purpose {
    fn context(self) -> &'static [u8] {
        match self {
            Self::Manifest => b"gossamer/v1/manifest\0",
            Self::Record => b"gossamer/v1/record\0",
            Self::Receipt => b"gossamer/v1/receipt\0",
            Self::Request => b"gossamer/v1/request\0",
            Self::Enrolment => b"gossamer/v1/enrolment\0",
            Self::Audit => b"gossamer/v1/audit\0",
            Self::TreeHead => b"gossamer/v1/tree-head\0",
            Self::Tag => b"gossamer/v1/tag\0",
            Self::ServerKey => b"gossamer/v1/server-key\0",
            Self::ClientKey => b"gossamer/v1/client-key\0",
        }
    }

    fn message(self, bytes: &[u8]) -> Vec<u8> {
        [self.context(), bytes].concat()
    }
}

/// A signing key. Neither prints nor serialises.
pub struct SigningKey(Ed25519KeyPair);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(public {})", self.public())
    }
}

impl SigningKey {
    /// The key of a 32-byte seed.
    ///
    /// # Panics
    /// Never: every 32 bytes are an Ed25519 seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed);
        Self(pair.expect("every 32 bytes are an Ed25519 seed"))
    }

    /// Its public half.
    ///
    /// # Panics
    /// Never: an Ed25519 public key has 32 bytes.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let bytes = self.0.public_key().as_ref().try_into();
        PublicKey(bytes.expect("an Ed25519 public key has 32 bytes"))
    }

    /// Signs `bytes` for `purpose`.
    ///
    /// # Panics
    /// Never: an Ed25519 signature has 64 bytes.
    #[must_use]
    pub fn sign(&self, purpose: Purpose, bytes: &[u8]) -> Signature {
        let signature = self.0.sign(&purpose.message(bytes));
        let bytes = signature.as_ref().try_into();
        Signature(bytes.expect("an Ed25519 signature has 64 bytes"))
    }
}

/// A public key; written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Checks that its holder signed `bytes` for `purpose`.
    ///
    /// # Errors
    /// [`BadSignature`] where it did not.
    pub fn verify(
        &self,
        purpose: Purpose,
        bytes: &[u8],
        signature: &Signature,
    ) -> Result<(), BadSignature> {
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(&purpose.message(bytes), &signature.0)
            .map_err(|_| BadSignature { purpose })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl TryFrom<String> for PublicKey {
    type Error = hex::BadHex;

    fn try_from(text: String) -> Result<Self, hex::BadHex> {
        hex::decode_array(&text).map(Self)
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

/// A signature; written in URL-safe base64 without padding.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signature(pub [u8; 64]);

/// A signature its key did not make over these bytes for this purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {purpose:?} signature does not match")]
pub struct BadSignature {
    /// What it was checked for.
    pub purpose: Purpose,
}

/// Text that is no signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a signature is 64 bytes in URL-safe base64")]
pub struct NoSignature;

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

impl std::str::FromStr for Signature {
    type Err = NoSignature;

    fn from_str(text: &str) -> Result<Self, NoSignature> {
        let bytes = BASE64.decode(text).map_err(|_| NoSignature)?;
        bytes.try_into().map(Self).map_err(|_| NoSignature)
    }
}

impl TryFrom<String> for Signature {
    type Error = NoSignature;

    fn try_from(text: String) -> Result<Self, NoSignature> {
        text.parse()
    }
}

impl From<Signature> for String {
    fn from(signature: Signature) -> Self {
        signature.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032, section 7.1, test 1: the public key of a published secret key.
    #[test]
    fn published_key() {
        let seed =
            hex::decode_array("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        assert_eq!(
            SigningKey::from_seed(&seed.expect("hex")).public().to_string(),
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
    }

    #[test]
    fn a_signature_is_for_one_purpose_key_and_text() {
        let key = SigningKey::from_seed(&[1; 32]);
        let signature = key.sign(Purpose::Record, b"text");
        let public = key.public();
        assert!(public.verify(Purpose::Record, b"text", &signature).is_ok());
        assert!(public.verify(Purpose::Receipt, b"text", &signature).is_err());
        assert!(public.verify(Purpose::Record, b"texu", &signature).is_err());
        let other = SigningKey::from_seed(&[2; 32]).public();
        assert!(other.verify(Purpose::Record, b"text", &signature).is_err());
        assert_eq!(signature.to_string().parse(), Ok(signature));
    }
}
