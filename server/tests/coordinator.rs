//! The coordinator without a network.

mod fixtures;
#[path = "fixtures/world.rs"]
mod world;

use std::time::Duration;

use bytes::Bytes;
use fixtures::{id, key, manifest, share};
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Snapshot, Terms, Update};
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::layout::Layout;
use gossamer_protocol::manifest::{Coverage, Manifest, Reference, Selection, SupportRule, Values};
use gossamer_protocol::message::{Answer, CheckIn, Enrolment, Receipt, Record};
use gossamer_protocol::problem::ProblemType;
use gossamer_protocol::sign::Purpose;
use gossamer_protocol::sparse::{Sparse, Support};
use gossamer_server::coordinator::CoordinatorError;
use gossamer_server::status::Status;
use world::{World, server_key};

#[tokio::test]
async fn two_orders_of_arrival_one_record() {
    let manifest = manifest();
    let mut records = Vec::new();
    for order in [[0, 1], [1, 0]] {
        let world = World::in_memory().await;
        let run = world.start(&manifest, 3).await;
        records.push(world.finish(&manifest, run, &order).await);
        let view = world.coordinator.run(run).await.expect("there");
        assert_eq!((view.status, view.round), (Status::Complete, RoundId(2)));
    }
    assert_eq!(records[0], records[1]);
    assert_eq!(records[0].accepted, 2);
    assert!(records[0].parent.is_some());
}

#[tokio::test]
async fn restarted_between_any_two_calls_it_goes_on_the_same() {
    let mut manifest = manifest();
    manifest.cohort.selection = Selection::Seeded;
    manifest.cohort.ask = 2;
    manifest.cohort.enrolled_min = 3;
    let (undisturbed, mut steps) = story(&manifest, &[]).await;
    assert_eq!(undisturbed.round, RoundId(2));
    let all: Vec<usize> = (0..steps).collect();
    let (restarted, again) = story(&manifest, &all).await;
    assert_eq!(restarted, undisturbed);
    assert_eq!(again, steps);
    // And at each place alone.
    while steps > 0 {
        steps -= 1;
        assert_eq!(story(&manifest, &[steps]).await.0, undisturbed, "restarted at {steps}");
    }
}

/// A whole run on disk, restarted at the given steps; gives the last record and the steps there are.
async fn story(manifest: &Manifest, restarts: &[usize]) -> (Record, usize) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut world = World::create(dir.path()).await;
    let mut step = 0;
    macro_rules! maybe_restart {
        () => {
            if restarts.contains(&step) {
                world.reopen(dir.path()).await;
            }
            step += 1;
        };
    }
    let run = world.start(manifest, 3).await;
    maybe_restart!();
    for _ in 0..manifest.rounds {
        world.tick().await;
        maybe_restart!();
        for client in world.coordinator.cohort(run).await.expect("there") {
            let b = (0..3).find(|&b| id(&key(b)) == client).expect("one of ours");
            let task = world.task(b).await;
            maybe_restart!();
            let frame = world.frame(manifest, &task, b).await;
            let receipt = world.send(&task, b, frame.clone()).await.expect("accepted");
            maybe_restart!();
            assert_eq!(world.send(&task, b, frame).await.expect("again"), receipt);
        }
    }
    world.tick().await;
    maybe_restart!();
    (world.last_record(run).await, step)
}

