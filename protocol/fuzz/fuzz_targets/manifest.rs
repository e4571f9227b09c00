//! Manifests: refused, or written and read again.
#![no_main]

use gossamer_protocol::manifest::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(manifest) = Manifest::from_bytes(input) else { return };
    let bytes = manifest.to_bytes().expect("it was valid");
    assert_eq!(Manifest::from_bytes(&bytes), Ok(manifest));
});
