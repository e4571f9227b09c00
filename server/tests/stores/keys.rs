//! The server's keys that follow one another, on every store, through handles that have not all the secrets.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gossamer_protocol::message::{Record, Signed};
use gossamer_protocol::rotation::Trust;
use gossamer_protocol::sign::{PublicKey, Purpose, SigningKey};
use gossamer_server::coordinator::{Coordinator, CoordinatorError, Keyring};

use crate::fixtures::manifest;
use crate::site::{BEGIN, Site, on_every_store};
use crate::world::{World, server_key};

on_every_store!(a_key_follows_another, one_key_follows_one);

/// Seeds of keys, which may come later.
#[derive(Clone, Default)]
struct Ring(Arc<Mutex<Vec<u8>>>);

impl Ring {
    fn add(&self, b: u8) {
        self.0.lock().expect("no panic").push(b);
    }
}

impl Keyring for Ring {
    fn find(&self, key: &PublicKey) -> Option<SigningKey> {
        let seeds = self.0.lock().expect("no panic");
        seeds.iter().map(|&b| signing(b)).find(|found| found.public() == *key)
    }
}

fn signing(b: u8) -> SigningKey {
    SigningKey::from_seed(&[b; 32])
}

async fn open(site: &Site, ring: &Ring) -> World {
    let (store, clock) = (site.open().await, site.clock.clone());
    let ring = Some(Arc::new(ring.clone()) as Arc<dyn Keyring>);
    let coordinator = Coordinator::open_with(store, server_key(), ring, clock.clone()).await;
    World { coordinator: coordinator.expect("opens"), clock }
}

fn by(key: &SigningKey, purpose: Purpose, signed: &Signed) -> bool {
    key.public().verify(purpose, &signed.bytes, &signed.signature).is_ok()
}

async fn a_key_follows_another(site: Site) {
    let (old, new) = (server_key(), signing(201));
    let (here, later) = (Ring::default(), Ring::default());
    let (first, second) = (open(&site, &here).await, open(&site, &later).await);
    let manifest = manifest();
    let run = first.start(&manifest, 2).await;
    first.tick().await;
    let task = first.task(0).await;
    let frame = first.frame(&manifest, &task, 0).await;
    let receipt = first.send(&task, 0, frame.clone()).await.expect("accepted");
    assert!(by(&old, Purpose::Receipt, &receipt));
    first.work(&manifest, 1).await;
    first.tick().await;

    here.add(201);
    let (wait, overlap) = (Duration::from_secs(60), Duration::from_secs(600));
    let made = first.coordinator.rotate_key(&new, wait, overlap).await.expect("rotated");
    let at = BEGIN.0 + 60_000;
    assert_eq!((made.from, made.to), (old.public(), new.public()));
    assert_eq!((made.at_ms, made.until_ms), (at, at + 600_000));
    assert_eq!(first.coordinator.public_key(), old.public(), "not yet");
    site.clock.advance(wait);
    for world in [&first, &second] {
        world.tick().await;
        assert_eq!(world.coordinator.rotations(), std::slice::from_ref(&made));
    }
    // The one has the secret; the other goes on with what it has, and both are believed.
    assert_eq!(first.coordinator.public_key(), new.public());
    assert_eq!(second.coordinator.public_key(), old.public());
    assert_eq!(second.coordinator.health(0).await.wrong, Vec::<String>::new());
    for (world, key) in [(&first, &new), (&second, &old)] {
        let record = world.coordinator.record(run, task.round.next()).await.expect("there");
        assert!(by(key, Purpose::Record, &record));
        let _: Record = serde_json::from_slice(&record.bytes).expect("a record");
        let terms = world.coordinator.manifest(run).await.expect("there");
        assert!(by(key, Purpose::Manifest, &terms));
        // What was signed before is the same, signed anew.
        let again = world.send(&task, 0, frame.clone()).await.expect("again");
        assert_eq!(again.bytes, receipt.bytes);
        assert!(by(key, Purpose::Receipt, &again));
    }
    // A round that the one opens and the other ends.
    second.work(&manifest, 0).await;
    first.work(&manifest, 1).await;
    second.tick().await;
    first.tick().await;
    let record = first.coordinator.record(run, task.round.next().next()).await.expect("closed");
    assert!(by(&new, Purpose::Record, &record));

    // Who knows either key finds the whole log sound.
    site.clock.advance(Duration::from_secs(1));
    second.tick().await;
    first.coordinator.revoke_token(gossamer_protocol::digest::Digest::of(b"none")).await.ok();
    let _ = first.coordinator.new_token(wait).await.expect("an entry more");
    site.clock.advance(Duration::from_secs(1));
    first.tick().await;
    for key in [&old, &new] {
        let store = first.coordinator.store();
        store.verify_audit(&key.public(), None).await.expect("whole");
    }
    let stranger = first.coordinator.store().verify_audit(&signing(9).public(), None).await;
    assert!(stranger.is_err());

    // The overlap is over: a server without the secret says so, and signs the log no more.
    site.clock.advance(overlap);
    let third = open(&site, &later).await;
    let wrong = third.coordinator.health(0).await.wrong;
    assert!(wrong.iter().any(|wrong| wrong.contains("the key")), "{wrong:?}");
    third.coordinator.new_token(wait).await.expect("an entry more");
    third.tick().await;
    let store = third.coordinator.store();
    store.verify_audit(&new.public(), None).await.expect("nothing is signed too late");
    // Until the secret comes.
    later.add(201);
    site.clock.advance(Duration::from_secs(1));
    third.tick().await;
    assert_eq!(third.coordinator.public_key(), new.public());
    assert_eq!(open(&site, &later).await.coordinator.health(0).await.wrong, Vec::<String>::new());
    let mut trust = Trust::pinned(old.public());
    assert!(trust.follow(&third.coordinator.rotations()));
    assert_eq!(trust.key, new.public());
}

