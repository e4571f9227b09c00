//! What a client believes: only what the pinned server key, or one that followed it, signed, of the run it was asked for, never
//! older than what it saw before, and only bytes that have the digest that was signed.

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{ClientId, RoundId, RunId};
use gossamer_protocol::inclusion::{Inclusion, NotIncluded};
use gossamer_protocol::manifest::{Manifest, ManifestError};
use gossamer_protocol::message::{Assignment, RECORD_VERSION, Receipt, Record, Signed};
use gossamer_protocol::rotation::{Disbelief, Trust};
use gossamer_protocol::sign::Purpose;
use gossamer_protocol::tag::{TagName, Tagged};
use serde::{Deserialize, Serialize};

use crate::client::Shared;
use crate::transport::Slot;

/// Why an answer is not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Not signed by the server this client enrolled with.
    #[error("the manifest is not the enrolled server's")]
    Manifest(#[from] Disbelief),
    /// Signed, but no manifest this build can run.
    #[error("the manifest cannot be run")]
    Terms(#[from] ManifestError),
    /// Another run's manifest.
    #[error("asked for run {asked}, got the manifest of {got}")]
    Run {
        /// The run asked for.
        asked: RunId,
        /// The run described.
        got: RunId,
    },
    /// A record, a receipt, a proof or a tag that the server did not sign, or with a key that is believed no more.
    #[error("the {what} is not the enrolled server's")]
    Signed {
        /// "record", "receipt", "proof" or "tag".
        what: &'static str,
        /// Why.
        source: Disbelief,
    },
    /// A signed record, receipt or tag that cannot be read.
    #[error("the {what} is signed, but malformed")]
    Malformed {
        /// "record", "receipt" or "tag".
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// A signed record, receipt or tag of something else.
    #[error("the {what} has another {field} than was asked for")]
    Other {
        /// "record", "receipt" or "tag".
        what: &'static str,
        /// The field that differs.
        field: &'static str,
    },
    /// The server went back.
    #[error("round {got} is offered, but round {seen} was seen before")]
    Rollback {
        /// The round offered.
        got: RoundId,
        /// The last one seen.
        seen: RoundId,
    },
    /// A record that does not continue the one seen before.
    #[error("the record of round {0} does not continue the chain of records seen before")]
    Fork(RoundId),
    /// An update that has a receipt is not shown to be counted.
    #[error("the proof that the update of round {round} is counted does not hold")]
    NotIncluded {
        /// The round.
        round: RoundId,
        /// Why.
        source: NotIncluded,
    },
    /// Bytes with another digest.
    #[error("the snapshot's bytes are not the signed ones")]
    Snapshot,
}

impl VerifyError {
    /// Whether a key made the signature that the client does not know: one that it has not followed to yet?
    pub(crate) fn is_by_stranger(&self) -> bool {
        let by = |why: &Disbelief| matches!(why, Disbelief::Stranger(_));
        matches!(self, Self::Manifest(why) | Self::Signed { source: why, .. } if by(why))
    }
}

/// Whom a client believes, and what time it is.
#[derive(Clone, Copy, Debug)]
pub struct Believed<'a> {
    /// The server's keys.
    pub trust: &'a Trust,
    /// Unix time in milliseconds.
    pub now_ms: u64,
    /// What this process has checked before.
    known: Option<&'a Shared>,
}

impl<'a> Believed<'a> {
    /// By `trust` at `now_ms`, Unix time in milliseconds.
    #[must_use]
    pub fn new(trust: &'a Trust, now_ms: u64) -> Self {
        Self { trust, now_ms, known: None }
    }

    /// As [`new`](Self::new); no signature of the newest key that `known` has checked is checked again.
    pub(crate) fn knowing(trust: &'a Trust, now_ms: u64, known: &'a Shared) -> Self {
        Self { trust, now_ms, known: Some(known) }
    }

    /// Checks who signed `signed`.
    pub(crate) fn check(&self, signed: &Signed, purpose: Purpose) -> Result<(), Disbelief> {
        // What many clients are shown; a receipt is one's own.
        if let (Some(known), Purpose::Manifest | Purpose::Record) = (self.known, purpose)
            && known.signed(self.trust.key, purpose, signed)
        {
            return Ok(());
        }
        self.trust.signer(purpose, &signed.bytes, &signed.signature, self.now_ms).map(|_| ())
    }

    fn open<T: serde::de::DeserializeOwned>(
        &self,
        signed: &Signed,
        purpose: Purpose,
        what: &'static str,
    ) -> Result<T, VerifyError> {
        self.check(signed, purpose).map_err(|source| VerifyError::Signed { what, source })?;
        let opened = serde_json::from_slice(&signed.bytes);
        opened.map_err(|source| VerifyError::Malformed { what, source })
    }
}

/// The last record a client believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The round it starts.
    pub round: RoundId,
    /// Digest of its bytes.
    pub record: Digest,
}

/// The manifest in `signed`, and its digest.
///
/// # Errors
/// [`VerifyError`] where it is not the server's, or not `run`'s.
pub fn manifest(
    signed: &Signed,
    believed: Believed<'_>,
    run: RunId,
) -> Result<(Manifest, Digest), VerifyError> {
    believed.check(signed, Purpose::Manifest)?;
    let digest = Digest::of(&signed.bytes);
    let got = RunId::of(digest);
    if got != run {
        return Err(VerifyError::Run { asked: run, got });
    }
    Ok((Manifest::from_bytes(&signed.bytes)?, digest))
}

