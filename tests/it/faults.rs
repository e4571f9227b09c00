//! Uploads over a way on which requests and answers get lost, come late, in half, or twice.

mod proxy;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use gossamer_client::transport::Transport as _;
use gossamer_client::transport::https::Https;
use gossamer_client::transport::retry::Retrying;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::message::{Receipt, Record, accepted_digest};
use gossamer_protocol::sign::Purpose;
use gossamer_tests::device::{self, Device, dense};
use gossamer_tests::{TestServer, impatient};
use proxy::Proxy;

const CLIENTS: usize = 20;
const PARAMETERS: usize = 64;
/// One request in four comes to harm.
const ONE_IN: u64 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_uploads_end_with_a_receipt_each() {
    uploads(25).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute or more: run it by its name"]
async fn five_thousand_uploads_end_with_a_receipt_each() {
    uploads(250).await;
}

/// Each client sends its own basis vector every round, so a coordinate tells how often it was counted.
async fn uploads(rounds: u64) {
    let server = TestServer::start().await;
    let terms = Arc::new(dense("faults", PARAMETERS, CLIENTS as u32, rounds));
    let run = server.coordinator.create_run(&terms).await.expect("a sound manifest");
    let proxy = Proxy::start(&server.config, &server.url, ONE_IN, 1).await;
    let hour = std::time::Duration::from_secs(3600);
    let secrets = server.coordinator.new_tokens(CLIENTS, 1, hour).await.expect("stored");
    let receipts: Arc<Mutex<Vec<Receipt>>> = Arc::default();
    let server_key = server.coordinator.public_key();
    let mut work = tokio::task::JoinSet::new();
    for (n, secret) in secrets.into_iter().enumerate() {
        let (terms, kept) = (terms.clone(), receipts.clone());
        let token = gossamer_server::join_token(&server.config, secret).expect("a whole folder");
        let url = proxy.url.clone();
        work.spawn(async move {
            let key = device::key(n);
            let https = Https::new(&url, token.ca.as_deref(), key.clone()).expect("a client");
            let transport = Retrying::new(Box::new(https), impatient(), n as u64);
            let device =
                Device::enrol(transport, &token.secret, &key).await.expect("enrols in the end");
            while let Some(task) = device.task().await.expect("asks in the end") {
                let mut values = vec![0.0; PARAMETERS];
                values[n] = 1.0;
                let frame = device.frame(&terms, &task, values).expect("a frame");
                let signed = device.transport.upload(&device.slot(&task), &frame).await;
                let signed = signed.expect("a receipt in the end");
                let receipt: Receipt =
                    signed.open(&server_key, Purpose::Receipt).expect("the aggregator's");
                assert_eq!((receipt.client, receipt.round), (device.id, task.round));
                assert_eq!(receipt.update, Digest::of(&frame));
                kept.lock().expect("no panic").push(receipt);
            }
        });
    }
    while let Some(done) = work.join_next().await {
        done.expect("no client panicked");
    }

    // Every acknowledged update is in its round's accepted set, once, and nothing else is.
    let mut by_round: BTreeMap<RoundId, BTreeMap<ClientId, Digest>> = BTreeMap::new();
    let receipts = std::mem::take(&mut *receipts.lock().expect("no panic"));
    for receipt in &receipts {
        let before =
            by_round.entry(receipt.round).or_default().insert(receipt.client, receipt.update);
        assert!(before.is_none_or(|update| update == receipt.update), "two receipts differ");
    }
    for round in 0..rounds {
        let signed = server.coordinator.record(run, RoundId(round + 1)).await.expect("published");
        let record: Record =
            signed.open(&server.coordinator.public_key(), Purpose::Record).expect("its own");
        assert_eq!(record.accepted as usize, CLIENTS, "round {round}");
        assert_eq!(record.accepted_set, accepted_digest(&by_round[&RoundId(round)]), "{round}");
    }
    let theta = server.coordinator.theta(run, RoundId(rounds)).await.expect("over");
    let start = terms.layout.init(terms.seed);
    let mean = rounds as f32 / CLIENTS as f32;
    for (at, (value, start)) in theta.iter().zip(start).enumerate() {
        let counted = if at < CLIENTS { mean } else { 0.0 };
        assert!((value - start - counted).abs() < 1e-3, "{at}: {}", value - start);
    }
    let met = proxy.met();
    assert!(met.iter().all(|(_, count)| *count * 40 > receipts.len() as u64), "{met:?}");
    println!("{} receipts of {} uploads; {met:?}", receipts.len(), CLIENTS * rounds as usize);
    drop(proxy);
    server.close().await;
}
