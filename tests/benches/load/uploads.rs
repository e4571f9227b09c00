//! Uploads a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gossamer_client::transport::Transport as _;
use gossamer_tests::device::dense;
use serde_json::json;

use super::fleet::{Aggregator, drawn};
use super::{Outcome, Teller, quantile};

/// Devices, each with one request at a time.
const DEVICES: usize = 16;
/// Rounds of as many uploads as there are devices.
const ROUNDS: u64 = 60;

pub(crate) async fn run(teller: Teller) -> Outcome {
    for kib in [64, 256] {
        let aggregator = Aggregator::start(0).await?;
        let terms = Arc::new(dense("uploads", 256 * kib, DEVICES as u32, ROUNDS));
        aggregator.run(&terms).await?;
        let mut devices = Vec::new();
        for n in 0..DEVICES {
            devices.push(aggregator.device(n).await?);
        }
        let (start, cpu) = (Instant::now(), aggregator.cpu());
        let mut work = tokio::task::JoinSet::new();
        for device in devices {
            let terms = terms.clone();
            work.spawn(async move {
                let (mut took, mut bytes) = (Vec::new(), 0);
                while let Some(task) = device.task().await? {
                    let values = drawn(terms.layout.n(), device.id, task.round);
                    let frame = device.frame(&terms, &task, values)?;
                    bytes += frame.len();
                    let sent = Instant::now();
                    device.transport.upload(&device.slot(&task), &frame).await?;
                    took.push(sent.elapsed());
                }
                Outcome::Ok((took, bytes))
            });
        }
        let (mut took, mut bytes): (Vec<Duration>, usize) = Default::default();
        while let Some(done) = work.join_next().await {
            let (some, sent) = done??;
            took.extend(some);
            bytes += sent;
        }
        let (wall, cpu) = (start.elapsed().as_secs_f64(), aggregator.cpu() - cpu);
        let uploads = took.len();
        let rate = uploads as f64 / wall;
        let (p50, p99) = (quantile(&mut took, 0.5), quantile(&mut took, 0.99));
        let each = 1e3 * cpu / uploads as f64;
        let peak = aggregator.memory().1;
        let words = format!(
            "uploads of {kib} KiB: {uploads} in {ROUNDS} rounds, {rate:.0}/s with the rounds they close, \
             p50 {p50:.1} ms, p99 {p99:.1} ms, {each:.2} ms of the aggregator's processor each, \
             {peak:.0} MiB at most ({DEVICES} devices at once, {:.1} MB/s)",
            bytes as f64 / wall / 1e6,
        );
        let numbers = json!({
            "part": "uploads", "kib": kib, "uploads": uploads, "per_second": rate, "p50_ms": p50,
            "p99_ms": p99, "cpu_ms_each": each, "peak_mib": peak,
        });
        teller.tell(&words, &numbers);
    }
    Ok(())
}
