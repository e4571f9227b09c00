//! Faults in the middle: a store that fails between two writes, a caller that goes away.

#[path = "../../tests/fixtures/mod.rs"]
pub(crate) mod fixtures;
#[path = "../../tests/fixtures/world.rs"]
pub(crate) mod world;

use std::future::Future;
use std::task::{Context, Poll, Waker};

use super::Published;
use fixtures::{id, key, manifest};
use gossamer_protocol::ids::{RoundId, RunId};
use gossamer_protocol::message::{CheckIn, Enrolment, Record};
use gossamer_protocol::problem::ProblemType;
use world::World;

const READ_ONLY: &str = "PRAGMA query_only = ON";
const WRITABLE: &str = "PRAGMA query_only = OFF";

async fn undisturbed() -> Record {
    let world = World::in_memory().await;
    let run = world.start(&manifest(), 3).await;
    world.finish(&manifest(), run, &[0, 1]).await
}

#[tokio::test]
async fn a_crash_between_object_and_commit_changes_no_byte() {
    let manifest = manifest();
    let dir = tempfile::tempdir().expect("a directory");
    let mut world = World::create(dir.path()).await;
    let run = world.start(&manifest, 3).await;
    world.tick().await;
    for round in 0..2 {
        for b in [0, 1] {
            world.work(&manifest, b).await;
        }
        // State and snapshot are written; the transaction that publishes them is not.
        world.coordinator.store().pragma(READ_ONLY).await;
        assert!(world.coordinator.tick().await.is_err());
        let view = world.coordinator.run(run).await.expect("there");
        assert_eq!((view.round, view.accepted), (RoundId(round), 2));
        if round == 0 {
            world.reopen(dir.path()).await;
        } else {
            world.coordinator.store().pragma(WRITABLE).await;
        }
        world.tick().await;
    }
    assert_eq!(world.last_record(run).await, undisturbed().await);
}

#[tokio::test]
async fn what_the_store_did_not_take_did_not_happen() {
    let manifest = manifest();
    let world = World::in_memory().await;
    let run = world.start(&manifest, 3).await;
    let store = world.coordinator.store().clone();
    let (client, ask) = (id(&key(0)), CheckIn::default());

    store.pragma(READ_ONLY).await;
    assert!(world.coordinator.check_in(client, &ask).await.is_err(), "no round opens");
    store.pragma(WRITABLE).await;
    world.tick().await;
    store.pragma(READ_ONLY).await;
    assert!(world.coordinator.check_in(client, &ask).await.is_err(), "nobody is asked");
    store.pragma(WRITABLE).await;
    assert_eq!(world.coordinator.run(run).await.expect("there").asked, 0);
    let task = world.task(0).await;

    let frame = world.frame(&manifest, &task, 0).await;
    store.pragma(READ_ONLY).await;
    let failed = world.send(&task, 0, frame.clone()).await.expect_err("no row");
    assert_eq!(failed.problem().kind, ProblemType::Internal);
    assert!(world.send(&task, 0, frame.clone()).await.is_err(), "and still not");
    store.pragma(WRITABLE).await;
    assert_eq!(world.coordinator.run(run).await.expect("there").accepted, 0);
    let receipt = world.send(&task, 0, frame.clone()).await.expect("now it is");
    assert_eq!(world.send(&task, 0, frame).await.expect("again"), receipt);
    assert_eq!(world.coordinator.run(run).await.expect("there").accepted, 1);
}

#[tokio::test]
async fn a_full_disk_is_told_and_loses_nothing() {
    let mut manifest = manifest();
    manifest.cohort.ask = 20;
    manifest.cohort.goal = 20;
    let world = World::in_memory().await;
    let run = world.start(&manifest, 20).await;
    world.tick().await;
    let mut updates = Vec::new();
    for b in 0..20 {
        let task = world.task(b).await;
        let frame = world.frame(&manifest, &task, b).await;
        updates.push((b, task, frame));
    }
    let store = world.coordinator.store().clone();
    // SQLite takes the present size where that is larger; tokens fill what is free in it.
    store.pragma("PRAGMA max_page_count = 1").await;
    while world.coordinator.new_token(std::time::Duration::from_secs(1)).await.is_ok() {}
    let (mut taken, mut refused) = (0, 0);
    for (b, task, frame) in &updates {
        match world.send(task, *b, frame.clone()).await {
            Ok(_) => taken += 1,
            Err(full) => {
                let full = full.problem();
                assert_eq!((full.kind, full.status), (ProblemType::StoreFull, 507));
                assert!(full.retry_ms.is_some());
                refused += 1;
            }
        }
        assert_eq!(world.coordinator.run(run).await.expect("there").accepted, taken);
    }
    assert!(refused > 0, "20 rows do not fit one page");
    store.pragma("PRAGMA max_page_count = 100000").await;
    for (b, task, frame) in &updates {
        world.send(task, *b, frame.clone()).await.expect("there is space again");
    }
    world.tick().await;
    assert_eq!(world.last_record(run).await.accepted, 20);
}

