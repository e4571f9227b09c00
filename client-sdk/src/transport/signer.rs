//! Who signs a client's requests.

use std::sync::{Arc, PoisonError, RwLock};

use gossamer_protocol::ids::ClientId;
use gossamer_protocol::request::{Authorization, Request};
use gossamer_protocol::sign::SigningKey;

/// A client's name and its key, which another may follow while requests are made.
#[derive(Clone, Debug)]
pub struct Signer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: ClientId,
    key: RwLock<Arc<SigningKey>>,
}

impl Signer {
    /// Signs with `key` for `client`, which may have enrolled with an earlier one.
    #[must_use]
    pub fn new(client: ClientId, key: Arc<SigningKey>) -> Self {
        Self(Arc::new(Inner { client, key: RwLock::new(key) }))
    }

    /// Whose requests they are.
    #[must_use]
    pub fn client(&self) -> ClientId {
        self.0.client
    }

    /// The key that signs now.
    #[must_use]
    pub fn key(&self) -> Arc<SigningKey> {
        self.0.key.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Signs with `key` from now on.
    pub(crate) fn set(&self, key: Arc<SigningKey>) {
        *self.0.key.write().unwrap_or_else(PoisonError::into_inner) = key;
    }

    pub(super) fn sign(
        &self,
        request: &Request<'_>,
        nonce: [u8; 16],
        expires_ms: u64,
    ) -> Authorization {
        Authorization::sign_as(self.0.client, &self.key(), request, nonce, expires_ms)
    }
}

impl From<Arc<SigningKey>> for Signer {
    /// With the key that the client enrols with.
    fn from(key: Arc<SigningKey>) -> Self {
        Self::new(ClientId::of(&key.public().0), key)
    }
}
