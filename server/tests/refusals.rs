//! Bad updates: each has a name and changes nothing.

mod fixtures;
#[path = "fixtures/world.rs"]
mod world;

use bytes::Bytes;
use fixtures::{id, key, manifest, share};
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Origin, Terms, UPDATE_OVERHEAD, Update};
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::manifest::{Coding, Manifest, Values};
use gossamer_protocol::message::Assignment;
use gossamer_protocol::problem::ProblemType as P;
use gossamer_protocol::sparse::{Sparse, Support};
use world::World;

/// Where the entries of the good update are: one less than allowed, so that a byte more is not too long.
const INDICES: [u32; 4] = [1, 2, 5, 19];
const VALUES: [f32; 4] = [0.01, -0.02, 0.03, 0.04];

/// A run whose round 0 asked clients 0 and 1, of four.
struct Stage {
    world: World,
    manifest: Manifest,
    run: RunId,
    task: Assignment,
}

impl Stage {
    async fn set(manifest: Manifest) -> Self {
        let world = World::in_memory().await;
        let run = world.start(&manifest, 4).await;
        world.tick().await;
        let task = world.task(0).await;
        world.task(1).await;
        Self { world, manifest, run, task }
    }

    fn terms(&self) -> Terms<'_> {
        Terms::new(&self.manifest, self.run, RoundId(0))
    }

    fn update(&self) -> Update {
        let delta = Sparse::new(20, Support::Indices(INDICES.to_vec()), VALUES.to_vec());
        let delta = delta.expect("fits");
        Update { delta, ..fixtures::update(&self.manifest, &self.task, b"", id(&key(0))) }
    }

    fn changed(&self, change: fn(&mut Update)) -> Vec<u8> {
        let mut update = self.update();
        change(&mut update);
        let Origin { run, round, .. } = update.origin;
        update.encode(&Terms::new(&self.manifest, run, round), None).expect("in range")
    }

    /// The update of every coordinate, where the manifest has it so.
    fn dense(&self) -> Vec<u8> {
        let mut other = self.manifest.clone();
        other.method.upload.density = share(1.0);
        let delta = Sparse::gather(&[0.01; 20], Support::All).expect("fits");
        let terms = Terms::new(&other, self.run, RoundId(0));
        Update { delta, ..self.update() }.encode(&terms, None).expect("fits")
    }

    /// The update under a manifest that is another in `change`.
    fn under(&self, change: fn(&mut Manifest)) -> Vec<u8> {
        let mut other = self.manifest.clone();
        change(&mut other);
        let terms = Terms::new(&other, self.run, RoundId(0));
        self.update().encode(&terms, None).expect("fits")
    }

    /// Cases that every version refuses in the same way.
    fn common(&self, good: &[u8]) -> Vec<(&'static str, Vec<u8>, P)> {
        let limit = self.terms().update_len_max();
        let mut flipped = good.to_vec();
        flipped[60] ^= 1;
        vec![
            ("empty", vec![], P::BadFrame),
            ("truncated", good[..good.len() - 1].to_vec(), P::BadFrame),
            ("cut in the header", good[..20].to_vec(), P::BadFrame),
            ("oversized", vec![0; limit + 1], P::TooLarge),
            ("not a frame", vec![7; 200.min(limit)], P::BadFrame),
            ("flipped bit", flipped, P::BadFrame),
            ("more entries than allowed", self.dense(), P::TooLarge),
            (
                "another value code",
                self.under(|m| m.method.upload.values = Values::Int8),
                P::BadFrame,
            ),
            ("another run", self.changed(|u| u.origin.run = RunId([9; 16])), P::BadFrame),
            ("another round", self.changed(|u| u.origin.round = RoundId(1)), P::BadFrame),
            ("no examples", self.changed(|u| u.examples = 0), P::BadFrame),
            ("loss NaN", self.changed(|u| u.loss = f32::NAN), P::BadFrame),
        ]
    }

    /// Every case is refused with its name and changes nothing; then `good` is taken.
    async fn refuses(&self, cases: Vec<(&str, Vec<u8>, P)>, good: Bytes) {
        let (world, run) = (&self.world, self.run);
        let before = world.coordinator.run(run).await.expect("there");
        for (what, bytes, kind) in cases {
            let refused = world.send(&self.task, 0, bytes.into()).await.expect_err(what);
            assert_eq!(refused.problem().kind, kind, "{what}: {refused}");
            assert!(!refused.problem().detail.is_empty());
            assert_eq!(world.coordinator.run(run).await.expect("there"), before, "{what}");
        }
        let submit = |caller: u8, run, round, owner: u8| {
            let (caller, owner) = (id(&key(caller)), id(&key(owner)));
            let (coordinator, good) = (world.coordinator.clone(), good.clone());
            async move {
                let to = RoundId(round);
                let sent = coordinator.submit(caller, run, to, Attempt(0), owner, good).await;
                sent.expect_err("refused").problem_type()
            }
        };
        assert_eq!(submit(1, run, 0, 0).await, P::NotYours);
        assert_eq!(submit(0, RunId([9; 16]), 0, 0).await, P::UnknownRun);
        assert_eq!(submit(0, run, 7, 0).await, P::UnknownRound);
        assert_eq!(submit(99, run, 0, 99).await, P::UnknownClient);
        assert_eq!(submit(3, run, 0, 3).await, P::NotInCohort);
        assert_eq!(world.coordinator.run(run).await.expect("there"), before);
        world.send(&self.task, 0, good).await.expect("and the good one is taken");
    }
}