#[tokio::test]
async fn a_receipt_is_for_ever() {
    let manifest = manifest();
    let world = World::in_memory().await;
    world.start(&manifest, 3).await;
    world.tick().await;
    let task = world.task(0).await;
    let late = world.task(2).await;
    let frame = world.frame(&manifest, &task, 0).await;
    let receipt = world.send(&task, 0, frame.clone()).await.expect("accepted");
    let told: Receipt = receipt.open(&server_key().public(), Purpose::Receipt).expect("signed");
    assert_eq!((told.client, told.update), (id(&key(0)), Digest::of(&frame)));
    assert!(matches!(world.ask(0).await, Answer::Wait { .. }), "its update stands");

    let other = fixtures::update(&manifest, &task, b"", id(&key(0)));
    let other = Update { loss: 9.0, ..other };
    let other = other.encode(&Terms::new(&manifest, RoundId(0))).expect("in range");
    for round in 0..2 {
        assert_eq!(world.send(&task, 0, frame.clone()).await.expect("again"), receipt);
        let conflict = world.send(&task, 0, other.clone().into()).await.expect_err("other bytes");
        assert_eq!(conflict.problem().kind, ProblemType::Conflict);
        if round == 0 {
            world.work(&manifest, 1).await;
            world.tick().await;
        }
    }
    let frame = world.frame(&manifest, &late, 2).await;
    let refused = world.send(&late, 2, frame).await.expect_err("late").problem();
    assert_eq!((refused.kind, refused.status), (ProblemType::StaleRound, 410));
    let window = refused.retry_ms.expect("the next window");
    assert!((500..1_500).contains(&window), "{window}");
}

