//! Everything else that is parsed from outside: tokens, headers, messages, signed documents, problems.
#![no_main]

use gossamer_protocol::message::{Answer, CheckIn, Enrolled, Enrolment, JoinToken, Receipt, Record};
use gossamer_protocol::problem::Problem;
use gossamer_protocol::request::Authorization;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input) {
        if let Ok(token) = JoinToken::decode(text) {
            assert_eq!(JoinToken::decode(&token.encode()).expect("own text"), token);
        }
        if let Ok(header) = text.parse::<Authorization>() {
            let again: Authorization = header.to_string().parse().expect("own text");
            assert_eq!(again, header);
        }
    }
    let _ = serde_json::from_slice::<CheckIn>(input);
    let _ = serde_json::from_slice::<Answer>(input);
    let _ = serde_json::from_slice::<Enrolled>(input);
    let _ = serde_json::from_slice::<Problem>(input);
    if let Ok(enrolment) = serde_json::from_slice::<Enrolment>(input) {
        let _ = enrolment.verify();
    }
    if let Ok(record) = serde_json::from_slice::<Record>(input) {
        let again = serde_json::to_vec(&record).expect("plain values");
        assert_eq!(serde_json::from_slice::<Record>(&again).expect("own text"), record);
    }
    if let Ok(receipt) = serde_json::from_slice::<Receipt>(input) {
        let again = serde_json::to_vec(&receipt).expect("plain values");
        assert_eq!(serde_json::from_slice::<Receipt>(&again).expect("own text"), receipt);
    }
});