/// Writes bits from the lowest up.
#[derive(Default)]
struct Bits(Vec<bool>);

impl Bits {
    fn put(&mut self, value: u32, count: u32) {
        self.0.extend((0..count).map(|at| value >> at & 1 == 1));
    }

    fn bytes(&self) -> Vec<u8> {
        let byte =
            |bits: &[bool]| bits.iter().rev().fold(0, |byte, &bit| byte << 1 | u8::from(bit));
        self.0.chunks(8).map(byte).collect()
    }
}

/// A version 2 body by hand: gaps in Rice code with parameter `low`, values as they are.
fn body(low: u32, indices: &[u32], values: &[f32]) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.put(0, 1); // a block of another length than 1024
    bits.put(values.len() as u32 - 1, 10);
    bits.put(low, 5);
    let mut next = 0;
    for &index in indices {
        let gap = index - next;
        next = index + 1;
        (0..gap >> low).for_each(|_| bits.put(1, 1));
        bits.put(0, 1);
        bits.put(gap, low);
    }
    for value in values {
        bits.put(u32::from(value.is_sign_negative()), 1);
        bits.put(value.to_bits(), 31);
    }
    bits.bytes()
}

/// A version 2 update's frame by hand: `k` entries of 4 examples and loss 2, in `body`.
fn frame(origin: &Origin, coding: u8, k: u32, body: &[u8]) -> Vec<u8> {
    let length = body.len() as u32;
    let mut out =
        [&b"GSMR"[..], &[2, 0, 1, coding], &k.to_le_bytes(), &length.to_le_bytes()].concat();
    out.extend([4_u32.to_le_bytes(), 2_f32.to_le_bytes()].concat());
    out.extend(body);
    sealed(origin, out)
}

/// Puts a valid version 2 trailer on `content`.
fn sealed(origin: &Origin, content: Vec<u8>) -> Vec<u8> {
    let what = [
        &b"gossamer/v2/frame\0"[..],
        &origin.run.0,
        &origin.round.0.to_le_bytes(),
        &origin.client.0,
        &origin.snapshot.0,
    ];
    let digest = Digest::of(&[&what.concat()[..], &content].concat());
    [content, digest.0.to_vec()].concat()
}

