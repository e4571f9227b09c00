//! Updates of version 2: whatever the bytes, an error or entries that may travel; and what is read is
//! written and read again.
#![no_main]

use gossamer_protocol::frame::{Update, seal};
use gossamer_protocol_fuzz::split;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((case, content)) = split(input) else { return };
    let (terms, origin, shared) = (case.terms(), &case.origin, case.shared());
    let _ = Update::decode(content, &terms, origin, shared);
    let frame = seal(content.to_vec(), &terms, Some(origin));
    let Ok(update) = Update::decode(&frame, &terms, origin, shared) else { return };
    let domain = terms.domain(origin.client, shared);
    assert!(update.delta.values().len() <= terms.upload_share(&domain));
    assert!(update.delta.values().iter().all(|v| v.abs() <= 8.0));
    let again = update.encode(&terms, shared).expect("what may travel");
    if let Ok(read) = Update::decode(&again, &terms, origin, shared) {
        assert_eq!(read.delta.support().count(640), update.delta.support().count(640));
    }
});
