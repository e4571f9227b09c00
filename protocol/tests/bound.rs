//! How near bodies come to what information theory allows.
//!
//! Supports are uniform, signs even and magnitudes independent, so there is nothing to be learned beyond
//! the density and how often each level is used, and a body shorter than the entropy would be a miracle.
//! `cargo test -p gossamer-protocol --test bound -- --nocapture` prints the numbers.

use std::collections::BTreeMap;

use gossamer_protocol::codec::{self, Encoded, Options, Shape, bound};
use gossamer_protocol::fold::VALUE_MAX;
use gossamer_protocol::frame::UPDATE_OVERHEAD;
use gossamer_protocol::layout::{BaseLinear, Layout};
use gossamer_protocol::manifest::{Coding, Values};
use gossamer_protocol::rng::Stream;
use gossamer_protocol::sparse::{Sparse, Support};

const N: usize = 1 << 20;
/// What a body may take beyond the bound.
const MARGIN: f64 = 0.02;
/// What a modelled body may take beyond the entropy: its model starts from nothing in each frame.
const LEARNING: f64 = 0.03;

/// Eight linears of 8192 -> 8192 at rank 8: 2^20 parameters.
fn layout() -> Layout {
    let linear = |at: usize| BaseLinear { name: format!("m.{at}.q"), d_in: 8192, d_out: 8192 };
    let linears: Vec<BaseLinear> = (0..8).map(linear).collect();
    let layout = Layout::lora(&linears, &["q".into()], 8, false).expect("valid");
    assert_eq!(layout.n(), N);
    layout
}

/// `k` of `N`, every set equally likely: each coordinate is taken with the share still to be taken.
fn uniform(k: usize, rng: &mut Stream) -> Support {
    let mut indices = Vec::with_capacity(k);
    for index in 0..N {
        if rng.below((N - index) as u64) < (k - indices.len()) as u64 {
            indices.push(index as u32);
        }
    }
    assert_eq!(indices.len(), k);
    Support::Indices(indices)
}

/// What a top-k of the density `1/share` keeps of a two-sided exponential of scale 0.001.
fn tail(k: usize, share: usize, rng: &mut Stream) -> Vec<f32> {
    let value = |_| {
        let size = 1e-3 * ((share as f64).ln() - (1.0 - rng.unit_f64()).ln());
        (if rng.below(2) == 0 { size } else { -size }) as f32
    };
    (0..k).map(value).collect()
}

/// `log2 C(n, k)`, factor by factor.
fn log2_choose(n: usize, k: usize) -> f64 {
    (1..=k).map(|i| ((n - k + i) as f64 / i as f64).log2()).sum()
}

/// Bits of an index where it is packed, and of a full block's head: docs/wire.md, section 8.
fn widths(values: Values) -> (usize, usize) {
    match values {
        Values::Int4 => (3, 17),
        Values::Lloyd3 => (2, 17),
        Values::Lloyd2 => (1, 17),
        Values::Sign => (0, 9),
        other => unreachable!("{other:?} is not in the table"),
    }
}

/// Lengths of blocks: of 1024 entries, closed at a tensor's end from 256 on. docs/wire.md, section 8.
fn blocks(layout: &Layout, support: &Support) -> Vec<usize> {
    let indices = support.indices().expect("not all");
    let mut blocks = Vec::new();
    let mut open = 0;
    for (_, range) in layout.tensors() {
        open += indices.iter().filter(|&&index| range.contains(&(index as usize))).count();
        blocks.extend(std::iter::repeat_n(1024, open / 1024));
        open %= 1024;
        if open >= 256 {
            blocks.push(open);
            open = 0;
        }
    }
    blocks.extend((open > 0).then_some(open));
    blocks
}

/// Entropy of the magnitudes' levels in bits an entry: how often each is used.
fn level_entropy(decoded: &Sparse, blocks: &[usize]) -> f64 {
    let mut uses = [0_usize; 8];
    let mut rest = decoded.values();
    for &length in blocks {
        let (block, behind) = rest.split_at(length);
        rest = behind;
        let mut of_block = BTreeMap::<u32, usize>::new();
        for value in block {
            *of_block.entry(value.abs().to_bits()).or_default() += 1;
        }
        assert!(of_block.len() <= uses.len(), "{} levels in one block", of_block.len());
        of_block.into_values().zip(&mut uses).for_each(|(count, uses)| *uses += count);
    }
    let share = uses.iter().filter(|&&uses| uses > 0).map(|&uses| uses as f64);
    let share = share.map(|uses| uses / decoded.values().len() as f64);
    share.map(|p| -p * p.log2()).sum()
}

fn encode(layout: &Layout, sparse: &Sparse, values: Values, coding: Coding) -> Encoded {
    let shape = Shape { layout, domain: &Support::All };
    let options = Options { values, coding, limit: VALUE_MAX, dice: None };
    codec::encode(shape, sparse, options).expect("in range")
}

fn decode(layout: &Layout, coded: &Encoded, values: Values) -> Sparse {
    let shape = Shape { layout, domain: &Support::All };
    let k = coded.k as usize;
    codec::decode_sparse(shape, coded.body, values, k, &coded.bytes, VALUE_MAX).expect("own bytes")
}

