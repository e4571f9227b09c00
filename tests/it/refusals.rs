//! What the aggregator does not take, by name; none of it changes anything.

use std::sync::Arc;

use bytes::Bytes;
use gossamer_client::transport::https::Https;
use gossamer_client::transport::{Slot, Transport, TransportError};
use gossamer_protocol::density::Density;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Terms, Update};
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::manifest::{Manifest, Values};
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

    fn update(&self, values: Vec<f32>, n: usize) -> Update {
        let support = Support::Indices((0..values.len() as u32).collect());
        let Slot { run, round, attempt, client } = self.slot;
        Update {
            run,
            round,
            attempt,
            client,
            snapshot: self.assignment.snapshot,
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

/// Puts a valid trailer on altered content.
fn seal(frame: &[u8], alter: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = frame[..frame.len() - 32].to_vec();
    alter(&mut bytes);
    let digest = Digest::of(&bytes);
    bytes.extend(digest.0);
    bytes
}

fn f32_manifest() -> Manifest {
    let mut terms = manifest(&base(), 2, 2);
    terms.method.upload.values = Values::F32;
    terms
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_update_has_its_name_and_changes_nothing() {
    let server = TestServer::start().await;
    let terms = f32_manifest();
    let run = server.coordinator.create_run(&terms).await.expect("sound");
    let (https, id) = ByHand::enrol(&server, 0).await;
    let (_, other) = ByHand::enrol(&server, 1).await;
    let client = ByHand::asked(https, id).await;
    let before = server.coordinator.run(run).await.expect("there");

    let n = terms.layout.n();
    let limits = Terms::new(&terms, RoundId(0));
    let update = client.update(vec![0.5, -0.25, 0.125], n);
    let good = update.encode(&limits).expect("in range");
    let slot = client.slot;
    let encode = |update: Update| update.encode(&limits).expect("in range");
    let value = good.len() - 32 - 4;
    use ProblemType as P;
    let cases: Vec<(&str, P, Slot, Vec<u8>)> = vec![
        ("another run", P::UnknownRun, Slot { run: RunId([9; 16]), ..slot }, good.clone()),
        ("another round", P::UnknownRound, Slot { round: RoundId(9), ..slot }, good.clone()),
        ("another client", P::NotYours, Slot { client: other, ..slot }, good.clone()),
        ("its frame names another client", P::NotYours, slot, {
            encode(Update { client: other, ..update.clone() })
        }),
        ("another snapshot", P::WrongBase, slot, {
            encode(Update { snapshot: Digest::of(b"other"), ..update.clone() })
        }),
        ("no bytes", P::BadFrame, slot, vec![]),
        ("truncated", P::BadFrame, slot, good[..good.len() - 1].to_vec()),
        ("a flipped bit", P::BadFrame, slot, {
            let mut bytes = good.clone();
            bytes[60] ^= 1;
            bytes
        }),
        ("oversized", P::TooLarge, slot, vec![0; limits.update_len_max() + 1]),
        ("another layout", P::BadLayout, slot, seal(&good, |b| b[34] ^= 1)),
        ("a lying count", P::BadEntries, slot, seal(&good, |b| b[38] = 2)),
        ("trailing bytes", P::BadEntries, slot, seal(&good, |b| b.push(0))),
        ("not a number", P::BadValue, slot, {
            seal(&good, |b| b[value..].copy_from_slice(&f32::NAN.to_le_bytes()))
        }),
        ("an infinity", P::BadValue, slot, {
            seal(&good, |b| b[value..].copy_from_slice(&f32::INFINITY.to_le_bytes()))
        }),
        ("too large", P::BadValue, slot, {
            seal(&good, |b| b[value..].copy_from_slice(&9.0_f32.to_le_bytes()))
        }),
    ];
    for (name, expected, slot, frame) in cases {
        let problem = client.refused(&slot, frame).await;
        assert_eq!(problem.kind, expected, "{name}: {problem}");
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
    server.coordinator.create_run(&terms).await.expect("sound");
    let (a, a_id) = ByHand::enrol(&server, 0).await;
    let (b, b_id) = ByHand::enrol(&server, 1).await;
    let (a, b) = (ByHand::asked(a, a_id).await, ByHand::asked(b, b_id).await);
    let limits = Terms::new(&terms, RoundId(0));
    let n = terms.layout.n();
    let frame = |client: &ByHand, value: f32| -> Bytes {
        client.update(vec![value], n).encode(&limits).expect("in range").into()
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
            .to_vec();
    let layout = gossamer_protocol::layout::Layout::lora(
        &base.linears(),
        &terms.lora.targets,
        terms.lora.rank,
        false,
    );
    terms.layout = layout.expect("fits");
    terms.method.upload.density = Density::FULL;
    terms.method.upload.values = Values::F32;
    server.coordinator.create_run(&terms).await.expect("sound");
    let client = server.client(0, &base).await.connect().await.expect("enrols");
    assert_eq!(client.run(&task(&base, 0)).await.expect("takes part"), 1);
    let sent = client.traffic().updates as usize;
    assert!(sent > 2 * gossamer_client::transport::https::CHUNK, "{sent} bytes");
    server.close().await;
}
