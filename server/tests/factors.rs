//! What each rule makes of three clients' factors, against `golden/factors.py`: FedIT, HetLoRA, FlexLoRA,
//! LoRA-FAIR.

mod fixtures;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Origin, Snapshot, Terms, Update};
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::manifest::{Average, Combine, Manifest, Reference, ServerOptimizer, Tier};
use gossamer_protocol::sparse::{Sparse, Support};
use gossamer_server::advance::{AdvanceError, Combining};
use gossamer_server::aggregate::Start;
use gossamer_server::optimizer;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    received: Vec<f32>,
    locals: Vec<Vec<f32>>,
    examples: Vec<u32>,
    cases: Vec<Case>,
    weight: Vec<f32>,
    residual: Vec<f64>,
    stack: Vec<f64>,
    core: Core,
}

/// Of the three kinds of rounds with a core.
#[derive(Deserialize)]
struct Core {
    projector: Vec<f64>,
    basis: Vec<f32>,
    product: Vec<f64>,
    singular: Vec<f64>,
    cores: Vec<Vec<f32>>,
    mean: Vec<f64>,
}

#[derive(Deserialize)]
struct Case {
    average: Average,
    combine: Combine,
    /// Client 1's, of two components; the others have both.
    #[serde(default)]
    rank_of_1: Option<usize>,
    adapter: Vec<f64>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/factors.json")).expect("the script's output")
}

fn manifest(average: Average, combine: Combine, rank_of_1: Option<usize>) -> Manifest {
    let mut manifest = fixtures::manifest();
    manifest.method.download.density = fixtures::share(1.0);
    manifest.method.upload.density = fixtures::share(1.0);
    (manifest.method.average, manifest.method.combine) = (average, combine);
    manifest.optimizer = ServerOptimizer::Sgd { lr: 1.0, momentum: 0.0 };
    if rank_of_1.is_some() {
        // Three clients, three tiers: 0x00000000, 0x01010101 and 0x02020202 are 0, 1 and 2 more than a
        // multiple of 4, and the last is 2 more than one.
        let tier = |rank| Tier { rank, density: None };
        manifest.method.tiers = vec![tier(None), tier(rank_of_1), tier(None), tier(None)];
    }
    manifest.to_bytes().expect("sound");
    manifest
}

/// The adapter after the clients of each part, folded apart, sent what they trained. The aggregator's own was
/// so far `apart` from what they received.
fn after(manifest: &Manifest, golden: &Golden, parts: &[&[usize]], apart: f32) -> Vec<f32> {
    after_round(0, manifest, golden, parts, apart)
}

fn after_round(
    round: u64,
    manifest: &Manifest,
    golden: &Golden,
    parts: &[&[usize]],
    apart: f32,
) -> Vec<f32> {
    let (run, round) = (RunId([1; 16]), RoundId(round));
    let terms = Terms::new(manifest, run, round);
    let mut theta: Vec<f32> = golden.received.iter().map(|v| v + apart).collect();
    let values = Sparse::gather(&golden.received, Support::All).expect("fits");
    let snapshot = Snapshot { run, round, reference: Reference::Weights, values };
    let start = Start { theta: theta.clone(), snapshot };
    let combining = || Combining::new(manifest, Some(start.clone())).expect("a start");
    let add = |combining: &mut Combining, k: usize| {
        let (client, snapshot) = (ClientId([k as u8; 16]), Digest::of(b"snapshot"));
        let origin = Origin { run, round, attempt: Attempt(0), client, snapshot };
        let pairs = golden.locals[k].iter().zip(&golden.received);
        let change: Vec<f32> = pairs.map(|(local, received)| local - received).collect();
        let delta = Sparse::gather(&change, terms.domain(client, None)).expect("fits");
        let update = Update { origin, examples: golden.examples[k], loss: 1.0, delta };
        let bytes = update.encode(&terms, None).expect("in range");
        combining.add(&bytes, &terms, &origin, None, 0).expect("fits");
    };
    let mut whole = combining();
    for &part in parts {
        let mut combining = combining();
        part.iter().for_each(|&k| add(&mut combining, k));
        whole.merge(&combining.partial()).expect("its own");
    }
    let delta = whole.finish().expect("three reported");
    optimizer::of(&manifest.optimizer).step(1, &mut theta, &delta, &mut []);
    theta
}

