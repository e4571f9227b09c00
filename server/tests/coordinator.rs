//! The coordinator without a network.

mod fixtures;
#[path = "fixtures/world.rs"]
mod world;

use std::time::Duration;

use fixtures::{id, key, manifest, share};
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Snapshot, Terms, Update};
use gossamer_protocol::ids::{Attempt, RoundId, RunId};
use gossamer_protocol::manifest::{
    Alternation, Average, Coding, Combine, Coverage, LocalOptimizer, MANIFEST_VERSION, Manifest,
    Reference, Rounding, Scaffold, Selection, ServerOptimizer, Stage, SupportRule, Tier, Values,
};
use gossamer_protocol::message::{Answer, CheckIn, Enrolment, Receipt, Record};
use gossamer_protocol::problem::ProblemType;
use gossamer_protocol::sign::Purpose;
use gossamer_protocol::sparse::Support;
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
    let terms = Terms::new(&manifest, task.run, task.round);
    let other = other.encode(&terms, None).expect("in range");
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

type Change = fn(&mut Manifest);

/// What version 1 can say.
const METHODS: [(&str, Change); 7] = [
    ("flasc", |m| m.method.download.of = Reference::Weights),
    ("seeded", |_| {}),
    ("dense", |m| {
        m.method.download.density = share(1.0);
        m.method.upload.density = share(1.0);
    }),
    ("int8", |m| {
        m.method.download.values = Values::Int8;
        m.method.upload.values = Values::Int8;
    }),
    ("ffa", |m| {
        m.lora.freeze_a = true;
        m.layout = m.lora.layout(&[fixtures::linear()]).expect("valid");
    }),
    ("fed-select", |m| m.method.train = Coverage::Support),
    ("sparse-adapter", |m| {
        m.method.train = Coverage::Support;
        m.method.support = SupportRule::Once;
    }),
];

/// What came with version 2.
const NEWER_METHODS: [(&str, Change); 8] = [
    ("four bits", |m| {
        m.method.download.values = Values::Fp4;
        m.method.upload.values = Values::Lloyd4;
        m.method.upload.rounding = Rounding::Stochastic;
    }),
    ("packed", |m| m.method.coding = Coding::Packed),
    ("a random half", |m| m.method.upload.select.random = Some(share(0.5))),
    ("segments", |m| m.method.upload.select.segments.0 = 2),
    ("within the download", |m| m.method.upload.select.within_download = true),
    ("alternation", |m| m.method.alternate = Some(Alternation { rounds: 1 })),
    ("stages", |m| {
        let stage = Stage { from: 2, density: share(0.5), values: Values::Int8 };
        m.method.upload.stages = vec![stage];
    }),
    ("a byte budget", |m| m.method.upload.bytes_max = Some(256)),
];

/// The same, where the whole adapter travels.
const WHOLE_METHODS: [(&str, Change); 7] = [
    ("by examples", |m| m.method.average = Average::Examples),
    ("by norms, in tiers", |m| {
        m.method.combine = Combine::Norms;
        m.method.tiers = vec![Tier { rank: Some(1), density: None }, Tier::default()];
    }),
    ("decomposed", |m| m.method.combine = Combine::Svd),
    ("stacked", |m| m.method.combine = Combine::Stack),
    ("residual", |m| m.method.combine = Combine::Residual),
    ("a core", |m| m.method.combine = Combine::Core),
    ("scaffold", |m| {
        m.method.scaffold = Some(Scaffold { clients: 3 });
        m.training.optimizer = LocalOptimizer::Sgd { lr: 0.1, momentum: 0.0 };
    }),
];

#[tokio::test]
async fn every_method_runs_to_its_end() {
    for (name, change) in METHODS {
        runs_to_its_end(1, name, change).await;
        runs_to_its_end(2, name, change).await;
    }
    for (name, change) in NEWER_METHODS {
        runs_to_its_end(2, name, change).await;
    }
    for (name, change) in WHOLE_METHODS {
        let mut manifest = Manifest { rounds: 4, ..manifest() };
        manifest.method.download.density = share(1.0);
        manifest.method.upload.density = share(1.0);
        manifest.optimizer = ServerOptimizer::Sgd { lr: 1.0, momentum: 0.0 };
        change(&mut manifest);
        manifest.layout = manifest.method.complete(manifest.layout).expect("a layout");
        let mut records = Vec::new();
        for order in [[0, 1], [1, 0]] {
            let world = World::in_memory().await;
            let run = world.start(&manifest, 3).await;
            records.push(world.finish(&manifest, run, &order).await);
            let before = world.coordinator.theta(run, RoundId(3)).await.expect("there");
            let after = world.coordinator.theta(run, RoundId(4)).await.expect("there");
            assert_ne!(before, after, "{name}");
        }
        assert_eq!(records[0], records[1], "{name}, in another order");
    }
}