#[tokio::test]
async fn every_bad_update_has_a_name_and_changes_nothing() {
    let mut manifest = manifest();
    manifest.method.coding = Coding::Packed;
    let stage = Stage::set(manifest).await;
    let origin = fixtures::origin(&stage.task, id(&key(0)));
    let rice = body(1, &INDICES, &VALUES);
    let good = frame(&origin, 1, 4, &rice);
    assert_eq!(stage.changed(|_| {}), good, "the same by hand");
    assert_eq!(good.len(), UPDATE_OVERHEAD + rice.len());
    assert_eq!(stage.changed(|u| u.origin.attempt = Attempt(1)), good, "no attempt in it");

    let patched = |at: usize, with: &[u8]| {
        let mut content = good[..good.len() - 32].to_vec();
        content[at..at + with.len()].copy_from_slice(with);
        sealed(&origin, content)
    };
    let length = rice.len() as u32;
    let with = |body: Vec<u8>| frame(&origin, 1, 4, &body);
    let valued = |last: f32| with(body(1, &INDICES, &[0.01, -0.02, 0.03, last]));
    let mut padded = rice.clone();
    *padded.last_mut().expect("bytes") |= 0x80;
    let mut cases = stage.common(&good);
    cases.extend([
        ("trailing byte", [&good[..], &[0]].concat(), P::BadFrame),
        ("another version", patched(4, &[1]), P::BadFrame),
        ("a snapshot", patched(6, &[0]), P::BadFrame),
        ("a kind that is none", patched(6, &[2]), P::BadFrame),
        ("values that are none", patched(7, &[11 << 2 | 1]), P::BadFrame),
        ("a body longer than it is", patched(12, &(length + 1).to_le_bytes()), P::BadFrame),
        ("a body shorter than it is", patched(12, &(length - 1).to_le_bytes()), P::BadFrame),
        ("a body longer than memory", patched(12, &u32::MAX.to_le_bytes()), P::BadFrame),
        ("trailing byte in the body", with([&rice[..], &[0]].concat()), P::BadEntries),
        ("a body cut short", with(rice[..rice.len() - 1].to_vec()), P::BadEntries),
        ("padding", with(padded), P::BadEntries),
        ("fewer entries than it has", patched(8, &3_u32.to_le_bytes()), P::BadEntries),
        ("more entries than it has", patched(8, &5_u32.to_le_bytes()), P::BadEntries),
        ("one entry more than allowed", patched(8, &6_u32.to_le_bytes()), P::BadEntries),
        ("a huge count", patched(8, &u32::MAX.to_le_bytes()), P::BadEntries),
        ("a whole body of a few entries", patched(7, &[0]), P::BadEntries),
        ("past the last", with(body(1, &[1, 2, 5, 20], &VALUES)), P::BadEntries),
        ("a Rice parameter over 27", with(body(28, &INDICES, &VALUES)), P::BadEntries),
        ("NaN", valued(f32::NAN), P::BadValue),
        ("infinity", valued(f32::INFINITY), P::BadValue),
        ("too large", valued(8.5), P::BadValue),
        ("another client", stage.changed(|u| u.origin.client = ClientId([9; 16])), P::BadFrame),
        ("another snapshot", stage.changed(|u| u.origin.snapshot = Digest::of(b"x")), P::BadFrame),
    ]);
    stage.refuses(cases, good.clone().into()).await;
}

#[tokio::test]
async fn in_version_1_the_frame_names_what_is_off() {
    let stage = Stage::set(Manifest { version: 1, ..manifest() }).await;
    let good = stage.changed(|_| {});
    let resealed = |mut bytes: Vec<u8>| {
        let at = bytes.len() - 32;
        let digest = Digest::of(&bytes[..at]);
        bytes[at..].copy_from_slice(&digest.0);
        bytes
    };
    let patched = |at: usize, with: &[u8]| {
        let mut bytes = good.to_vec();
        bytes[at..at + with.len()].copy_from_slice(with);
        resealed(bytes)
    };
    let last = good.len() - 32 - 4; // the last value
    let mut cases = stage.common(&good);
    cases.extend([
        ("trailing byte", resealed([&good[..], &[0]].concat()), P::BadEntries),
        ("another version", patched(4, &[2]), P::BadFrame),
        ("another version's frame", stage.under(|m| m.version = 2), P::BadFrame),
        ("another layout's length", patched(34, &21_u32.to_le_bytes()), P::BadLayout),
        ("more entries than it has", patched(38, &6_u32.to_le_bytes()), P::BadEntries),
        ("a huge count", patched(38, &u32::MAX.to_le_bytes()), P::BadEntries),
        ("NaN", patched(last, &f32::NAN.to_le_bytes()), P::BadValue),
        ("infinity", patched(last, &f32::INFINITY.to_le_bytes()), P::BadValue),
        ("another attempt", stage.changed(|u| u.origin.attempt = Attempt(1)), P::BadFrame),
        ("another snapshot", stage.changed(|u| u.origin.snapshot = Digest::of(b"x")), P::WrongBase),
        ("another client", stage.changed(|u| u.origin.client = ClientId([9; 16])), P::NotYours),
    ]);
    stage.refuses(cases, good.clone().into()).await;
}
