//! Snapshots of version 2.
#![no_main]

use gossamer_protocol::frame::{Snapshot, seal};
use gossamer_protocol_fuzz::split;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((case, content)) = split(input) else { return };
    let terms = case.terms();
    let frame = seal(content.to_vec(), &terms, None);
    let Ok(snapshot) = Snapshot::decode(&frame, &terms) else { return };
    assert!(snapshot.values.values().len() <= terms.download_entries());
    assert_eq!(snapshot.theta(&case.manifest).len(), 640);
    snapshot.encode(&terms).expect("what may travel");
});
