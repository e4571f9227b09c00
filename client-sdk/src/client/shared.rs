//! What clients of one process need not each work out for themselves: verified manifests, snapshots read.
//!
//! Each client still fetches everything, so every byte moves and is counted; only reading the very bytes that
//! another client has just read is left out.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{FrameError, Snapshot, Terms};
use gossamer_protocol::ids::{RoundId, RunId};
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::message::Signed;
use gossamer_protocol::sign::{PublicKey, Purpose};

use crate::verify::{self, Believed, VerifyError};

/// Snapshots held as read, and as made from an earlier one: returning clients have been away for so many
/// different times.
const MOST: usize = 32;
/// Numbers in all snapshots held as read, unless one has more.
const NUMBERS: usize = 1 << 23;

/// A run's verified manifest.
#[derive(Debug)]
pub(super) struct RunTerms {
    pub(super) manifest: Manifest,
    pub(super) digest: Digest,
}

/// What some client of this process verified and read, held for the others.
#[derive(Debug)]
pub struct Shared {
    /// Bytes that have the digest of these were verified by whoever held them.
    terms: Mutex<HashMap<RunId, Arc<RunTerms>>>,
    /// What to hold of each; nothing for one client, which needs none twice.
    most: usize,
    /// What a key made the signature of, for a purpose.
    signed: Recent<(PublicKey, Purpose, Signed), ()>,
    snapshots: Recent<(RunId, RoundId, Digest), Arc<Snapshot>>,
    /// Digests of frames, by where they lie: those of one process are the aggregator's own.
    digests: Recent<(usize, usize), (Bytes, Digest)>,
    /// A frame by the one that was held and the difference.
    later: Recent<(RunId, RoundId, Bytes, Bytes), Bytes>,
}

/// What was worked out last, the newest first; equal keys have equal values.
type Recent<K, V> = Mutex<VecDeque<(K, V)>>;

impl Default for Shared {
    /// For many clients.
    fn default() -> Self {
        Self::holding(MOST)
    }
}

impl Shared {
    /// For one client.
    pub(super) fn alone() -> Self {
        Self::holding(0)
    }

    fn holding(most: usize) -> Self {
        let (terms, snapshots) = (Mutex::default(), Mutex::default());
        let (signed, digests) = (Mutex::default(), Mutex::default());
        Self { terms, most, signed, snapshots, digests, later: Mutex::default() }
    }

    /// The manifest in `signed`; the very bytes verified before are not parsed again.
    pub(super) fn verified(
        &self,
        signed: &Signed,
        believed: Believed<'_>,
        run: RunId,
    ) -> Result<Arc<RunTerms>, VerifyError> {
        believed.check(signed, Purpose::Manifest)?;
        let mut known = lock(&self.terms);
        if let Some(terms) = known.get(&run)
            && terms.digest == Digest::of(&signed.bytes)
        {
            return Ok(terms.clone());
        }
        let (manifest, digest) = verify::manifest(signed, believed, run)?;
        let terms = Arc::new(RunTerms { manifest, digest });
        known.insert(run, terms.clone());
        Ok(terms)
    }

    /// Whether `key` made this signature.
    pub(crate) fn signed(&self, key: PublicKey, purpose: Purpose, signed: &Signed) -> bool {
        let Signed { bytes, signature } = signed;
        let made = || key.verify(purpose, bytes, signature);
        recall(&self.signed, self.most, (key, purpose, signed.clone()), made).is_ok()
    }

    /// The digest of `frame`.
    pub(super) fn digest(&self, frame: &Bytes) -> Digest {
        // What is held lies where it lay, and does not change.
        let made = || Ok::<_, Infallible>((frame.clone(), Digest::of(frame)));
        let Ok((_, digest)) =
            recall(&self.digests, self.most, (frame.as_ptr().addr(), frame.len()), made);
        digest
    }

