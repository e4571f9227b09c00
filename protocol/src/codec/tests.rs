use proptest::prelude::*;

use super::*;
use crate::layout::{Part, TensorSpec};

fn layout() -> Layout {
    let tensor = |name: &str, part, shape| TensorSpec { name: name.into(), part, shape };
    Layout::new(vec![
        tensor("a.lora_A", Part::LoraA, [4, 50]),
        tensor("a.lora_B", Part::LoraB, [70, 4]),
        tensor("b.lora_A", Part::LoraA, [4, 50]),
        tensor("b.lora_B", Part::LoraB, [1, 4]),
    ])
    .expect("valid")
}

fn options(values: Values, coding: Coding) -> Options {
    Options { values, coding, limit: 8.0, dice: None }
}

/// Some of a domain of the layout, with heavy tails.
fn any_sparse() -> impl Strategy<Value = (Support, Sparse)> {
    let n = layout().n();
    (0_u8..3, 0.0_f64..=1.0, any::<u64>()).prop_map(move |(kind, share, seed)| {
        let mut rng = Stream::new(seed, "test", &[]);
        let domain = match kind {
            0 => Support::All,
            _ => Support::Indices((0..n as u32).filter(|_| rng.below(3) > 0).collect()),
        };
        let places: Vec<u32> = match &domain {
            Support::All => (0..n as u32).collect(),
            Support::Indices(indices) => indices.clone(),
        };
        let chosen: Vec<u32> = places.into_iter().filter(|_| rng.unit_f64() < share).collect();
        let values = chosen.iter().map(|_| (rng.normal().powi(3) * 0.01) as f32).collect();
        let values: Vec<f32> = values;
        let values = values.into_iter().map(|v: f32| v.clamp(-4.0, 4.0)).collect();
        (domain, Sparse::new(n, Support::Indices(chosen), values).expect("rising"))
    })
}

fn decoded(shape: Shape<'_>, coded: &Encoded, values: Values) -> Result<Sparse, CodecError> {
    decode_sparse(shape, coded.body, values, coded.k as usize, &coded.bytes, 8.0)
}

