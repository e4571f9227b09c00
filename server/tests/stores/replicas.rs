//! Several processes on one shared store at once: each is a coordinator with a handle of its own.

use std::num::NonZeroU32;
use std::time::Duration;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{Attempt, RoundId, RunId};
use gossamer_protocol::manifest::{Average, Manifest, Selection};
use gossamer_protocol::message::{CheckIn, Record};
use gossamer_protocol::problem::ProblemType as P;
use gossamer_protocol::sign::Purpose;
use gossamer_server::clock::Timestamp;
use gossamer_server::coordinator::Folding;
use gossamer_server::status::Status;
use gossamer_server::store::Kind;
use gossamer_services::{Postgres, S3};

use crate::fixtures::{id, key, manifest};
use crate::site::{BEGIN, Site};
use crate::world::{World, server_key};

/// What an undisturbed run in memory ends with.
async fn undisturbed(manifest: &Manifest, clients: u8) -> Record {
    let world = World::in_memory().await;
    let run = world.start(manifest, clients).await;
    let order: Vec<u8> = (0..clients).collect();
    world.finish(manifest, run, &order).await
}

/// Everybody asked and taken in every round.
fn of_all(clients: u8, rounds: u64) -> Manifest {
    let mut manifest = manifest();
    manifest.rounds = rounds;
    let all = u32::from(clients);
    (manifest.cohort.goal, manifest.cohort.ask, manifest.cohort.min) = (all, all, all);
    manifest
}

async fn round_of(world: &World, run: RunId) -> RoundId {
    world.coordinator.run(run).await.expect("there").round
}