#[test]
fn as_the_papers_have_it() {
    let golden = golden();
    assert_eq!(golden.cases.len(), 12);
    for Case { average, combine, rank_of_1, adapter } in &golden.cases {
        let manifest = manifest(*average, *combine, *rank_of_1);
        // But for the mean of changes, the new one takes the old one's place.
        let apart = if *combine == Combine::Mean { 0.0 } else { 0.125 };
        let got = after(&manifest, &golden, &[&[0, 1, 2]], apart);
        for (i, (got, expected)) in got.iter().zip(adapter).enumerate() {
            let off = (f64::from(*got) - expected).abs();
            assert!(off < 2e-6, "{average:?} {combine:?} entry {i}: {got} is not {expected}");
        }
    }
}

/// What was sent is `sum w_k B_k A_k`; what the mean of factors makes of it is another.
#[test]
fn only_the_largest_components_are_lost() {
    let golden = golden();
    let product = |adapter: &[f32]| -> Vec<f64> {
        let (a, b) = adapter.split_at(8);
        let at = |i: usize, j: usize| {
            (0..2).map(|r| f64::from(b[2 * i + r]) * f64::from(a[4 * r + j])).sum()
        };
        (0..24).map(|place| at(place / 4, place % 4)).collect()
    };
    let wanted: Vec<f64> =
        golden.locals.iter().map(|local| product(local)).fold(vec![0.0; 24], |sum, local| {
            sum.iter().zip(local).map(|(sum, v)| sum + v / 3.0).collect()
        });
    let off = |combine| {
        let got =
            product(&after(&manifest(Average::Cohort, combine, None), &golden, &[&[0, 1, 2]], 0.0));
        got.iter().zip(&wanted).map(|(got, wanted)| (got - wanted).powi(2)).sum::<f64>().sqrt()
    };
    let [mean, refit, svd] = [Combine::Mean, Combine::Refit(1e-6), Combine::Svd].map(off);
    assert!(svd < refit && refit < mean, "{svd} {refit} {mean}");
}

/// FedEx-LoRA and FLoRA lose nothing: what the factors do not hold goes into the weight behind them.
#[test]
fn what_factors_lack_goes_into_the_weight() {
    let mut golden = golden();
    golden.received.extend_from_slice(&golden.weight);
    golden.locals.iter_mut().for_each(|local| local.extend_from_slice(&golden.weight));
    let seeded = fixtures::manifest().layout.init(fixtures::manifest().seed);
    let seeded: Vec<f64> = seeded.into_iter().map(f64::from).collect();
    let stack = [seeded, golden.stack.clone()].concat();
    for (combine, expected) in [(Combine::Residual, &golden.residual), (Combine::Stack, &stack)] {
        let mut manifest = manifest(Average::Cohort, Combine::Mean, None);
        manifest.layout = manifest.layout.with_weights().expect("a layout");
        manifest.method.combine = combine;
        manifest.to_bytes().expect("sound");
        let got = after(&manifest, &golden, &[&[0, 1, 2]], 0.125);
        assert_eq!(got.len(), 8 + 12 + 24);
        for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
            // The aggregator's own weight was 1/8 more than what clients received.
            let expected = if i < 20 { *expected } else { expected + 0.125 };
            let off = (f64::from(*got) - expected).abs();
            assert!(off < 4e-6, "{combine:?} entry {i}: {got} is not {expected}");
        }
    }
}

