//! Frames of version 1, updates and snapshots.
#![no_main]

use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Snapshot, Update};
use gossamer_protocol::manifest::{Method, Values};
use gossamer_protocol_fuzz::split;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((mut case, content)) = split(input) else { return };
    let old = &case.manifest.method;
    let mut method = Method::sparse(old.download.density, old.upload.density);
    let is_int8 = old.upload.values == Values::Int8;
    method.upload.values = if is_int8 { Values::Int8 } else { Values::F32 };
    method.download.values = method.upload.values;
    method.train = old.train;
    case.manifest.method = method;
    case.manifest.version = 1;
    let mut frame = content.to_vec();
    // What the frame says it is for is what it is for, and its trailer matches.
    if let Some(said) = content.get(10..34) {
        case.origin.run.0.copy_from_slice(&said[..16]);
        case.origin.round.0 = said[16..].iter().rev().fold(0, |sum, &b| sum << 8 | u64::from(b));
    }
    if let Some(said) = content.get(46..98) {
        case.origin.client.0.copy_from_slice(&said[4..20]);
        case.origin.snapshot.0.copy_from_slice(&said[20..]);
        let attempt = [said[0], said[1], said[2], said[3]];
        case.origin.attempt.0 = u32::from_le_bytes(attempt);
    }
    frame.extend(Digest::of(content).0);
    let (terms, shared) = (case.terms(), case.shared());
    if let Ok(update) = Update::decode(&frame, &terms, &case.origin, shared) {
        update.encode(&terms, shared).expect("what may travel");
    }
    if let Ok(snapshot) = Snapshot::decode(&frame, &terms) {
        snapshot.encode(&terms).expect("what may travel");
    }
});
