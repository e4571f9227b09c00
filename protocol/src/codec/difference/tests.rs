use proptest::prelude::*;

use super::super::{Options, encode as encode_body};
use super::*;
use crate::layout::{Layout, Part, TensorSpec};
use crate::manifest::Coding;
use crate::rng::Stream;
use crate::select::top_k;
use crate::sparse::{Sparse, Support};

const LIMIT: f32 = 128.0;

fn layout(rows: usize) -> Layout {
    let tensor = |name: &str, part, shape| TensorSpec { name: name.into(), part, shape };
    Layout::new(vec![
        tensor("a.lora_A", Part::LoraA, [4, 8 * rows]),
        tensor("a.lora_B", Part::LoraB, [12 * rows, 4]),
    ])
    .expect("valid")
}

/// A body of the largest share `density` of `dense`.
fn body(layout: &Layout, dense: &[f32], density: f64, values: Values) -> (Header, Vec<u8>) {
    let k = (density * dense.len() as f64) as usize;
    let support = match k == dense.len() {
        true => Support::All,
        false => top_k(dense, k).expect("finite"),
    };
    let sparse = Sparse::gather(dense, support).expect("a support of this layout");
    let shape = Shape { layout, domain: &Support::All };
    let options = Options { values, coding: Coding::Smallest, limit: LIMIT, dice: None };
    let coded = encode_body(shape, &sparse, options).expect("in range");
    (Header { body: coded.body, values, k: coded.k as usize }, coded.bytes)
}

/// What a receiver of a body holds.
fn held(layout: &Layout, (header, bytes): &(Header, Vec<u8>)) -> Vec<f32> {
    let shape = Shape { layout, domain: &Support::All };
    let Header { body, values, k } = *header;
    let sparse = super::super::decode_sparse(shape, body, values, k, bytes, LIMIT);
    let mut held = vec![0.0; layout.n()];
    sparse.expect("own bytes").add_to(&mut held);
    held
}

fn noise(n: usize, size: f64, seed: u64) -> Vec<f32> {
    let mut rng = Stream::new(seed, "test", &[]);
    (0..n).map(|_| (rng.normal().powi(3) * size).clamp(-4.0, 4.0) as f32).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// From whatever is held, and whichever codes, the very body comes back.
    #[test]
    fn round_trip(seed in any::<u64>(), before in 0_usize..11, now in 0_usize..11, moved in 0.0_f64..2.0) {
        let layout = layout(6);
        let old = noise(layout.n(), 0.01, seed);
        let step = noise(layout.n(), 0.01 * moved, seed ^ 1);
        let new: Vec<f32> = old.iter().zip(step).map(|(a, b)| a + b).collect();
        let shape = Shape { layout: &layout, domain: &Support::All };
        for (held_share, share) in [(0.25, 0.25), (1.0, 1.0), (0.02, 0.5), (1.0, 0.1), (0.0, 0.3)] {
            let held = held(&layout, &body(&layout, &old, held_share, Values::ALL[before]));
            let (header, bytes) = body(&layout, &new, share, Values::ALL[now]);
            let coded = encode(shape, header, &bytes, &held, LIMIT).expect("own bytes");
            let coded = coded.expect("an encoder's");
            let back = decode(shape, header, &coded, &held, LIMIT);
            prop_assert_eq!(back, Ok(bytes), "{:?} after {:?}", header, Values::ALL[before]);
        }
    }

    /// Whatever the bytes, an error or some body: the digest tells that it is not the right one.
    #[test]
    fn hostile(
        seed in any::<u64>(),
        place in 0_usize..4,
        values in 0_usize..11,
        k in 0_usize..700,
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let layout = layout(6);
        let held = noise(layout.n(), 0.01, seed);
        let shape = Shape { layout: &layout, domain: &Support::All };
        let header = Header { body: Body::ALL[place], values: Values::ALL[values], k };
        if let Ok(body) = decode(shape, header, &bytes, &held, LIMIT) {
            let Header { body: way, values, k } = header;
            let read = super::super::decode_sparse(shape, way, values, k, &body, LIMIT);
            prop_assert!(read.is_ok(), "{:?}", read);
        }
    }

    /// Cut short or longer, a difference is refused or makes another body.
    #[test]
    fn truncated_and_longer(seed in any::<u64>(), at in 0.0_f64..1.0, extra in any::<u8>()) {
        let layout = layout(6);
        let (old, new) = (noise(layout.n(), 0.01, seed), noise(layout.n(), 0.01, seed ^ 1));
        let shape = Shape { layout: &layout, domain: &Support::All };
        let (header, bytes) = body(&layout, &new, 0.25, Values::Lloyd3);
        let coded = encode(shape, header, &bytes, &old, LIMIT).expect("own bytes").expect("own");
        let short = &coded[..(at * coded.len() as f64) as usize];
        prop_assert!(decode(shape, header, short, &old, LIMIT) != Ok(bytes.clone()));
        let long = [&coded[..], &[extra]].concat();
        prop_assert!(decode(shape, header, &long, &old, LIMIT) != Ok(bytes));
    }
}

