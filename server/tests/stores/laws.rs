//! What every store must do, through one process at a time or several handles at once.

use std::time::Duration;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{Attempt, RoundId};
use gossamer_protocol::manifest::{Participation, Selection};
use gossamer_protocol::message::{Answer, Enrolment, Record};
use gossamer_protocol::problem::ProblemType as P;
use gossamer_server::coordinator::{Admission, CoordinatorError, Uploaded};
use gossamer_server::operator::Role;
use gossamer_server::status::Status;
use gossamer_server::store::{Kind, StoreError};

use crate::fixtures::{id, key, manifest};
use crate::site::{Site, on_every_store};
use crate::world::{World, server_key};

on_every_store!(
    objects_come_back_whole_or_not_at_all,
    a_run_ends_the_same_whenever_it_is_reopened,
    an_update_is_taken_once,
    an_upload_in_parts_may_go_to_any_handle,
    an_attempt_with_too_few_is_tried_again,
    nobody_counts_oftener_than_it_may,
    a_token_is_good_for_its_quota,
    who_is_revoked_stays_so,
    operators_come_and_go,
    a_status_that_is_over_stays,
    the_audit_log_is_one_chain_whoever_writes,
);

async fn objects_come_back_whole_or_not_at_all(site: Site) {
    let store = site.open().await;
    let objects = store.objects();
    for bytes in [&b""[..], b"bytes", &[7; 1 << 20]] {
        let digest = objects.put(Kind::State, bytes.to_vec().into()).await.expect("kept");
        assert_eq!(digest, Digest::of(bytes));
        assert_eq!(objects.put(Kind::State, bytes.to_vec().into()).await.expect("again"), digest);
        assert_eq!(objects.get(Kind::State, digest).await.expect("there"), bytes);
        assert_eq!(objects.len(Kind::State, digest).await.expect("there"), bytes.len() as u64);
        let other = objects.get(Kind::Snapshot, digest).await;
        assert!(matches!(other, Err(StoreError::Missing(_))), "{other:?}");
        objects.drop(Kind::State, digest).await.expect("dropped");
        objects.drop(Kind::State, digest).await.expect("again");
        let gone = objects.get(Kind::State, digest).await;
        assert!(matches!(gone, Err(StoreError::Missing(d)) if d == digest), "{gone:?}");
    }
}

/// What an undisturbed run in memory ends with.
async fn undisturbed() -> Record {
    let world = World::in_memory().await;
    let run = world.start(&manifest(), 3).await;
    world.finish(&manifest(), run, &[0, 1]).await
}

async fn a_run_ends_the_same_whenever_it_is_reopened(site: Site) {
    let manifest = manifest();
    let mut world = site.world().await;
    let run = world.start(&manifest, 3).await;
    for _ in 0..manifest.rounds {
        world = site.again(world).await;
        world.tick().await;
        for b in [1, 0] {
            world = site.again(world).await;
            let task = world.task(b).await;
            let frame = world.frame(&manifest, &task, b).await;
            world = site.again(world).await;
            let receipt = world.send(&task, b, frame.clone()).await.expect("accepted");
            world = site.again(world).await;
            assert_eq!(world.send(&task, b, frame).await.expect("again"), receipt);
        }
        world.tick().await;
    }
    assert_eq!(world.last_record(run).await, undisturbed().await);
    let world = site.again(world).await;
    let view = world.coordinator.run(run).await.expect("there");
    assert_eq!((view.status, view.round), (Status::Complete, RoundId(2)));
    let rounds = world.coordinator.rounds(run, RoundId(0), 10).await.expect("there");
    let told: Vec<_> = rounds.iter().map(|r| (r.round.0, r.accepted, r.examples, r.loss)).collect();
    assert_eq!(told, [(0, 2, 8, Some(2.0)), (1, 2, 8, Some(2.0))]);
}

