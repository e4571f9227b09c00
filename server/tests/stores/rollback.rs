//! Back to an earlier adapter: a record that follows the last one.

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::RoundId;
use gossamer_protocol::message::Record;
use gossamer_protocol::sign::Purpose;
use gossamer_server::coordinator::CoordinatorError;
use gossamer_server::status::Status;

use crate::fixtures::{id, key, manifest};
use crate::site::{Site, on_every_store};
use crate::world::server_key;

on_every_store!(a_run_goes_back_by_going_on);

async fn a_run_goes_back_by_going_on(site: Site) {
    let mut manifest = manifest();
    manifest.rounds = 5;
    let mut world = site.world().await;
    let run = world.start(&manifest, 3).await;
    world.tick().await;
    for _ in 0..2 {
        world.work(&manifest, 0).await;
        world.work(&manifest, 1).await;
        world.tick().await;
    }
    let back =
        async |world: &crate::world::World, to| world.coordinator.roll_back(run, RoundId(to)).await;
    let refused = |done: Result<RoundId, CoordinatorError>, word: &str| {
        let error = done.expect_err("refused");
        assert!(matches!(error, CoordinatorError::Rollback(_)), "{error:?}");
        assert!(error.to_string().contains(word), "{error}");
    };
    refused(back(&world, 1).await, "pause");
    let task = world.task(0).await;
    let open = world.task(1).await;
    let frame = world.frame(&manifest, &task, 0).await;
    world.send(&task, 0, frame).await.expect("taken");
    world.coordinator.set_status(run, Status::Paused).await.expect("told");
    refused(back(&world, 1).await, "receipts");
    let frame = world.frame(&manifest, &open, 1).await;
    world.send(&open, 1, frame).await.expect("taken while paused");
    world.tick().await;
    refused(back(&world, 3).await, "before");

    world = site.again(world).await;
    let theta = world.coordinator.theta(run, RoundId(1)).await.expect("there");
    let last = world.coordinator.record(run, RoundId(3)).await.expect("there");
    assert_eq!(back(&world, 1).await.expect("goes back"), RoundId(4));
    world = site.again(world).await;
    let view = world.coordinator.run(run).await.expect("there");
    assert_eq!((view.round, view.status, view.asked), (RoundId(4), Status::Paused, 0));
    assert_eq!(world.coordinator.theta(run, RoundId(4)).await.expect("there"), theta);
    let signed = world.coordinator.record(run, RoundId(4)).await.expect("there");
    let record: Record = signed.open(&server_key().public(), Purpose::Record).expect("ours");
    assert_eq!((record.parent, record.accepted), (Some(Digest::of(&last.bytes)), 0));
    let told = world.coordinator.audit(u64::MAX, 1).await.expect("told");
    assert!(told[0].entry.get().contains("\"action\":\"rolled-back\""), "{}", told[0].entry.get());
    refused(back(&world, 1).await, "none would be left");

    world.coordinator.set_status(run, Status::Running).await.expect("told");
    world.tick().await;
    assert_eq!(world.task(2).await.round, RoundId(4));
    world.work(&manifest, 0).await;
    world.work(&manifest, 2).await;
    world.tick().await;
    let view = world.coordinator.run(run).await.expect("there");
    assert_eq!((view.round, view.status), (RoundId(5), Status::Complete));
    let rounds = world.coordinator.rounds(run, RoundId(0), 9).await.expect("told");
    assert_eq!(rounds.iter().map(|row| row.accepted).collect::<Vec<_>>(), [2, 2, 2, 0, 2]);
    // All of these have a loss of 2.0; the first of equals.
    assert_eq!(world.coordinator.best_round(run).await.expect("told"), Some((RoundId(0), 2.0)));
    assert!(world.coordinator.cohort(run).await.expect("there").is_empty(), "{}", id(&key(0)));
}