/// The largest error that rounding to the nearest may make in a block, and clamping above its levels.
fn bound(values: Values, block: &[f32]) -> f32 {
    let most = block.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    match values {
        Values::F32 => 0.0,
        // Half a unit in the last of 11 bits, or of the least subnormal.
        Values::F16 => most / 2_048.0 + 3e-8,
        // The scale is at most 9/8 of the least that fits; half of it. The least is 9 * 2^-27.
        Values::Int8 => most / 127.0 * 9.0 / 16.0 + 3.4e-8,
        _ => most,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Every body of every code gives back the support, and values within the code's error bound.
    #[test]
    fn round_trip((domain, sparse) in any_sparse()) {
        let layout = layout();
        let shape = Shape { layout: &layout, domain: &domain };
        for values in Values::ALL {
            for coding in [Coding::Packed, Coding::Smallest] {
                let coded = encode(shape, &sparse, options(values, coding)).expect("in range");
                let back = decoded(shape, &coded, values).expect("own bytes");
                let indices = |s: &Sparse| s.iter().map(|(i, _)| i).collect::<Vec<_>>();
                prop_assert_eq!(indices(&back), indices(&sparse), "{:?} {:?}", values, coded.body);
                let most = bound(values, sparse.values());
                for (got, sent) in back.values().iter().zip(sparse.values()) {
                    prop_assert!((got - sent).abs() <= most, "{:?}: {} for {}", values, got, sent);
                }
                // What is decoded is coded again as it came: one value, one code.
                if matches!(values, Values::F32 | Values::F16) {
                    let again = encode(shape, &back, options(values, coding)).expect("in range");
                    prop_assert_eq!(&again.bytes, &coded.bytes);
                }
                let spent = coded.parts;
                let bits = spent.positions + spent.values + spent.scales + spent.outliers;
                let bytes = coded.bytes.len() as u64;
                prop_assert!(bits.div_ceil(8).abs_diff(bytes) <= 4, "{bits} bits, {bytes} bytes");
            }
        }
    }

    /// Whatever the bytes, an error or entries that may travel.
    #[test]
    fn hostile(
        body in 0_usize..4,
        values in 0_usize..11,
        k in 0_usize..600,
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        (domain, _) in any_sparse(),
    ) {
        let layout = layout();
        let shape = Shape { layout: &layout, domain: &domain };
        let read = decode_sparse(shape, Body::ALL[body], Values::ALL[values], k, &bytes, 8.0);
        if let Ok(sparse) = read {
            prop_assert_eq!(sparse.values().len(), k);
            prop_assert!(sparse.values().iter().all(|v| v.abs() <= 8.0));
            let may = |i: usize| domain.indices().is_none_or(|d| d.binary_search(&(i as u32)).is_ok());
            prop_assert!(sparse.iter().all(|(index, _)| may(index)));
        }
    }

    /// A body cut anywhere, or with a byte more, is refused, or is another vector's.
    #[test]
    fn truncated_and_longer((domain, sparse) in any_sparse(), at in 0.0_f64..1.0, extra in any::<u8>()) {
        let layout = layout();
        let shape = Shape { layout: &layout, domain: &domain };
        for values in Values::ALL {
            for coding in [Coding::Packed, Coding::Smallest] {
                let mut coded = encode(shape, &sparse, options(values, coding)).expect("in range");
                let whole = coded.bytes.clone();
                let good = decoded(shape, &coded, values).expect("own bytes");
                if coded.k > 0 && !whole.is_empty() {
                    coded.bytes.truncate((at * whole.len() as f64) as usize);
                    prop_assert!(decoded(shape, &coded, values) != Ok(good.clone()));
                }
                coded.bytes = whole;
                coded.bytes.push(extra);
                prop_assert!(decoded(shape, &coded, values) != Ok(good));
            }
        }
    }
}

/// Values up to the very limit, in blocks of small ones: what an encoder writes, a decoder takes.
#[test]
fn near_the_limit() {
    let tensor = TensorSpec { name: "t".into(), part: Part::LoraB, shape: [1, 1_024] };
    let layout = Layout::new(vec![tensor]).expect("valid");
    let shape = Shape { layout: &layout, domain: &Support::All };
    let mut rng = Stream::new(8, "limit", &[]);
    for round in 0..60 {
        let mut source: Vec<f32> = (0..1_024).map(|_| rng.unit() * 0.01).collect();
        for _ in 0..=rng.below(40) {
            source[rng.below(1_024) as usize] =
                if round % 2 == 0 { -8.0 } else { 7.0 + rng.unit() };
        }
        let sparse = Sparse::gather(&source, Support::All).expect("all");
        for values in Values::ALL {
            for dice in [None, Some(Stream::new(round, "dice", &[]))] {
                let options = Options { values, coding: Coding::Packed, limit: 8.0, dice };
                let coded = encode(shape, &sparse, options).expect("in range");
                let read = decoded(shape, &coded, values);
                assert!(read.is_ok(), "{values:?}: {read:?}");
            }
        }
    }
}

#[test]
fn stochastic_rounding_is_unbiased() {
    let layout =
        Layout::new(vec![TensorSpec { name: "t".into(), part: Part::LoraB, shape: [1, 256] }])
            .expect("valid");
    let shape = Shape { layout: &layout, domain: &Support::All };
    // Between int8's levels: 127 sets the scale to 1, and 0.3 lies between 0 and 1.
    let mut source = vec![0.3_f32; 256];
    source[0] = 127.0;
    let sparse = Sparse::gather(&source, Support::All).expect("all");
    let (mut sum, mut count) = (0.0, 0.0);
    for seed in 0..40 {
        let dice = Some(Stream::new(seed, "rounding", &[]));
        let options = Options { values: Values::Int8, coding: Coding::Packed, limit: 128.0, dice };
        let coded = encode(shape, &sparse, options).expect("in range");
        let back = decode_sparse(shape, coded.body, Values::Int8, 256, &coded.bytes, 128.0);
        for value in &back.expect("own bytes").values()[1..] {
            assert!([0.0, 1.0].contains(value), "{value}");
            sum += f64::from(*value);
            count += 1.0;
        }
    }
    // Binomial(10,200, 0.3): the mean's sd is 0.0045.
    assert!((sum / count - 0.3).abs() < 0.02, "{}", sum / count);
}

#[test]
fn outliers_are_compensated() {
    let layout =
        Layout::new(vec![TensorSpec { name: "t".into(), part: Part::LoraB, shape: [1, 200] }])
            .expect("valid");
    let shape = Shape { layout: &layout, domain: &Support::All };
    let mut source: Vec<f32> = (0..200).map(|i| 0.01 * (i % 7) as f32).collect();
    source[17] = 1.5;
    source[150] = -2.5;
    let sparse = Sparse::gather(&source, Support::All).expect("all");
    for coding in [Coding::Packed, Coding::Smallest] {
        let coded = encode(shape, &sparse, options(Values::Fp4, coding)).expect("in range");
        assert_eq!(coded.parts.outliers, 8 + 2 * 24, "one block, two outliers");
        let back = decoded(shape, &coded, Values::Fp4).expect("own bytes");
        for (at, (got, sent)) in back.values().iter().zip(&source).enumerate() {
            // Outliers to binary16; the others to half a step of E2M1 at most: scale 0.06/6, step 2.
            let most = if [17, 150].contains(&at) { 2.5 / 2_048.0 } else { 0.011 };
            assert!((got - sent).abs() <= most, "{at}: {got} for {sent}");
        }
    }
}
