//! A TLS certificate that a device shows, where the aggregator asks for one.

use std::path::Path;

use super::https::HttpsError;

/// A chain and its key.
#[derive(Clone)]
pub struct ClientCertificate {
    /// Both, PEM.
    pem: Vec<u8>,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientCertificate")
    }
}

impl ClientCertificate {
    /// A chain, the device's own certificate first, and its private key; both PEM.
    #[must_use]
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Self {
        Self { pem: [chain, b"\n", key].concat() }
    }

    /// The same, from files.
    ///
    /// # Errors
    /// [`HttpsError::Certificate`] where one cannot be read.
    pub fn read(chain: &Path, key: &Path) -> Result<Self, HttpsError> {
        let read = |path: &Path| {
            let why = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
            std::fs::read(path).map_err(|error| HttpsError::Certificate(why(error)))
        };
        Ok(Self::from_pem(&read(chain)?, &read(key)?))
    }

    pub(super) fn identity(&self) -> Result<reqwest::Identity, HttpsError> {
        let bad = |_| "expected a PEM chain and its private key".to_owned();
        reqwest::Identity::from_pem(&self.pem).map_err(|e| HttpsError::Certificate(bad(e)))
    }
}
