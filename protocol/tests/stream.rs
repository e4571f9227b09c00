//! An update of 16 MiB is read as it arrives in less than 256 KiB of memory, whatever its body.
//!
//! Alone in its process, because it reads the process's own memory.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::Write;

use gossamer_protocol::density::Density;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Origin, Reader, Terms, Update};
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::manifest::{Coding, Manifest, Values};
use gossamer_protocol::rng::Stream;
use gossamer_protocol::select::top_k;
use gossamer_protocol::sparse::Sparse;

const COLUMNS: usize = 1_024;
const ROWS: usize = 4_096;

fn manifest(density: f64, values: Values, coding: Coding) -> Manifest {
    let mut manifest: Manifest = serde_json::from_value(serde_json::json!({
        "version": 2, "name": "stream", "seed": 1, "rounds": 1,
        "base": { "name": "b", "digest": Digest::of(b"b") },
        "lora": { "rank": COLUMNS, "alpha": 1.0, "targets": ["q"] },
        "layout": [{ "name": "q.lora_B", "part": "lora_b", "shape": [ROWS, COLUMNS] }],
        "method": { "download": { "density": 1.0 }, "upload": { "density": density } },
        "training": { "steps": 1, "batch": 1, "context": 8, "optimizer": { "kind": "sgd", "lr": 0.1 } },
        "cohort": { "ask": 1, "goal": 1, "min": 1, "deadline_s": 9 },
        "optimizer": { "kind": "sgd", "lr": 1.0 },
    }))
    .expect("a manifest");
    manifest.method.upload.values = values;
    manifest.method.coding = coding;
    manifest
}

/// KiB of a line of `/proc/self/status`.
fn status(line: &str) -> usize {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let found = text.lines().find_map(|l| l.strip_prefix(line)).expect("the line");
    found.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("KiB")
}

#[test]
fn memory_does_not_grow_with_the_frame() {
    let origin = Origin {
        run: RunId([1; 16]),
        round: RoundId(0),
        attempt: Attempt(0),
        client: ClientId([2; 16]),
        snapshot: Digest::of(b"s"),
    };
    for (density, values, coding) in [
        (1.0, Values::F32, Coding::Packed),
        (0.25, Values::Fp4, Coding::Packed),
        (0.25, Values::Int4, Coding::Smallest),
    ] {
        let manifest = manifest(density, values, coding);
        let terms = Terms::new(&manifest, origin.run, origin.round);
        let mut file = tempfile::tempfile().expect("a file");
        let (expected, entries) = {
            let mut rng = Stream::new(1, "stream", &[]);
            let dense: Vec<f32> = (0..ROWS * COLUMNS).map(|_| rng.unit() - 0.5).collect();
            let k = Density::try_from(density).expect("a share").count(dense.len());
            let support = top_k(&dense, k).expect("finite");
            let delta = Sparse::gather(&dense, support).expect("rising");
            let update = Update { origin, examples: 3, loss: 1.0, delta };
            let frame = update.encode(&terms, None).expect("in range");
            file.write_all(&frame).expect("written");
            let read = Update::decode(&frame, &terms, &origin, None).expect("own frame");
            (read.delta.values().iter().map(|&v| f64::from(v)).sum::<f64>(), k)
        };
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let again = File::open(path).expect("the same file");
        let reader = Reader::new(terms, origin, None);
        let (mut sum, mut count) = (0.0, 0);
        // Forgets the peak so far.
        std::fs::write("/proc/self/clear_refs", "5").expect("may be reset");
        let before = status("VmRSS:");
        let said = reader.update(&again, &mut |_, value| {
            sum += f64::from(value);
            count += 1;
        });
        let grown = status("VmHWM:").saturating_sub(before);
        assert_eq!(said.expect("own frame").entries, entries);
        assert_eq!((sum, count), (expected, entries), "what the other decoder gives");
        assert!(grown < 256, "{values:?}: {grown} KiB");
    }
}
