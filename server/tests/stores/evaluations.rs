//! Federated evaluation, and rules that end a run by it.

use gossamer_protocol::ids::RoundId;
use gossamer_protocol::manifest::{Evaluation, Manifest, Metric, Stop};
use gossamer_protocol::message::{Answer, Measured};
use gossamer_protocol::problem::ProblemType as P;
use gossamer_server::coordinator::CoordinatorError;
use gossamer_server::status::Status;
use gossamer_server::store::Evaluated;

use crate::fixtures::{id, key, manifest, share};
use crate::site::{Site, on_every_store};
use crate::world::World;

on_every_store!(losses_are_summed_exactly_and_end_the_run, a_budget_of_bytes_ends_the_run);

fn evaluated() -> Manifest {
    let mut manifest = manifest();
    manifest.rounds = 9;
    manifest.evaluation = Some(Evaluation { clients: share(1.0) });
    manifest.stop = Some(Stop {
        metric: Metric::Evaluation,
        target: Some(1.5),
        patience: None,
        bytes_up: None,
        bytes_down: None,
    });
    manifest
}

async fn tell(
    world: &World,
    (by, of): (u8, u8),
    round: u64,
    (targets, units): (u64, u64),
) -> Result<(), CoordinatorError> {
    let run = world.coordinator.runs().await.expect("told")[0].run;
    let measured = Measured { targets, loss: units };
    let (by, of) = (id(&key(by)), id(&key(of)));
    world.coordinator.measured(by, run, RoundId(round), of, &measured).await
}

async fn losses_are_summed_exactly_and_end_the_run(site: Site) {
    let manifest = evaluated();
    let mut world = site.world().await;
    let run = world.start(&manifest, 4).await;
    world.tick().await;
    for b in 0..3 {
        world.task(b).await;
    }
    // 6 nats over three targets and 3 over one: 9 / 4.
    tell(&world, (0, 0), 0, (3, 6 << 16)).await.expect("taken");
    tell(&world, (0, 0), 0, (9, 0)).await.expect("the first word stands");
    world = site.again(world).await;
    tell(&world, (1, 1), 0, (1, 3 << 16)).await.expect("taken");
    for (who, round, measured, problem) in [
        ((0, 1), 0, (1, 1), P::NotYours),
        ((2, 2), 0, (0, 0), P::BadValue),
        ((2, 2), 0, (1, 1 << 25), P::BadValue),
        ((3, 3), 0, (1, 1), P::NotInCohort),
        ((2, 2), 1, (1, 1), P::UnknownRound),
    ] {
        let refused = tell(&world, who, round, measured).await.expect_err("refused");
        assert_eq!(refused.problem_type(), problem, "{who:?} {round} {measured:?}");
    }
    world.work(&manifest, 0).await;
    world.work(&manifest, 1).await;
    world.tick().await;
    let late = tell(&world, (0, 0), 0, (1, 1)).await.expect_err("the round is over");
    assert!(matches!(late.problem_type(), P::StaleRound), "{late}");
    let view = world.coordinator.run(run).await.expect("there");
    assert_eq!((view.status, view.round), (Status::Running, RoundId(1)), "2.25 is not enough");

    world.task(0).await;
    // 3 nats over two targets.
    tell(&world, (0, 0), 1, (2, 3 << 16)).await.expect("taken");
    world = site.again(world).await;
    world.work(&manifest, 0).await;
    world.work(&manifest, 1).await;
    world.tick().await;
    world = site.again(world).await;
    let view = world.coordinator.run(run).await.expect("there");
    assert_eq!((view.status, view.round), (Status::Complete, RoundId(2)));
    assert_eq!(view.note, "stop.target: a loss of 1.5000, wanted 1.5");
    let rounds = world.coordinator.rounds(run, RoundId(0), 9).await.expect("told");
    let told: Vec<_> = rounds.iter().map(|row| row.evaluation).collect();
    let of = |clients, targets, loss| Some(Evaluated { clients, targets, loss });
    assert_eq!(told, [of(2, 4, 2.25), of(1, 2, 1.5)]);
    let over = world.ask(0).await;
    assert!(matches!(&over, Answer::Over { reason } if reason.contains("stop.target")), "{over:?}");
}

async fn a_budget_of_bytes_ends_the_run(site: Site) {
    let mut manifest = manifest();
    manifest.rounds = 9;
    let world = site.world().await;
    let run = world.start(&manifest, 3).await;
    world.tick().await;
    let task = world.task(0).await;
    let frame = world.frame(&manifest, &task, 0).await.len() as u64;
    assert_eq!(run, task.run);
    world.coordinator.set_status(run, Status::Aborted).await.expect("told");
    // Two updates a round, all about as long: over after the second round, whatever the entries.
    let stop = Stop { bytes_up: Some(3 * frame), ..serde_json::from_str("{}").expect("defaults") };
    manifest.stop = Some(stop);
    let run = world.coordinator.create_run(&manifest).await.expect("made");
    for _ in 0..2 {
        world.tick().await;
        world.work(&manifest, 0).await;
        world.work(&manifest, 1).await;
    }
    world.tick().await;
    let view = world.coordinator.run(run).await.expect("there");
    assert_eq!((view.status, view.round), (Status::Complete, RoundId(2)), "{}", view.note);
    assert!(view.note.starts_with("stop.bytes_up: "), "{}", view.note);
}