#[tokio::test]
async fn every_bad_update_has_a_name_and_changes_nothing() {
    let manifest = manifest();
    let world = World::in_memory().await;
    let run = world.start(&manifest, 4).await;
    world.tick().await;
    let task = world.task(0).await;
    world.task(1).await;
    let terms = Terms::new(&manifest, RoundId(0));
    let client = id(&key(0));
    // One entry less than allowed, so that a byte more is not too long.
    let update = || {
        let support = Support::Indices(vec![1, 2, 5, 19]);
        let delta = Sparse::new(20, support, vec![0.01, -0.02, 0.03, 0.04]).expect("fits");
        Update { delta, ..fixtures::update(&manifest, &task, b"", client) }
    };
    let good = Bytes::from(update().encode(&terms).expect("in range"));
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
    let nan = {
        let at = good.len() - 32 - 4; // the last value
        patched(at, &f32::NAN.to_le_bytes())
    };
    let infinite = patched(good.len() - 36, &f32::INFINITY.to_le_bytes());
    let too_many = {
        let mut other = manifest.clone();
        other.method.upload.density = share(1.0);
        let dense = Sparse::gather(&[0.01; 20], Support::All).expect("fits");
        let terms = Terms::new(&other, RoundId(0));
        Update { delta: dense, ..update() }.encode(&terms).expect("fits")
    };
    let other_values = {
        let mut other = manifest.clone();
        other.method.upload.values = Values::Int8;
        update().encode(&Terms::new(&other, RoundId(0))).expect("fits")
    };
    let field = |change: fn(&mut Update)| {
        let mut update = update();
        change(&mut update);
        update.encode(&terms).expect("in range")
    };
    use ProblemType as P;
    let cases: Vec<(&str, Vec<u8>, P)> = vec![
        ("empty", vec![], P::BadFrame),
        ("truncated", good[..good.len() - 1].to_vec(), P::BadFrame),
        ("cut in the header", good[..20].to_vec(), P::BadFrame),
        ("trailing byte", resealed([&good[..], &[0]].concat()), P::BadEntries),
        ("oversized", vec![0; terms.update_len_max() + 1], P::TooLarge),
        ("not a frame", vec![7; 200.min(terms.update_len_max())], P::BadFrame),
        (
            "flipped bit",
            {
                let mut b = good.to_vec();
                b[60] ^= 1;
                b
            },
            P::BadFrame,
        ),
        ("another layout's length", patched(34, &21_u32.to_le_bytes()), P::BadLayout),
        ("more entries than it has", patched(38, &6_u32.to_le_bytes()), P::BadEntries),
        ("a huge count", patched(38, &u32::MAX.to_le_bytes()), P::BadEntries),
        ("more entries than allowed", too_many, P::TooLarge),
        ("NaN", nan, P::BadValue),
        ("infinity", infinite, P::BadValue),
        ("another value code", other_values, P::BadFrame),
        ("another run", field(|u| u.run = RunId([9; 16])), P::BadFrame),
        ("another round", field(|u| u.round = RoundId(1)), P::BadFrame),
        ("another attempt", field(|u| u.attempt = Attempt(1)), P::BadFrame),
        ("another client", field(|u| u.client = ClientId([9; 16])), P::NotYours),
        ("another snapshot", field(|u| u.snapshot = Digest::of(b"x")), P::WrongBase),
        ("no examples", field(|u| u.examples = 0), P::BadFrame),
        ("loss NaN", field(|u| u.loss = f32::NAN), P::BadFrame),
    ];
    let before = world.coordinator.run(run).await.expect("there");
    for (what, bytes, kind) in cases {
        let refused = world.send(&task, 0, bytes.into()).await.expect_err(what);
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
    world.send(&task, 0, good).await.expect("and the good one is taken");
}

#[tokio::test]
async fn every_method_runs_to_its_end() {
    let each = |change: fn(&mut Manifest)| {
        let mut m = manifest();
        m.rounds = 4;
        change(&mut m);
        m
    };
    let methods = [
        ("flasc", each(|m| m.method.download.of = Reference::Weights)),
        ("seeded", each(|_| {})),
        (
            "dense",
            each(|m| {
                m.method.download.density = share(1.0);
                m.method.upload.density = share(1.0);
            }),
        ),
        (
            "int8",
            each(|m| {
                m.method.download.values = Values::Int8;
                m.method.upload.values = Values::Int8;
            }),
        ),
        (
            "ffa",
            each(|m| {
                m.lora.freeze_a = true;
                let targets = &m.lora.targets;
                m.layout = Layout::lora(&[fixtures::linear()], targets, 2, true).expect("valid");
            }),
        ),
        ("fed-select", each(|m| m.method.train = Coverage::Support)),
        (
            "sparse-adapter",
            each(|m| {
                m.method.train = Coverage::Support;
                m.method.support = SupportRule::Once;
            }),
        ),
    ];
    for (name, manifest) in methods {
        let world = World::in_memory().await;
        let run = world.start(&manifest, 3).await;
        let last = world.finish(&manifest, run, &[0, 1]).await;
        assert_eq!(last.round, RoundId(4), "{name}");
        let mut supports = Vec::new();
        for round in 0..=4 {
            let record = world.coordinator.record(run, RoundId(round)).await.expect("there");
            let record: Record =
                record.open(&server_key().public(), Purpose::Record).expect("signed");
            let frame = world.coordinator.object(run, record.snapshot).await.expect("there");
            assert_eq!(frame.len() as u64, record.snapshot_bytes, "{name}");
            let terms = Terms::new(&manifest, RoundId(round));
            let snapshot = Snapshot::decode(&frame, &terms).expect("own frame");
            supports.push(snapshot.values.support().clone());
            let theta = world.coordinator.theta(run, RoundId(round)).await.expect("there");
            if round == 0 {
                assert_eq!(theta, manifest.layout.init(manifest.seed), "{name}");
                let whole = manifest.method.download.of == Reference::Weights
                    || Terms::new(&manifest, RoundId(0)).shares_support();
                let nothing = supports[0] == Support::Indices(vec![]);
                assert_eq!(nothing, !whole, "{name}: zeros do not travel");
            } else {
                assert_ne!(theta, manifest.layout.init(manifest.seed), "{name}");
            }
        }
        let n = manifest.layout.n();
        match name {
            "sparse-adapter" => {
                assert_eq!(supports[1].count(n), 5);
                assert!(supports[1..].iter().all(|s| *s == supports[1]), "fixed for ever");
            }
            "dense" => assert_eq!(supports[4].count(n), n),
            "ffa" => assert_eq!(supports[4].count(n), 3),
            _ => assert_eq!(supports[4].count(n), 5, "{name}"),
        }
    }
}

#[tokio::test]
async fn what_was_accepted_counts_in_the_next_attempt() {
    let mut manifest = manifest();
    manifest.cohort.goal = 3;
    manifest.cohort.min = 2;
    let world = World::in_memory().await;
    let run = world.start(&manifest, 4).await;
    world.tick().await;
    let receipt = world.work(&manifest, 0).await;
    let late = world.task(1).await;
    world.clock.advance(Duration::from_secs(60));
    let frame = world.frame(&manifest, &late, 1).await;
    let stale = world.send(&late, 1, frame).await.expect_err("past the deadline");
    assert_eq!(stale.problem().kind, ProblemType::StaleRound);
    world.tick().await;
    let view = world.coordinator.run(run).await.expect("there");
    assert_eq!((view.round, view.attempt, view.accepted), (RoundId(0), Attempt(1), 1));
    assert!(matches!(world.ask(0).await, Answer::Wait { .. }));
    world.work(&manifest, 2).await;
    world.work(&manifest, 3).await;
    world.tick().await;
    let record = world.last_record(run).await;
    assert_eq!((record.round, record.attempt, record.accepted), (RoundId(1), Attempt(1), 3));
    let receipt: Receipt = receipt.open(&server_key().public(), Purpose::Receipt).expect("signed");
    assert_eq!(receipt.attempt, Attempt(0));
}

#[tokio::test]
async fn a_token_enrols_one_key_once() {
    let world = World::in_memory().await;
    let coordinator = &world.coordinator;
    let kind = |result: Result<_, CoordinatorError>| match result {
        Ok(gossamer_protocol::message::Enrolled { .. }) => None,
        Err(error) => Some(error.problem_type()),
    };
    let secret = coordinator.new_token(Duration::from_secs(60)).await.expect("a token");
    let first = Enrolment::new(&secret, &key(1));
    let client = coordinator.enrol(&first).await.expect("enrols").client;
    assert_eq!(client, id(&key(1)));
    assert_eq!(kind(coordinator.enrol(&first).await), None, "a lost reply strands nobody");
    let second = Enrolment::new(&secret, &key(2));
    assert_eq!(kind(coordinator.enrol(&second).await), Some(ProblemType::BadToken));
    let stolen = Enrolment { public_key: key(3).public(), ..first.clone() };
    assert_eq!(kind(coordinator.enrol(&stolen).await), Some(ProblemType::BadSignature));
    let unknown = Enrolment::new("guess", &key(4));
    assert_eq!(kind(coordinator.enrol(&unknown).await), Some(ProblemType::BadToken));

    let old = coordinator.new_token(Duration::from_secs(60)).await.expect("a token");
    world.clock.advance(Duration::from_secs(60));
    let late = Enrolment::new(&old, &key(5));
    assert_eq!(kind(coordinator.enrol(&late).await), Some(ProblemType::BadToken));
    assert_eq!(kind(coordinator.enrol(&first).await), None, "used in its time");
    assert_eq!(coordinator.fleet_len(), 1);
}

#[tokio::test]
async fn another_process_pauses_resumes_and_aborts() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = World::create(dir.path()).await;
    let operator = World::open(dir.path(), world.clock.clone()).await;
    let manifest = manifest();
    for b in 0..3 {
        world.enrol(b).await;
    }
    let run = operator.coordinator.create_run(&manifest).await.expect("a run");
    let unknown = world.coordinator.run(run).await.expect_err("not noticed yet");
    assert_eq!(unknown.problem().kind, ProblemType::UnknownRun);
    world.tick().await;
    let task = world.task(0).await;

    let set = |status| operator.coordinator.set_status(run, status);
    assert_eq!(set(Status::Paused).await.expect("set"), Status::Paused);
    world.tick().await;
    assert!(matches!(world.ask(1).await, Answer::Wait { .. }));
    let frame = world.frame(&manifest, &task, 0).await;
    let receipt = world.send(&task, 0, frame.clone()).await.expect("what was asked for is taken");
    assert_eq!(set(Status::Running).await.expect("set"), Status::Running);
    world.tick().await;
    let task = world.task(1).await;

    assert_eq!(set(Status::Aborted).await.expect("set"), Status::Aborted);
    assert_eq!(set(Status::Running).await.expect("stands"), Status::Aborted, "for good");
    world.tick().await;
    assert!(matches!(world.ask(1).await, Answer::Over { .. }));
    let late = world.frame(&manifest, &task, 1).await;
    let refused = world.send(&task, 1, late).await.expect_err("over").problem();
    assert_eq!((refused.kind, refused.status), (ProblemType::RunOver, 410));
    let mine =
        world.coordinator.submit(id(&key(0)), run, RoundId(0), Attempt(0), id(&key(0)), frame);
    assert_eq!(mine.await.expect("a receipt is for ever"), receipt);
    let known = CheckIn { run: Some(RunId([9; 16])) };
    let unknown = world.coordinator.check_in(id(&key(0)), &known).await.expect_err("no such run");
    assert_eq!(unknown.problem().status, 404);
}

