//! What a device's platform says of it when it enrols; what that means, a verifier of the operator's knows.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hasher};
use crate::sign::PublicKey;

/// A statement about a device, over the [`challenge`] of its enrolment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// Which statement it is: a name that app and verifier agree on.
    pub kind: String,
    /// The statement, in URL-safe base64.
    statement: String,
}

/// A statement that is not in base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an attestation's statement is in URL-safe base64 without padding")]
pub struct NoStatement;

impl Attestation {
    /// A statement of that kind.
    #[must_use]
    pub fn new(kind: impl Into<String>, statement: &[u8]) -> Self {
        Self { kind: kind.into(), statement: BASE64.encode(statement) }
    }

    /// The statement's bytes.
    ///
    /// # Errors
    /// [`NoStatement`] where they cannot be read.
    pub fn statement(&self) -> Result<Vec<u8>, NoStatement> {
        BASE64.decode(&self.statement).map_err(|_| NoStatement)
    }
}

/// What a statement must be over: SHA-256 of `"gossamer/v1/attestation\0"`, the client's key and the token's secret, so
/// that it is worth nothing for another key or another token.
#[must_use]
pub fn challenge(key: &PublicKey, secret: &str) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(b"gossamer/v1/attestation\0");
    hasher.update(&key.0);
    hasher.update(secret.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `sha256sum` has it: `(printf 'gossamer/v1/attestation\0'; head -c 32 /dev/zero; printf secret) | sha256sum`.
    #[test]
    fn the_challenge_is_the_one_described() {
        let challenge = challenge(&PublicKey([0; 32]), "secret");
        assert_eq!(challenge.to_string(), CHALLENGE);
    }

    const CHALLENGE: &str = "137880c9be8962debc585b915f9d188230f0fff556ea9cfdf6f193943b79d7d4";

    #[test]
    fn statements_come_back() {
        let made = Attestation::new("toy", &[0, 255, 7]);
        let json = serde_json::to_string(&made).expect("JSON");
        assert_eq!(json, r#"{"kind":"toy","statement":"AP8H"}"#);
        let read: Attestation = serde_json::from_str(&json).expect("the same");
        assert_eq!(read.statement(), Ok(vec![0, 255, 7]));
        let bad = Attestation { statement: "AP8H=".into(), ..made };
        assert_eq!(bad.statement(), Err(NoStatement));
    }
}
