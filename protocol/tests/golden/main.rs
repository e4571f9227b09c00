//! The wire's golden vectors, `tests/vectors`: written by `tests/python` from `docs/wire.md`, so that no
//! line under test had a part in them. What they say is decoded and encoded both ways.
//!
//! `v1.json` also has what is the same in version 2: streams, layouts, messages.

use serde::Deserialize;

mod frames;
mod messages;
mod streams;
mod v2;

/// The whole file; a section that no test reads cannot be in it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    version: u16,
    #[serde(rename = "about")]
    _about: Vec<String>,
    manifests: Vec<frames::ManifestCase>,
    minimal_manifest: frames::MinimalManifest,
    limits: Vec<frames::LimitCase>,
    counts: Vec<streams::CountCase>,
    frames: Vec<frames::FrameCase>,
    bad_frames: Vec<frames::BadFrame>,
    streams: Vec<streams::StreamCase>,
    layouts: Vec<streams::LayoutCase>,
    base: streams::BaseCase,
    signatures: Vec<messages::SignatureCase>,
    requests: Vec<messages::RequestCase>,
    bad_headers: Vec<String>,
    records: Vec<messages::RecordCase>,
    documents: Vec<messages::DocumentCase>,
    strictness: Vec<messages::StrictCase>,
    tokens: Vec<messages::TokenCase>,
    problems: Vec<messages::ProblemCase>,
}

fn vectors() -> Vectors {
    let vectors: Vectors =
        serde_json::from_str(include_str!("../vectors/v1.json")).expect("the vectors' own shape");
    assert_eq!(vectors.version, 1);
    vectors
}

fn bytes(hex: &str) -> Vec<u8> {
    assert!(hex.is_ascii() && hex.len().is_multiple_of(2), "{hex}");
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn array<const N: usize>(hex: &str) -> [u8; N] {
    bytes(hex).try_into().expect("so many bytes")
}

/// Bit patterns, apart from NaN-free equality of floats: -0 is not 0 here.
fn bits(values: &[f32]) -> String {
    let words: Vec<String> = values.iter().map(|v| format!("{:08x}", v.to_bits())).collect();
    words.join(" ")
}

fn floats(bits: &str) -> Vec<f32> {
    let float = |word| f32::from_bits(u32::from_str_radix(word, 16).expect("hexadecimal"));
    bits.split_whitespace().map(float).collect()
}
