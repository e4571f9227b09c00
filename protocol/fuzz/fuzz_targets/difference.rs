//! Snapshots as differences to one that is held.
#![no_main]

use std::sync::LazyLock;

use gossamer_protocol::frame::Snapshot;
use gossamer_protocol::manifest::Reference;
use gossamer_protocol::rng::Stream;
use gossamer_protocol::sparse::{Sparse, Support};
use gossamer_protocol_fuzz::split;
use libfuzzer_sys::fuzz_target;

/// Half of the coordinates, with heavy tails.
static HELD: LazyLock<Sparse> = LazyLock::new(|| {
    let mut rng = Stream::new(1, "fuzz", &[]);
    let indices: Vec<u32> = (0..640).filter(|_| rng.below(2) == 0).collect();
    let values = indices.iter().map(|_| (rng.normal().powi(3) * 0.1) as f32).collect();
    Sparse::new(640, Support::Indices(indices), values).expect("rising")
});

fuzz_target!(|input: &[u8]| {
    let Some((case, content)) = split(input) else { return };
    let terms = case.terms();
    let (run, round) = (case.origin.run, case.origin.round);
    let held = Snapshot { run, round, reference: Reference::Change, values: HELD.clone() };
    let Ok(frame) = held.later(content, &terms) else { return };
    let snapshot = Snapshot::decode(&frame, &terms).expect("what was made is a snapshot");
    assert!(snapshot.values.values().len() <= terms.download_entries());
    let again = held.difference(&frame, &terms).expect("own frame").expect("an encoder's");
    assert_eq!(held.later(&again, &terms).as_ref(), Ok(&frame));
});
