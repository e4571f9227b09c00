//! The streaming reader takes what the other takes, and gives the same.
#![no_main]

use gossamer_protocol::frame::{Reader, Update, seal};
use gossamer_protocol_fuzz::split;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((case, content)) = split(input) else { return };
    let (terms, origin, shared) = (case.terms(), case.origin, case.shared());
    let frame = seal(content.to_vec(), &terms, Some(&origin));
    let mut entries = Vec::new();
    let reader = Reader::new(terms, origin, shared);
    let streamed = reader.update(&frame[..], &mut |index, value| entries.push((index as usize, value)));
    match Update::decode(&frame, &terms, &origin, shared) {
        Ok(update) => {
            let said = streamed.expect("the other took it");
            assert_eq!((said.examples, said.entries), (update.examples, entries.len()));
            assert!(update.delta.iter().zip(&entries).all(|(a, b)| a.0 == b.0 && a.1.to_bits() == b.1.to_bits()));
        }
        Err(_) => assert!(streamed.is_err()),
    }
});
