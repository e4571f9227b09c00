//! Buffered rounds: what is late counts once, in the round that is on, by its weight.

use std::num::NonZeroU32;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::RoundId;
use gossamer_protocol::manifest::{Buffered, Manifest, ServerOptimizer};
use gossamer_protocol::message::{Assignment, Receipt, Record};
use gossamer_protocol::problem::ProblemType as P;
use gossamer_protocol::sign::Purpose;
use gossamer_server::coordinator::Folding;
use gossamer_server::status::Status;

use crate::fixtures::{id, key, manifest, share, update};
use crate::site::{Site, on_every_store};
use crate::world::server_key;

on_every_store!(a_late_update_counts_once_and_less, one_that_is_too_late_is_refused);

/// Two updates a round, four clients at work, two rounds late at most; nothing left out.
fn buffered() -> Manifest {
    let mut manifest = manifest();
    manifest.rounds = 3;
    (manifest.cohort.goal, manifest.cohort.ask, manifest.cohort.min) = (2, 4, 1);
    manifest.cohort.buffered = Some(Buffered { staleness_max: 2 });
    (manifest.method.download.density, manifest.method.upload.density) = (share(1.0), share(1.0));
    manifest.optimizer = ServerOptimizer::Sgd { lr: 1.0, momentum: 0.0 };
    manifest
}

/// The entries that [`update`] gives client `b` for a task, as Python would add them.
fn delta(manifest: &Manifest, task: &Assignment, b: u8) -> Vec<f64> {
    let mut dense = vec![0.0; manifest.layout.n()];
    update(manifest, task, b"", id(&key(b))).delta.add_to(&mut dense);
    dense.into_iter().map(f64::from).collect()
}

/// By the mean of two: `theta + (w_a a + w_b b) / 2`.
fn after(theta: &[f64], a: (f64, Vec<f64>), b: (f64, Vec<f64>)) -> Vec<f64> {
    let both = a.1.iter().zip(&b.1);
    theta.iter().zip(both).map(|(t, (x, y))| t + (a.0 * x + b.0 * y) / 2.0).collect()
}

async fn a_late_update_counts_once_and_less(site: Site) {
    let manifest = buffered();
    // Every update is a part of its own, where processes share the store.
    let part = Folding { part: NonZeroU32::MIN, ..Folding::default() };
    let mut world = site.world().await;
    let run = world.start(&manifest, 4).await;
    world.tick().await;
    let mut tasks = Vec::new();
    for b in 0..4 {
        tasks.push(world.task(b).await);
    }
    let mut receipts = Vec::new();
    let mut expected: Vec<f64> =
        manifest.layout.init(manifest.seed).into_iter().map(f64::from).collect();
    // 2^-15 round(2^15 / sqrt(1 + s)).
    let weights = [1.0, 23_170.0 / 32_768.0, 18_919.0 / 32_768.0];

    for (round, (late, now)) in [(0, 1), (2, 0), (3, 1)].into_iter().enumerate() {
        world = site.again(world).await;
        world.coordinator.set_folding(part);
        world.tick().await;
        let task = world.task(now).await;
        assert_eq!(task.round, RoundId(round as u64));
        let again = world.task(late).await;
        assert_eq!((again.round, again.snapshot), (RoundId(0), tasks[0].snapshot), "the same task");
        let frame = world.frame(&manifest, &again, late).await;
        // Whichever comes first.
        if round == 1 {
            world.work(&manifest, now).await;
        }
        let signed = world.send(&again, late, frame.clone()).await.expect("taken");
        let receipt: Receipt = signed.open(&server_key().public(), Purpose::Receipt).expect("ours");
        assert_eq!((receipt.round, receipt.client), (RoundId(0), id(&key(late))));
        receipts.push(signed.clone());
        if round != 1 {
            world = site.again(world).await;
            world.coordinator.set_folding(part);
            world.work(&manifest, now).await;
        }
        world.tick().await;
        let (a, b) = (delta(&manifest, &again, late), delta(&manifest, &task, now));
        expected = after(&expected, (weights[round], a), (1.0, b));
        assert_eq!(world.send(&again, late, frame).await.expect("again"), signed, "and for ever");
    }

    let view = world.coordinator.run(run).await.expect("there");
    assert_eq!((view.status, view.round), (Status::Complete, RoundId(3)));
    for (round, late, now) in [(1, 2, 0), (2, 3, 1)] {
        let signed = world.coordinator.record(run, RoundId(round + 1)).await.expect("there");
        let record: Record = signed.open(&server_key().public(), Purpose::Record).expect("ours");
        let of = |b: u8| if b == late { round as u32 } else { 0 };
        let mut order = [late, now];
        order.sort_by_key(|&b| id(&key(b)));
        assert_eq!(record.staleness, order.map(of), "in client order");
        assert_eq!(record.accepted, 2);
        // By the round that it was made for, as its receipt has it.
        let proof = world.coordinator.inclusion(run, RoundId(0), id(&key(late))).await;
        let proof = proof.expect("counted");
        assert_eq!((proof.head.round, proof.head.size), (RoundId(round), 2));
        assert_eq!(proof.head.record, Digest::of(&signed.bytes));
        assert_eq!(proof.verify(&server_key().public(), &receipts[round as usize].bytes), Ok(()));
    }
    let theta = world.coordinator.theta(run, RoundId(3)).await.expect("over");
    for (i, (got, want)) in theta.iter().zip(&expected).enumerate() {
        assert!((f64::from(*got) - want).abs() < 1e-6, "{i}: {got}, expected {want}");
    }
}

async fn one_that_is_too_late_is_refused(site: Site) {
    let mut manifest = buffered();
    manifest.cohort.buffered = Some(Buffered { staleness_max: 1 });
    let world = site.world().await;
    let run = world.start(&manifest, 4).await;
    world.tick().await;
    let task = world.task(3).await;
    let frame = world.frame(&manifest, &task, 3).await;
    for _ in 0..2 {
        world.work(&manifest, 0).await;
        world.work(&manifest, 1).await;
        world.tick().await;
    }
    let refused = world.send(&task, 3, frame).await.expect_err("two rounds ago");
    assert_eq!(refused.problem_type(), P::StaleRound);
    let new = world.task(3).await;
    assert_eq!(new.round, RoundId(2), "and it has another task");
    assert_eq!(world.coordinator.cohort(run).await.expect("there"), [id(&key(3))]);
}