/// Checks the record behind `assignment` against what was `seen` before; gives what is seen now.
///
/// # Errors
/// [`VerifyError`] at the first thing that is off.
pub fn record(
    signed: &Signed,
    believed: Believed<'_>,
    manifest: Digest,
    assignment: &Assignment,
    seen: Option<Seen>,
) -> Result<Seen, VerifyError> {
    let what = "record";
    let record: Record = believed.open(signed, Purpose::Record, what)?;
    for (field, same) in [
        ("version", record.version == RECORD_VERSION),
        ("run", record.run == assignment.run),
        ("round", record.round == assignment.round),
        ("manifest", record.manifest == manifest),
        ("snapshot", record.snapshot == assignment.snapshot),
        ("length", record.snapshot_bytes == assignment.snapshot_bytes),
    ] {
        if !same {
            return Err(VerifyError::Other { what, field });
        }
    }
    let now = Seen { round: record.round, record: Digest::of(&signed.bytes) };
    match seen {
        Some(seen) if record.round < seen.round => {
            Err(VerifyError::Rollback { got: record.round, seen: seen.round })
        }
        Some(seen) if record.round == seen.round && now != seen => {
            Err(VerifyError::Fork(record.round))
        }
        Some(seen) if record.round == seen.round.next() && record.parent != Some(seen.record) => {
            Err(VerifyError::Fork(record.round))
        }
        _ => Ok(now),
    }
}

/// The server's word on which adapter `tag` names for `client`.
///
/// # Errors
/// [`VerifyError`] at the first thing that is off.
pub fn tagged(
    signed: &Signed,
    believed: Believed<'_>,
    tag: &TagName,
    client: ClientId,
) -> Result<Tagged, VerifyError> {
    let what = "tag";
    let tagged: Tagged = believed.open(signed, Purpose::Tag, what)?;
    for (field, same) in [("name", tagged.tag == *tag), ("client", tagged.client == client)] {
        if !same {
            return Err(VerifyError::Other { what, field });
        }
    }
    Ok(tagged)
}

/// The record of the adapter that a tag names.
///
/// # Errors
/// [`VerifyError`] at the first thing that is off.
pub fn named(
    signed: &Signed,
    believed: Believed<'_>,
    manifest: Digest,
    tagged: &Tagged,
) -> Result<Record, VerifyError> {
    let what = "record";
    let record: Record = believed.open(signed, Purpose::Record, what)?;
    for (field, same) in [
        ("version", record.version == RECORD_VERSION),
        ("digest", Digest::of(&signed.bytes) == tagged.record),
        ("run", record.run == tagged.run),
        ("round", record.round == tagged.round),
        ("manifest", record.manifest == manifest),
    ] {
        if !same {
            return Err(VerifyError::Other { what, field });
        }
    }
    Ok(record)
}

/// Checks that the server took just this update.
///
/// # Errors
/// [`VerifyError`] at the first thing that is off.
pub fn receipt(
    signed: &Signed,
    believed: Believed<'_>,
    slot: &Slot,
    update: Digest,
) -> Result<Receipt, VerifyError> {
    let what = "receipt";
    let receipt: Receipt = believed.open(signed, Purpose::Receipt, what)?;
    for (field, same) in [
        ("run", receipt.run == slot.run),
        ("round", receipt.round == slot.round),
        ("attempt", receipt.attempt == slot.attempt),
        ("client", receipt.client == slot.client),
        ("update", receipt.update == update),
    ] {
        if !same {
            return Err(VerifyError::Other { what, field });
        }
    }
    Ok(receipt)
}

/// The round that counts an update made for `round`, by `proof`: that one, or in buffered runs one of the `late` after it.
///
/// # Errors
/// [`VerifyError::Other`] where it is none of them.
pub fn counted_in(proof: &Inclusion, round: RoundId, late: u64) -> Result<RoundId, VerifyError> {
    let counted = proof.head.round;
    match counted.0.checked_sub(round.0) {
        Some(behind) if behind <= late => Ok(counted),
        _ => Err(VerifyError::Other { what: "proof", field: "round" }),
    }
}

/// Checks that a receipt, by its bytes, is one of those that `next` counts: the signed record of the round after the
/// one that it [counts in](counted_in).
///
/// # Errors
/// [`VerifyError`] at the first thing that is off.
pub fn included(
    proof: &Inclusion,
    next: &Signed,
    believed: Believed<'_>,
    receipt: &Receipt,
    bytes: &[u8],
    late: u64,
) -> Result<(), VerifyError> {
    let what = "record";
    let (run, round) = (receipt.run, receipt.round);
    let counted = counted_in(proof, round, late)?;
    let record: Record = believed.open(next, Purpose::Record, what)?;
    for (field, same) in [("run", record.run == run), ("round", record.round == counted.next())] {
        if !same {
            return Err(VerifyError::Other { what, field });
        }
    }
    let head = &proof.head;
    for (field, same) in [
        ("run", head.run == run),
        ("record", head.record == Digest::of(&next.bytes)),
        ("number of updates", head.size == u64::from(record.accepted)),
    ] {
        if !same {
            return Err(VerifyError::Other { what: "proof", field });
        }
    }
    let Believed { trust, now_ms, .. } = believed;
    let key = trust.signer(Purpose::TreeHead, &head.text(), &proof.signature, now_ms);
    let key = key.map_err(|source| VerifyError::Signed { what: "proof", source })?;
    proof.verify(&key, bytes).map_err(|source| VerifyError::NotIncluded { round, source })
}

#[cfg(test)]
mod tests;
