//! One round of FLASC as published, against `golden/golden.py`: masked download, upload of the change
//! against the masked weights, uniform mean, AdamW on the dense copy.

mod fixtures;

use std::collections::BTreeMap;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Snapshot, Terms, Update};
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::manifest::{Manifest, Reference, ServerOptimizer};
use gossamer_protocol::sparse::{Sparse, Support};
use gossamer_protocol::sparsify::top_k;
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
    let terms = Terms::new(&manifest, round);
    let mut state = ServerState::start(&manifest);
    state.theta = flasc.start;

    let frame = snapshot::take(&manifest, run, round, &mut state).expect("finite");
    let received = Snapshot::decode(&frame, &terms).expect("own frame");
    assert_eq!(received.values.support().indices(), Some(&flasc.download[..]));
    let received = received.theta(&manifest);

    let mut combining = Combining::new(&manifest);
    for (local, expected) in flasc.locals.iter().zip(&flasc.uploads) {
        let drift: Vec<f32> = local.iter().zip(&received).map(|(l, r)| l - r).collect();
        let support = top_k(&drift, manifest.method.upload.density).expect("finite");
        assert_eq!(support, Support::Indices(expected.clone()));
        let update = Update {
            run,
            round,
            attempt: Attempt(0),
            client: ClientId([2; 16]),
            snapshot: Digest::of(&frame),
            examples: 1,
            loss: 1.0,
            delta: Sparse::gather(&drift, support).expect("fits"),
        };
        let bytes = update.encode(&terms).expect("in range");
        combining.add(&bytes, &terms, None).expect("fits");
    }
    let delta = combining.finish().expect("three reported");
    let lineage = Lineage { run, digest: Digest::of(b"manifest"), manifest: &manifest };
    let accepted = BTreeMap::from([(ClientId([2; 16]), Digest::of(b"update"))]);
    let parent = Digest::of(b"parent");
    let closing = Closing { round, parent, attempt: Attempt(0), accepted: &accepted };
    let outcome = lineage.next(state, Some(&delta), &closing).expect("finite");

    for (i, (&got, &expected)) in outcome.state.theta.iter().zip(&flasc.theta).enumerate() {
        // AdamW's first step divides a gradient by its own size, so the fold's 2^-31 can show.
        let off = (f64::from(got) - expected).abs();
        assert!(off < 1e-6, "entry {i}: {got} is not {expected}");
    }
    let terms = Terms::new(&manifest, RoundId(1));
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
            let mut state = ServerState::start(&manifest);
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
