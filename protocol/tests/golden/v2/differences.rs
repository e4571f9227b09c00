//! Differences between snapshots, `tests/vectors/differences-v1.json`, both ways.

use gossamer_protocol::frame::Snapshot;
use serde::Deserialize;

use super::Runs;
use crate::bytes;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    version: u16,
    #[serde(rename = "about")]
    _about: Vec<String>,
    differences: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    manifest: String,
    held_round: u64,
    held: String,
    round: u64,
    frame: String,
    difference: String,
}

#[test]
fn both_ways() {
    let vectors: Vectors = serde_json::from_str(include_str!("../../vectors/differences-v1.json"))
        .expect("its own shape");
    assert_eq!(vectors.version, 1);
    let runs = Runs::new(&super::vectors().manifests);
    let mut seen = std::collections::BTreeSet::new();
    for case in &vectors.differences {
        let held =
            Snapshot::decode(&bytes(&case.held), &runs.terms(&case.manifest, case.held_round));
        let held = held.expect(&case.name);
        let (terms, frame) = (runs.terms(&case.manifest, case.round), bytes(&case.frame));
        let difference = bytes(&case.difference);
        let made = held.difference(&frame, &terms).expect(&case.name);
        assert_eq!(made.as_ref(), Some(&difference), "{}", case.name);
        assert_eq!(held.later(&difference, &terms).expect(&case.name), frame, "{}", case.name);
        seen.insert(frame[7]);
    }
    assert_eq!(seen.len(), 44, "every body with every code is there");
}
