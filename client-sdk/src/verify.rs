//! What a client believes: only what the pinned server key signed, of the run it was asked for, never
//! older than what it saw before, and only bytes that have the digest that was signed.

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{ClientId, RoundId, RunId};
use gossamer_protocol::inclusion::{Inclusion, NotIncluded};
use gossamer_protocol::manifest::{Manifest, ManifestError};
use gossamer_protocol::message::{
    Assignment, RECORD_VERSION, Receipt, Record, Signed, SignedError,
};
use gossamer_protocol::sign::{BadSignature, PublicKey, Purpose};
use gossamer_protocol::tag::{TagName, Tagged};
use serde::{Deserialize, Serialize};

use crate::transport::Slot;

/// Why an answer is not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Not signed by the server this client enrolled with.
    #[error("the manifest is not the enrolled server's")]
    Manifest(#[from] BadSignature),
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
    /// A record, a receipt or a tag that the server did not sign.
    #[error("the {what} is not the enrolled server's")]
    Signed {
        /// "record", "receipt" or "tag".
        what: &'static str,
        /// Why.
        source: SignedError,
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
/// [`VerifyError`] where it is not `key`'s, or not `run`'s.
pub fn manifest(
    signed: &Signed,
    key: &PublicKey,
    run: RunId,
) -> Result<(Manifest, Digest), VerifyError> {
    key.verify(Purpose::Manifest, &signed.bytes, &signed.signature)?;
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
    key: &PublicKey,
    manifest: Digest,
    assignment: &Assignment,
    seen: Option<Seen>,
) -> Result<Seen, VerifyError> {
    let what = "record";
    let opened = signed.open::<Record>(key, Purpose::Record);
    let record = opened.map_err(|source| VerifyError::Signed { what, source })?;
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
    key: &PublicKey,
    tag: &TagName,
    client: ClientId,
) -> Result<Tagged, VerifyError> {
    let what = "tag";
    let opened = signed.open::<Tagged>(key, Purpose::Tag);
    let tagged = opened.map_err(|source| VerifyError::Signed { what, source })?;
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
    key: &PublicKey,
    manifest: Digest,
    tagged: &Tagged,
) -> Result<Record, VerifyError> {
    let what = "record";
    let opened = signed.open::<Record>(key, Purpose::Record);
    let record = opened.map_err(|source| VerifyError::Signed { what, source })?;
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
    key: &PublicKey,
    slot: &Slot,
    update: Digest,
) -> Result<Receipt, VerifyError> {
    let what = "receipt";
    let opened = signed.open::<Receipt>(key, Purpose::Receipt);
    let receipt = opened.map_err(|source| VerifyError::Signed { what, source })?;
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

/// Checks that a receipt, by its bytes, is one of those that the signed record of the next round counts.
///
/// # Errors
/// [`VerifyError`] at the first thing that is off.
pub fn included(
    proof: &Inclusion,
    next: &Signed,
    key: &PublicKey,
    receipt: &Receipt,
    bytes: &[u8],
) -> Result<(), VerifyError> {
    let what = "record";
    let opened = next.open::<Record>(key, Purpose::Record);
    let record = opened.map_err(|source| VerifyError::Signed { what, source })?;
    let (run, round) = (receipt.run, receipt.round);
    for (field, same) in [("run", record.run == run), ("round", record.round == round.next())] {
        if !same {
            return Err(VerifyError::Other { what, field });
        }
    }
    let head = &proof.head;
    for (field, same) in [
        ("run", head.run == run),
        ("round", head.round == round),
        ("record", head.record == Digest::of(&next.bytes)),
        ("number of updates", head.size == u64::from(record.accepted)),
    ] {
        if !same {
            return Err(VerifyError::Other { what: "proof", field });
        }
    }
    proof.verify(key, bytes).map_err(|source| VerifyError::NotIncluded { round, source })
}

#[cfg(test)]
mod tests {
    use gossamer_protocol::ids::Attempt;
    use gossamer_protocol::inclusion;
    use gossamer_protocol::message::accepted_digest;
    use gossamer_protocol::sign::SigningKey;

    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_seed(&[1; 32])
    }

    fn fixture(round: u64, parent: Option<Digest>) -> (Record, Assignment) {
        let run = RunId([1; 16]);
        let record = Record {
            version: RECORD_VERSION,
            run,
            round: RoundId(round),
            parent,
            manifest: Digest::of(b"manifest"),
            snapshot: Digest::of(b"snapshot"),
            snapshot_bytes: 8,
            state: Digest::of(b"state"),
            attempt: Attempt(0),
            accepted: 0,
            accepted_set: accepted_digest(&[].into()),
            staleness: Vec::new(),
        };
        let assignment = Assignment {
            run,
            round: RoundId(round),
            attempt: Attempt(0),
            snapshot: record.snapshot,
            snapshot_bytes: 8,
            deadline_ms: 1,
        };
        (record, assignment)
    }

    fn sign(record: &Record) -> Signed {
        Signed::new(&key(), Purpose::Record, serde_json::to_vec(record).expect("JSON"))
    }

    fn check(
        record: &Record,
        assignment: &Assignment,
        seen: Option<Seen>,
    ) -> Result<Seen, VerifyError> {
        super::record(&sign(record), &key().public(), Digest::of(b"manifest"), assignment, seen)
    }

    #[test]
    fn a_record_must_be_signed_and_be_the_one_asked_for() {
        let (record, assignment) = fixture(3, None);
        assert!(check(&record, &assignment, None).is_ok());
        let stranger = SigningKey::from_seed(&[2; 32]).public();
        let refused = super::record(&sign(&record), &stranger, record.manifest, &assignment, None);
        assert!(matches!(refused, Err(VerifyError::Signed { .. })));
        type Break = fn(&mut Record);
        let cases: [(&str, Break); 6] = [
            ("version", |r| r.version = 9),
            ("run", |r| r.run = RunId([2; 16])),
            ("round", |r| r.round = RoundId(4)),
            ("manifest", |r| r.manifest = Digest::of(b"other")),
            ("snapshot", |r| r.snapshot = Digest::of(b"other")),
            ("length", |r| r.snapshot_bytes = 9),
        ];
        for (name, break_it) in cases {
            let mut other = record.clone();
            break_it(&mut other);
            match check(&other, &assignment, None) {
                Err(VerifyError::Other { field, .. }) => assert_eq!(field, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_server_can_neither_go_back_nor_fork() {
        let (third, ask) = fixture(3, None);
        let seen = check(&third, &ask, None).expect("the first seen");
        assert_eq!(check(&third, &ask, Some(seen)).expect("the same again"), seen);

        let (second, earlier) = fixture(2, None);
        let refused = check(&second, &earlier, Some(seen));
        assert!(matches!(refused, Err(VerifyError::Rollback { .. })), "{refused:?}");

        let (mut other, _) = fixture(3, None);
        other.accepted = 7;
        assert!(matches!(check(&other, &ask, Some(seen)), Err(VerifyError::Fork(_))));

        let (fourth, next) = fixture(4, Some(seen.record));
        assert!(check(&fourth, &next, Some(seen)).is_ok());
        let (forked, next) = fixture(4, Some(Digest::of(b"another third")));
        assert!(matches!(check(&forked, &next, Some(seen)), Err(VerifyError::Fork(_))));
        let (fifth, later) = fixture(5, Some(Digest::of(b"a fourth not seen")));
        assert!(check(&fifth, &later, Some(seen)).is_ok(), "rounds may be missed");
    }

    #[test]
    fn a_receipt_must_be_among_those_of_the_next_record() {
        let receipt = |b: u8| Receipt {
            run: RunId([1; 16]),
            round: RoundId(3),
            attempt: Attempt(0),
            client: gossamer_protocol::ids::ClientId([b; 16]),
            update: Digest::of(&[b]),
        };
        let bytes = |b| serde_json::to_vec(&receipt(b)).expect("JSON");
        let leaves = (0..3).map(|b| inclusion::leaf(&bytes(b))).collect();
        let tree = inclusion::Tree::new(leaves);
        let (mut record, _) = fixture(4, None);
        record.accepted = 3;
        let proof = |record: &Record| {
            let head = inclusion::TreeHead {
                run: record.run,
                round: RoundId(3),
                record: Digest::of(&sign(record).bytes),
                size: 3,
                root: tree.root(),
            };
            let (signature, path) = (head.sign(&key()), tree.path(1).expect("there"));
            Inclusion { head, signature, index: 1, path }
        };
        let check = |proof: &Inclusion, record: &Record, b: u8| {
            included(proof, &sign(record), &key().public(), &receipt(b), &bytes(b))
        };
        assert!(check(&proof(&record), &record, 1).is_ok());
        let other = check(&proof(&record), &record, 2);
        assert!(matches!(other, Err(VerifyError::NotIncluded { .. })), "{other:?}");
        let mut next = record.clone();
        next.state = Digest::of(b"other");
        let other = check(&proof(&record), &next, 1);
        assert!(matches!(other, Err(VerifyError::Other { field: "record", .. })), "{other:?}");
        let mut more = record.clone();
        more.accepted = 4;
        let other = check(&proof(&more), &more, 1);
        let size = "number of updates";
        assert!(matches!(other, Err(VerifyError::Other { field, .. }) if field == size));
        let mut late = record;
        late.round = RoundId(5);
        let other = check(&proof(&late), &late, 1);
        assert!(matches!(other, Err(VerifyError::Other { field: "round", .. })), "{other:?}");
    }

    #[test]
    fn a_tag_is_the_servers_word_to_one_client_on_one_record() {
        let (record, _) = fixture(3, None);
        let (stable, client) = ("stable".parse().expect("a name"), ClientId([3; 16]));
        let tag = |tag: &TagName, of: &Record| Tagged {
            tag: tag.clone(),
            client,
            run: of.run,
            round: of.round,
            record: Digest::of(&sign(of).bytes),
        };
        let public = key().public();
        let said = |tagged: &Tagged, purpose| {
            let signed = Signed::new(&key(), purpose, serde_json::to_vec(tagged).expect("JSON"));
            super::tagged(&signed, &public, &stable, client)
        };
        let good = tag(&stable, &record);
        assert_eq!(said(&good, Purpose::Tag).expect("ours"), good);
        let other = said(&good, Purpose::Record);
        assert!(matches!(other, Err(VerifyError::Signed { what: "tag", .. })), "{other:?}");
        let other = said(&tag(&"beta".parse().expect("a name"), &record), Purpose::Tag);
        assert!(matches!(other, Err(VerifyError::Other { field: "name", .. })), "{other:?}");
        let other = said(&Tagged { client: ClientId([4; 16]), ..good.clone() }, Purpose::Tag);
        assert!(matches!(other, Err(VerifyError::Other { field: "client", .. })), "{other:?}");

        let named = |record: &Record, tagged: &Tagged| {
            super::named(&sign(record), &public, Digest::of(b"manifest"), tagged)
        };
        assert_eq!(named(&record, &good).expect("that one"), record);
        let (fourth, _) = fixture(4, None);
        let other = named(&fourth, &good);
        assert!(matches!(other, Err(VerifyError::Other { field: "digest", .. })), "{other:?}");
        let wrong = Tagged { round: RoundId(3), ..tag(&stable, &fourth) };
        let other = named(&fourth, &wrong);
        assert!(matches!(other, Err(VerifyError::Other { field: "round", .. })), "{other:?}");
        let mut foreign = record;
        foreign.manifest = Digest::of(b"other");
        let other = named(&foreign, &tag(&stable, &foreign));
        assert!(matches!(other, Err(VerifyError::Other { field: "manifest", .. })), "{other:?}");
    }

    #[test]
    fn a_receipt_is_for_one_update() {
        let slot = Slot {
            run: RunId([1; 16]),
            round: RoundId(0),
            attempt: Attempt(0),
            client: gossamer_protocol::ids::ClientId([3; 16]),
        };
        let update = Digest::of(b"update");
        let Slot { run, round, attempt, client } = slot;
        let receipt = Receipt { run, round, attempt, client, update };
        let bytes = serde_json::to_vec(&receipt).expect("JSON");
        let signed = Signed::new(&key(), Purpose::Receipt, bytes);
        let public = key().public();
        assert!(super::receipt(&signed, &public, &slot, update).is_ok());
        let other = super::receipt(&signed, &public, &slot, Digest::of(b"other"));
        assert!(matches!(other, Err(VerifyError::Other { field: "update", .. })));
    }
}
