//! Uploads a second through a coordinator: check-in, frame, receipt; without HTTP, one client after another.
//!
//! `cargo bench -p gossamer-server --bench uploads`

#[path = "../tests/fixtures/mod.rs"]
mod fixtures;
#[path = "../tests/fixtures/world.rs"]
mod world;

use std::time::{Duration, Instant};

use fixtures::{id, key, manifest};
use gossamer_protocol::ids::ClientId;
use world::World;

const CLIENTS: u8 = 200;

async fn round(name: &str, world: &World, rounds: u64) {
    let mut manifest = manifest();
    manifest.rounds = rounds;
    (manifest.cohort.ask, manifest.cohort.goal) = (CLIENTS.into(), CLIENTS.into());
    world.start(&manifest, CLIENTS).await;
    world.tick().await;
    let clients: Vec<ClientId> = (0..CLIENTS).map(|b| id(&key(b))).collect();
    let (mut asking, mut sending, mut closing) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for _ in 0..rounds {
        for (b, &client) in (0..CLIENTS).zip(&clients) {
            let began = Instant::now();
            let task = world.task(b).await;
            asking += began.elapsed();
            let snapshot = world.coordinator.object(task.run, task.snapshot).await.expect("there");
            let frame = fixtures::frame(&manifest, &task, &snapshot, client).into();
            let began = Instant::now();
            world.send(&task, b, frame).await.expect("accepted");
            sending += began.elapsed();
        }
        let began = Instant::now();
        world.tick().await;
        closing += began.elapsed();
    }
    let uploads = rounds as f64 * f64::from(CLIENTS);
    println!(
        "{name}: {:.0} check-ins/s, {:.0} uploads/s, {:.1} ms to close a round of {CLIENTS}",
        uploads / asking.as_secs_f64(),
        uploads / sending.as_secs_f64(),
        1e3 * closing.as_secs_f64() / rounds as f64
    );
}

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().expect("a directory");
    for _ in 0..3 {
        round("memory", &World::in_memory().await, 20).await;
    }
    round("disk", &World::create(dir.path()).await, 5).await;
}
