//! Verified manifests, held once however many clients of a process take part.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::RunId;
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::message::Signed;
use gossamer_protocol::sign::{PublicKey, Purpose};

use crate::verify::{self, VerifyError};

/// A run's verified manifest.
#[derive(Debug)]
pub(super) struct RunTerms {
    pub(super) manifest: Manifest,
    pub(super) digest: Digest,
}

/// Manifests that some client of this process verified, by the key they were verified against.
#[derive(Debug, Default)]
pub struct SharedTerms(Mutex<HashMap<(PublicKey, RunId), Arc<RunTerms>>>);

impl SharedTerms {
    /// The manifest in `signed`; the very bytes verified before are not parsed again.
    pub(super) fn verified(
        &self,
        signed: &Signed,
        key: &PublicKey,
        run: RunId,
    ) -> Result<Arc<RunTerms>, VerifyError> {
        key.verify(Purpose::Manifest, &signed.bytes, &signed.signature)?;
        // The map is whole after every call, whatever panicked elsewhere.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(terms) = known.get(&(*key, run))
            && terms.digest == Digest::of(&signed.bytes)
        {
            return Ok(terms.clone());
        }
        let (manifest, digest) = verify::manifest(signed, key, run)?;
        let terms = Arc::new(RunTerms { manifest, digest });
        known.insert((*key, run), terms.clone());
        Ok(terms)
    }
}
