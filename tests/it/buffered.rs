//! Buffered rounds and federated evaluation over HTTPS, with clients that come and go as they like.

use std::sync::Arc;

use gossamer_client::data::{HeldOut, TextDataset, TrainingTask};
use gossamer_client::model::BaseModel;
use gossamer_client::train::evaluate;
use gossamer_protocol::density::Density;
use gossamer_protocol::ids::RoundId;
use gossamer_protocol::manifest::{Buffered, Evaluation, Selection};
use gossamer_protocol::message::Record;
use gossamer_protocol::sign::Purpose;
use gossamer_tests::{TestServer, base, manifest};

const CLIENTS: usize = 4;

/// Twenty sentences of its own to learn, and five to be tried on.
fn data(base: &BaseModel, n: usize) -> [TextDataset; 2] {
    let all = gossamer_sim::languages::sentences("finnish").expect("there");
    let some = |from: usize, count: usize| {
        let texts: Vec<String> = all[from..from + count].iter().map(|&t| t.to_owned()).collect();
        TextDataset::new(base, &texts).expect("sentences")
    };
    [some(25 * n, 20), some(25 * n + 20, 5)]
}

/// Runs `terms` with all clients at once; gives the updates they delivered.
async fn federate(server: &TestServer, base: &BaseModel) -> u64 {
    let mut work = tokio::task::JoinSet::new();
    for n in 0..CLIENTS {
        let client = server.client(n, base).await.connect().await.expect("enrols");
        let [task, held_out] = data(base, n);
        let task = HeldOut::new(task, move |rows, cols| held_out.sequences(rows, cols));
        let task: Arc<dyn TrainingTask> = Arc::new(task);
        work.spawn(async move { client.run(&task).await.expect("takes part") });
    }
    let mut delivered = 0;
    while let Some(done) = work.join_next().await {
        delivered += done.expect("no panic");
    }
    delivered
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_late_still_counts() {
    let (server, base) = (TestServer::start().await, base());
    let mut terms = manifest(&base, CLIENTS as u32, 5);
    (terms.cohort.goal, terms.cohort.min) = (2, 1);
    terms.cohort.selection = Selection::FirstCome;
    terms.cohort.buffered = Some(Buffered { staleness_max: 4 });
    terms.evaluation = Some(Evaluation { clients: Density::FULL });
    let run = server.coordinator.create_run(&terms).await.expect("sound");
    let delivered = federate(&server, &base).await;
    let rounds = server.coordinator.rounds(run, RoundId(0), 9).await.expect("told");
    assert_eq!(rounds.len(), 5);
    let accepted: u64 = rounds.iter().map(|row| u64::from(row.accepted)).sum();
    assert_eq!(delivered, accepted, "who has a receipt is counted");
    let public = server.coordinator.public_key();
    for row in &rounds {
        let signed = server.coordinator.record(run, row.round.next()).await.expect("there");
        let record: Record = signed.open(&public, Purpose::Record).expect("signed");
        assert_eq!(record.staleness.len(), row.accepted as usize);
        assert!(record.staleness.iter().all(|&late| late <= 4 && u64::from(late) <= row.round.0));
    }
    let told: u64 = rounds.iter().filter_map(|row| Some(row.evaluation?.clients)).sum();
    assert!(told >= accepted, "each told of the snapshot before it trained: {told}");
    server.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_tells_how_well_the_start_does() {
    let (server, base) = (TestServer::start().await, base());
    let mut terms = manifest(&base, CLIENTS as u32, 1);
    terms.evaluation = Some(Evaluation { clients: Density::FULL });
    let run = server.coordinator.create_run(&terms).await.expect("sound");
    assert_eq!(federate(&server, &base).await, CLIENTS as u64);
    let rounds = server.coordinator.rounds(run, RoundId(0), 9).await.expect("told");
    let told = rounds[0].evaluation.expect("told");
    assert_eq!(told.clients, CLIENTS as u64);
    let (rows, cols) = (terms.training.batch as usize, terms.training.context as usize);
    let start = terms.layout.init(terms.seed);
    let (mut nats, mut targets) = (0.0, 0);
    for n in 0..CLIENTS {
        let batches = data(&base, n)[1].sequences(rows, cols);
        let one = evaluate(&base, &terms, &start, &batches).expect("finite");
        (nats, targets) = (nats + one.nats, targets + one.tokens);
    }
    assert_eq!(told.targets, targets);
    // Each of four sums is rounded to 2^-16 nats.
    let off = (told.loss - nats / targets as f64).abs();
    assert!(off * targets as f64 <= 4.0 / 131_072.0 + 1e-9, "{off}");
    server.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_not_asked_tells_nothing() {
    let (server, base) = (TestServer::start().await, base());
    let terms = manifest(&base, CLIENTS as u32, 1);
    let run = server.coordinator.create_run(&terms).await.expect("sound");
    federate(&server, &base).await;
    let rounds = server.coordinator.rounds(run, RoundId(0), 9).await.expect("told");
    assert_eq!(rounds[0].evaluation, None);
    server.close().await;
}