/// Hyper drops a handler whose client is gone, at whichever await it is.
#[tokio::test]
async fn a_caller_that_goes_away_half_way_is_no_harm() {
    let manifest = manifest();
    let mut cut = 0;
    for polls in 0..12 {
        let world = World::in_memory().await;
        let run = world.start(&manifest, 3).await;
        world.tick().await;
        let task = world.task(0).await;
        let frame = world.frame(&manifest, &task, 0).await;
        {
            let mut going = Box::pin(world.send(&task, 0, frame.clone()));
            let mut context = Context::from_waker(Waker::noop());
            cut += 1;
            for _ in 0..polls {
                if let Poll::Ready(done) = going.as_mut().poll(&mut context) {
                    done.expect("accepted");
                    cut -= 1;
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let receipt = world.send(&task, 0, frame.clone()).await.expect("accepted");
        assert_eq!(world.send(&task, 0, frame).await.expect("again"), receipt);
        assert_eq!(world.coordinator.run(run).await.expect("there").accepted, 1, "{polls}");
        world.work(&manifest, 1).await;
        world.tick().await;
        assert_eq!(world.last_record(run).await.accepted, 2, "{polls}");
    }
    // Before the first poll, and after it at the latest.
    assert!(cut >= 2, "{cut}");
}

#[tokio::test]
async fn a_damaged_update_stops_the_close_and_nothing_else() {
    let manifest = manifest();
    let dir = tempfile::tempdir().expect("a directory");
    let world = World::create(dir.path()).await;
    let run = world.start(&manifest, 3).await;
    world.tick().await;
    let receipt = world.work(&manifest, 0).await;
    let receipt: gossamer_protocol::message::Receipt =
        serde_json::from_slice(&receipt.bytes).expect("a receipt");
    world.work(&manifest, 1).await;
    let name = receipt.update.to_string();
    let file = dir.path().join("objects/updates").join(&name[..2]).join(&name);
    let good = std::fs::read(&file).expect("there");
    let mut bad = good.clone();
    bad[70] ^= 1;
    for damage in [Some(bad), None] {
        match damage {
            Some(bytes) => std::fs::write(&file, bytes).expect("written"),
            None => std::fs::remove_file(&file).expect("gone"),
        }
        let failed = world.coordinator.tick().await.expect_err("damaged");
        assert_eq!(failed.problem_type(), ProblemType::Internal, "{failed}");
        assert_eq!(world.coordinator.run(run).await.expect("there").round, RoundId(0));
    }
    std::fs::write(&file, good).expect("restored from a backup");
    world.tick().await;
    assert_eq!(world.last_record(run).await.round, RoundId(1));
    assert!(!file.exists(), "counted, so dropped");
}

#[tokio::test]
async fn a_guessed_token_costs_no_write() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = World::create(dir.path()).await;
    let store = world.coordinator.store();
    // The writer is busy with this for as long as the guess takes.
    store.pragma("BEGIN IMMEDIATE").await;
    let refused = world.coordinator.enrol(&Enrolment::new("guess", &key(1))).await;
    assert_eq!(refused.expect_err("a guess").problem_type(), ProblemType::BadToken);
    store.pragma("ROLLBACK").await;
}

/// What `world` published up to round `last`, and its state.
async fn published(world: &World, run: RunId, last: u64) -> (Vec<Published>, Vec<u8>) {
    let mut chain = Vec::new();
    for round in 0..=last {
        chain.push(world.coordinator.published(run, RoundId(round)).await.expect("published"));
    }
    let state = world.coordinator.state_bytes(run, RoundId(last)).await.expect("published");
    (chain, state.to_vec())
}

/// Cut in any round, also with an update already there: another aggregator ends with the same record.
#[tokio::test]
async fn a_run_is_carried_to_another_aggregator() {
    let manifest = manifest();
    for last in 0..manifest.rounds {
        let (first, second) = (World::in_memory().await, World::in_memory().await);
        let run = first.start(&manifest, 3).await;
        first.tick().await;
        for _ in 0..last {
            first.work(&manifest, 0).await;
            first.work(&manifest, 1).await;
            first.tick().await;
        }
        first.work(&manifest, 0).await;
        let (chain, state) = published(&first, run, last).await;
        for b in 0..3 {
            second.enrol(b).await;
        }
        let restored = second.coordinator.restore_run(&manifest, &chain, &state).await;
        assert_eq!(restored.expect("sound"), run);
        second.tick().await;
        for _ in last..manifest.rounds {
            second.work(&manifest, 0).await;
            second.work(&manifest, 1).await;
            second.tick().await;
        }
        assert_eq!(second.last_record(run).await, undisturbed().await, "cut in round {last}");
    }
}

#[tokio::test]
async fn a_damaged_run_is_not_restored() {
    let manifest = manifest();
    let world = World::in_memory().await;
    let run = world.start(&manifest, 3).await;
    world.tick().await;
    world.work(&manifest, 0).await;
    world.work(&manifest, 1).await;
    world.tick().await;
    let (sound, state) = published(&world, run, 1).await;
    type Damage = fn(&mut Vec<Published>, &mut Vec<u8>);
    let damages: [(Damage, &str); 6] = [
        (|chain, _| chain.clear(), "round 0 cannot be restored: it is missing"),
        (|chain, _| drop(chain.remove(0)), "another run's, or another round's"),
        (|chain, _| chain[1].record.signature.0[5] ^= 1, "round 1 cannot be restored: its record"),
        (|chain, _| chain[1].snapshot = "x".into(), "its snapshot is damaged"),
        (|_, state| state[30] ^= 1, "the state behind it is damaged"),
        (|chain, _| chain.truncate(1), "round 0 cannot be restored: the state"),
    ];
    for (damage, expected) in damages {
        let (mut chain, mut state) = (sound.clone(), state.clone());
        damage(&mut chain, &mut state);
        let other = World::in_memory().await;
        let refused = other.coordinator.restore_run(&manifest, &chain, &state).await;
        let refused = refused.expect_err(expected).to_string();
        assert!(refused.contains(expected), "{refused}");
        assert!(other.coordinator.run(run).await.is_err(), "nothing is there");
    }
}