/// The steps' entropy is what a difference should take. Here one level in ten moves by one, up or down:
/// `H(0.1) + 0.1` bits each, 0.569; and a support that stands costs next to nothing.
#[test]
fn takes_what_changed() {
    let layout = layout(256);
    let n = layout.n();
    let scale = 1.0 / 64.0;
    let mut rng = Stream::new(5, "test", &[]);
    let old: Vec<f32> = (0..n).map(|_| (rng.normal() * 24.0).round() as f32 * scale).collect();
    let step = |rng: &mut Stream| match rng.below(20) {
        0 => scale,
        1 => -scale,
        _ => 0.0,
    };
    let mut new: Vec<f32> = old.iter().map(|value| value + step(&mut rng)).collect();
    // Every block's largest is 127 steps, so that its scale is just `scale`.
    for block in new.chunks_mut(256) {
        block[0] = 127.0 * scale;
    }
    let mut old = old;
    for block in old.chunks_mut(256) {
        block[0] = 127.0 * scale;
    }
    let shape = Shape { layout: &layout, domain: &Support::All };
    let (header, bytes) = body(&layout, &new, 1.0, Values::Int8);
    let coded = encode(shape, header, &bytes, &old, LIMIT).expect("own bytes").expect("own");
    let bits = (coded.len() * 8) as f64 / n as f64;
    let headers = 9.0 / 256.0;
    assert!((0.569..0.569 * 1.03 + headers).contains(&bits), "{bits} bits a level");

    let (header, bytes) = body(&layout, &noise(n, 0.01, 3), 1.0 / 16.0, Values::Lloyd2);
    let same = held(&layout, &(header, bytes.clone()));
    let coded = encode(shape, header, &bytes, &same, LIMIT).expect("own bytes").expect("own");
    assert!(coded.len() * 12 < bytes.len(), "{} of {}", coded.len(), bytes.len());
}

/// A body that no encoder writes is not offered as a difference.
#[test]
fn only_what_can_be_written_again() {
    let layout = layout(6);
    let shape = Shape { layout: &layout, domain: &Support::All };
    let dense = noise(layout.n(), 0.01, 9);
    let (header, bytes) = body(&layout, &dense, 0.25, Values::Sign);
    let held = vec![0.0; layout.n()];
    assert!(encode(shape, header, &bytes, &held, LIMIT).expect("own bytes").is_some());
    // The same entries, packed where an encoder models them: both are bodies, one is the other's.
    let sparse = Sparse::gather(&dense, top_k(&dense, header.k).expect("finite"));
    let options = Options { values: Values::F32, coding: Coding::Packed, limit: LIMIT, dice: None };
    let packed = encode_body(shape, &sparse.expect("fits"), options).expect("in range");
    let mut header = Header { body: packed.body, values: Values::F32, k: packed.k as usize };
    assert!(encode(shape, header, &packed.bytes, &held, LIMIT).expect("own bytes").is_some());
    header.k -= 1;
    assert!(encode(shape, header, &packed.bytes, &held, LIMIT).is_err());
}
