//! What the aggregator does not take, by name; none of it changes anything.

use std::sync::Arc;

use bytes::Bytes;
use gossamer_client::transport::https::Https;
use gossamer_client::transport::{Slot, Transport, TransportError};
use gossamer_protocol::density::Density;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Origin, Terms, Update};
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::manifest::{Coding, MANIFEST_VERSION, Manifest, Values};
use gossamer_protocol::message::{Answer, Assignment, CheckIn, Enrolment, JoinToken};
use gossamer_protocol::problem::{Problem, ProblemType};
use gossamer_protocol::sign::SigningKey;
use gossamer_protocol::sparse::{Sparse, Support};
use gossamer_tests::{TestServer, base, identity, manifest, task};

/// A client by hand: its key, its way to the server, and what it was asked.
struct ByHand {
    https: Https,
    slot: Slot,
    assignment: Assignment,
}

impl ByHand {
    async fn enrol(server: &TestServer, n: usize) -> (Https, ClientId) {
        let token = JoinToken::decode(&server.token().await).expect("a token");
        let key = Arc::new(SigningKey::from_seed(&identity(n)));
        let https = Https::new(&server.url, token.ca.as_deref(), key.clone()).expect("https");
        let enrolled = https.enrol(&Enrolment::new(&token.secret, &key)).await.expect("enrols");
        (https, enrolled.client)
    }

    async fn asked(https: Https, client: ClientId) -> Self {
        loop {
            match https.check_in(&CheckIn::default()).await.expect("is answered") {
                Answer::Train(assignment) => {
                    let Assignment { run, round, attempt, .. } = assignment;
                    let slot = Slot { run, round, attempt, client };
                    return Self { https, slot, assignment };
                }
                Answer::Wait { retry_ms, .. } => {
                    tokio::time::sleep(std::time::Duration::from_millis(retry_ms)).await;
                }
                Answer::Over { reason } => panic!("over: {reason}"),
            }
        }
    }

    fn origin(&self) -> Origin {
        let (Slot { run, round, attempt, client }, snapshot) =
            (self.slot, self.assignment.snapshot);
        Origin { run, round, attempt, client, snapshot }
    }

    fn update(&self, values: Vec<f32>, n: usize) -> Update {
        let support = Support::Indices((0..values.len() as u32).collect());
        Update {
            origin: self.origin(),
            examples: 1,
            loss: 1.0,
            delta: Sparse::new(n, support, values).expect("rising"),
        }
    }

    async fn refused(&self, slot: &Slot, frame: Vec<u8>) -> Problem {
        match self.https.upload(slot, &frame.into()).await {
            Err(TransportError::Refused(problem)) => problem,
            other => panic!("not refused: {other:?}"),
        }
    }
}

fn f32_manifest() -> Manifest {
    let mut terms = manifest(&base(), 2, 2);
    terms.method.upload.values = Values::F32;
    terms
}

/// What a frame of version 2 is for, as its trailer has it.
fn context(origin: &Origin) -> Vec<u8> {
    let Origin { run, round, client, snapshot, .. } = origin;
    let round = round.0.to_le_bytes();
    [&b"gossamer/v2/frame\0"[..], &run.0, &round, &client.0, &snapshot.0].concat()
}

/// Where a version's frames have things.
struct Places {
    /// The number of entries.
    k: usize,
    /// The last value's first bit, where there are three entries at 0, 1 and 2.
    value: usize,
    /// The body's length, where the frame says it.
    length: Option<usize>,
}

