//! Every server optimiser against numbers from `golden/golden.py`, written from the papers.

use gossamer_protocol::manifest::ServerOptimizer;
use gossamer_server::optimizer;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    optimizers: Optimizers,
}

#[derive(Deserialize)]
struct Optimizers {
    theta: Vec<f32>,
    deltas: Vec<Vec<f32>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    /// As a manifest writes it, so its defaults are checked too.
    rule: ServerOptimizer,
    thetas: Vec<Vec<f64>>,
}

#[test]
fn steps_as_the_papers_do() {
    let golden: Golden =
        serde_json::from_str(include_str!("golden/golden.json")).expect("the script's output");
    let Optimizers { theta: start, deltas, cases } = golden.optimizers;
    assert_eq!(cases.len(), 7);
    for Case { rule, thetas } in cases {
        let optimizer = optimizer::of(&rule);
        let mut theta = start.clone();
        let mut slots: Vec<Vec<f32>> =
            optimizer.slots().into_iter().map(|v| vec![v; theta.len()]).collect();
        for (t, (delta, expected)) in (1..).zip(deltas.iter().zip(&thetas)) {
            optimizer.step(t, &mut theta, delta, &mut slots);
            for (i, (&got, &expected)) in theta.iter().zip(expected).enumerate() {
                // f32 slots: some units in the last place of values below 1.
                let off = (f64::from(got) - expected).abs();
                assert!(off < 5e-7, "{rule:?} step {t} entry {i}: {got} is not {expected}");
            }
        }
    }
}

/// FLASC's server: momentum goes on and decay bites where nobody sent anything.
#[test]
fn adamw_moves_what_nobody_sent() {
    let rule: ServerOptimizer =
        serde_json::from_str(r#"{"kind": "adamw", "lr": 0.01}"#).expect("a rule");
    let optimizer = optimizer::of(&rule);
    let (mut theta, mut slots) = (vec![1.0, 1.0], vec![vec![0.0; 2], vec![0.0; 2]]);
    optimizer.step(1, &mut theta, &[0.5, 0.0], &mut slots);
    let first = theta.clone();
    assert!((first[1] - 0.9999).abs() < 1e-6, "decay alone: {first:?}");
    optimizer.step(2, &mut theta, &[0.0, 0.0], &mut slots);
    assert!(theta[0] > first[0], "momentum goes on: {theta:?}");
    assert!(theta[1] < first[1]);
}
