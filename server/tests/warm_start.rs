//! Runs that start from an adapter.

mod fixtures;
#[path = "fixtures/world.rs"]
mod world;

use fixtures::{linear, manifest};
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Snapshot, Terms};
use gossamer_protocol::ids::RoundId;
use gossamer_protocol::manifest::{Manifest, start_digest};
use gossamer_protocol::peft::Shapes;
use gossamer_protocol::problem::ProblemType;
use gossamer_server::coordinator::CoordinatorError;
use world::World;

/// SHA-256 of `"gossamer/v1/start\0"`, 1.0 and -2.0, by Python's hashlib.
#[test]
fn a_start_has_one_name() {
    let expected = "f43f357492fa7603a58b682e11e099429df23e3f9db5de2577fde8d209eb9282";
    assert_eq!(start_digest(&[1.0, -2.0]).to_string(), expected);
}

#[tokio::test]
async fn a_run_goes_on_where_another_ended() {
    let world = World::in_memory().await;
    let first = manifest();
    let run = world.start(&first, 3).await;
    world.finish(&first, run, &[0, 1]).await;
    let files = world.coordinator.export(run).await.expect("over");
    let linears = [linear()];
    let shapes = Shapes { digest: Digest::of(b"b"), linears: &linears, hidden: 4 };
    let adapter = files.import(&shapes).expect("its own");
    let moved = adapter.theta.iter().zip(first.layout.init(first.seed)).filter(|(a, b)| **a != *b);
    assert!(moved.count() > 0, "it has learned something");

    let start = Some(start_digest(&adapter.theta));
    let warm = Manifest { name: "warm".into(), start, ..first.clone() };
    let create = |manifest: Manifest, theta: Option<Vec<f32>>| {
        let coordinator = world.coordinator.clone();
        async move { coordinator.create_run_from(&manifest, None, theta).await }
    };
    let made = create(warm.clone(), Some(adapter.theta.clone())).await.expect("made");
    world.tick().await;
    let task = world.task(2).await;
    assert_eq!((task.run, task.round), (made, RoundId(0)));
    let frame = world.coordinator.object(made, task.snapshot).await.expect("there");
    let received = Snapshot::decode(&frame, &Terms::new(&warm, made, RoundId(0))).expect("sound");
    assert_eq!(received.theta(&warm), adapter.theta, "what clients begin with");

    // Carried to another aggregator, which never saw the adapter, it ends with the same record.
    let elsewhere = World::in_memory().await;
    for b in 0..3 {
        elsewhere.enrol(b).await;
    }
    let mut chain = vec![world.coordinator.published(made, RoundId(0)).await.expect("published")];
    world.work(&warm, 0).await;
    world.work(&warm, 1).await;
    world.tick().await;
    chain.push(world.coordinator.published(made, RoundId(1)).await.expect("published"));
    let state = world.coordinator.state_bytes(made, RoundId(1)).await.expect("published");
    let restored = elsewhere.coordinator.restore_run(&warm, &chain, &state).await;
    assert_eq!(restored.expect("sound"), made);
    for world in [&world, &elsewhere] {
        world.tick().await;
        world.work(&warm, 0).await;
        world.work(&warm, 1).await;
        world.tick().await;
    }
    assert_eq!(elsewhere.last_record(made).await, world.last_record(made).await);
    let gone = elsewhere.coordinator.theta(made, RoundId(0)).await.expect_err("never came along");
    assert_eq!(gone.problem_type(), ProblemType::Gone);

    let mut other = adapter.theta.clone();
    other[0] += 1.0;
    // From another seed every A differs, and a quarter of the entries cannot tell that.
    let strange = Manifest { seed: 2, ..warm.clone() };
    for (manifest, theta) in [
        (warm.clone(), Some(other)),
        (Manifest { rounds: 9, ..warm.clone() }, None),
        (Manifest { start: None, ..warm.clone() }, Some(adapter.theta.clone())),
        (strange, Some(adapter.theta.clone())),
    ] {
        let refused = create(manifest, theta).await;
        assert!(matches!(refused, Err(CoordinatorError::Start(_))), "{refused:?}");
    }
}
