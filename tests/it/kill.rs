//! The aggregator process is killed, again and again, at any instant.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gossamer_client::client::{Client, Event};
use gossamer_client::train::Control;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::message::{Receipt, Record, accepted_digest};
use gossamer_protocol::rng::Stream;
use gossamer_protocol::sign::Purpose;
use gossamer_server::config::Config;
use gossamer_server::setup;
use gossamer_tests::{Process, TestServer, base, identity, impatient, manifest, task};

const KILLS: u32 = 50;
const CLIENTS: usize = 4;
/// More than 50 lives of a server can finish.
const ROUNDS: u64 = 300;
const SEED: u64 = 1;

/// A free port, which stays free between two lives of the server.
fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("bound")
}

fn spawn(dir: &Path, address: SocketAddr) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aggregator"));
    Process(command.arg(dir).arg(address.to_string()).spawn().expect("the aggregator starts"))
}

/// The last record of the same run, by the same clients, that nobody disturbs.
async fn undisturbed() -> Digest {
    let (server, base) = (TestServer::start().await, base());
    let run = server.coordinator.create_run(&manifest(&base, CLIENTS as u32, ROUNDS)).await;
    let run = run.expect("a sound manifest");
    let mut work = tokio::task::JoinSet::new();
    for n in 0..CLIENTS {
        let client = server.client(n, &base).await.connect().await.expect("enrols");
        let task = task(&base, n);
        work.spawn(async move { client.run(&task).await.expect("nobody disturbs") });
    }
    while let Some(delivered) = work.join_next().await {
        assert_eq!(delivered.expect("no panic"), ROUNDS);
    }
    let record = server.coordinator.record(run, RoundId(ROUNDS)).await.expect("over");
    server.close().await;
    Digest::of(&record.bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_lose_nothing_and_count_nothing_twice() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = Config { dir: dir.path().to_owned(), ..Config::default() };
    setup::init(dir.path(), &[], &config).await.expect("a new folder");
    let base = base();
    let terms = manifest(&base, CLIENTS as u32, ROUNDS);
    let (run, tokens) = {
        let coordinator = setup::coordinator(dir.path()).await.expect("a whole folder");
        let run = coordinator.create_run(&terms).await.expect("a sound manifest");
        let mut tokens = Vec::new();
        for _ in 0..CLIENTS {
            let secret = coordinator.new_token(Duration::from_secs(3600)).await.expect("stored");
            tokens.push(gossamer_server::join_token(&config, secret).expect("whole").encode());
        }
        coordinator.store().close().await;
        (run, tokens)
    };

    let address = free_port();
    let mut server = spawn(dir.path(), address);
    let receipts: Arc<Mutex<Vec<Receipt>>> = Arc::default();
    let mut work = tokio::task::JoinSet::new();
    for (n, token) in tokens.into_iter().enumerate() {
        let (base, task, kept) = (base.clone(), task(&base, n), receipts.clone());
        work.spawn(async move {
            let watch = move |event: &Event<'_>| {
                if let Event::Delivered(contribution) = event {
                    kept.lock().expect("no panic").push(contribution.receipt.clone());
                }
                Control::Continue
            };
            let client = Client::builder(format!("https://{address}"))
                .token(token)
                .identity(identity(n))
                .base(base)
                .backoff(impatient())
                .watch(Arc::new(watch))
                .connect()
                .await
                .expect("enrols in the end");
            client.run(&task).await.expect("retries until the run is over")
        });
    }

    let mut rng = Stream::new(SEED, "kills", &[]);
    for kill in 0..KILLS {
        // From amid its start to some rounds later.
        tokio::time::sleep(Duration::from_millis(rng.below(200))).await;
        assert!(
            server.0.try_wait().expect("a child").is_none(),
            "it ended by itself before kill {kill}"
        );
        server.kill();
        assert!(!work.is_empty());
        server = spawn(dir.path(), address);
    }
    let at_last_kill = receipts.lock().expect("no panic").len();
    assert!(at_last_kill < CLIENTS * ROUNDS as usize, "the run was over before the last kill");
    assert!(at_last_kill > 0, "nothing was delivered between the kills");
    while let Some(done) = work.join_next().await {
        done.expect("no client panicked");
    }
    server.kill();

    // Every acknowledged update is in its round's accepted set, and nothing else is.
    let mut by_round: BTreeMap<RoundId, BTreeMap<ClientId, Digest>> = BTreeMap::new();
    for receipt in receipts.lock().expect("no panic").iter() {
        let round = by_round.entry(receipt.round).or_default();
        let before = round.insert(receipt.client, receipt.update);
        assert!(before.is_none_or(|update| update == receipt.update), "two receipts differ");
    }
    let coordinator = setup::coordinator(dir.path()).await.expect("a whole folder");
    for round in 0..ROUNDS {
        let signed = coordinator.record(run, RoundId(round + 1)).await.expect("published");
        let record: Record =
            signed.open(&coordinator.public_key(), Purpose::Record).expect("its own");
        assert_eq!(record.accepted as usize, CLIENTS, "round {round}");
        assert_eq!(record.accepted_set, accepted_digest(&by_round[&RoundId(round)]), "{round}");
    }
    let last = coordinator.record(run, RoundId(ROUNDS)).await.expect("published");
    assert_eq!(Digest::of(&last.bytes), undisturbed().await, "the adapters differ");
}