async fn runs_to_its_end(version: u16, method: &str, change: Change) {
    let name = format!("{method}, version {version}");
    let mut manifest = Manifest { version, rounds: 4, ..manifest() };
    change(&mut manifest);
    let world = World::in_memory().await;
    let run = world.start(&manifest, 3).await;
    let last = world.finish(&manifest, run, &[0, 1]).await;
    assert_eq!(last.round, RoundId(4), "{name}");
    let mut supports = Vec::new();
    for round in 0..=4 {
        let record = world.coordinator.record(run, RoundId(round)).await.expect("there");
        let record: Record = record.open(&server_key().public(), Purpose::Record).expect("signed");
        let frame = world.coordinator.object(run, record.snapshot).await.expect("there");
        assert_eq!(frame.len() as u64, record.snapshot_bytes, "{name}");
        let terms = Terms::new(&manifest, run, RoundId(round));
        let snapshot = Snapshot::decode(&frame, &terms).expect("own frame");
        supports.push(snapshot.values.support().clone());
        let theta = world.coordinator.theta(run, RoundId(round)).await.expect("there");
        if round == 0 {
            assert_eq!(theta, manifest.layout.init(manifest.seed), "{name}");
            let whole = manifest.method.download.of == Reference::Weights || terms.shares_support();
            let nothing = supports[0] == Support::Indices(vec![]);
            assert_eq!(nothing, !whole, "{name}: zeros do not travel");
        } else {
            assert_ne!(theta, manifest.layout.init(manifest.seed), "{name}");
        }
    }
    let n = manifest.layout.n();
    match method {
        "sparse-adapter" => {
            assert_eq!(supports[1].count(n), 5);
            assert!(supports[1..].iter().all(|s| *s == supports[1]), "fixed for ever");
        }
        "dense" => assert_eq!(supports[4].count(n), n),
        "ffa" => assert_eq!(supports[4].count(n), 3),
        _ => assert_eq!(supports[4].count(n), 5, "{name}"),
    }
}

#[tokio::test]
async fn what_was_accepted_counts_in_the_next_attempt() {
    for version in 1..=MANIFEST_VERSION {
        counts_in_the_next_attempt(version).await;
    }
}

async fn counts_in_the_next_attempt(version: u16) {
    let mut manifest = Manifest { version, ..manifest() };
    manifest.cohort.goal = 3;
    manifest.cohort.min = 2;
    let dir = tempfile::tempdir().expect("a directory");
    let mut world = World::create(dir.path()).await;
    let run = world.start(&manifest, 4).await;
    world.tick().await;
    let receipt = world.work(&manifest, 0).await;
    let late = world.task(1).await;
    world.clock.advance(Duration::from_secs(60));
    let frame = world.frame(&manifest, &late, 1).await;
    let stale = world.send(&late, 1, frame.clone()).await.expect_err("past the deadline");
    assert_eq!(stale.problem().kind, ProblemType::StaleRound);
    world.tick().await;
    let view = world.coordinator.run(run).await.expect("there");
    assert_eq!((view.round, view.attempt, view.accepted), (RoundId(0), Attempt(1), 1));
    assert!(matches!(world.ask(0).await, Answer::Wait { .. }));
    // A version 1 frame says which attempt it is for; others are as good in the next.
    let again = world.task(1).await;
    let sent = world.send(&again, 1, frame).await;
    if version == 1 {
        assert_eq!(sent.expect_err("of attempt 0").problem().kind, ProblemType::BadFrame);
        world.work(&manifest, 1).await;
    } else {
        sent.expect("as trained");
    }
    // What each was made for is known after a restart too.
    world.reopen(dir.path()).await;
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
    frozen.layout = frozen.lora.layout(&[fixtures::linear()]).expect("valid");
    let world = World::in_memory().await;
    let [plain, ffa] = [manifest(), frozen.clone()].map(|m| (m, [fixtures::linear()]));
    let mut first_a = None;
    for (manifest, linears) in [plain, ffa] {
        let run = world.coordinator.create_run_on(&manifest, Some(&linears)).await.expect("a run");
        let files = world.coordinator.export(run).await.expect("exported");
        assert_eq!(files, world.coordinator.export(run).await.expect("the same bytes"));
        let file = safetensors::SafeTensors::deserialize(&files.weights).expect("a file");
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
