//! Clients' keys that follow one another, on every store, through two handles.

use std::time::Duration;

use gossamer_protocol::ids::ClientId;
use gossamer_protocol::message::Enrolment;
use gossamer_protocol::problem::ProblemType as P;
use gossamer_protocol::rotation::NewKey;
use gossamer_server::coordinator::Coordinator;

use crate::fixtures::{id, key, manifest};
use crate::site::{Site, on_every_store};

on_every_store!(a_clients_key_follows_another, of_two_changes_at_once_one_is_made);

async fn change(
    coordinator: &Coordinator,
    client: ClientId,
    from: u8,
    to: u8,
) -> Result<ClientId, P> {
    let new = NewKey::new(client, &key(to));
    let done = coordinator.change_key(client, key(from).public(), &new).await;
    done.map(|done| done.client).map_err(|refused| refused.problem_type())
}

async fn entries(coordinator: &Coordinator) -> Vec<String> {
    let log = coordinator.store().audit(&None, u64::MAX, 1_000).await.expect("read");
    let changes = log.iter().rev().map(|entry| entry.entry.to_string());
    changes.filter(|entry| entry.contains("client-key-changed")).collect()
}

async fn a_clients_key_follows_another(site: Site) {
    let (first, second) = (site.world().await, site.world().await);
    let manifest = manifest();
    let run = first.start(&manifest, 2).await;
    first.tick().await;
    let client = id(&key(0));
    let (one, other) = (&first.coordinator, &second.coordinator);

    let unheld = NewKey { public_key: key(50).public(), ..NewKey::new(client, &key(51)) };
    let refused = one.change_key(client, key(0).public(), &unheld).await.expect_err("not held");
    assert_eq!(refused.problem_type(), P::BadSignature);
    assert_eq!(change(one, client, 50, 51).await, Err(P::ReplacedKey), "not its key");
    assert_eq!(change(one, client, 0, 1).await, Err(P::BadRequest), "another client's");
    assert_eq!(entries(one).await, Vec::<String>::new(), "nothing was changed");

    assert_eq!(change(one, client, 0, 50).await, Ok(client));
    assert_eq!(change(one, client, 50, 50).await, Ok(client), "the answer was lost");
    assert_eq!(change(one, client, 0, 50).await, Err(P::ReplacedKey), "with the old one");
    assert_eq!(change(one, client, 0, 51).await, Err(P::ReplacedKey));
    assert_eq!(change(one, client, 50, 0).await, Err(P::BadRequest), "a replaced one");
    let told = entries(one).await;
    assert_eq!(told.len(), 1);
    let (public, actor) = (key(50).public().to_string(), format!("client:{client}"));
    assert!(told[0].contains(&public) && told[0].contains(&actor), "{told:?}");

    // From the other process, and from one that begins anew; it is the same client in its round.
    second.tick().await;
    assert_eq!(change(other, client, 50, 52).await, Ok(client));
    assert_eq!(one.fleet_len(), 2);
    first.work(&manifest, 0).await;
    first.work(&manifest, 1).await;
    first.tick().await;
    assert_eq!(one.run(run).await.expect("there").round.0, 1);
    let third = site.world().await;
    assert_eq!(change(&third.coordinator, client, 52, 52).await, Ok(client));

    // Neither a replaced key nor one that a client has enrols.
    let secret = one.new_tokens(1, 9, Duration::from_secs(60)).await.expect("a token").remove(0);
    for taken in [0, 50, 52] {
        let refused = other.enrol(&Enrolment::new(&secret, &key(taken))).await;
        let refused = refused.expect_err("it is somebody's").problem_type();
        assert_eq!(refused, P::BadToken, "key {taken}");
    }
    other.enrol(&Enrolment::new(&secret, &key(60))).await.expect("a new one does");
    first.tick().await;
    assert_eq!(change(one, id(&key(60)), 60, 52).await, Err(P::BadRequest));

    one.revoke(client, "lost").await.expect("revoked");
    for world in [&first, &second, &third] {
        let refused = change(&world.coordinator, client, 52, 53).await;
        assert_eq!(refused, Err(P::Revoked));
    }
    assert_eq!(entries(one).await.len(), 2);
}

async fn of_two_changes_at_once_one_is_made(site: Site) {
    let (first, second) = (site.world().await, site.world().await);
    let client = first.enrol(0).await;
    second.tick().await;
    let changes = (50..58).map(|to| {
        let world = [&first, &second][usize::from(to % 2)];
        change(&world.coordinator, client, 0, to)
    });
    let done = futures_util::future::join_all(changes).await;
    assert_eq!(done.iter().filter(|done| done.is_ok()).count(), 1, "{done:?}");
    for refused in done.iter().filter_map(|done| done.as_ref().err()) {
        assert_eq!(*refused, P::ReplacedKey);
    }
    let won = 50 + u8::try_from(done.iter().position(Result::is_ok).expect("one")).expect("few");
    let third = site.world().await;
    assert_eq!(change(&third.coordinator, client, won, won).await, Ok(client));
    assert_eq!(entries(&third.coordinator).await.len(), 1);
}