/// Whoever rotates at the same time: the statements are one chain, and who lacks the newest secret is told.
async fn one_key_follows_one(site: Site) {
    let ring = Ring::default();
    let (first, second) = (open(&site, &ring).await, open(&site, &ring).await);
    for b in [201, 202] {
        ring.add(b);
    }
    let overlap = Duration::from_secs(600);
    let (one, other) = (signing(201), signing(202));
    let (done, also) = tokio::join!(
        first.coordinator.rotate_key(&one, Duration::ZERO, overlap),
        second.coordinator.rotate_key(&other, Duration::ZERO, overlap),
    );
    let made = usize::from(done.is_ok()) + usize::from(also.is_ok());
    for failed in [done.err(), also.err()].into_iter().flatten() {
        assert!(matches!(failed, CoordinatorError::RotatedBefore), "{failed:?}");
    }
    let third = open(&site, &ring).await;
    let chain = third.coordinator.rotations();
    assert!(made >= 1);
    assert_eq!(chain.len(), made);
    let mut trust = Trust::pinned(server_key().public());
    assert!(trust.follow(&chain));
    assert_eq!((trust.key, trust.retired.len()), (chain[made - 1].to, made));
    assert_eq!(third.coordinator.public_key(), trust.key);
    // With the secret of one before, a server goes on with that, not with the first.
    let between = Ring::default();
    between.add(201);
    let followed = third.coordinator.rotate_key(&signing(204), Duration::ZERO, overlap).await;
    let before = followed.expect("rotated").from;
    between.add(if before == signing(201).public() { 201 } else { 202 });
    assert_eq!(open(&site, &between).await.coordinator.public_key(), before);
    ring.add(204);
    let lacking = open(&site, &Ring::default()).await;
    let refused = lacking.coordinator.rotate_key(&signing(203), Duration::ZERO, overlap).await;
    let newest = signing(204).public();
    assert!(matches!(refused, Err(CoordinatorError::NoSecret(key)) if key == newest));
}
