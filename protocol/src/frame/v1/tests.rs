use super::*;
use crate::density::Density;
use crate::manifest::tests::manifest;
use crate::manifest::{Coverage, Manifest};
use crate::sparse::Sparse;

fn terms(manifest: &Manifest) -> Terms<'_> {
    Terms::new(manifest, RunId([1; 16]), RoundId(3))
}

fn origin() -> Origin {
    Origin {
        run: RunId([1; 16]),
        round: RoundId(3),
        attempt: Attempt(1),
        client: ClientId([2; 16]),
        snapshot: Digest::of(b"snapshot"),
    }
}

fn update(n: usize) -> Update {
    Update {
        origin: origin(),
        examples: 5,
        loss: 2.5,
        delta: Sparse::new(n, Support::Indices(vec![1, 7]), vec![0.5, -0.25]).expect("valid"),
    }
}

fn quarter() -> Manifest {
    let mut m = manifest();
    m.version = 1;
    let share = Density::try_from(0.25).expect("a share");
    m.method.upload.density = share;
    m.method.download.density = share;
    m
}

/// Puts a valid trailer on altered content.
fn seal(mut bytes: Vec<u8>, alter: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    bytes.truncate(bytes.len() - TRAILER);
    alter(&mut bytes);
    let digest = Digest::of(&bytes);
    bytes.extend(digest.0);
    bytes
}

#[test]
fn frames_round_trip() {
    let m = quarter();
    for values in [Values::F32, Values::Int8] {
        let mut m = m.clone();
        m.method.upload.values = values;
        m.method.download.values = values;
        let update = update(m.layout.n());
        let bytes = update.encode(&terms(&m), None).expect("in range");
        assert_eq!(Update::decode(&bytes, &terms(&m), &origin(), None), Ok(update.clone()));
        let head = Update::peek(&bytes, &terms(&m), &origin()).expect("own bytes");
        assert_eq!((head.examples, head.entries), (5, 2));
        let snapshot = Snapshot {
            run: update.origin.run,
            round: update.origin.round,
            reference: Reference::Change,
            values: update.delta,
        };
        let bytes = snapshot.encode(&terms(&m)).expect("in range");
        assert_eq!(Snapshot::decode(&bytes, &terms(&m)), Ok(snapshot));
    }
}

#[test]
fn a_shared_support_takes_no_position_bytes() {
    let mut m = quarter();
    m.method.train = Coverage::Support;
    let update = update(m.layout.n());
    let support = update.delta.support().clone();
    let bytes = update.encode(&terms(&m), None).expect("in range");
    assert_eq!(bytes.len(), HEADER + UPDATE_HEADER + TRAILER + 2 * 4);
    assert_eq!(Update::decode(&bytes, &terms(&m), &origin(), Some(&support)), Ok(update));
    let other = Support::Indices(vec![1]);
    let refused = Update::decode(&bytes, &terms(&m), &origin(), Some(&other));
    assert!(matches!(refused, Err(FrameError::EntriesV1(CodecError::Count { .. }))));
}

#[test]
fn every_malformation_is_named() {
    let m = quarter();
    let good = update(m.layout.n()).encode(&terms(&m), None).expect("in range");
    let n = m.layout.n();
    let read = |bytes: Vec<u8>| {
        Update::decode(&bytes, &terms(&m), &origin(), None).expect_err("malformed").to_string()
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("truncated", good[..50].to_vec()),
        ("truncated", seal(good.clone(), |b| b[42..46].fill(0xFF))),
        ("limit", [good.clone(), vec![0; 1 << 16]].concat()),
        ("GSMR", [b"XXXX", &good[4..]].concat()),
        ("version", seal(good.clone(), |b| b[4] = 9)),
        ("digest", [&good[..60], &[good[60] ^ 1], &good[61..]].concat()),
        ("kind", seal(good.clone(), |b| b[6] = 0)),
        ("positions", seal(good.clone(), |b| b[7] = 9)),
        ("positions", seal(good.clone(), |b| b[7] = 3)),
        ("values", seal(good.clone(), |b| b[8] = 1)),
        ("reserved", seal(good.clone(), |b| b[9] = 1)),
        ("layout has", seal(good.clone(), |b| b[34] ^= 1)),
        ("allows", seal(good.clone(), |b| b[38..42].copy_from_slice(&(n as u32).to_le_bytes()))),
        ("no examples", seal(good.clone(), |b| b[98..102].fill(0))),
        ("loss", seal(good.clone(), |b| b[102..106].fill(0xFF))),
        ("entries", seal(good.clone(), |b| b.push(0))),
        (
            "entries",
            seal(good.clone(), |b| {
                let at = b.len() - 4;
                b[at..].copy_from_slice(&f32::NAN.to_le_bytes());
            }),
        ),
    ];
    for (word, bytes) in cases {
        let said = read(bytes);
        assert!(said.contains(word), "{word}: {said}");
    }
}

/// Every single-bit change is noticed.
#[test]
fn a_flipped_bit_is_noticed() {
    let m = quarter();
    let good = update(m.layout.n()).encode(&terms(&m), None).expect("in range");
    for bit in 0..8 * good.len() {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Update::decode(&bytes, &terms(&m), &origin(), None).is_err(), "bit {bit}");
    }
}

#[test]
fn a_snapshot_starts_from_the_seed_or_from_zero() {
    let m = manifest();
    let n = m.layout.n();
    let values = Sparse::new(n, Support::Indices(vec![0]), vec![2.0]).expect("valid");
    let snapshot = |reference| Snapshot {
        run: RunId([0; 16]),
        round: RoundId(0),
        reference,
        values: values.clone(),
    };
    let init = m.layout.init(m.seed);
    let change = snapshot(Reference::Change).theta(&m);
    assert_eq!(change[0], init[0] + 2.0);
    assert_eq!(change[1..], init[1..]);
    let weights = snapshot(Reference::Weights).theta(&m);
    assert_eq!((weights[0], &weights[1..]), (2.0, &vec![0.0; n - 1][..]));
}