/// A is `[2, 4]`, B `[6, 2]`, the core `[2, 2]`, in this order.
#[test]
fn a_core_stands_between_the_gradients_largest_components() {
    let close = |got: &[f64], expected: &[f64], what: &str| {
        assert_eq!(got.len(), expected.len(), "{what}");
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 2e-6, "{what}: {got} is not {expected}");
        }
    };
    /// `x y`, with `x` of so many columns.
    fn times(x: &[f64], inner: usize, y: &[f64]) -> Vec<f64> {
        let cols = y.len() / inner;
        let at = |row: &[f64], col: usize| (0..inner).map(|k| row[k] * y[k * cols + col]).sum();
        x.chunks(inner).flat_map(|row| (0..cols).map(move |col| at(row, col))).collect()
    }
    fn turned(x: &[f64], cols: usize) -> Vec<f64> {
        (0..cols).flat_map(|col| x[col..].iter().step_by(cols).copied()).collect()
    }
    let mut manifest = manifest(Average::Cohort, Combine::Mean, None);
    manifest.layout = manifest.layout.with_cores().expect("a layout");
    manifest.method.combine = Combine::Core;
    manifest.to_bytes().expect("sound");
    let one = [1.0, 0.0, 0.0, 1.0];
    let parts = |adapter: Vec<f32>| -> [Vec<f64>; 3] {
        assert_eq!(adapter.len(), 8 + 12 + 4);
        let wide = |part: &[f32]| part.iter().map(|v| f64::from(*v)).collect();
        [wide(&adapter[..8]), wide(&adapter[8..20]), wide(&adapter[20..])]
    };
    let whole: &[&[usize]] = &[&[0, 1, 2]];

    // Whatever A and R a client claims to have trained does not travel in B's round.
    let (core, mut first) = (golden().core, golden());
    first.received.extend([1.0, 0.0, 0.0, 1.0]);
    first.locals.iter_mut().for_each(|local| local.extend([5.0; 4]));
    let [a, b, r] = parts(after_round(0, &manifest, &first, whole, 0.125));
    close(&times(&b, 2, &turned(&b, 2)), &core.projector, "the range of the mean B");
    close(&times(&turned(&b, 2), 6, &b), &one, "its basis");
    close(&a, &[0.0; 8], "A");
    close(&r, &one, "R");

    let mut second = golden();
    let locals: Vec<Vec<f32>> = second.locals.iter().map(|local| local[..8].to_vec()).collect();
    second.received = [&[0.0; 8][..], &core.basis, &[1.0, 0.0, 0.0, 1.0]].concat();
    second.locals = locals.into_iter().map(|a| [&a[..], &[9.0; 16]].concat()).collect();
    let adapter = after_round(1, &manifest, &second, whole, 0.0);
    let [a, b, r] = parts(adapter.clone());
    close(&times(&turned(&b, 2), 6, &b), &one, "B's columns");
    close(&times(&a, 4, &turned(&a, 4)), &one, "A's rows");
    close(&r, &[core.singular[0], 0.0, 0.0, core.singular[1]], "singular values");
    close(&times(&times(&b, 2, &r), 2, &a), &core.product, "B R A");

    let mut third = golden();
    third.received = adapter.clone();
    third.locals = core.cores.iter().map(|r| [&[7.0; 20][..], r].concat()).collect();
    for round in [2, 3, 40] {
        let after = after_round(round, &manifest, &third, whole, 0.0);
        assert_eq!(after[..20], adapter[..20], "A and B stand");
        let [.., r] = parts(after);
        close(&r, &core.mean, "the mean of cores");
    }
}

/// `(7 - 7) + t` is `t`, `(7 + t) - 7` is not: any other order than that of names would be seen.
#[test]
fn neither_order_nor_parts_change_a_bit() {
    let mut golden = golden();
    golden.received.fill(0.0);
    for (local, sign) in golden.locals.iter_mut().zip([7.0, -7.0, 0.0]) {
        let tiny = |i: usize| if sign == 0.0 { 1e-9 * (i + 1) as f32 } else { sign };
        *local = (0..20).map(tiny).collect();
    }
    for combine in [Combine::Norms, Combine::Refit(0.5), Combine::Svd, Combine::Mean] {
        let manifest = manifest(Average::Cohort, combine, None);
        let got = after(&manifest, &golden, &[&[0, 1, 2]], 0.0);
        let others: [&[&[usize]]; 4] =
            [&[&[2, 1, 0]], &[&[1, 2, 0]], &[&[0, 2], &[1]], &[&[2], &[], &[1], &[0]]];
        for parts in others {
            assert_eq!(after(&manifest, &golden, parts, 0.0), got, "{combine:?} {parts:?}");
        }
    }
}

#[test]
fn a_rule_of_products_needs_the_start() {
    let manifest = manifest(Average::Cohort, Combine::Svd, None);
    let refused = Combining::new(&manifest, None).err().expect("no start");
    assert!(matches!(refused, AdvanceError::Aggregate(_)), "{refused}");
}