/// As a manifest writes it.
fn word(value: impl serde::Serialize) -> String {
    serde_json::to_string(&value).expect("a plain variant").replace('"', "")
}

/// What is printed, and asserted, for one way to code.
struct Line {
    /// Bytes, as all that follows.
    body: f64,
    /// `log2 C(n, k)` bits, the width of each packed entry, and every block's head.
    bound: f64,
    /// The same, but for each magnitude the entropy of the levels used.
    entropy: f64,
    /// What the body spends on positions, and `log2 C(n, k)` bits.
    places: f64,
    places_bound: f64,
}

const HEAD: &str = "density  values  coding       body   frame   bound     over entropy     over  places   bound    over";

impl Line {
    fn print(&self, name: &str) {
        let over = |bytes: f64, least: f64| format!("{:+.2} %", 100.0 * (bytes / least - 1.0));
        let Self { body, bound, entropy, places, places_bound } = *self;
        println!(
            "{name}  {body:>7.0} {:>7.0} {bound:>7.0} {:>8} {entropy:>7.0} {:>8} {places:>7.0} {places_bound:>7.0} {:>7}",
            body + UPDATE_OVERHEAD as f64,
            over(body, bound),
            over(body, entropy),
            over(places, places_bound),
        );
    }
}

#[test]
fn bodies_are_within_two_per_cent_of_the_bound() {
    let layout = layout();
    println!("{HEAD}");
    for share in [4, 16, 64] {
        let k = N / share;
        let mut rng = Stream::new(1, "bound", &[&(share as u64).to_le_bytes()]);
        let support = uniform(k, &mut rng);
        let blocks = blocks(&layout, &support);
        let sparse = Sparse::new(N, support, tail(k, share, &mut rng)).expect("rising");
        let places_bound = log2_choose(N, k) / 8.0;
        for values in [Values::Int4, Values::Lloyd3, Values::Lloyd2, Values::Sign] {
            let (index, head) = widths(values);
            let scales = (blocks.len() * head) as f64 / 8.0;
            let bound = places_bound + (k * (1 + index)) as f64 / 8.0 + scales;
            // The library's own word, of full blocks alone.
            let said = bound::uniform_bits(N, k, values) / 8.0;
            assert!((said / bound - 1.0).abs() < 0.002, "{said} for {bound}");
            for coding in [Coding::Packed, Coding::Smallest] {
                let coded = encode(&layout, &sparse, values, coding);
                let levels = level_entropy(&decode(&layout, &coded, values), &blocks);
                let entropy = places_bound + k as f64 * (1.0 + levels) / 8.0 + scales;
                let body = coded.bytes.len() as f64;
                let places = coded.parts.positions as f64 / 8.0;
                let name = format!("1/{share:<6} {:<7} {:<8}", word(values), word(coding));
                Line { body, bound, entropy, places, places_bound }.print(&name);
                assert!(body <= (1.0 + MARGIN) * bound, "{name}: {body}, bound {bound}");
                // Widths are fixed, so that what is packed cannot be shorter; and nothing beats entropy.
                let (least, most) = match coding {
                    Coding::Packed => (bound, (1.0 + MARGIN) * bound),
                    Coding::Smallest => (entropy, (1.0 + LEARNING) * entropy),
                };
                assert!(least <= body && body <= most, "{name}: {body}, least {least}");
            }
        }
    }
}

/// Rows and columns of LoRA tensors are not alike: a rank component or an input that moves, moves as a
/// whole. With rates `row x column`, both log-normal, the support has less entropy, and the model finds it.
#[test]
fn a_clustered_support_takes_less_than_a_uniform_one() {
    let layout = layout();
    let mut rng = Stream::new(1, "clustered", &[]);
    let (mut indices, mut entropy) = (Vec::new(), 0.0);
    for (tensor, range) in layout.tensors() {
        let mut rates =
            |count: usize| -> Vec<f64> { (0..count).map(|_| rng.normal().exp()).collect() };
        let (rows, columns) = (rates(tensor.shape[0]), rates(tensor.shape[1]));
        for (place, index) in range.enumerate() {
            let rate = rows[place / tensor.shape[1]] * columns[place % tensor.shape[1]];
            // The mean of the product is e.
            let share = (rate / std::f64::consts::E / 16.0).min(0.9);
            entropy -= share * share.log2() + (1.0 - share) * (1.0 - share).log2();
            if rng.unit_f64() < share {
                indices.push(index as u32);
            }
        }
    }
    let k = indices.len();
    let sparse = Sparse::new(N, Support::Indices(indices), tail(k, 16, &mut rng)).expect("rising");
    let (uniform, entropy) = (log2_choose(N, k) / 8.0, entropy / 8.0);
    let coded = encode(&layout, &sparse, Values::Sign, Coding::Smallest);
    let places = coded.parts.positions as f64 / 8.0;
    println!(
        "{k} clustered: {places:.0} bytes of positions, bound {uniform:.0}, entropy {entropy:.0}"
    );
    assert_eq!(decode(&layout, &coded, Values::Sign).support(), sparse.support());
    // The rates themselves must be learned, so that the entropy, which knows them, is not reached.
    assert!(entropy < places && places < 0.84 * uniform, "{places} of {uniform}");
    let body = coded.bytes.len() as f64;
    assert!(body < uniform + k as f64 / 8.0, "{body}");
}
