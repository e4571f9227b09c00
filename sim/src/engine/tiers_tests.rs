//! Clients told apart: of all text they come to the whole, and each is read with what its tier receives.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use gossamer_client::data::TextDataset;
use gossamer_client::train::evaluate;
use gossamer_protocol::layout::pairs;

use super::*;
use crate::report::{ClientLoss, RoundRow};

const FLEET: &str = include_str!("../../scenarios/fleet.toml");

/// Two rounds of two methods, the second with tiers of rank 1 and of all.
fn lab(by_client: bool) -> Laboratory {
    lab_on(NonZeroUsize::MIN, by_client)
}

fn lab_on(threads: NonZeroUsize, by_client: bool) -> Laboratory {
    let text = FLEET.replace("rounds = 6", "rounds = 2").replace("steps = 4", "steps = 1")
        + "[[method]]\nname = \"tiers\"\n\
           method = { tiers = [{ rank = 1 }, {}], download = { density = 1.0 }, upload = { density = 1.0 } }\n";
    let text = text.replace("tokens = 2048", "tokens = 768");
    let text = text.replace("by_client = true", &format!("by_client = {by_client}"));
    let scenario = Scenario::parse(&text, Path::new("")).expect("sound");
    Laboratory::open(scenario, threads).expect("opened")
}

async fn repeat(lab: &Laboratory, method: usize) -> Repetition {
    let method = lab.scenario().methods[method].clone();
    lab.repeat(&method, 1, Arc::new(|_| {})).await.expect("sound")
}

fn count(row: &RoundRow, tier: &str) -> usize {
    row.clients.iter().filter(|client| client.tier.as_deref() == Some(tier)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_come_to_the_whole_and_change_nothing() {
    let (apart, together) = (repeat(&lab(true), 0).await, repeat(&lab(false), 0).await);
    assert_eq!(apart.last_record, together.last_record);
    for (row, plain) in apart.rows.iter().zip(&together.rows) {
        assert!(plain.clients.is_empty());
        // Three quarters of twelve are phones.
        assert_eq!((count(row, "phone"), count(row, "board")), (9, 3));
        let targets: u64 = row.clients.iter().map(|client| client.targets).sum();
        // Twelve clients, two windows of 32 tokens each.
        assert_eq!(targets, 768);
        let nats: f64 = row.clients.iter().map(|one| one.loss * one.targets as f64).sum();
        let whole = plain.heldout_loss.expect("evaluated");
        assert!((nats / 768.0 - whole).abs() < 1e-9, "{} and {whole}", nats / 768.0);
        assert!((row.heldout_loss.expect("evaluated") - whole).abs() < 1e-9);
    }
}

/// Each thread reads a part of what is held out.
#[tokio::test(flavor = "multi_thread")]
async fn threads_change_no_number() {
    let threads = NonZeroUsize::MIN.saturating_add(2);
    for by_client in [false, true] {
        let one = repeat(&lab(by_client), 0).await;
        let three = repeat(&lab_on(threads, by_client), 0).await;
        assert_eq!(one.last_record, three.last_record);
        assert_eq!(one.rows.len(), three.rows.len());
        for (one, three) in one.rows.iter().zip(&three.rows) {
            assert!(one.heldout_loss.is_some());
            assert_eq!(one.heldout_loss, three.heldout_loss);
            let losses = |row: &RoundRow| -> Vec<(String, f64)> {
                row.clients.iter().map(|one| (one.client.clone(), one.loss)).collect()
            };
            assert_eq!(losses(one), losses(three));
        }
    }
}

/// Dense downloads bring the aggregator's own adapter; a client of rank 1 has its first components, the others 0.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_a_smaller_rank_is_read_with_its_own_part() {
    let lab = lab(true);
    let repetition = repeat(&lab, 2).await;
    let mut first = repetition.theta.clone();
    for pair in pairs(&repetition.manifest.layout) {
        first[pair.a.clone()][pair.d_in..].fill(0.0);
        for row in first[pair.b.clone()].chunks_mut(pair.rank) {
            row[1..].fill(0.0);
        }
    }
    let last = repetition.rows.last().expect("rows");
    let (mut seen, mut apart) = ([0, 0], 0.0_f64);
    for ClientLoss { client, tier, loss, .. } in &last.clients {
        let (at, theta) = match tier.as_deref().expect("a tier").split_once(", ") {
            Some((_, "rank 1")) => (0, &first),
            Some((_, "whole")) => (1, &repetition.theta),
            other => panic!("{other:?}"),
        };
        seen[at] += 1;
        let text = lab.split().heldout.iter().find(|text| text.name == *client).expect("its text");
        let mut windows =
            TextDataset::new(&lab.base, &text.documents).expect("text").sequences(2, 32);
        windows.truncate(1);
        let read = |theta: &[f32]| {
            evaluate(&lab.base, &repetition.manifest, theta, &windows).expect("finite").mean()
        };
        // What travels is the change from the start, so the last bits may differ.
        let found = read(theta);
        assert!((found - loss).abs() < 1e-6, "{client}: {found} and {loss}");
        if at == 0 {
            apart = apart.max((read(&repetition.theta) - loss).abs());
        }
    }
    assert!(apart > 1e-4, "the other components do something: {apart}");
    assert!(seen.iter().all(|clients| *clients > 0), "{seen:?}");
}
