//! The server's keys, which follow one another.
//!
//! Statements are in the store, secrets in each server's directory. What an older key signed is handed out signed
//! with the present one. A server that does not have the secret of the key that should sign goes on with the one
//! that it has, which clients believe until the overlap is over; then it is not ready.

use std::sync::{Arc, PoisonError, RwLockReadGuard};
use std::time::Duration;

use gossamer_protocol::message::Signed;
use gossamer_protocol::rotation::{Rotation, Trust};
use gossamer_protocol::sign::{PublicKey, Purpose, SigningKey};

use super::{Coordinator, CoordinatorError};
use crate::audit::Event as Told;
use crate::store::joined;

/// Where a server finds the secrets of its keys.
pub trait Keyring: Send + Sync {
    /// The secret of `key`, where it is there.
    fn find(&self, key: &PublicKey) -> Option<SigningKey>;
}

/// What signs, and what follows what.
pub(super) struct Keys {
    present: Arc<SigningKey>,
    chain: Vec<Rotation>,
    trust: Trust,
    ring: Option<Arc<dyn Keyring>>,
    /// The key that should sign and whose secret is not here, once that was told.
    lacking: Option<PublicKey>,
}

impl Keys {
    pub(super) fn new(key: SigningKey, ring: Option<Arc<dyn Keyring>>) -> Self {
        let trust = Trust::pinned(key.public());
        Self { present: Arc::new(key), chain: Vec::new(), trust, ring, lacking: None }
    }

    /// The keys whose time has come at `now_ms`, the one that should sign first.
    fn begun(&self, now_ms: u64) -> impl Iterator<Item = PublicKey> {
        let begun = self.chain.iter().rev().skip_while(move |next| next.at_ms > now_ms);
        let first = self.chain.first().map(|next| next.from);
        begun.map(|next| next.to).chain(first)
    }

    /// The key that should sign at `now_ms`.
    fn due(&self, now_ms: u64) -> PublicKey {
        self.begun(now_ms).next().unwrap_or_else(|| self.present.public())
    }

    fn secret(&self, key: &PublicKey) -> Option<Arc<SigningKey>> {
        if self.present.public() == *key {
            return Some(self.present.clone());
        }
        let found = self.ring.as_ref()?.find(key)?;
        (found.public() == *key).then(|| Arc::new(found))
    }

    /// The statement by which clients believe the present key no more, where that is so.
    fn over(&self, now_ms: u64) -> Option<&Rotation> {
        let present = self.present.public();
        self.chain.iter().find(|next| next.from == present && next.until_ms <= now_ms)
    }

    fn is_signed(&self, purpose: Purpose, signed: &Signed) -> bool {
        // Whenever it was signed: what is stored has no time of its own.
        self.trust.signer(purpose, &signed.bytes, &signed.signature, 0).is_ok()
    }
}

impl Coordinator {
    fn keys(&self) -> RwLockReadGuard<'_, Keys> {
        self.0.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key that signs now.
    pub(super) fn key(&self) -> Arc<SigningKey> {
        self.keys().present.clone()
    }

    /// The same; none where clients believe it no more.
    pub(super) fn believed_key(&self) -> Option<Arc<SigningKey>> {
        let keys = self.keys();
        keys.over(self.now().0).is_none().then(|| keys.present.clone())
    }

    /// The statements by which the server's keys follow one another, in order.
    #[must_use]
    pub fn rotations(&self) -> Vec<Rotation> {
        self.keys().chain.clone()
    }

    /// Notices a rotation, that its time has come, and that a secret has come.
    pub(super) async fn refresh_keys(&self) -> Result<(), CoordinatorError> {
        let told = self.0.store.rotations().await?;
        let now = self.now().0;
        let mut keys = self.0.keys.write().unwrap_or_else(PoisonError::into_inner);
        if told != keys.chain {
            let present = keys.present.public();
            keys.trust = joined(&present, &told);
            keys.chain = told;
            let sound = keys.chain.iter().all(|next| next.verify().is_ok());
            if !sound || keys.chain.last().is_some_and(|last| last.to != keys.trust.key) {
                tracing::error!("a statement about the server's keys is not signed by its keys");
                let trust = keys.trust.clone();
                keys.chain.retain(|next| trust.knows(&next.from) && next.verify().is_ok());
            }
        }
        // The newest whose secret is here: it is believed for longest.
        let newest = keys.begun(now).find_map(|key| keys.secret(&key));
        if let Some(newest) = newest.filter(|newest| newest.public() != keys.present.public()) {
            tracing::info!(key = %newest.public(), "signing with another key");
            keys.present = newest;
        }
        Ok(())
    }

    /// Tells once where the secret of the key that should sign is not here.
    pub(super) fn tell_lacking(&self) {
        let mut keys = self.0.keys.write().unwrap_or_else(PoisonError::into_inner);
        let due = keys.due(self.now().0);
        let lacking = (due != keys.present.public()).then_some(due);
        if let Some(key) = lacking.filter(|_| keys.lacking != lacking) {
            tracing::warn!(%key, "the secret of the key that should sign is not in keys/");
        }
        keys.lacking = lacking;
    }

    /// What is wrong with the key that signs, in words.
    pub(super) fn key_wrong(&self) -> Option<String> {
        let keys = self.keys();
        let Rotation { from, to, .. } = keys.over(self.now().0)?;
        Some(format!("the key: clients believe {from} no more, and the secret of {to} is not here"))
    }

    /// Lets `new` follow the newest of the server's keys, whose secret must be here: it signs after `wait`, and
    /// what the old one signed is believed for `overlap` longer.
    ///
    /// # Errors
    /// [`CoordinatorError::NoSecret`], [`CoordinatorError::RotatedBefore`], and the store's.
    pub async fn rotate_key(
        &self,
        new: &SigningKey,
        wait: Duration,
        overlap: Duration,
    ) -> Result<Rotation, CoordinatorError> {
        self.refresh_keys().await?;
        let (rotation, known) = {
            let keys = self.keys();
            let newest = keys.chain.last().map_or_else(|| keys.present.public(), |next| next.to);
            let from = keys.secret(&newest).ok_or(CoordinatorError::NoSecret(newest))?;
            let at = self.now().after(wait);
            (Rotation::sign(&from, new, at.0, at.after(overlap).0), keys.chain.len())
        };
        let Rotation { from, to, at_ms: start_ms, until_ms, .. } = rotation;
        let note = self.note(Told::KeyRotated { from, to, start_ms, until_ms });
        let row = rotation.clone();
        let add = move |this: Self| async move {
            Ok(this.0.store.add_rotation(&row, known, &note).await?)
        };
        if !self.apart(add).await? {
            return Err(CoordinatorError::RotatedBefore);
        }
        self.refresh_keys().await?;
        self.changed();
        Ok(rotation)
    }

    /// What one of the server's keys signed, signed with the present one.
    pub(super) fn anew(&self, purpose: Purpose, signed: Signed) -> Signed {
        let keys = self.keys();
        let present = keys.present.public();
        let by_present = || present.verify(purpose, &signed.bytes, &signed.signature).is_ok();
        // What none of them signed, a client is to see as it is, and refuse.
        if keys.chain.is_empty() || by_present() || !keys.is_signed(purpose, &signed) {
            return signed;
        }
        Signed::new(&keys.present, purpose, signed.bytes)
    }

    /// Whether one of the server's keys signed that.
    pub(super) fn is_signed(&self, purpose: Purpose, signed: &Signed) -> bool {
        self.keys().is_signed(purpose, signed)
    }
}