async fn an_update_is_taken_once(site: Site) {
    let manifest = manifest();
    let world = site.world().await;
    let run = world.start(&manifest, 3).await;
    world.tick().await;
    let (task, late) = (world.task(0).await, world.task(2).await);
    let frame = world.frame(&manifest, &task, 0).await;
    // Sent many times at once, as by a client that gave up waiting.
    let sends = (0..8).map(|_| world.send(&task, 0, frame.clone()));
    let receipts = futures_util::future::join_all(sends).await;
    for receipt in &receipts {
        assert_eq!(receipt.as_ref().ok(), receipts[0].as_ref().ok());
        assert!(receipt.is_ok(), "{receipt:?}");
    }
    assert_eq!(world.coordinator.run(run).await.expect("there").accepted, 1);
    let other = world.frame(&manifest, &late, 2).await;
    let refused = world.send(&task, 0, other.clone()).await.expect_err("other bytes");
    assert_eq!(refused.problem_type(), P::Conflict);
    world.work(&manifest, 1).await;
    world.tick().await;
    let refused = world.send(&late, 2, other).await.expect_err("late");
    assert_eq!(refused.problem_type(), P::StaleRound);
    assert_eq!(world.send(&task, 0, frame).await.ok(), receipts[0].as_ref().ok().cloned());
}

async fn an_upload_in_parts_may_go_to_any_handle(site: Site) {
    let manifest = manifest();
    let first = site.world().await;
    // A store that is not shared is served by one process, which is then asked twice.
    let coordinator = first.coordinator.clone();
    let second = match site.places.database {
        Some(_) => site.world().await,
        None => World { coordinator, clock: site.clock.clone() },
    };
    let run = first.start(&manifest, 3).await;
    first.tick().await;
    second.tick().await;
    let task = first.task(0).await;
    let frame = first.frame(&manifest, &task, 0).await;
    let (digest, length) = (Digest::of(&frame), frame.len() as u64);
    let client = id(&key(0));
    let to = Admission { run, round: task.round, attempt: task.attempt, client };
    let send = async |world: &World, offset: usize, part: std::ops::Range<usize>| {
        let part = frame.slice(part);
        world.coordinator.append(client, &to, digest, offset as u64, length, part).await
    };
    let quarter = frame.len() / 4;
    // Of two that take turns, whoever is asked knows where the upload stands.
    for (at, world) in [&first, &second, &first].into_iter().enumerate() {
        let (start, end) = (at * quarter, (at + 1) * quarter);
        assert_eq!(world.coordinator.offset(&to, digest).await.expect("told"), start as u64);
        let sent = send(world, start, start..end).await.expect("taken");
        assert_eq!(sent, Uploaded::Partly(end as u64));
    }
    let wrong =
        send(&second, quarter, quarter..2 * quarter).await.expect_err("it stands elsewhere");
    assert!(
        matches!(wrong, CoordinatorError::WrongOffset { stands } if stands == 3 * quarter as u64)
    );
    let last = send(&second, 3 * quarter, 3 * quarter..frame.len()).await.expect("whole");
    let Uploaded::Accepted(receipt) = last else { panic!("{last:?}") };
    assert_eq!(first.coordinator.offset(&to, digest).await.expect("told"), 0, "handed over");
    assert_eq!(second.send(&task, 0, frame.clone()).await.expect("again"), receipt);
    assert_eq!(second.coordinator.run(run).await.expect("there").accepted, 1);
}

async fn an_attempt_with_too_few_is_tried_again(site: Site) {
    let mut manifest = manifest();
    (manifest.cohort.goal, manifest.cohort.min) = (3, 2);
    manifest.cohort.selection = Selection::Seeded;
    let mut world = site.world().await;
    let run = world.start(&manifest, 3).await;
    world.tick().await;
    world.work(&manifest, 0).await;
    site.clock.advance(Duration::from_secs(60));
    world.tick().await;
    world = site.again(world).await;
    let view = world.coordinator.run(run).await.expect("there");
    assert_eq!((view.attempt, view.accepted, view.asked), (Attempt(1), 1, 2));
    let asked = world.coordinator.cohort(run).await.expect("there");
    assert!(!asked.contains(&id(&key(0))), "its update is there");
    for b in [1, 2] {
        world.work(&manifest, b).await;
    }
    world.tick().await;
    let record = world.last_record(run).await;
    assert_eq!((record.round, record.attempt, record.accepted), (RoundId(1), Attempt(1), 3));
}

