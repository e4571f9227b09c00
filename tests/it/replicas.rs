//! Two servers over one Postgres and one S3, each killed or frozen past its leases at any instant, and one
//! embedded server, killed: a short trial of each. `--bin endure` has long ones.

use std::path::Path;

use gossamer_tests::endure::{Trial, endure};

async fn short(trial: Trial) {
    let endured = endure(trial, Path::new(env!("CARGO_BIN_EXE_aggregator"))).await;
    println!("{endured:?}");
    assert_eq!((endured.lost, endured.miscounted), (0, 0), "{endured:?}");
    assert!(endured.same, "another adapter than undisturbed: {endured:?}");
    // Every update was answered in the end, however often its client had to ask.
    assert_eq!(endured.acknowledged as u64, trial.rounds * trial.clients as u64);
    assert!(endured.kills > 0, "nobody was disturbed");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_lose_nothing_and_count_nothing_twice() {
    short(Trial { servers: 2, rounds: 20, clients: 8, pause_ms: 600, seed: 3 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_one() {
    short(Trial { servers: 1, rounds: 40, clients: 8, pause_ms: 300, seed: 4 }).await;
}
