use gossamer_protocol::ids::Attempt;
use gossamer_protocol::inclusion;
use gossamer_protocol::message::accepted_digest;
use gossamer_protocol::rotation::Rotation;
use gossamer_protocol::sign::SigningKey;

use super::*;

fn key() -> SigningKey {
    SigningKey::from_seed(&[1; 32])
}

fn pinned(key: &SigningKey) -> Trust {
    Trust::pinned(key.public())
}

fn by(trust: &Trust) -> Believed<'_> {
    Believed::new(trust, 1_000)
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
    let manifest = Digest::of(b"manifest");
    super::record(&sign(record), by(&pinned(&key())), manifest, assignment, seen)
}

#[test]
fn a_record_must_be_signed_and_be_the_one_asked_for() {
    let (record, assignment) = fixture(3, None);
    assert!(check(&record, &assignment, None).is_ok());
    let stranger = pinned(&SigningKey::from_seed(&[2; 32]));
    let refused = super::record(&sign(&record), by(&stranger), record.manifest, &assignment, None);
    assert!(matches!(&refused, Err(VerifyError::Signed { .. })));
    assert!(refused.expect_err("a stranger's").is_by_stranger());
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
    let after = |proof: &Inclusion, record: &Record, b: u8, late| {
        included(proof, &sign(record), by(&pinned(&key())), &receipt(b), &bytes(b), late)
    };
    let check = |proof: &Inclusion, record: &Record, b: u8| after(proof, record, b, 0);
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
    // Buffered, it may count in a later round: in 5, of which record 6 tells.
    let mut sixth = record.clone();
    sixth.round = RoundId(6);
    let mut proven = proof(&sixth);
    proven.head.round = RoundId(5);
    proven.signature = proven.head.sign(&key());
    assert!(after(&proven, &sixth, 1, 2).is_ok());
    let other = after(&proven, &sixth, 1, 1);
    assert!(matches!(other, Err(VerifyError::Other { field: "round", .. })), "{other:?}");
    for round in [2, u64::MAX] {
        proven.head.round = RoundId(round);
        let other = after(&proven, &sixth, 1, 2);
        assert!(matches!(other, Err(VerifyError::Other { field: "round", .. })), "{other:?}");
    }
    let mut late = record;
    late.round = RoundId(5);
    let other = check(&proof(&late), &late, 1);
    assert!(matches!(other, Err(VerifyError::Other { field: "round", .. })), "{other:?}");
}

/// The record by the one key and the proof by the other, as of two servers that share a store.
#[test]
fn an_old_key_is_believed_until_its_time_is_over() {
    let (old, new) = (key(), SigningKey::from_seed(&[2; 32]));
    let mut trust = pinned(&old);
    assert!(trust.follow(&[Rotation::sign(&old, &new, 0, 1_000)]));
    let receipt = Receipt {
        run: RunId([1; 16]),
        round: RoundId(3),
        attempt: Attempt(0),
        client: gossamer_protocol::ids::ClientId([3; 16]),
        update: Digest::of(b"update"),
    };
    let bytes = serde_json::to_vec(&receipt).expect("JSON");
    let tree = inclusion::Tree::new(vec![inclusion::leaf(&bytes)]);
    let (mut record, _) = fixture(4, None);
    record.accepted = 1;
    let head = inclusion::TreeHead {
        run: record.run,
        round: RoundId(3),
        record: Digest::of(&sign(&record).bytes),
        size: 1,
        root: tree.root(),
    };
    let proof = Inclusion { signature: head.sign(&new), head, index: 0, path: Vec::new() };
    let check = |now_ms| {
        let believed = Believed::new(&trust, now_ms);
        included(&proof, &sign(&record), believed, &receipt, &bytes, 0)
    };
    assert!(check(999).is_ok());
    let late = check(1_000).expect_err("the record is the old key's");
    assert!(!late.is_by_stranger());
    let retired = Disbelief::Retired { key: old.public(), until_ms: 1_000 };
    let named = matches!(late, VerifyError::Signed { what: "record", source } if source == retired);
    assert!(named);
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
    let pinned = pinned(&key());
    let said = |tagged: &Tagged, purpose| {
        let signed = Signed::new(&key(), purpose, serde_json::to_vec(tagged).expect("JSON"));
        super::tagged(&signed, by(&pinned), &stable, client)
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
        super::named(&sign(record), by(&pinned), Digest::of(b"manifest"), tagged)
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
    let pinned = pinned(&key());
    assert!(super::receipt(&signed, by(&pinned), &slot, update).is_ok());
    let other = super::receipt(&signed, by(&pinned), &slot, Digest::of(b"other"));
    assert!(matches!(other, Err(VerifyError::Other { field: "update", .. })));
}