/// In one of any three rounds: clients 0, 1, 2 in turn, however often all of them ask.
async fn nobody_counts_oftener_than_it_may(site: Site) {
    let mut manifest = manifest();
    manifest.rounds = 6;
    (manifest.cohort.goal, manifest.cohort.ask) = (1, 1);
    manifest.cohort.participation = Some(Participation { rounds: 1, window: 3 });
    for (selection, reopened) in
        [(Selection::FirstCome, false), (Selection::FirstCome, true), (Selection::Seeded, true)]
    {
        (manifest.cohort.selection, manifest.seed) = (selection, manifest.seed + 1);
        let mut world = site.world().await;
        let run = world.start(&manifest, 3).await;
        let mut counted: Vec<u8> = Vec::new();
        for round in 0..manifest.rounds {
            world.tick().await;
            if reopened {
                world = site.again(world).await;
            }
            let mut asked = Vec::new();
            for b in 0..3 {
                match world.ask(b).await {
                    Answer::Train(task) => asked.push((b, task)),
                    Answer::Wait { reason, .. } => {
                        let rests = counted.iter().rev().take(2).any(|&last| last == b);
                        assert_eq!(reason.contains("as often"), rests, "{b} in {round}: {reason}");
                    }
                    over @ Answer::Over { .. } => panic!("{over:?}"),
                }
            }
            let (b, task) = asked.pop().expect("somebody");
            assert_eq!((asked.len(), task.round), (0, RoundId(round)));
            let frame = world.frame(&manifest, &task, b).await;
            world.send(&task, b, frame).await.expect("taken");
            counted.push(b);
            world.tick().await;
        }
        assert!(
            counted
                .windows(3)
                .all(|three| three[0] != three[1] && three[1] != three[2] && three[0] != three[2]),
            "{counted:?}"
        );
        let view = world.coordinator.run(run).await.expect("there");
        assert_eq!(view.status, Status::Complete);
    }
}

async fn a_token_is_good_for_its_quota(site: Site) {
    let (first, second) = (site.world().await, site.world().await);
    let ttl = Duration::from_secs(60);
    let secret = first.coordinator.new_tokens(1, 5, ttl).await.expect("made").remove(0);
    // Twelve keys through two handles at once; five places.
    let enrolments: Vec<Enrolment> = (0..12).map(|b| Enrolment::new(&secret, &key(b))).collect();
    let tries = enrolments.iter().zip([&first, &second].into_iter().cycle());
    let tries = tries.map(|(enrolment, world)| world.coordinator.enrol(enrolment));
    let done = futures_util::future::join_all(tries).await;
    let enrolled = done.iter().filter(|done| done.is_ok()).count();
    assert_eq!(enrolled, 5);
    for (enrolment, done) in enrolments.iter().zip(&done) {
        let again = second.coordinator.enrol(enrolment).await;
        assert_eq!(again.is_ok(), done.is_ok(), "the same again");
    }
    let tokens = first.coordinator.tokens(10).await.expect("told");
    assert_eq!((tokens[0].quota, tokens[0].used), (5, 5));
    assert_eq!(first.coordinator.clients(None, 100).await.expect("told").len(), 5);
    // Late, and voided.
    let late = first.coordinator.new_token(ttl).await.expect("made");
    site.clock.advance(Duration::from_secs(61));
    let refused = first.coordinator.enrol(&Enrolment::new(&late, &key(50))).await;
    assert!(matches!(refused, Err(CoordinatorError::BadToken)), "{refused:?}");
    first.coordinator.revoke_token(tokens[0].token).await.expect("voided");
    let gone = second.coordinator.revoke_token(tokens[0].token).await;
    assert!(matches!(gone, Err(CoordinatorError::UnknownToken(_))), "{gone:?}");
}