/// Overwrites a value: its sign and then its magnitude in version 2, its 32 bits in version 1.
fn put(bytes: &mut [u8], places: &Places, value: f32) {
    let bits = value.to_bits().rotate_left(u32::from(places.length.is_some()));
    for at in 0..32 {
        let (place, bit) = ((places.value + at) / 8, (places.value + at) % 8);
        bytes[place] = bytes[place] & !(1 << bit) | ((bits >> at & 1) as u8) << bit;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_update_has_its_name_and_changes_nothing() {
    for version in 1..=MANIFEST_VERSION {
        bad_updates(version).await;
    }
}

async fn bad_updates(version: u16) {
    let server = TestServer::start().await;
    let mut terms = Manifest { version, ..f32_manifest() };
    if version > 1 {
        terms.method.coding = Coding::Packed;
    }
    let run = server.coordinator.create_run(&terms).await.expect("sound");
    let (https, id) = ByHand::enrol(&server, 0).await;
    let (_, other) = ByHand::enrol(&server, 1).await;
    let client = ByHand::asked(https, id).await;
    let before = server.coordinator.run(run).await.expect("there");

    let n = terms.layout.n();
    let limits = Terms::new(&terms, run, RoundId(0));
    let update = client.update(vec![0.5, -0.25, 0.125], n);
    let good = update.encode(&limits, None).expect("in range");
    let slot = client.slot;
    let of = |origin: Origin| {
        Update { origin, ..update.clone() }.encode(&limits, None).expect("in range")
    };
    // Version 2: a block of another length (1 + 10 bits), a Rice parameter (5), three gaps of 0.
    let places = match version {
        1 => Places { k: 38, value: 8 * (good.len() - 32 - 4), length: None },
        _ => Places { k: 8, value: 8 * 24 + 1 + 10 + 5 + 3 + 2 * 32, length: Some(12) },
    };
    let context = if version == 1 { Vec::new() } else { context(&client.origin()) };
    // Puts a valid trailer on altered content.
    let seal = |alter: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good[..good.len() - 32].to_vec();
        alter(&mut bytes);
        let digest = Digest::of(&[&context[..], &bytes].concat());
        bytes.extend(digest.0);
        bytes
    };
    let valued = |value: f32| seal(&|bytes| put(bytes, &places, value));
    assert_eq!(valued(0.125), good, "the last value is where it is looked for");
    use ProblemType as P;
    // A version 1 frame says what it is for; others just do not fit where they are not for.
    let (of_another_client, of_another_snapshot) =
        if version == 1 { (P::NotYours, P::WrongBase) } else { (P::BadFrame, P::BadFrame) };
    let mut cases: Vec<(&str, P, Slot, Vec<u8>)> = vec![
        ("another run", P::UnknownRun, Slot { run: RunId([9; 16]), ..slot }, good.clone()),
        ("another round", P::UnknownRound, Slot { round: RoundId(9), ..slot }, good.clone()),
        ("another client", P::NotYours, Slot { client: other, ..slot }, good.clone()),
        ("its frame is another client's", of_another_client, slot, {
            of(Origin { client: other, ..client.origin() })
        }),
        ("another snapshot", of_another_snapshot, slot, {
            of(Origin { snapshot: Digest::of(b"other"), ..client.origin() })
        }),
        ("no bytes", P::BadFrame, slot, vec![]),
        ("truncated", P::BadFrame, slot, good[..good.len() - 1].to_vec()),
        ("a flipped bit", P::BadFrame, slot, {
            let mut bytes = good.clone();
            bytes[60] ^= 1;
            bytes
        }),
        ("oversized", P::TooLarge, slot, vec![0; limits.update_len_max() + 1]),
        ("a lying count", P::BadEntries, slot, seal(&|b| b[places.k] = 2)),
        ("trailing bytes", P::BadEntries, slot, {
            seal(&|b| {
                b.push(0);
                if let Some(length) = places.length {
                    b[length] += 1;
                }
            })
        }),
        ("not a number", P::BadValue, slot, valued(f32::NAN)),
        ("an infinity", P::BadValue, slot, valued(f32::INFINITY)),
        ("too large", P::BadValue, slot, valued(9.0)),
    ];
    if version == 1 {
        cases.push(("another layout", P::BadLayout, slot, seal(&|b| b[34] ^= 1)));
    }
    for (name, expected, slot, frame) in cases {
        let problem = client.refused(&slot, frame).await;
        assert_eq!(problem.kind, expected, "version {version}, {name}: {problem}");
        assert!((400..500).contains(&problem.status), "{name}: {problem}");
        assert!(!problem.detail.is_empty(), "{name}");
    }
    let after = server.coordinator.run(run).await.expect("there");
    assert_eq!((after.accepted, after.record, after.attempt), (0, before.record, before.attempt));

    // And the good one is still taken.
    client.https.upload(&slot, &good.into()).await.expect("taken");
    server.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_has_the_same_receipt_a_change_conflicts_and_the_late_are_told_when() {
    let server = TestServer::start().await;
    let terms = f32_manifest();
    let run = server.coordinator.create_run(&terms).await.expect("sound");
    let (a, a_id) = ByHand::enrol(&server, 0).await;
    let (b, b_id) = ByHand::enrol(&server, 1).await;
    let (a, b) = (ByHand::asked(a, a_id).await, ByHand::asked(b, b_id).await);
    let limits = Terms::new(&terms, run, RoundId(0));
    let n = terms.layout.n();
    let frame = |client: &ByHand, value: f32| -> Bytes {
        client.update(vec![value], n).encode(&limits, None).expect("in range").into()
    };

    let first = a.https.upload(&a.slot, &frame(&a, 0.5)).await.expect("taken");
    let again = a.https.upload(&a.slot, &frame(&a, 0.5)).await.expect("taken before");
    assert_eq!(first, again);
    let problem = a.refused(&a.slot, frame(&a, 0.25).to_vec()).await;
    assert_eq!((problem.kind, problem.status), (ProblemType::Conflict, 409), "{problem}");

    b.https.upload(&b.slot, &frame(&b, 0.5)).await.expect("taken");
    let next = ByHand::asked(b.https, b_id).await;
    assert_eq!(next.slot.round, RoundId(1), "the goal closed the round");

    // After the round: the very bytes keep their receipt, others are late.
    let again = a.https.upload(&a.slot, &frame(&a, 0.5)).await.expect("taken long before");
    assert_eq!(first, again);
    let problem = next.refused(&b.slot, frame(&next, 0.75).to_vec()).await;
    assert!(matches!(problem.kind, ProblemType::StaleRound | ProblemType::Conflict), "{problem}");
    let (c, c_id) = ByHand::enrol(&server, 2).await;
    let slot = Slot { client: c_id, ..a.slot };
    let late = ByHand { https: c, slot, assignment: a.assignment.clone() };
    let problem = late.refused(&slot, frame(&late, 0.5).to_vec()).await;
    assert_eq!((problem.kind, problem.status), (ProblemType::StaleRound, 410), "{problem}");
    assert!(problem.retry_ms.is_some(), "{problem}");
    let attempt = Slot { attempt: Attempt(9), round: RoundId(1), ..next.slot };
    let problem = next.refused(&attempt, frame(&next, 0.5).to_vec()).await;
    assert!((400..500).contains(&problem.status), "{problem}");
    server.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_unknown() {
    let server = TestServer::start().await;
    let token = JoinToken::decode(&server.token().await).expect("a token");
    let key = Arc::new(SigningKey::from_seed(&identity(5)));
    let https = Https::new(&server.url, token.ca.as_deref(), key.clone()).expect("https");
    let refused = https.check_in(&CheckIn::default()).await.expect_err("not enrolled");
    assert_eq!(refused.problem(), Some(ProblemType::UnknownClient), "{refused}");

    let wrong = https.enrol(&Enrolment::new("guess", &key)).await.expect_err("no token");
    assert_eq!(wrong.problem(), Some(ProblemType::BadToken), "{wrong}");
    https.enrol(&Enrolment::new(&token.secret, &key)).await.expect("enrols");
    // A lost answer must not strand a device; another device cannot use its token.
    https.enrol(&Enrolment::new(&token.secret, &key)).await.expect("the same again");
    let thief = Arc::new(SigningKey::from_seed(&identity(6)));
    let theirs = Https::new(&server.url, token.ca.as_deref(), thief.clone()).expect("https");
    let used = theirs.enrol(&Enrolment::new(&token.secret, &thief)).await.expect_err("used up");
    assert_eq!(used.problem(), Some(ProblemType::BadToken), "{used}");

    // Another CA is not trusted.
    let other = TestServer::start().await;
    let ca = JoinToken::decode(&other.token().await).expect("a token").ca;
    let fooled = Https::new(&server.url, ca.as_deref(), key).expect("https");
    let refused = fooled.check_in(&CheckIn::default()).await.expect_err("another CA");
    assert!(matches!(refused, TransportError::Unreachable { .. }), "{refused}");
    other.close().await;
    server.close().await;
}

/// A frame of several pieces travels by `HEAD` and `PATCH`.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_update_travels_in_pieces() {
    let (server, base) = (TestServer::start().await, base());
    let mut terms = manifest(&base, 1, 1);
    terms.lora.rank = 128;
    terms.lora.targets =
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
            .map(str::to_owned)
            .to_vec()
            .into();
    terms.layout = terms.lora.layout(&base.linears()).expect("fits");
    terms.method.upload.density = Density::FULL;
    terms.method.upload.values = Values::F32;
    server.coordinator.create_run(&terms).await.expect("sound");
    let client = server.client(0, &base).await.connect().await.expect("enrols");
    assert_eq!(client.run(&task(&base, 0)).await.expect("takes part"), 1);
    let sent = client.traffic().updates as usize;
    assert!(sent > 2 * gossamer_client::transport::https::CHUNK, "{sent} bytes");
    server.close().await;
}
