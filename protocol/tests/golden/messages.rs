//! Signatures, signed requests, JSON documents, the chain of records, tokens and problem names.

use std::collections::BTreeMap;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::message::{
    Answer, CheckIn, Enrolled, Enrolment, JoinToken, Receipt, Record, Signed, accepted_digest,
};
use gossamer_protocol::problem::{Problem, ProblemType};
use gossamer_protocol::request::{Authorization, Request};
use gossamer_protocol::sign::{PublicKey, Purpose, Signature, SigningKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{array, bytes, vectors};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignatureCase {
    seed: String,
    public: PublicKey,
    client: ClientId,
    purpose: String,
    bytes: String,
    signature: Signature,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RequestCase {
    seed: String,
    method: String,
    path: String,
    body: String,
    nonce: String,
    expires_ms: u64,
    header: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecordCase {
    json: String,
    digest: Digest,
    signature: Signature,
    accepted: Vec<(ClientId, Digest)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DocumentCase {
    kind: String,
    json: String,
    signature: Option<Signature>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StrictCase {
    kind: String,
    json: String,
    read: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenCase {
    json: String,
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProblemCase {
    #[serde(rename = "type")]
    kind: ProblemType,
    title: String,
}

/// The server of the vectors.
fn server() -> SigningKey {
    SigningKey::from_seed(&[1; 32])
}

fn purpose(name: &str) -> Purpose {
    match name {
        "manifest" => Purpose::Manifest,
        "record" => Purpose::Record,
        "receipt" => Purpose::Receipt,
        "request" => Purpose::Request,
        "enrolment" => Purpose::Enrolment,
        other => panic!("no such purpose: {other}"),
    }
}

#[test]
fn signatures_both_ways() {
    let v = vectors();
    assert_eq!(v.signatures.len(), 10);
    for case in &v.signatures {
        let key = SigningKey::from_seed(&array(&case.seed));
        assert_eq!(key.public(), case.public);
        assert_eq!(ClientId::of(&case.public.0), case.client);
        let (purpose, text) = (purpose(&case.purpose), bytes(&case.bytes));
        assert_eq!(key.sign(purpose, &text), case.signature, "{}", case.purpose);
        assert_eq!(case.public.verify(purpose, &text, &case.signature), Ok(()));
    }
}

#[test]
fn requests_both_ways() {
    let v = vectors();
    assert!(!v.requests.is_empty() && !v.bad_headers.is_empty());
    for case in &v.requests {
        let key = SigningKey::from_seed(&array(&case.seed));
        let body = Digest::of(&bytes(&case.body));
        let request = Request { method: &case.method, path: &case.path, body };
        let signed = Authorization::sign(&key, &request, array(&case.nonce), case.expires_ms);
        assert_eq!(signed.to_string(), case.header);
        let read: Authorization = case.header.parse().expect("a header");
        assert_eq!(read, signed);
        assert_eq!(read.verify(&key.public(), &request), Ok(()));
    }
    for text in &v.bad_headers {
        assert!(text.parse::<Authorization>().is_err(), "{text}");
    }
}

#[test]
fn records_make_a_chain() {
    let v = vectors();
    assert_eq!(v.records.len(), 3);
    let mut parent = None;
    for (round, case) in (0..).zip(&v.records) {
        let signed = Signed { bytes: case.json.clone().into_bytes(), signature: case.signature };
        let record: Record =
            signed.open(&server().public(), Purpose::Record).expect("the server's");
        assert_eq!(serde_json::to_string(&record).expect("JSON"), case.json);
        assert_eq!(Digest::of(case.json.as_bytes()), case.digest);
        assert_eq!((record.round, record.parent), (RoundId(round), parent));
        let accepted: BTreeMap<_, _> = case.accepted.iter().copied().collect();
        assert_eq!(accepted_digest(&accepted), record.accepted_set);
        assert_eq!(Signed::new(&server(), Purpose::Record, signed.bytes.clone()), signed);
        parent = Some(case.digest);
    }
}

fn again<T: DeserializeOwned + Serialize>(json: &str) -> Option<String> {
    let read: T = serde_json::from_str(json).ok()?;
    Some(serde_json::to_string(&read).expect("what was read can be written"))
}

/// Reads and writes again; `None` where it is refused.
fn rewritten(kind: &str, json: &str) -> Option<String> {
    match kind {
        "enrolment" => again::<Enrolment>(json),
        "enrolled" => again::<Enrolled>(json),
        "check-in" => again::<CheckIn>(json),
        "answer" => again::<Answer>(json),
        "receipt" => again::<Receipt>(json),
        "problem" => again::<Problem>(json),
        "manifest" => again::<Manifest>(json),
        other => panic!("no such document: {other}"),
    }
}

#[test]
fn documents_both_ways() {
    let v = vectors();
    for case in &v.documents {
        assert_eq!(rewritten(&case.kind, &case.json).as_ref(), Some(&case.json), "{}", case.kind);
        if case.kind == "enrolment" {
            let enrolment: Enrolment = serde_json::from_str(&case.json).expect("just read");
            assert_eq!(enrolment.verify(), Ok(()));
        }
        if let Some(signature) = &case.signature {
            let text = case.json.as_bytes();
            let checked = server().public().verify(purpose(&case.kind), text, signature);
            assert_eq!(checked, Ok(()), "{}", case.kind);
        }
    }
}

#[test]
fn later_fields_are_passed_over_in_answers_only() {
    let v = vectors();
    assert!(v.strictness.len() > v.documents.len());
    for case in &v.strictness {
        assert_eq!(rewritten(&case.kind, &case.json).is_some(), case.read, "{}", case.json);
    }
}

#[test]
fn tokens_both_ways() {
    let v = vectors();
    assert_eq!(v.tokens.len(), 2);
    for case in &v.tokens {
        let token: JoinToken = serde_json::from_str(&case.json).expect("a token");
        assert_eq!(token.encode(), case.text);
        assert_eq!(JoinToken::decode(&case.text), Ok(token));
    }
}

#[test]
fn problems_keep_their_names() {
    let v = vectors();
    assert_eq!(v.problems.len(), 28);
    for case in &v.problems {
        assert!(ProblemType::ALL.contains(&case.kind));
        assert_eq!(case.kind.title(), case.title);
    }
}
