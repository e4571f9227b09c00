//! Memory by clients enrolled, and by rounds closed.

use std::sync::Arc;

use gossamer_client::transport::Transport as _;
use gossamer_tests::device::dense;
use serde_json::json;

use super::fleet::{Aggregator, drawn};
use super::{Outcome, Teller};

/// Of the run whose rounds are counted.
const PARAMETERS: usize = 16 * 1024;
const DEVICES: usize = 4;

pub(crate) async fn run(teller: Teller) -> Outcome {
    let mut before = None;
    for enrolled in [10, 10_000] {
        let found = closed(enrolled, &[20]).await?[0];
        let grown = found - *before.get_or_insert(found);
        let words = format!(
            "memory with {enrolled} clients enrolled, after 20 rounds: {found:.1} MiB ({grown:+.1})"
        );
        let numbers = json!({ "part": "memory", "enrolled": enrolled, "rounds": 20, "mib": found });
        teller.tell(&words, &numbers);
    }
    let marks = [1, 100, 1_000];
    let found = closed(10, &marks).await?;
    for (round, mib) in marks.iter().zip(&found) {
        let grown = mib - found[0];
        let words = format!("memory at round {round}: {mib:.1} MiB ({grown:+.1})");
        teller.tell(&words, &json!({ "part": "memory", "rounds": round, "mib": mib }));
    }
    Ok(())
}

/// The aggregator's MiB after so many rounds, in rising order.
async fn closed(enrolled: usize, marks: &[u64]) -> Outcome<Vec<f64>> {
    let aggregator = Aggregator::start(enrolled).await?;
    let last = marks.last().copied().unwrap_or(1);
    let terms = Arc::new(dense("memory", PARAMETERS, DEVICES as u32, last + 1));
    aggregator.run(&terms).await?;
    let mut devices = Vec::new();
    for n in 0..DEVICES {
        devices.push(aggregator.device(n).await?);
    }
    let mut found = Vec::new();
    // In turn, so that the rounds can be counted.
    for round in 0..=last {
        if marks.contains(&round) {
            found.push(aggregator.memory().0);
        }
        if round == last {
            break;
        }
        for device in &devices {
            let task = device.task().await?.ok_or("the run is over before its time")?;
            let values = drawn(terms.layout.n(), device.id, task.round);
            let frame = device.frame(&terms, &task, values)?;
            device.transport.upload(&device.slot(&task), &frame).await?;
        }
    }
    Ok(found)
}
