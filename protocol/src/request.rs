//! Signed requests: method, path, body, nonce and expiry, so that nothing of one can be reused.
//!
//! The header reads `Authorization: Gossamer client=…,nonce=…,expires=…,signature=…`. Signed is
//! `"{METHOD}\n{path and query}\n{body SHA-256 hex}\n{nonce hex}\n{expires ms}\n"`.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::hex;
use crate::ids::ClientId;
use crate::sign::{BadSignature, PublicKey, Purpose, Signature, SigningKey};

/// How long a signed request is good for, in milliseconds.
pub const LIFETIME_MS: u64 = 120_000;

/// What a signature covers besides the nonce and the expiry.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Upper-case HTTP method.
    pub method: &'a str,
    /// Path and query, as sent.
    pub path: &'a str,
    /// SHA-256 of the body; of nothing where there is none.
    pub body: Digest,
}

/// Proof of who sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    /// The sender.
    pub client: ClientId,
    /// Never used twice by one client.
    pub nonce: [u8; 16],
    /// Unix time in milliseconds after which it is void.
    pub expires_ms: u64,
    /// Over the request, the nonce and the expiry.
    pub signature: Signature,
}

/// Text that is no authorization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected `Gossamer client=…,nonce=…,expires=…,signature=…`")]
pub struct NoAuthorization;

impl Authorization {
    /// Signs `request` with `key`.
    #[must_use]
    pub fn sign(key: &SigningKey, request: &Request<'_>, nonce: [u8; 16], expires_ms: u64) -> Self {
        Self::sign_as(ClientId::of(&key.public().0), key, request, nonce, expires_ms)
    }

    /// The same for `client`, which enrolled with an earlier key than this one.
    #[must_use]
    pub fn sign_as(
        client: ClientId,
        key: &SigningKey,
        request: &Request<'_>,
        nonce: [u8; 16],
        expires_ms: u64,
    ) -> Self {
        let signature = key.sign(Purpose::Request, &text(request, &nonce, expires_ms));
        Self { client, nonce, expires_ms, signature }
    }

    /// Checks the signature; times and nonces are the caller's to check.
    ///
    /// # Errors
    /// [`BadSignature`] where `key` did not sign this request.
    pub fn verify(&self, key: &PublicKey, request: &Request<'_>) -> Result<(), BadSignature> {
        let text = text(request, &self.nonce, self.expires_ms);
        key.verify(Purpose::Request, &text, &self.signature)
    }
}

fn text(request: &Request<'_>, nonce: &[u8; 16], expires_ms: u64) -> Vec<u8> {
    let Request { method, path, body } = request;
    format!("{method}\n{path}\n{body}\n{}\n{expires_ms}\n", hex::encode(nonce)).into_bytes()
}

impl fmt::Display for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, nonce, expires_ms, signature } = self;
        let nonce = hex::encode(nonce);
        write!(
            f,
            "Gossamer client={client},nonce={nonce},expires={expires_ms},signature={signature}"
        )
    }
}

impl FromStr for Authorization {
    type Err = NoAuthorization;

    fn from_str(text: &str) -> Result<Self, NoAuthorization> {
        let fields = text.strip_prefix("Gossamer ").ok_or(NoAuthorization)?;
        let mut fields = fields.split(',');
        let mut field = |name: &str| {
            let field = fields.next().and_then(|f| f.strip_prefix(name)?.strip_prefix('='));
            field.ok_or(NoAuthorization)
        };
        let authorization = Self {
            client: field("client")?.parse().map_err(|_| NoAuthorization)?,
            nonce: hex::decode_array(field("nonce")?).map_err(|_| NoAuthorization)?,
            expires_ms: field("expires")?.parse().map_err(|_| NoAuthorization)?,
            signature: field("signature")?.parse().map_err(|_| NoAuthorization)?,
        };
        if fields.next().is_some() { Err(NoAuthorization) } else { Ok(authorization) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signed_part_counts() {
        let key = SigningKey::from_seed(&[1; 32]);
        let public = key.public();
        let good = Request { method: "PUT", path: "/v1/x?a=1", body: Digest::of(b"body") };
        let signed = Authorization::sign(&key, &good, [7; 16], 1_000);
        assert!(signed.verify(&public, &good).is_ok());
        for other in [
            Request { method: "POST", ..good },
            Request { path: "/v1/x?a=2", ..good },
            Request { body: Digest::of(b"other"), ..good },
        ] {
            assert!(signed.verify(&public, &other).is_err(), "{other:?}");
        }
        let late = Authorization { expires_ms: 2_000, ..signed.clone() };
        assert!(late.verify(&public, &good).is_err());
        let renewed = Authorization { nonce: [8; 16], ..signed };
        assert!(renewed.verify(&public, &good).is_err());
    }

    #[test]
    fn text_round_trip_is_strict() {
        let key = SigningKey::from_seed(&[1; 32]);
        let request = Request { method: "GET", path: "/", body: Digest::of(b"") };
        let signed = Authorization::sign(&key, &request, [7; 16], 1_000);
        let text = signed.to_string();
        assert_eq!(text.parse(), Ok(signed));
        for bad in [format!("{text},x=1"), text.replace("nonce", "nonse"), "Bearer x".into()] {
            assert!(bad.parse::<Authorization>().is_err(), "{bad}");
        }
    }
}
