//! Projects on every store, through several handles at once.

use std::time::Duration;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::manifest::Selection;
use gossamer_protocol::message::{CheckIn, Enrolment, Receipt};
use gossamer_protocol::problem::ProblemType as P;
use gossamer_protocol::sign::Purpose;
use gossamer_server::coordinator::{Coordinator, CoordinatorError};
use gossamer_server::operator::Role;
use gossamer_server::project::ProjectName;

use crate::fixtures::{id, key, manifest};
use crate::site::{Site, on_every_store};
use crate::world::{World, server_key};

on_every_store!(
    what_is_of_one_project_is_not_there_for_another,
    a_rounds_cohort_is_its_projects,
    an_operators_name_is_its_projects,
    a_receipt_is_proven_to_be_counted,
);

fn project(name: &str) -> ProjectName {
    name.parse().expect("a name")
}

fn name(error: CoordinatorError) -> P {
    error.problem_type()
}

async fn enrol(coordinator: &Coordinator, b: u8) -> ClientId {
    let secret = coordinator.new_token(Duration::from_secs(60)).await.expect("a token");
    coordinator.enrol(&Enrolment::new(&secret, &key(b))).await.expect("enrols").client
}

async fn what_is_of_one_project_is_not_there_for_another(site: Site) {
    let (first, second) = (site.world().await, site.world().await);
    let all = &first.coordinator;
    all.add_project(project("acme")).await.expect("made");
    let taken = second.coordinator.add_project(project("acme")).await.expect_err("there");
    assert_eq!(name(taken), P::NameTaken);
    let names = second.coordinator.projects().await.expect("listed");
    let names: Vec<_> = names.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["acme", "default"]);
    let unknown = all.narrowed(Some(project("none"))).await.expect_err("none of that name");
    assert_eq!(name(unknown), P::UnknownName);

    let acme = all.narrowed(Some(project("acme"))).await.expect("there");
    let other = second.coordinator.within(Some(ProjectName::default()));
    let client = enrol(&acme, 1).await;
    let run = acme.create_run(&manifest()).await.expect("a run");
    first.tick().await;
    second.tick().await;
    // From the other process too, and for whoever sees all.
    assert!(second.coordinator.run(run).await.is_ok());
    assert!(second.coordinator.within(Some(project("acme"))).run(run).await.is_ok());
    assert_eq!(name(other.run(run).await.expect_err("foreign")), P::UnknownRun);
    assert_eq!(name(other.client(client).await.expect_err("foreign")), P::UnknownClient);
    assert_eq!(name(other.revoke(client, "").await.expect_err("foreign")), P::UnknownClient);
    assert_eq!(other.runs().await.expect("listed"), []);
    assert_eq!(other.clients(None, 10).await.expect("listed"), []);
    let taken = other.create_run(&manifest()).await.expect_err("ids come from the terms alone");
    assert_eq!(name(taken), P::NameTaken);

    // Tokens: listed and voided by their own project alone; a key is of one project.
    let secret = acme.new_token(Duration::from_secs(60)).await.expect("a token");
    assert_eq!(other.tokens(10).await.expect("listed"), []);
    let ours = acme.tokens(10).await.expect("listed");
    let unused = ours.iter().find(|token| token.used == 0).expect("the new one").token;
    assert_eq!(name(other.revoke_token(unused).await.expect_err("foreign")), P::UnknownName);
    let theirs = enrol(&other, 2).await;
    let refused = other.enrol(&Enrolment::new(&secret, &key(2))).await.expect_err("of another");
    assert_eq!(name(refused), P::BadToken);
    let used = acme.tokens(10).await.expect("listed").iter().map(|token| token.used).sum::<u32>();
    assert_eq!(used, 1, "what was refused uses no token up");
    acme.revoke_token(unused).await.expect("its own");

    // A client of another project is told of no run, and what it asks for by name is not there.
    let ask = CheckIn { run: Some(run) };
    let refused = second.coordinator.check_in(theirs, &ask).await.expect_err("foreign");
    assert_eq!(name(refused), P::UnknownRun);

    // The audit log: each sees its own, and the whole is one chain.
    let text = |entries: Vec<gossamer_server::store::Entry>| {
        entries.iter().map(|e| e.entry.get().to_owned()).collect::<Vec<_>>().join("\n")
    };
    let seen = text(acme.audit(u64::MAX, 100).await.expect("told"));
    assert!(seen.contains("run-created") && seen.contains(&client.to_string()), "{seen}");
    assert!(seen.lines().all(|entry| entry.contains("\"project\":\"acme\"")), "{seen}");
    let seen = text(other.audit(u64::MAX, 100).await.expect("told"));
    assert!(seen.contains(&theirs.to_string()), "{seen}");
    assert!(!seen.contains("acme") && !seen.contains(&client.to_string()), "{seen}");
    let whole = first.coordinator.store().verify_audit(&server_key().public(), None).await;
    assert!(whole.is_ok(), "{whole:?}");
}

