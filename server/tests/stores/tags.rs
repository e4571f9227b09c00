//! Tags and canaries: names for adapters, whichever process sets them.

use std::time::Duration;

use gossamer_protocol::ids::{ClientId, RoundId, RunId};
use gossamer_protocol::message::Enrolment;
use gossamer_protocol::problem::ProblemType as P;
use gossamer_server::coordinator::CoordinatorError;
use gossamer_server::project::ProjectName;
use gossamer_server::tag::{Adapter, Permille, TagName};

use crate::fixtures::{key, manifest};
use crate::site::{Site, on_every_store};
use crate::world::World;

on_every_store!(a_tag_is_set_moved_tried_and_dropped, a_tag_is_its_projects);

fn tag(name: &str) -> TagName {
    name.parse().expect("a name")
}

fn share(permille: u16) -> Permille {
    permille.try_into().expect("a share")
}

fn name<T>(done: Result<T, CoordinatorError>) -> P {
    done.err().expect("refused").problem_type()
}

async fn told(world: &World, last: u32) -> Vec<String> {
    let entries = world.coordinator.audit(u64::MAX, last).await.expect("told");
    entries.iter().rev().map(|entry| entry.entry.get().to_owned()).collect()
}

async fn a_tag_is_set_moved_tried_and_dropped(site: Site) {
    let (world, other) = (site.world().await, site.world().await);
    let terms = manifest();
    let run = world.start(&terms, 2).await;
    world.finish(&terms, run, &[0, 1]).await;
    other.tick().await;
    let at = |round| Adapter { run, round: RoundId(round) };
    let stable = tag("stable");
    let one = &world.coordinator;
    assert_eq!(name(one.set_tag(&stable, at(3)).await), P::UnknownRound, "not published");
    let nowhere = Adapter { run: RunId([9; 16]), round: RoundId(0) };
    assert_eq!(name(one.set_tag(&stable, nowhere).await), P::UnknownRun);
    assert_eq!(name(one.set_canary(&stable, Some(at(1)), share(5)).await), P::UnknownName);
    assert_eq!(name(one.remove_tag(&stable).await), P::UnknownName);

    assert_eq!(one.set_tag(&stable, at(0)).await.expect("made").adapter, at(0));
    assert_eq!(one.set_tag(&stable, at(1)).await.expect("moved").adapter, at(1));
    assert_eq!(name(one.set_canary(&stable, None, share(5)).await), P::UnknownName, "of what?");
    let two = &other.coordinator;
    two.set_canary(&stable, Some(at(2)), share(100)).await.expect("on trial");
    let raised = two.set_canary(&stable, None, share(300)).await.expect("raised");
    let canary = raised.canary.expect("there");
    assert_eq!((canary.adapter, canary.permille), (at(2), share(300)));
    assert_eq!(one.tags().await.expect("listed"), std::slice::from_ref(&raised));
    // Moving the tag is no matter of the canary's.
    let moved = one.set_tag(&stable, at(0)).await.expect("moved");
    assert_eq!(moved.canary.expect("goes on").adapter, at(2));
    one.end_canary(&stable, false).await.expect("taken back");
    assert_eq!(name(two.end_canary(&stable, true).await), P::UnknownName, "nothing is on trial");
    two.set_canary(&stable, Some(at(2)), share(1)).await.expect("on trial");
    two.end_canary(&stable, true).await.expect("promoted");
    let world = site.again(world).await;
    let one = &world.coordinator;
    let stands = one.tag(&stable).await.expect("there");
    assert_eq!((stands.adapter, stands.canary), (at(2), None));
    one.set_canary(&stable, Some(at(1)), share(1000)).await.expect("on trial");
    one.remove_tag(&stable).await.expect("dropped");
    assert_eq!(one.tags().await.expect("listed"), []);
    one.set_tag(&stable, at(1)).await.expect("made anew");
    assert_eq!(one.tag(&stable).await.expect("there").canary, None, "its canary went too");

    let entries = told(&world, 12).await;
    let expected = [
        ("tag-set", "\"round\":0"),
        ("tag-set", "\"round\":1"),
        ("canary-set", "\"permille\":100"),
        ("canary-set", "\"permille\":300"),
        ("tag-set", "\"round\":0"),
        ("canary-ended", "\"round\":2"),
        ("canary-set", "\"permille\":1"),
        ("canary-promoted", "\"round\":2"),
        ("canary-set", "\"permille\":1000"),
        ("tag-removed", "\"tag\":\"stable\""),
        ("tag-set", "\"round\":1"),
    ];
    let entries = &entries[entries.len() - expected.len()..];
    for (entry, (action, says)) in entries.iter().zip(expected) {
        let fits = entry.contains(&format!("\"action\":\"{action}\"")) && entry.contains(says);
        assert!(fits, "{action} {says}: {entry}");
    }
}

async fn enrol(coordinator: &gossamer_server::coordinator::Coordinator, b: u8) -> ClientId {
    let secret = coordinator.new_token(Duration::from_secs(60)).await.expect("a token");
    coordinator.enrol(&Enrolment::new(&secret, &key(b))).await.expect("enrols").client
}

async fn a_tag_is_its_projects(site: Site) {
    let world = site.world().await;
    let project = |name: &str| -> ProjectName { name.parse().expect("a name") };
    let mut handles = Vec::new();
    for (b, called) in [(0, "acme"), (10, "other")] {
        world.coordinator.add_project(project(called)).await.expect("made");
        let handle = world.coordinator.within(Some(project(called)));
        enrol(&handle, b).await;
        let mut terms = manifest();
        terms.seed = b.into();
        let run = handle.create_run(&terms).await.expect("a run");
        handles.push((handle, Adapter { run, round: RoundId(0) }));
    }
    let (acme, other) = (&handles[0], &handles[1]);
    let stable = tag("stable");
    assert_eq!(name(acme.0.set_tag(&stable, other.1).await), P::UnknownRun, "foreign");
    for (handle, adapter) in [acme, other] {
        // Whoever sees all makes it in the run's project.
        let all = world.coordinator.set_tag(&stable, *adapter).await.expect("made");
        assert_eq!(all, handle.tag(&stable).await.expect("there"));
    }
    let foreign = acme.0.set_canary(&stable, Some(other.1), share(500)).await;
    assert_eq!(name(foreign), P::UnknownRun);
    assert_eq!(name(world.coordinator.tag(&stable).await), P::BadRequest, "which of the two?");
    assert_eq!(name(world.coordinator.remove_tag(&stable).await), P::BadRequest);
    acme.0.remove_tag(&stable).await.expect("its own");
    assert_eq!(name(acme.0.tag(&stable).await), P::UnknownName);
    assert_eq!(world.coordinator.tag(&stable).await.expect("one is left").adapter, other.1);
}