/// How many entries of that action the audit log has.
async fn told(world: &World, action: &str) -> usize {
    let entries = world.coordinator.audit(u64::MAX, 10_000).await.expect("told");
    let action = format!("\"action\":\"{action}\"");
    entries.iter().filter(|entry| entry.entry.get().contains(&action)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_replica_answers_any_request() {
    let site = Site::new(true, true).await;
    let (a, b) = (site.world().await, site.world().await);
    let manifest = manifest();
    let run = a.start(&manifest, 3).await;
    // Nobody ticked at b: it finds clients and runs when they are asked for.
    a.tick().await;
    let task = b.task(0).await;
    assert_eq!((task.run, task.round), (run, RoundId(0)));
    assert_eq!(a.task(0).await.snapshot, task.snapshot);
    let frame = b.frame(&manifest, &task, 0).await;
    let receipt = b.send(&task, 0, frame.clone()).await.expect("accepted");
    assert_eq!(a.send(&task, 0, frame).await.expect("again"), receipt);
    // The last one comes to a, which has not been told of the first; b closes.
    a.work(&manifest, 1).await;
    b.tick().await;
    assert_eq!(round_of(&a, run).await, RoundId(1));
    let task = a.task(2).await;
    assert_eq!(task.round, RoundId(1), "a goes on where b is");
    let frame = b.frame(&manifest, &task, 2).await;
    b.send(&task, 2, frame).await.expect("accepted");
    b.coordinator.set_status(run, Status::Aborted).await.expect("told");
    let refused = a.send(&task, 2, "other".into()).await.expect_err("over");
    assert!(matches!(refused.problem_type(), P::Conflict | P::RunOver), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_after_the_freeze_is_late_everywhere() {
    let site = Site::new(true, true).await;
    let (a, b) = (site.world().await, site.world().await);
    let manifest = manifest();
    let run = a.start(&manifest, 3).await;
    a.tick().await;
    let late = b.task(2).await;
    for client in [0, 1] {
        a.work(&manifest, client).await;
    }
    // Frozen at a, not closed yet; b had it open when it looked last.
    let frame = b.frame(&manifest, &late, 2).await;
    let refused = b.send(&late, 2, frame).await.expect_err("late");
    assert_eq!(refused.problem_type(), P::StaleRound);
    b.tick().await;
    assert_eq!(a.last_record(run).await.accepted, 2);
}

/// Clients come to both at once, and both close at once, in every round.
#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_at_once_come_to_what_one_comes_to() {
    const CLIENTS: u8 = 24;
    const ROUNDS: u64 = 5;
    for selection in [Selection::FirstCome, Selection::Seeded] {
        let mut manifest = of_all(CLIENTS, ROUNDS);
        manifest.cohort.selection = selection;
        let site = Site::new(true, true).await;
        let (a, b) = (site.world().await, site.world().await);
        let run = a.start(&manifest, CLIENTS).await;
        b.tick().await;
        for round in 0..ROUNDS {
            let (opened, too) = tokio::join!(a.coordinator.tick(), b.coordinator.tick());
            opened.and(too).expect("both look");
            let work = |world: &World, client: u8| {
                let world =
                    World { coordinator: world.coordinator.clone(), clock: world.clock.clone() };
                let manifest = manifest.clone();
                tokio::spawn(async move { world.work(&manifest, client).await })
            };
            let work = (0..CLIENTS).map(|c| work(if c % 2 == 0 { &a } else { &b }, c));
            for done in futures_util::future::join_all(work).await {
                done.expect("accepted");
            }
            let (closed, too) = tokio::join!(a.coordinator.tick(), b.coordinator.tick());
            closed.and(too).expect("one publishes, the other finds the same");
            assert_eq!(round_of(&a, run).await, RoundId(round + 1));
            assert_eq!(round_of(&b, run).await, RoundId(round + 1));
        }
        assert_eq!(b.last_record(run).await, undisturbed(&manifest, CLIENTS).await);
        assert_eq!(told(&a, "round-closed").await, ROUNDS as usize);
        let log = a.coordinator.store().verify_audit(&server_key().public(), None).await;
        log.expect("one chain");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_abandons_and_the_other_goes_along() {
    let site = Site::new(true, true).await;
    let (a, b) = (site.world().await, site.world().await);
    let mut manifest = manifest();
    (manifest.cohort.goal, manifest.cohort.min) = (3, 2);
    let run = a.start(&manifest, 3).await;
    a.tick().await;
    a.work(&manifest, 0).await;
    b.task(1).await;
    site.clock.advance(Duration::from_secs(60));
    let (first, second) = tokio::join!(a.coordinator.tick(), b.coordinator.tick());
    first.and(second).expect("both look");
    assert_eq!(told(&a, "round-abandoned").await, 1);
    for world in [&a, &b] {
        let view = world.coordinator.run(run).await.expect("there");
        assert_eq!((view.attempt, view.accepted, view.asked), (Attempt(1), 1, 0));
    }
    b.work(&manifest, 1).await;
    a.work(&manifest, 2).await;
    b.tick().await;
    assert_eq!(a.last_record(run).await.accepted, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_begins_beside_another_takes_nothing_over() {
    let site = Site::new(true, true).await;
    let a = site.world().await;
    let run = a.start(&manifest(), 3).await;
    a.coordinator.take_over().await.expect("the first");
    a.tick().await;
    let deadline = || async { a.coordinator.run(run).await.expect("there").deadline_ms };
    let before = deadline().await;
    assert_eq!(before, Some(BEGIN.0 + 60_000));
    site.clock.advance(Duration::from_secs(2));
    a.tick().await;
    site.world().await.coordinator.take_over().await.expect("beside");
    assert_eq!(deadline().await, before);
    // All were gone: of two that begin at once, one gives the time back.
    site.clock.advance(Duration::from_secs(30));
    let (b, c) = (site.world().await, site.world().await);
    let (first, second) = tokio::join!(b.coordinator.take_over(), c.coordinator.take_over());
    first.and(second).expect("after");
    assert_eq!(deadline().await, Some(BEGIN.0 + 32_000 + 60_000));
}

/// A round in six parts, folded by two at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_round_in_parts_is_the_round_as_a_whole() {
    const CLIENTS: u8 = 23;
    for average in [Average::Cohort, Average::Contributors] {
        let mut manifest = of_all(CLIENTS, 2);
        manifest.method.average = average;
        let site = Site::new(true, true).await;
        let (a, b) = (site.world().await, site.world().await);
        let run = a.start(&manifest, CLIENTS).await;
        for world in [&a, &b] {
            world.coordinator.set_folding(folding(4));
        }
        for round in 0..2 {
            a.tick().await;
            for client in 0..CLIENTS {
                a.work(&manifest, client).await;
            }
            assert_eq!(parts(&site), "6|23|0", "parts, their updates, how many are folded");
            let (first, second) = tokio::join!(a.coordinator.tick(), b.coordinator.tick());
            first.and(second).expect("both fold");
            // Whoever came to the end while the other was still at a part left it to the other.
            a.tick().await;
            assert_eq!(round_of(&b, run).await, RoundId(round + 1));
        }
        assert_eq!(a.last_record(run).await, undisturbed(&manifest, CLIENTS).await);
        assert_eq!(parts(&site), "0||0", "nothing is left");
        assert_eq!(site.objects("partials").len(), 0);
        assert_eq!(site.objects("updates").len(), 0);
        let told = a.coordinator.rounds(run, RoundId(0), 10).await.expect("told");
        assert_eq!((told[1].examples, told[1].loss), (4 * 23, Some(2.0)));
    }
}

/// Another process took a part and is gone, or frozen: the round waits for its lease to end, and no longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_and_another_folds_the_part() {
    let manifest = of_all(10, 2);
    let site = Site::new(true, true).await;
    let (a, url) = (site.world().await, site.places.database.clone().expect("in Postgres"));
    let run = a.start(&manifest, 10).await;
    a.coordinator.set_folding(folding(4));
    a.tick().await;
    for client in 0..10 {
        a.work(&manifest, client).await;
    }
    let until = BEGIN.0 + 30_000;
    let take =
        format!("UPDATE folds SET lease = decode('00', 'hex'), until_ms = {until} WHERE part = 1");
    gossamer_services::postgres().execute(&url, &take);
    for _ in 0..2 {
        a.tick().await;
        assert_eq!((round_of(&a, run).await, parts(&site).as_str()), (RoundId(0), "3|10|2"));
    }
    site.clock.advance(Duration::from_secs(30));
    a.tick().await;
    for client in 0..10 {
        a.work(&manifest, client).await;
    }
    a.tick().await;
    assert_eq!(a.last_record(run).await, undisturbed(&manifest, 10).await);
}

/// A part's sum is named after its round too, so that no other round drops it; one that is lost is made anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_sum_is_its_round_s_and_made_anew_where_it_is_lost() {
    let manifest = of_all(4, 2);
    let site = Site::new(true, true).await;
    let (a, url) = (site.world().await, site.places.database.clone().expect("in Postgres"));
    let run = a.start(&manifest, 4).await;
    a.coordinator.set_folding(folding(2));
    a.tick().await;
    for client in 0..4 {
        a.work(&manifest, client).await;
    }
    // A part is folded, then its object is gone.
    let late = format!("UPDATE folds SET until_ms = {} WHERE part = 1", BEGIN.0 + 5_000);
    gossamer_services::postgres().execute(&url, &late);
    a.tick().await;
    let kept = site.objects("partials");
    assert_eq!((kept.len(), parts(&site).as_str()), (1, "2|4|1"));
    let address = [&run.0[..], &0_u64.to_le_bytes(), &0_u64.to_le_bytes()].concat();
    assert_eq!(std::fs::read(&kept[0]).expect("there")[..32], address);
    std::fs::remove_file(&kept[0]).expect("there");
    site.clock.advance(Duration::from_secs(5));
    a.tick().await;
    assert_eq!((round_of(&a, run).await, parts(&site).as_str()), (RoundId(0), "2|4|1"));
    a.tick().await;
    assert_eq!(round_of(&a, run).await, RoundId(1));
    for client in 0..4 {
        a.work(&manifest, client).await;
    }
    a.tick().await;
    assert_eq!(a.last_record(run).await, undisturbed(&manifest, 4).await);
}

fn folding(part: u32) -> Folding {
    let not_0 = |value| NonZeroU32::new(value).expect("not 0");
    // What one thread sums is what it is compared with.
    Folding { part: not_0(part), threads: not_0(3), ..Folding::default() }
}

/// Parts of the round that is closed, the updates in them, and how many are folded.
fn parts(site: &Site) -> String {
    let url = site.places.database.as_deref().expect("in Postgres");
    let text = "SELECT count(*), sum(length), count(partial) FROM folds";
    gossamer_services::postgres().execute(url, text).trim().to_owned()
}

/// Of frames that nobody accepted the old ones go; the young may be on their way, and the accepted stay.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_and_refused_goes_with_age() {
    const DAY: Duration = Duration::from_secs(86_400);
    let manifest = manifest();
    let site = Site::new(true, true).await;
    // Files have the system's time.
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    site.clock.set(Timestamp(0).after(since));
    let world = site.world().await;
    let run = world.start(&manifest, 3).await;
    world.coordinator.run(run).await.expect("there");
    let task = world.task(0).await;
    let accepted = world.frame(&manifest, &task, 0).await;
    world.send(&task, 0, accepted.clone()).await.expect("accepted");
    let store = world.coordinator.store().objects();
    for refused in ["old", "young"] {
        store.put(Kind::Update, refused.into()).await.expect("stored");
    }
    for old in [&accepted[..], b"old"] {
        let file = std::fs::File::options().write(true).open(site.file("updates", Digest::of(old)));
        file.expect("there").set_modified(now - 2 * DAY).expect("set");
    }
    assert_eq!(site.objects("updates").len(), 3);
    world.tick().await;
    assert_eq!(site.objects("updates").len(), 2);
    assert!(store.get(Kind::Update, Digest::of(&accepted)).await.is_ok());
    assert!(store.get(Kind::Update, Digest::of(b"young")).await.is_ok());
}

/// Postgres breaks off every third statement or so that moves a run, and closes connections at will.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_breaks_off_is_done_anew() {
    const CLIENTS: u8 = 12;
    let manifest = of_all(CLIENTS, 3);
    let site = Site::new(true, true).await;
    let url = site.places.database.clone().expect("in Postgres");
    let (a, b) = (site.world().await, site.world().await);
    let run = a.start(&manifest, CLIENTS).await;
    let postgres = gossamer_services::postgres();
    postgres.execute(
        &url,
        "CREATE FUNCTION fail() RETURNS trigger AS $$ BEGIN IF random() < 0.3 THEN \
         RAISE EXCEPTION 'broken off by the test' USING ERRCODE = '40001'; END IF; RETURN NEW; END $$ \
         LANGUAGE plpgsql; CREATE TRIGGER fail BEFORE UPDATE ON runs FOR EACH ROW EXECUTE FUNCTION fail()",
    );
    for _ in 0..manifest.rounds {
        patiently(|| a.coordinator.tick()).await;
        for client in 0..CLIENTS {
            let world = if client % 2 == 0 { &a } else { &b };
            let asking = CheckIn { run: Some(run) };
            let ask = || world.coordinator.check_in(id(&key(client)), &asking);
            let answer = patiently(ask).await;
            let gossamer_protocol::message::Answer::Train(task) = answer else {
                panic!("client {client} has no task: {answer:?}")
            };
            let frame = world.frame(&manifest, &task, client).await;
            if client % 4 == 3 {
                let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                              WHERE datname = current_database() AND pid <> pg_backend_pid()";
                postgres.execute(&url, others);
            }
            patiently(|| world.send(&task, client, frame.clone())).await;
        }
        patiently(|| b.coordinator.tick()).await;
    }
    assert_eq!(a.last_record(run).await, undisturbed(&manifest, CLIENTS).await);
    assert_eq!(told(&a, "round-closed").await, 3);
}

/// As a client does: asks again where it is told that this may help.
async fn patiently<T, F>(work: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, gossamer_server::coordinator::CoordinatorError>>,
{
    for _ in 0..100 {
        match work().await {
            Ok(done) => return done,
            Err(error) => assert_eq!(error.problem_type(), P::Busy, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("told to come back a hundred times");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_store_is_away_clients_are_told_so_and_nothing_is_lost() {
    // Its own servers, which can be stopped without a word to other tests.
    let (postgres, s3) = (Postgres::start(), S3::start());
    let mut site = Site::new(false, false).await;
    site.places.database = Some(postgres.database());
    let prefix = s3.prefix();
    let open = || async {
        use gossamer_server::store::Store;
        let store = Store::open_with(&site.places, s3.place(&prefix)).await.expect("a store");
        World::over(store, site.clock.clone()).await
    };
    let (a, b) = (open().await, open().await);
    let manifest = of_all(3, 2);
    let run = a.start(&manifest, 3).await;
    for round in 0..2 {
        a.tick().await;
        for client in 0..3 {
            let task = b.task(client).await;
            let frame = b.frame(&manifest, &task, client).await;
            let world = if client == 1 { &b } else { &a };
            match client {
                0 => postgres.stop(),
                1 => s3.set_away(true),
                _ => {}
            }
            if client < 2 {
                let refused = world.send(&task, client, frame.clone()).await.expect_err("away");
                let problem = refused.problem();
                assert_eq!((problem.kind, problem.status), (P::Busy, 503), "{refused:?}");
                assert!(problem.retry_ms.is_some());
                assert_eq!(problem.detail, "the store does not answer");
                assert!(!world.coordinator.health(0).await.ready, "/readyz");
            }
            match client {
                0 => postgres.go_on(),
                1 => s3.set_away(false),
                _ => {}
            }
            patiently(|| world.send(&task, client, frame.clone())).await;
        }
        s3.set_away(true);
        assert!(a.coordinator.tick().await.is_err(), "it cannot be closed");
        assert_eq!(round_of(&a, run).await, RoundId(round));
        s3.set_away(false);
        b.tick().await;
    }
    let signed = a.coordinator.record(run, RoundId(2)).await.expect("there");
    let record: Record = signed.open(&server_key().public(), Purpose::Record).expect("signed");
    assert_eq!(record, undisturbed(&manifest, 3).await);
}
