//! The TLS certificates that clients are bound to, on every store, through two handles.

use std::time::Duration;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::message::Enrolment;
use gossamer_protocol::problem::ProblemType as P;
use gossamer_server::certificate::Certificate;
use gossamer_server::coordinator::Coordinator;

use crate::fixtures::{id, key};
use crate::site::{Site, on_every_store};

on_every_store!(a_client_is_bound_to_its_certificate);

fn certificate(of: &str, names: &str) -> Certificate {
    Certificate { fingerprint: Digest::of(of.as_bytes()), names: Digest::of(names.as_bytes()) }
}

async fn a_client_is_bound_to_its_certificate(site: Site) {
    let (first, second) = (site.world().await, site.world().await);
    let (one, other) = (&first.coordinator, &second.coordinator);
    let secret = one.new_tokens(1, 9, Duration::from_secs(60)).await.expect("a token").remove(0);
    let (shown, renewed) = (certificate("a", "device a"), certificate("a2", "device a"));
    let stolen = certificate("b", "device b");
    let (client, enrolment) = (id(&key(0)), Enrolment::new(&secret, &key(0)));
    let (_, new) = one.enrolling(&enrolment, Some(shown)).await.expect("enrols");
    assert!(new);
    // Asked again, by whatever connection, it stays as it was.
    let (_, new) = other.enrolling(&enrolment, Some(stolen)).await.expect("again");
    assert!(!new);
    let bound = async |coordinator: &Coordinator| {
        coordinator.client(client).await.expect("there").row.certificate
    };
    assert_eq!(bound(other).await, Some(shown.fingerprint));
    let bind = async |coordinator: &Coordinator, shown| {
        let bound = coordinator.bind_certificate(client, shown).await;
        bound.map_err(|refused| refused.problem_type())
    };
    assert_eq!(bind(other, stolen).await, Err(P::OtherCertificate));
    assert_eq!(bind(one, renewed).await, Ok(()));
    assert_eq!(bind(other, renewed).await, Ok(()), "again");
    assert_eq!(bound(other).await, Some(renewed.fingerprint));
    assert_eq!(bind(other, shown).await, Ok(()), "and back: the CA vouches for both");
    other.free_certificate(client).await.expect("freed");
    other.free_certificate(client).await.expect("again");
    assert_eq!(bound(one).await, None);
    assert_eq!(bind(one, stolen).await, Ok(()), "the next one is its own");
    let third = site.world().await;
    assert_eq!(bound(&third.coordinator).await, Some(stolen.fingerprint));
    assert_eq!(bind(&third.coordinator, shown).await, Err(P::OtherCertificate));

    // Who enrolled without is bound to the first one that it shows.
    let plain = first.enrol(1).await;
    let row = other.client(plain).await.expect("there").row;
    assert_eq!(row.certificate, None);
    second.tick().await;
    other.bind_certificate(plain, shown).await.expect("bound");
    let unknown = other.free_certificate(id(&key(9))).await.expect_err("nobody");
    assert_eq!(unknown.problem_type(), P::UnknownClient);

    let log = one.store().audit(&None, u64::MAX, 1_000).await.expect("read");
    let told: Vec<String> = log.iter().rev().map(|entry| entry.entry.to_string()).collect();
    let count = |action: &str| told.iter().filter(|entry| entry.contains(action)).count();
    assert_eq!((count("certificate-bound"), count("certificate-freed")), (4, 1), "{told:#?}");
    let enrolled = told.iter().find(|entry| entry.contains("\"enrolled\"")).expect("told");
    assert!(enrolled.contains(&shown.fingerprint.to_string()), "{enrolled}");
    let none = told.iter().filter(|entry| entry.contains("\"enrolled\"")).nth(1).expect("told");
    assert!(!none.contains("certificate"), "as it was before there were any: {none}");
}
