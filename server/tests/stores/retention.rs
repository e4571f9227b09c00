//! Snapshots that nobody needs go, by name; what is needed stays, on every store.

use std::num::NonZeroU32;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::RoundId;
use gossamer_protocol::message::Record;
use gossamer_protocol::problem::ProblemType as P;
use gossamer_protocol::sign::Purpose;
use gossamer_server::coordinator::CoordinatorError;
use gossamer_server::status::Status;
use gossamer_server::tag::{Adapter, TagName};

use crate::fixtures::{id, key, manifest};
use crate::site::{Site, on_every_store};
use crate::world::{World, server_key};

on_every_store!(what_nobody_needs_goes_and_says_so);

/// Closed rounds: four more than differences reach back.
const CLOSED: u64 = 68;

fn name<T>(done: Result<T, CoordinatorError>) -> P {
    done.err().expect("refused").problem_type()
}

async fn record(world: &World, run: gossamer_protocol::ids::RunId, round: u64) -> Record {
    let signed = world.coordinator.record(run, RoundId(round)).await.expect("records stay");
    signed.open(&server_key().public(), Purpose::Record).expect("ours")
}

async fn what_nobody_needs_goes_and_says_so(site: Site) {
    let mut terms = manifest();
    // Going back takes a round.
    terms.rounds = CLOSED + 2;
    (terms.cohort.goal, terms.cohort.ask) = (1, 1);
    let world = site.world().await;
    let run = world.start(&terms, 1).await;
    world.tick().await;
    for _ in 0..CLOSED {
        world.work(&terms, 0).await;
        world.tick().await;
    }
    let stable: TagName = "stable".parse().expect("a name");
    let at = |round| Adapter { run, round: RoundId(round) };
    world.coordinator.set_tag(&stable, at(2)).await.expect("tagged");
    let keep = NonZeroU32::new(3).expect("not 0");
    let told = world.coordinator.prune(run, keep, true).await.expect("told");

    // All losses are 2.0, so the first round is the best. Rounds 66 to 68 are the last three. Differences start from
    // 64 rounds before round 68 at most, which is round 4.
    let rounds = |of: &[u64]| of.iter().map(|&round| RoundId(round)).collect::<Vec<_>>();
    assert_eq!(told.snapshots, rounds(&[1, 3]));
    assert_eq!(told.states, rounds(&[&[1][..], &(3..66).collect::<Vec<_>>()].concat()));
    let (one, three) = (record(&world, run, 1).await, record(&world, run, 3).await);
    // A state has a header of 24 bytes and 20 parameters with two slots each, of four bytes: server/src/state.rs.
    assert_eq!(told.bytes, one.snapshot_bytes + three.snapshot_bytes + 64 * (24 + 3 * 20 * 4));
    world.coordinator.theta(run, RoundId(1)).await.expect("it was only told");
    world.coordinator.export_round(run, RoundId(1)).await.expect("it was only told");

    assert_eq!(world.coordinator.prune(run, keep, false).await.expect("done"), told);
    let world = site.again(world).await;
    let it = &world.coordinator;
    assert_eq!(it.prune(run, keep, false).await.expect("done"), Default::default());
    for round in [1, 3] {
        assert_eq!(name(it.export_round(run, RoundId(round)).await), P::Gone, "{round}");
        assert_eq!(name(it.published(run, RoundId(round)).await), P::Gone, "{round}");
        assert_eq!(name(it.set_tag(&stable, at(round)).await), P::Gone, "{round}");
    }
    assert_eq!(name(it.object(run, one.snapshot).await), P::Gone);
    let never = Digest::of(b"never was");
    assert_eq!(name(it.object(run, never).await), P::UnknownObject);
    assert_eq!(name(it.theta(run, RoundId(65)).await), P::Gone);
    it.set_status(run, Status::Paused).await.expect("told");
    assert_eq!(name(it.roll_back(run, RoundId(65)).await), P::Gone);
    it.set_status(run, Status::Running).await.expect("told");

    // What is needed: tagged and best whole; late clients' snapshots; proofs of what was counted.
    for round in [0, 2, 66, 67, 68] {
        it.theta(run, RoundId(round)).await.expect("kept");
        it.export_round(run, RoundId(round)).await.expect("kept");
    }
    it.difference(run, RoundId(CLOSED), RoundId(4)).await.expect("from a kept one");
    let proof = it.inclusion(run, RoundId(1), id(&key(0))).await.expect("kept");
    assert_eq!(proof.head.size, 1);
    let told = it.audit(u64::MAX, 10).await.expect("told");
    let entry = told.iter().find(|entry| entry.entry.get().contains("snapshots-removed"));
    let entry = entry.expect("told").entry.get().to_owned();
    assert!(entry.contains("\"last\":65,\"snapshots\":2,\"states\":64"), "{entry}");

    world.tick().await;
    world.work(&terms, 0).await;
    world.tick().await;
    let view = world.coordinator.run(run).await.expect("there");
    assert_eq!((view.round.0, view.status), (CLOSED + 1, Status::Running));
}
