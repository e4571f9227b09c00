//! Simulated and deployed: one code, one adapter.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use gossamer_client::client::Client;
use gossamer_client::data::{TextDataset, TrainingTask};
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::RoundId;
use gossamer_sim::engine::{Laboratory, identity};
use gossamer_sim::scenario::Scenario;
use gossamer_tests::{TestServer, base, impatient};

const SMOKE: &str = include_str!("../../sim/scenarios/smoke.toml");

fn lab(threads: usize) -> Laboratory {
    let scenario = Scenario::parse(SMOKE, Path::new("")).expect("sound");
    Laboratory::open(scenario, NonZeroUsize::new(threads).expect("some")).expect("runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn simulator_and_https_give_the_same_bytes() {
    let lab = lab(2);
    let method = lab.scenario().methods.last().expect("some").clone();
    let simulated = lab.repeat(&method, 1, Arc::new(|_| {})).await.expect("runs");

    let (server, base) = (TestServer::start().await, base());
    let run = server.coordinator.create_run(&simulated.manifest).await.expect("sound");
    let mut work = tokio::task::JoinSet::new();
    for member in &lab.split().train {
        let client = Client::builder(&server.url)
            .token(server.token().await)
            .identity(identity(&member.name))
            .base(base.clone())
            .backoff(impatient())
            .connect()
            .await
            .expect("enrols");
        let task: Arc<dyn TrainingTask> =
            Arc::new(TextDataset::new(&base, &member.documents).expect("has text"));
        work.spawn(async move { client.run(&task).await.expect("takes part") });
    }
    let mut delivered = 0;
    while let Some(done) = work.join_next().await {
        delivered += done.expect("no panic");
    }
    let rounds = simulated.manifest.rounds;
    assert_eq!(delivered, rounds * u64::from(simulated.manifest.cohort.goal));
    let record = server.coordinator.record(run, RoundId(rounds)).await.expect("over");
    assert_eq!(Digest::of(&record.bytes), simulated.last_record);
    let theta = server.coordinator.theta(run, RoundId(rounds)).await.expect("over");
    assert_eq!(theta, simulated.theta);
    server.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_change_nothing() {
    let method = lab(1).scenario().methods[0].clone();
    let one = lab(1).repeat(&method, 3, Arc::new(|_| {})).await.expect("runs");
    let four = lab(4).repeat(&method, 3, Arc::new(|_| {})).await.expect("runs");
    let other = lab(4).repeat(&method, 4, Arc::new(|_| {})).await.expect("runs");
    assert_eq!(one.last_record, four.last_record);
    assert_eq!(one.traffic, four.traffic);
    let losses = |of: &gossamer_sim::engine::Repetition| -> Vec<u64> {
        of.rows.iter().filter_map(|row| row.heldout_loss.map(f64::to_bits)).collect()
    };
    assert_eq!(losses(&one), losses(&four));
    assert_ne!(one.last_record, other.last_record, "another seed is another run");
}