async fn who_is_revoked_stays_so(site: Site) {
    let (first, second) = (site.world().await, site.world().await);
    let client = first.enrol(1).await;
    first.coordinator.revoke(client, "lost").await.expect("revoked");
    second.coordinator.revoke(client, "again").await.expect("no harm");
    second.tick().await;
    for world in [&first, &second] {
        let asked = world.coordinator.check_in(client, &Default::default()).await;
        assert!(matches!(asked, Err(CoordinatorError::Revoked(_))), "{asked:?}");
        let secret = world.coordinator.new_token(Duration::from_secs(60)).await.expect("made");
        let back = world.coordinator.enrol(&Enrolment::new(&secret, &key(1))).await;
        assert!(matches!(back, Err(CoordinatorError::Revoked(_))), "{back:?}");
    }
    let view = second.coordinator.client(client).await.expect("told");
    assert_eq!(view.row.reason.as_deref(), Some("lost"), "the first word stands");
}

async fn operators_come_and_go(site: Site) {
    let (first, second) = (site.world().await, site.world().await);
    let name = |name: &str| name.to_owned().try_into().expect("a name");
    let ttl = Some(Duration::from_secs(60));
    first.coordinator.add_operator(name("eva"), Role::Admin, None).await.expect("made");
    first.coordinator.add_operator(name("ben"), Role::Viewer, ttl).await.expect("made");
    let taken = second.coordinator.add_operator(name("eva"), Role::Viewer, None).await;
    assert!(matches!(taken, Err(CoordinatorError::OperatorExists(_))), "{taken:?}");
    let told = second.coordinator.operators().await.expect("told");
    let told: Vec<_> = told.iter().map(|o| (o.name.as_str(), o.role, o.expires_ms)).collect();
    assert_eq!(told, [("ben", Role::Viewer, Some(1_060_000)), ("eva", Role::Admin, None)]);
    second.coordinator.revoke_operator(&name("eva")).await.expect("revoked");
    let gone = first.coordinator.revoke_operator(&name("eva")).await;
    assert!(matches!(gone, Err(CoordinatorError::UnknownOperator(_))), "{gone:?}");
}

async fn a_status_that_is_over_stays(site: Site) {
    let (first, second) = (site.world().await, site.world().await);
    let run = first.start(&manifest(), 3).await;
    second.tick().await;
    let to = |world: &World, status| {
        let coordinator = world.coordinator.clone();
        async move { coordinator.set_status(run, status).await.expect("told") }
    };
    assert_eq!(to(&second, Status::Paused).await, Status::Paused);
    assert_eq!(to(&first, Status::Running).await, Status::Running);
    assert_eq!(to(&second, Status::Aborted).await, Status::Aborted);
    assert_eq!(to(&first, Status::Running).await, Status::Aborted);
    first.tick().await;
    let view = first.coordinator.run(run).await.expect("there");
    assert_eq!((view.status, view.note.as_str()), (Status::Aborted, "by the operator"));
}

async fn the_audit_log_is_one_chain_whoever_writes(site: Site) {
    let (first, second) = (site.world().await, site.world().await);
    let mut writing = tokio::task::JoinSet::new();
    for world in [&first, &second, &first, &second] {
        let coordinator = world.coordinator.clone();
        writing.spawn(async move {
            for _ in 0..10 {
                coordinator.new_token(Duration::from_secs(60)).await.expect("made");
            }
        });
    }
    while let Some(done) = writing.join_next().await {
        done.expect("no panic");
    }
    first.tick().await;
    let head = second.coordinator.store().verify_audit(&server_key().public(), None).await;
    assert_eq!(head.expect("whole").seq, 40);
    let last = second.coordinator.audit(u64::MAX, 100).await.expect("told");
    let numbers: Vec<u64> = last.iter().map(|entry| entry.seq).collect();
    assert_eq!(numbers, (1..=40).rev().collect::<Vec<_>>());
    assert!(site.dir.path().is_dir());
}