#[tokio::test]
async fn only_snapshots_of_the_run_are_handed_out() {
    let world = World::in_memory().await;
    let run = world.start(&manifest(), 3).await;
    let other = {
        let mut other = manifest();
        other.method.download.of = Reference::Weights;
        world.coordinator.create_run(&other).await.expect("a run")
    };
    let view = world.coordinator.run(run).await.expect("there");
    let others = world.coordinator.run(other).await.expect("there");
    assert!(world.coordinator.object(run, view.snapshot).await.is_ok());
    for object in [view.state, others.snapshot, Digest::of(b"x")] {
        let refused = world.coordinator.object(run, object).await.expect_err("private");
        assert_eq!(refused.problem().kind, ProblemType::UnknownObject);
    }
    let again = world.coordinator.create_run(&manifest()).await.expect("the same run");
    assert_eq!(again, run);
    assert_eq!(world.coordinator.runs().await.expect("two").len(), 2);
    let ahead = world.coordinator.record(run, RoundId(1)).await.expect_err("not yet");
    assert_eq!(ahead.problem().kind, ProblemType::UnknownRound);
}

#[tokio::test]
async fn an_adapter_that_diverges_ends_its_run() {
    let mut manifest = manifest();
    manifest.optimizer =
        gossamer_protocol::manifest::ServerOptimizer::Sgd { lr: 1e9, momentum: 0.0 };
    let world = World::in_memory().await;
    let run = world.start(&manifest, 3).await;
    world.tick().await;
    world.work(&manifest, 0).await;
    world.work(&manifest, 1).await;
    world.tick().await;
    let view = world.coordinator.run(run).await.expect("there");
    assert_eq!((view.status, view.round), (Status::Aborted, RoundId(0)));
    assert!(view.note.contains("diverged"), "{}", view.note);
}