    /// Reads `frame`, whose digest is `digest`.
    pub(super) fn snapshot(
        &self,
        frame: &[u8],
        digest: Digest,
        terms: &Terms<'_>,
    ) -> Result<Arc<Snapshot>, FrameError> {
        let key = (terms.run(), terms.round(), digest);
        let most = self.most.min((NUMBERS / terms.manifest().layout.n().max(1)).max(1));
        recall(&self.snapshots, most, key, || Snapshot::decode(frame, terms).map(Arc::new))
    }

    /// The frame of `terms`' round that `difference` makes of the snapshot `held`, read from `frame`.
    pub(super) fn later(
        &self,
        frame: &Bytes,
        held: &Snapshot,
        difference: &Bytes,
        terms: &Terms<'_>,
    ) -> Result<Bytes, FrameError> {
        let key = (terms.run(), terms.round(), frame.clone(), difference.clone());
        recall(&self.later, self.most, key, || held.later(difference, terms).map(Bytes::from))
    }
}

/// What is held for `key`, or else made, by several at once if need be: nobody waits for another.
fn recall<K: PartialEq, V: Clone, E>(
    recent: &Recent<K, V>,
    most: usize,
    key: K,
    make: impl FnOnce() -> Result<V, E>,
) -> Result<V, E> {
    if let Some((_, value)) = lock(recent).iter().find(|(known, _)| *known == key) {
        return Ok(value.clone());
    }
    let value = make()?;
    let mut recent = lock(recent);
    recent.push_front((key, value.clone()));
    recent.truncate(most);
    Ok(value)
}

/// What is inside is whole after every call, whatever panicked elsewhere.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use gossamer_protocol::sign::SigningKey;

    use super::*;

    #[test]
    fn the_last_ones_are_recalled() {
        let recent = Recent::default();
        let made = |key: u32| {
            let mut made = false;
            let value = recall(&recent, 2, key, || {
                made = true;
                Ok::<_, ()>(10 * key)
            });
            assert_eq!(value, Ok(10 * key));
            made
        };
        assert_eq!([1, 2, 1, 3, 2, 1].map(made), [true, true, false, true, false, true]);
        assert_eq!(recall(&recent, 2, 7, || Err::<u32, _>("no")), Err("no"));
        assert_eq!(lock(&recent).len(), 2);
        assert_eq!(recall(&recent, 0, 8, || Ok::<_, ()>(8)), Ok(8));
        assert!(lock(&recent).is_empty());
    }

    /// Also where one lies in another, or where another lay.
    #[test]
    fn a_digest_is_the_frames_own() {
        let shared = Shared::default();
        let frames = [Bytes::from(vec![1; 9]), Bytes::from(vec![2; 9])];
        for frame in frames.iter().cycle().take(4) {
            assert_eq!(shared.digest(frame), Digest::of(frame));
            assert_eq!(shared.digest(&frame.slice(..4)), Digest::of(&frame[..4]));
        }
        for value in 0..100 {
            let frame = Bytes::from(vec![value; 9]);
            assert_eq!(shared.digest(&frame), Digest::of(&frame));
        }
    }

    /// By that key, for that purpose, over those bytes; however often, and whatever else was checked.
    #[test]
    fn a_signature_known_is_no_other() {
        let [own, other] = [1, 2].map(|b| SigningKey::from_seed(&[b; 32]));
        let signed = |bytes: &[u8]| {
            let signature = own.sign(Purpose::Record, bytes);
            Signed { bytes: bytes.to_vec(), signature }
        };
        let shared = Shared::default();
        let (good, next) = (signed(b"record"), signed(b"next"));
        let altered = Signed { bytes: next.bytes.clone(), ..good.clone() };
        for _ in 0..2 {
            assert!(shared.signed(own.public(), Purpose::Record, &good));
            assert!(!shared.signed(other.public(), Purpose::Record, &good));
            assert!(!shared.signed(own.public(), Purpose::Manifest, &good));
            assert!(!shared.signed(own.public(), Purpose::Record, &altered));
        }
        assert_eq!(lock(&shared.signed).len(), 1, "only what was made by it is held");
    }
}
