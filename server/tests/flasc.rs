//! One round of FLASC as published, against `golden/golden.py`: masked download, upload of the change
//! against the masked weights, uniform mean, AdamW on the dense copy.

mod fixtures;

use std::collections::BTreeMap;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Origin, Snapshot, Terms, Update};
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::manifest::{Manifest, Reference, ServerOptimizer, Values};
use gossamer_protocol::select::top_k;
use gossamer_protocol::sparse::{Sparse, Support};
use gossamer_server::advance::{Closing, Combining, Lineage};
use gossamer_server::snapshot;
use gossamer_server::state::ServerState;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    flasc: Flasc,
}

#[derive(Deserialize)]
struct Flasc {
    density: Densities,
    lr: f64,
    start: Vec<f32>,
    download: Vec<u32>,
    locals: Vec<Vec<f32>>,
    uploads: Vec<Vec<u32>>,
    theta: Vec<f64>,
    next_download: Vec<u32>,
}

#[derive(Deserialize)]
struct Densities {
    download: f64,
    upload: f64,
}

#[test]
fn one_round_as_published() {
    let golden: Golden =
        serde_json::from_str(include_str!("golden/golden.json")).expect("the script's output");
    let flasc = golden.flasc;
    let mut manifest: Manifest = fixtures::manifest();
    manifest.method.download.of = Reference::Weights;
    manifest.method.download.density = fixtures::share(flasc.density.download);
    manifest.method.upload.density = fixtures::share(flasc.density.upload);
    let (lr, beta1, beta2, eps, weight_decay) = (flasc.lr, 0.9, 0.999, 1e-8, 0.01);
    manifest.optimizer = ServerOptimizer::AdamW { lr, beta1, beta2, eps, weight_decay };
    let n = manifest.layout.n();
    assert_eq!(n, flasc.start.len());
    let (run, round) = (RunId([1; 16]), RoundId(0));
    let terms = Terms::new(&manifest, run, round);
    let mut state = ServerState::start(&manifest, None);
    state.theta = flasc.start;

    let frame = snapshot::take(&manifest, run, round, &mut state).expect("finite");
    let received = Snapshot::decode(&frame, &terms).expect("own frame");
    assert_eq!(received.values.support().indices(), Some(&flasc.download[..]));
    let received = received.theta(&manifest);

    let mut combining = Combining::new(&manifest, None).expect("the mean");
    for (local, expected) in flasc.locals.iter().zip(&flasc.uploads) {
        let drift: Vec<f32> = local.iter().zip(&received).map(|(l, r)| l - r).collect();
        let support = top_k(&drift, manifest.method.upload.density.count(n)).expect("finite");
        assert_eq!(support, Support::Indices(expected.clone()));
        let (client, snapshot) = (ClientId([2; 16]), Digest::of(&frame));
        let origin = Origin { run, round, attempt: Attempt(0), client, snapshot };
        let delta = Sparse::gather(&drift, support).expect("fits");
        let update = Update { origin, examples: 1, loss: 1.0, delta };
        let bytes = update.encode(&terms, None).expect("in range");
        combining.add(&bytes, &terms, &origin, None, 0).expect("fits");
    }
    let delta = combining.finish().expect("three reported");
    let lineage = Lineage { run, digest: Digest::of(b"manifest"), manifest: &manifest };
    let accepted = BTreeMap::from([(ClientId([2; 16]), Digest::of(b"update"))]);
    let parent = Digest::of(b"parent");
    let closing =
        Closing { round, parent, attempt: Attempt(0), accepted: &accepted, staleness: &[] };
    let outcome = lineage.next(state, Some(&delta), &closing).expect("finite");

    for (i, (&got, &expected)) in outcome.state.theta.iter().zip(&flasc.theta).enumerate() {
        // AdamW's first step divides a gradient by its own size, so the fold's 2^-31 can show.
        let off = (f64::from(got) - expected).abs();
        assert!(off < 1e-6, "entry {i}: {got} is not {expected}");
    }
    let terms = Terms::new(&manifest, run, RoundId(1));
    let next = Snapshot::decode(&outcome.snapshot, &terms).expect("own frame");
    assert_eq!(next.values.support().indices(), Some(&flasc.next_download[..]));
    // The server's own copy is never pruned.
    assert!(outcome.state.theta.iter().all(|&v| v != 0.0));
}

/// What the snapshot leaves out decays to its share, towards what clients have in its place; what it
/// sends stays, and a share of 1 (FLASC) touches nothing.
#[test]
fn what_is_left_out_decays() {
    let mut manifest = fixtures::manifest();
    manifest.method.download.density = fixtures::share(0.25);
    let n = manifest.layout.n();
    let init = manifest.layout.init(manifest.seed);
    for of in [Reference::Change, Reference::Weights] {
        for residual in [1.0, 0.5, 0.0] {
            manifest.method.download.of = of;
            manifest.method.download.residual = residual;
            let start = if of == Reference::Change { init.clone() } else { vec![0.0; n] };
            let mut state = ServerState::start(&manifest, None);
            // Changes of 1/64, 2/64, ...: exact, and the last quarter is the largest.
            let change = |i: usize| (i + 1) as f32 / 64.0;
            state.theta = (0..n).map(|i| start[i] + change(i)).collect();
            let before = state.theta.clone();
            snapshot::take(&manifest, RunId([1; 16]), RoundId(1), &mut state).expect("finite");
            let sent = n - n / 4;
            assert_eq!(state.theta[sent..], before[sent..], "{of:?} {residual}");
            for i in 0..sent {
                let want = start[i] + residual * (before[i] - start[i]);
                assert_eq!(state.theta[i], want, "{of:?} {residual} entry {i}");
            }
        }
    }
}

/// What rounding takes away decays like what is left out: towards what the returned frame says.
#[test]
fn what_is_rounded_away_decays() {
    let mut manifest = fixtures::manifest();
    manifest.method.download.density = fixtures::share(0.5);
    let n = manifest.layout.n();
    let init = manifest.layout.init(manifest.seed);
    let (run, round) = (RunId([1; 16]), RoundId(1));
    for values in [Values::F16, Values::Int8, Values::Lloyd4, Values::Fp4, Values::Sign] {
        for residual in [1.0, 0.5, 0.0] {
            manifest.method.download.values = values;
            manifest.method.download.residual = residual;
            let mut state = ServerState::start(&manifest, None);
            // Six changes, so that four of the ten best are zeros.
            for i in 0..6 {
                state.theta[3 * i] += 0.1 / (i + 1) as f32;
            }
            let before = state.theta.clone();
            let frame = snapshot::take(&manifest, run, round, &mut state).expect("finite");
            let terms = Terms::new(&manifest, run, round);
            let received = Snapshot::decode(&frame, &terms).expect("own frame").theta(&manifest);
            assert_ne!(received, before, "{values:?} rounds");
            assert_ne!(received, init, "{values:?} is received");
            for i in 0..n {
                let want = match residual {
                    1.0 => before[i],
                    _ => received[i] + residual * (before[i] - received[i]),
                };
                assert_eq!(state.theta[i], want, "{values:?} {residual} entry {i}");
            }
        }
    }
}
