//! Hundreds of hostile uploads against the real server: each is refused by its name, costs next to no
//! memory, and changes nothing; then the good update is taken and closes the round.
//!
//! `target`: a run and its good update. `stage`: the server, and requests to it. `bits`: bits by hand.
//! `frames`, `bodies`, `version_1`, `requests`: what is off.

mod bits;
mod bodies;
mod frames;
mod requests;
mod stage;
mod target;
mod version_1;

use std::collections::{BTreeMap, HashSet};

use gossamer_protocol::density::Density;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::manifest::{Coding, Coverage, Manifest, Segments, Values};
use gossamer_protocol::problem::Problem;
use gossamer_tests::{base, manifest};
use reqwest::Response;
use reqwest::header::CONTENT_TYPE;

use stage::Stage;
use target::{Case, Target};

/// What the corpus may add to the server's memory, at its peak.
const GROWTH_MAX: u64 = 64 << 20;
/// Hostile bodies, at least; no two alike.
const BODIES_MIN: usize = 200;

/// A run of each kind whose frames are read in a way of their own.
fn manifests() -> Vec<(&'static str, Manifest)> {
    let plain = manifest(&base(), 1, 2);
    let with = |name, version: u16, change: &dyn Fn(&mut Manifest)| {
        let mut terms = Manifest { name: format!("hostile {name}"), version, ..plain.clone() };
        change(&mut terms);
        (name, terms)
    };
    let valued = |name, values: Values| with(name, 2, &|m| m.method.upload.values = values);
    vec![
        with("f32", 2, &|m| {
            m.method.upload.values = Values::F32;
            m.method.coding = Coding::Packed;
        }),
        valued("f16", Values::F16),
        valued("int8", Values::Int8),
        valued("lloyd3", Values::Lloyd3),
        valued("sign", Values::Sign),
        valued("fp4", Values::Fp4),
        with("whole", 2, &|m| {
            m.method.upload.values = Values::F32;
            m.method.upload.density = Density::FULL;
        }),
        with("segments", 2, &|m| m.method.upload.select.segments = Segments(4)),
        with("support", 2, &|m| m.method.train = Coverage::Support),
        with("budget", 2, &|m| m.method.upload.bytes_max = Some(600)),
        with("version 1", 1, &|m| m.method.upload.values = Values::F32),
        with("version 1 int8", 1, &|_| ()),
        with("version 1 support", 1, &|m| m.method.train = Coverage::Support),
    ]
}

fn cases(target: &Target, targets: &[Target]) -> Vec<Case> {
    let mut cases = match target.manifest.version {
        1 => version_1::cases(target),
        _ => frames::cases(target).into_iter().chain(bodies::cases(target)).collect(),
    };
    if target.name == "f32" {
        cases.extend(requests::cases(target, targets));
    }
    cases
}

/// A problem document, and as the table of names has it.
async fn problem(answer: Response, what: &str) -> Problem {
    let status = answer.status();
    let kind = answer.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes().to_vec());
    let body = answer.bytes().await.expect(what);
    assert!(status.is_client_error(), "{what}: {status}");
    assert_eq!(kind.as_deref(), Some(&b"application/problem+json"[..]), "{what}");
    let problem: Problem = serde_json::from_slice(&body).expect(what);
    assert_eq!(
        (problem.status, &*problem.title),
        (status.as_u16(), problem.kind.title()),
        "{what}"
    );
    assert!(!problem.detail.is_empty(), "{what}");
    problem
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_hostile_uploads_have_their_names_and_change_nothing() {
    let manifests = manifests();
    let (mut stage, runs) = Stage::set(&manifests).await;
    let mut targets = Vec::new();
    for ((name, manifest), &run) in manifests.into_iter().zip(&runs) {
        targets.push(stage.target(name, manifest, run).await);
    }
    let before = stage.state(&runs).await;
    assert_eq!(before.cohorts, vec![vec![stage.client]; runs.len()]);
    let memory = stage.memory();

    let (mut wrong, mut files) = (Vec::new(), before.files.clone());
    let (mut names, mut bodies) = (HashSet::new(), HashSet::new());
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for target in &targets {
        assert!(target.takes(&target.good()), "{}", target.name);
        for case in cases(target, &targets) {
            let name = format!("{}: {}", target.name, case.name);
            if !names.insert(name.clone()) {
                wrong.push(format!("{name}: twice"));
            }
            bodies.insert(Digest::of(&case.body));
            let problem = problem(stage.send(target, &case).await, &name).await;
            *counts.entry(problem.kind.uri()).or_default() += 1;
            if !case.expected.contains(&problem.kind) {
                wrong.push(format!("{name}: {problem}, expected {:?}", case.expected));
            }
            let now = stage.files();
            if now != files {
                wrong.push(format!("{name}: the store has other files"));
                files = now;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(bodies.len() >= BODIES_MIN, "{} bodies", bodies.len());
    assert_eq!(stage.state(&runs).await, before);
    let grown = memory.zip(stage.memory()).map(|(before, after)| {
        let grown = after.0.saturating_sub(before.1);
        assert!(grown < GROWTH_MAX, "the server grew by {grown} bytes");
        format!("{} KiB from {} KiB", grown >> 10, before.1 >> 10)
    });

    for target in &targets {
        stage.good(target).await;
    }
    assert!(stage.server.0.try_wait().expect("a child").is_none(), "it serves on");
    let grown = grown.unwrap_or_else(|| "not told here".into());
    println!(
        "{} hostile uploads, {} bodies: {counts:?}; memory: {grown}",
        names.len(),
        bodies.len()
    );
}