async fn a_rounds_cohort_is_its_projects(site: Site) {
    let (first, second) = (site.world().await, site.world().await);
    first.coordinator.add_project(project("acme")).await.expect("made");
    let acme = first.coordinator.within(Some(project("acme")));
    let mut ours = vec![enrol(&acme, 1).await, enrol(&acme, 2).await];
    for b in 3..8 {
        first.enrol(b).await;
    }
    ours.sort();
    let mut terms = manifest();
    (terms.cohort.selection, terms.cohort.ask) = (Selection::Seeded, 3);
    let run = acme.create_run(&terms).await.expect("a run");
    second.tick().await;
    // Three seats, and two clients that it may ask.
    assert_eq!(second.coordinator.cohort(run).await.expect("there"), ours);
    let world = site.again(second).await;
    assert_eq!(world.coordinator.cohort(run).await.expect("there"), ours);
    for b in [1, 2] {
        world.work(&terms, b).await;
    }
    world.tick().await;
    assert_eq!(world.coordinator.run(run).await.expect("there").round, RoundId(1));
}

async fn an_operators_name_is_its_projects(site: Site) {
    let (first, second) = (site.world().await, site.world().await);
    first.coordinator.add_project(project("acme")).await.expect("made");
    let (all, acme) = (&first.coordinator, second.coordinator.within(Some(project("acme"))));
    let eva = || "eva".parse().expect("a name");
    all.add_operator(eva(), Role::Admin, None).await.expect("made");
    let (made, _) = acme.add_operator(eva(), Role::Admin, None).await.expect("another's name");
    assert_eq!((made.project.clone(), made.called()), (Some(project("acme")), "acme/eva".into()));
    assert_eq!(acme.operators().await.expect("listed"), [made]);
    assert_eq!(all.operators().await.expect("listed").len(), 2);
    acme.revoke_operator(&eva()).await.expect("its own");
    let gone = acme.revoke_operator(&eva()).await.expect_err("that of all projects is another");
    assert_eq!(name(gone), P::UnknownName);
    assert_eq!(all.operators().await.expect("listed").len(), 1);
}

async fn a_receipt_is_proven_to_be_counted(site: Site) {
    let world = site.world().await;
    let terms = manifest();
    let run = world.start(&terms, 3).await;
    world.tick().await;
    let (client, other) = (id(&key(0)), id(&key(2)));
    let ask =
        async |world: &World, client| world.coordinator.inclusion(run, RoundId(0), client).await;
    let receipts = [world.work(&terms, 0).await, world.work(&terms, 1).await];
    assert_eq!(name(ask(&world, client).await.expect_err("it is on")), P::UnknownRound);
    world.tick().await;
    let proof = ask(&world, client).await.expect("closed");
    let record = world.coordinator.record(run, RoundId(1)).await.expect("published");
    assert_eq!((proof.head.size, proof.head.record), (2, Digest::of(&record.bytes)));
    let key = server_key().public();
    assert_eq!(proof.verify(&key, &receipts[0].bytes), Ok(()));
    assert!(proof.verify(&key, &receipts[1].bytes).is_err());
    let receipt: Receipt = receipts[0].open(&key, Purpose::Receipt).expect("signed");
    assert_eq!(receipt.client, client);
    assert_eq!(name(ask(&world, other).await.expect_err("sent none")), P::UnknownObject);
    let (world, before) = (site.again(world).await, proof);
    assert_eq!(ask(&world, client).await.expect("from the rows"), before);
}
