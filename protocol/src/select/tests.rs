use super::*;
use crate::ids::{ClientId, RoundId};
use crate::layout::BaseLinear;
use crate::manifest::tests::manifest;
use crate::manifest::{Alternation, Combine, Coverage, Segments};

fn share(x: f64) -> Density {
    Density::try_from(x).expect("a share")
}

/// Rank 2 on two 4 -> 6 linears: A [2, 4], B [6, 2], twice; 40 parameters.
fn two() -> Manifest {
    let linears =
        ["m.0.q", "m.1.q"].map(|name| BaseLinear { name: name.into(), d_in: 4, d_out: 6 });
    let mut manifest = manifest();
    manifest.layout = Layout::lora(&linears, &["q".into()], 2, false).expect("valid");
    manifest
}

fn chosen(
    manifest: &Manifest,
    rule: Select,
    density: f64,
    delta: &[f32],
    theta: &[f32],
) -> Vec<u32> {
    let scene = Scene { layout: &manifest.layout, delta, theta };
    let support = select(manifest, &rule, share(density), &Support::All, &scene).expect("finite");
    support.indices().map_or_else(|| (0..delta.len() as u32).collect(), <[u32]>::to_vec)
}

#[test]
fn refuses_what_is_not_finite_whatever_is_sent() {
    let manifest = two();
    let mut delta = vec![0.0; 40];
    delta[9] = f32::NAN;
    let scene = Scene { layout: &manifest.layout, delta: &delta, theta: &delta };
    for density in [0.1, 1.0] {
        let refused = select(&manifest, &Select::default(), share(density), &Support::All, &scene);
        assert!(matches!(refused, Err(SelectError::NonFinite { index: 9, .. })));
    }
}

/// `|dB[u,v]| ||A[v,:]||` and `|dA[u,v]| ||B[:,u]||`, by hand.
#[test]
fn importance_is_the_formula() {
    let manifest = two();
    let mut theta = vec![0.0; 40];
    theta[0..4].copy_from_slice(&[3.0, 0.0, 4.0, 0.0]); // A's row 0: norm 5
    theta[4..8].copy_from_slice(&[1.0, 0.0, 0.0, 0.0]); // A's row 1: norm 1
    theta[8] = 2.0; // B[0,0]: column 0 has norm 2, column 1 none
    let delta = vec![0.1_f32; 40];
    let scene = Scene { layout: &manifest.layout, delta: &delta, theta: &theta };
    let scores = selector(Ranking::Importance).scores(&scene);
    let near = |got: f32, expected: f32| assert!((got - expected).abs() < 1e-6, "{got}");
    near(scores[0], 0.1 * 2.0);
    near(scores[4], 0.0);
    near(scores[8], 0.1 * 5.0);
    near(scores[9], 0.1 * 1.0);
    near(scores[28], 0.0); // the second matrix's A and B are 0
}

/// While B is 0 a change of A changes nothing: importance never sends it, magnitude does.
#[test]
fn importance_waits_with_a_while_b_is_zero() {
    let manifest = two();
    let theta = manifest.layout.init(1);
    let delta: Vec<f32> = (0..40).map(|i| if i < 8 { 1.0 } else { 0.01 }).collect();
    let by = |by| Select { by, ..Select::default() };
    assert_eq!(
        chosen(&manifest, by(Ranking::Magnitude), 0.2, &delta, &theta),
        (0..8).collect::<Vec<_>>()
    );
    let important = chosen(&manifest, by(Ranking::Importance), 0.2, &delta, &theta);
    assert!(important.iter().all(|i| (8..20).contains(i) || *i >= 28), "{important:?}");
}

#[test]
fn a_rank_component_travels_whole() {
    let manifest = two();
    let mut delta = vec![0.001_f32; 40];
    // Component 1 of the second matrix: A's row 1 is 24..28, B's column 1 every second from 29.
    delta[25] = 3.0;
    let rule = Select { by: Ranking::RankWise, ..Select::default() };
    // Four entries of A and six of B.
    assert_eq!(
        chosen(&manifest, rule, 0.25, &delta, &[0.0; 40]),
        [24, 25, 26, 27, 29, 31, 33, 35, 37, 39]
    );
}

#[test]
fn scopes_share_as_they_say() {
    let manifest = two();
    // The second matrix's changes are all larger.
    let delta: Vec<f32> = (0..40).map(|i| if i < 20 { 0.01 } else { 1.0 }).collect();
    let of = |scope| {
        let rule = Select { scope, ..Select::default() };
        let got = chosen(&manifest, rule, 0.5, &delta, &[0.0; 40]);
        manifest
            .layout
            .tensors()
            .map(|(_, r)| got.iter().filter(|&&i| r.contains(&(i as usize))).count())
            .collect::<Vec<_>>()
    };
    assert_eq!(of(Scope::Global), [0, 0, 8, 12]);
    assert_eq!(of(Scope::Tensor), [4, 6, 4, 6]);
    // Half of an equal share at least: 2 of 4 and 3 of 6; the other 10 go to the larger.
    assert_eq!(of(Scope::Floor(0.5)), [2, 3, 8, 7]);
}