#[tokio::test]
async fn an_adapter_is_exported_under_pefts_names() {
    let mut frozen = manifest();
    frozen.lora.freeze_a = true;
    frozen.layout =
        Layout::lora(&[fixtures::linear()], &frozen.lora.targets, 2, true).expect("valid");
    let world = World::in_memory().await;
    let [plain, ffa] = [manifest(), frozen.clone()].map(|m| (m, [fixtures::linear()]));
    let mut first_a = None;
    for (manifest, linears) in [plain, ffa] {
        let run = world.coordinator.create_run_on(&manifest, Some(&linears)).await.expect("a run");
        let bytes = world.coordinator.export(run).await.expect("exported");
        assert_eq!(bytes, world.coordinator.export(run).await.expect("the same bytes"));
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a file");
        let a = file.tensor("base_model.model.m.q_proj.lora_A.weight").expect("A");
        let b = file.tensor("base_model.model.m.q_proj.lora_B.weight").expect("B");
        assert_eq!((a.shape(), b.shape()), (&[2, 4][..], &[6, 2][..]));
        assert_eq!(file.len(), 2);
        // The frozen A is the seeded start, as the other run's untrained A is.
        let a = a.data().to_vec();
        assert_eq!(*first_a.get_or_insert(a.clone()), a);
    }
    frozen.name = "without shapes".into();
    let run = world.coordinator.create_run(&frozen).await.expect("a run");
    let refused = world.coordinator.export(run).await.expect_err("A's shape is unknown");
    assert!(matches!(refused, CoordinatorError::Export(_)));
}
