//! Seeded draws, layouts with their start, counts and digests.

use gossamer_protocol::density::Density;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::layout::{BaseLinear, Layout, TensorSpec};
use gossamer_protocol::manifest::base_digest;
use gossamer_protocol::rng::Stream;
use serde::Deserialize;

use crate::{array, bits, bytes, vectors};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CountCase {
    density: f64,
    n: usize,
    k: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamCase {
    seed: String,
    label: String,
    parts: Vec<String>,
    /// What is drawn, of how many, and what comes.
    draws: Vec<(String, String, String)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LayoutCase {
    linears: Vec<(String, usize, usize)>,
    targets: Vec<String>,
    rank: usize,
    freeze_a: bool,
    seed: String,
    tensors: Vec<TensorSpec>,
    digest: String,
    init: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BaseCase {
    config: String,
    tokenizer: String,
    weights: String,
    base: String,
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

#[test]
fn streams_draw_what_their_name_says() {
    let v = vectors();
    assert!(!v.streams.is_empty());
    for case in &v.streams {
        let parts: Vec<Vec<u8>> = case.parts.iter().map(|p| bytes(p)).collect();
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let mut stream = Stream::new(number(&case.seed), &case.label, &parts);
        for (place, (op, n, expected)) in case.draws.iter().enumerate() {
            let n = number(n);
            let drawn = match op.as_str() {
                "bits" => stream.bits().to_string(),
                "unit" => bits(&[stream.unit()]),
                "unit_f64" => (stream.unit_f64() * (1_u64 << 53) as f64).to_string(),
                "below" => stream.below(n).to_string(),
                "shuffle" => {
                    let mut items: Vec<u64> = (0..n).collect();
                    stream.shuffle(&mut items);
                    items.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
                }
                other => panic!("no such draw: {other}"),
            };
            assert_eq!(&drawn, expected, "draw {place} ({op}) of {:?}", case.label);
        }
    }
}

#[test]
fn layouts_and_their_seeded_start() {
    let v = vectors();
    assert!(!v.layouts.is_empty());
    for case in &v.layouts {
        let linear = |(name, d_in, d_out): &(String, usize, usize)| BaseLinear {
            name: name.clone(),
            d_in: *d_in,
            d_out: *d_out,
        };
        let linears: Vec<BaseLinear> = case.linears.iter().map(linear).collect();
        let layout = Layout::lora(&linears, &case.targets, case.rank, case.freeze_a)
            .expect("the targets are there");
        assert_eq!(Vec::from(layout.clone()), case.tensors);
        assert_eq!(layout.digest().to_string(), case.digest);
        assert_eq!(bits(&layout.init(number(&case.seed))), case.init);
    }
}

#[test]
fn counts_round_half_up_and_keep_one() {
    let v = vectors();
    assert!(!v.counts.is_empty());
    for case in &v.counts {
        let density = Density::try_from(case.density).expect("a share");
        assert_eq!(density.count(case.n), case.k, "{} of {}", case.density, case.n);
    }
}

#[test]
fn a_base_has_one_name() {
    let case = vectors().base;
    let digest = |hex: &str| Digest(array(hex));
    let base = base_digest(digest(&case.config), digest(&case.tokenizer), digest(&case.weights));
    assert_eq!(base.to_string(), case.base);
}
