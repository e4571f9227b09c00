//! What a process finds that takes over from one that is gone.

mod fixtures;
#[path = "fixtures/https.rs"]
mod https;
#[path = "fixtures/world.rs"]
mod world;

use std::time::Duration;

use fixtures::manifest;
use gossamer_protocol::ids::{Attempt, RoundId};
use gossamer_protocol::message::Answer;
use https::{TestServer, config, update_path};
use reqwest::Method;
use world::World;

#[tokio::test]
async fn a_deadline_that_passed_in_the_gap_ends_nothing() {
    let mut manifest = manifest();
    manifest.cohort.deadline_s = 3_600;
    let undisturbed = {
        let world = World::in_memory().await;
        let run = world.start(&manifest, 3).await;
        world.finish(&manifest, run, &[0, 1]).await
    };
    let dir = tempfile::tempdir().expect("a directory");
    let mut world = World::create(dir.path()).await;
    let run = world.start(&manifest, 3).await;
    world.tick().await;
    world.work(&manifest, 0).await;
    let task = world.task(1).await;
    world.clock.advance(Duration::from_secs(600));
    world.tick().await;

    world.clock.advance(Duration::from_secs(9_000));
    world.reopen(dir.path()).await;
    world.coordinator.take_over().await.expect("takes over");
    // The minimum is there, and the old deadline is past: still, the other one is waited for.
    world.tick().await;
    let view = world.coordinator.run(run).await.expect("there");
    assert_eq!((view.round, view.attempt, view.accepted), (RoundId(0), Attempt(0), 1));
    assert_eq!(view.deadline_ms, Some(1_000_000 + (3_600 + 9_000) * 1_000));
    let Answer::Train(again) = world.ask(1).await else { panic!("it had a task") };
    assert_eq!((again.attempt, again.deadline_ms), (task.attempt, 3_000_000));
    // And it is so in the store.
    world.reopen(dir.path()).await;
    let frame = world.frame(&manifest, &task, 1).await;
    world.send(&task, 1, frame).await.expect("in time");
    world.tick().await;
    for b in [0, 1] {
        world.work(&manifest, b).await;
    }
    world.tick().await;
    assert_eq!(world.last_record(run).await, undisturbed);
}

#[tokio::test]
async fn whoever_serves_takes_over_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = TestServer::start(dir.path(), &config()).await;
    let mut manifest = manifest();
    manifest.cohort.deadline_s = 2;
    server.enrol(0).await;
    server.operator.create_run(&manifest).await.expect("a run");
    let task = server.task(0).await;
    let snapshot = server.operator.object(task.run, task.snapshot).await.expect("there");
    let client = fixtures::id(&fixtures::key(0));
    let frame = fixtures::frame(&manifest, &task, &snapshot, client);
    server.close().await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    server = TestServer::serve(dir.path()).await;
    let answer = server.send(0, Method::PUT, &update_path(&task, 0), &frame).await;
    assert!(answer.status().is_success(), "{}", answer.status());
    server.close().await;
}

#[tokio::test]
async fn leftovers_are_dropped_and_accepted_updates_are_not() {
    let manifest = manifest();
    let dir = tempfile::tempdir().expect("a directory");
    let mut world = World::create(dir.path()).await;
    let run = world.start(&manifest, 3).await;
    world.tick().await;
    world.work(&manifest, 0).await;
    let updates = || {
        let mut files = Vec::new();
        for folder in std::fs::read_dir(dir.path().join("objects/updates")).expect("there") {
            let folder = folder.expect("an entry").path();
            files.extend(std::fs::read_dir(folder).expect("there").map(|f| f.expect("one").path()));
        }
        files
    };
    let accepted = updates();
    assert_eq!(accepted.len(), 1);
    // A refused upload's bytes, and a file that was being written.
    let folder = dir.path().join("objects/updates/ab");
    std::fs::create_dir_all(&folder).expect("made");
    for name in ["ab".repeat(32), format!("{}#1", "ab".repeat(32))] {
        std::fs::write(folder.join(name), "left").expect("written");
    }
    assert_eq!(updates().len(), 3);
    world.reopen(dir.path()).await;
    world.coordinator.take_over().await.expect("takes over");
    assert_eq!(updates(), accepted);
    world.work(&manifest, 1).await;
    world.tick().await;
    assert_eq!(world.coordinator.run(run).await.expect("there").round, RoundId(1));
}

#[tokio::test]
async fn what_cannot_be_dropped_holds_nothing_up() {
    let manifest = manifest();
    let dir = tempfile::tempdir().expect("a directory");
    let mut world = World::create(dir.path()).await;
    let run = world.start(&manifest, 3).await;
    world.reopen(dir.path()).await;
    // Where uploads are staged there is no directory.
    let staged = dir.path().join("staging");
    std::fs::create_dir_all(&staged).expect("made");
    std::fs::write(staged.join(run.to_string()), "a file").expect("written");
    world.tick().await;
    world.work(&manifest, 0).await;
    world.work(&manifest, 1).await;
    world.tick().await;
    assert_eq!(world.coordinator.run(run).await.expect("there").round, RoundId(1));
}