/// What is selected is what the terms allow, also where each tensor rounds for itself.
#[test]
fn no_scope_selects_more_than_is_allowed() {
    let mut manifest = two();
    let delta: Vec<f32> = (0..40).map(|i| (i as f32 - 19.5) * 0.01).collect();
    for density in [0.01, 0.05, 0.3, 0.9] {
        for scope in [Scope::Global, Scope::Tensor, Scope::Floor(0.9)] {
            manifest.method.upload.density = share(density);
            manifest.method.upload.select.scope = scope;
            let terms = crate::frame::Terms::new(&manifest, crate::ids::RunId([0; 16]), RoundId(0));
            let rule = manifest.method.upload.select;
            let kept = chosen(&manifest, rule, density, &delta, &[0.0; 40]).len();
            assert_eq!(kept, terms.upload_share(&Support::All), "{density} {scope:?}");
        }
    }
}

#[test]
fn alternation_halves_the_domain_and_takes_turns() {
    let mut manifest = two();
    manifest.method.alternate = Some(Alternation { rounds: 2 });
    let a: Vec<u32> = (0..8).chain(20..28).collect();
    let b: Vec<u32> = (8..20).chain(28..40).collect();
    for (round, expected) in [(0, &b), (1, &b), (2, &a), (3, &a), (4, &b)] {
        let got = domain::of(&manifest, RoundId(round), ClientId([0; 16]), None);
        assert_eq!(got.indices(), Some(&expected[..]), "round {round}");
    }
}

#[test]
fn with_a_core_b_is_first_then_a_then_the_core() {
    let mut manifest = two();
    manifest.layout = manifest.layout.with_cores().expect("valid");
    manifest.method.combine = Combine::Core;
    let a: Vec<u32> = (0..8).chain(24..32).collect();
    let b: Vec<u32> = (8..20).chain(32..44).collect();
    let r: Vec<u32> = (20..24).chain(44..48).collect();
    for (round, expected) in [(0, &b), (1, &a), (2, &r), (3, &r), (400, &r)] {
        let got = domain::of(&manifest, RoundId(round), ClientId([0; 16]), None);
        assert_eq!(got.indices(), Some(&expected[..]), "round {round}");
    }
}

/// Over `S` rounds a client sends every coordinate once; in one round, `S` neighbours send all.
#[test]
fn segments_cover_everything_once() {
    let linear = BaseLinear { name: "m.q".into(), d_in: 1_000, d_out: 500 };
    let mut manifest = two();
    manifest.layout = Layout::lora(&[linear], &["q".into()], 2, false).expect("valid");
    manifest.method.upload.select.segments = Segments(3);
    let client = |name: u8| ClientId([name, 0, 0, 0, 9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0]);
    let of = |round, name| {
        let domain = domain::of(&manifest, RoundId(round), client(name), None);
        domain.indices().expect("a part").to_vec()
    };
    let union = |parts: [Vec<u32>; 3]| {
        let mut all = parts.concat();
        all.sort_unstable();
        all
    };
    let all: Vec<u32> = (0..3_000).collect();
    assert_eq!(union([of(0, 7), of(1, 7), of(2, 7)]), all);
    assert_eq!(union([of(5, 0), of(5, 1), of(5, 2)]), all);
    // Client 7, round 0: turn (0 + 7) mod 3 = 1: the second stripe of 256 and every third after.
    assert_eq!(of(0, 7)[..2], [256, 257]);
    assert_eq!(of(0, 7)[256], 256 + 768);
}

#[test]
fn a_random_share_is_the_same_for_all_and_another_each_round() {
    let linear = BaseLinear { name: "m.q".into(), d_in: 4_000, d_out: 1_000 };
    let mut manifest = two();
    manifest.layout = Layout::lora(&[linear], &["q".into()], 2, false).expect("valid");
    manifest.method.upload.select.random = Some(share(0.25));
    let of = |round, client| domain::of(&manifest, RoundId(round), ClientId([client; 16]), None);
    assert_eq!(of(0, 1), of(0, 2));
    assert_ne!(of(0, 1), of(1, 1));
    // Binomial(10,000, 1/4): sd 43.
    let count = of(0, 1).count(10_000);
    assert!(count.abs_diff(2_500) < 220, "{count}");
}

#[test]
fn only_what_was_downloaded() {
    let mut manifest = two();
    manifest.method.upload.select.within_download = true;
    let shared = Support::Indices(vec![3, 9, 30]);
    let of = |m: &Manifest| domain::of(m, RoundId(0), ClientId([0; 16]), Some(&shared));
    assert_eq!(of(&manifest), shared);
    manifest.method.alternate = Some(Alternation { rounds: 1 });
    assert_eq!(of(&manifest), Support::Indices(vec![9, 30]), "and B's turn");
    manifest.method = crate::manifest::Method::sparse(share(0.5), share(0.1));
    manifest.method.train = Coverage::Support;
    assert_eq!(of(&manifest), shared);
}
