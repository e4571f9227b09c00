//! Version 2, `tests/vectors/v2.json`: manifests, and who may send what. Frames are in `frames`.

use std::collections::HashMap;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::Terms;
use gossamer_protocol::ids::{ClientId, RoundId, RunId};
use gossamer_protocol::manifest::{Manifest, ManifestError};
use gossamer_protocol::sparse::Support;
use serde::Deserialize;

use crate::array;
use crate::frames::{LimitCase, ManifestCase};

mod differences;
mod frames;

/// The whole file; a section that no test reads cannot be in it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    version: u16,
    #[serde(rename = "about")]
    _about: Vec<String>,
    manifests: Vec<ManifestCase>,
    same_manifests: Vec<SameManifest>,
    bad_manifests: Vec<BadManifest>,
    limits: Vec<LimitCase>,
    domains: Vec<DomainCase>,
    frames: Vec<frames::FrameCase>,
    bad_frames: Vec<frames::BadFrame>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SameManifest {
    #[serde(rename = "as")]
    name: String,
    json: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BadManifest {
    name: String,
    json: String,
    error: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DomainCase {
    manifest: String,
    round: u64,
    client: String,
    shared: Option<Vec<u32>>,
    domain: Option<Vec<u32>>,
    share: usize,
}

fn vectors() -> Vectors {
    let vectors: Vectors = serde_json::from_str(include_str!("../../vectors/v2.json"))
        .expect("the vectors' own shape");
    assert_eq!(vectors.version, 2);
    vectors
}

/// A file's manifests by their names.
struct Runs(HashMap<String, (Manifest, RunId)>);

impl Runs {
    fn new(cases: &[ManifestCase]) -> Self {
        let read = |case: &ManifestCase| {
            let manifest = Manifest::from_bytes(case.json.as_bytes()).expect(&case.name);
            (case.name.clone(), (manifest, RunId(array(&case.run))))
        };
        Self(cases.iter().map(read).collect())
    }

    fn terms(&self, name: &str, round: u64) -> Terms<'_> {
        let (manifest, run) = &self.0[name];
        Terms::new(manifest, *run, RoundId(round))
    }

    fn n(&self, name: &str) -> usize {
        self.0[name].0.layout.n()
    }
}

/// Every coordinate, listed or not, is the same support.
fn listed(support: &Support, n: usize) -> Vec<u32> {
    support.indices().map_or_else(|| (0..n as u32).collect(), <[u32]>::to_vec)
}

#[test]
fn manifests_and_their_names() {
    let v = vectors();
    for case in &v.manifests {
        let manifest = Manifest::from_bytes(case.json.as_bytes()).expect(&case.name);
        let digest = Digest::of(case.json.as_bytes());
        assert_eq!(digest.to_string(), case.digest, "{}", case.name);
        assert_eq!(RunId::of(digest).to_string(), case.run, "{}", case.name);
        assert_eq!(manifest.layout.n(), case.n, "{}", case.name);
        assert_eq!(manifest.layout.digest().to_string(), case.layout, "{}", case.name);
        let again = Manifest::from_bytes(&manifest.to_bytes().expect("in range"));
        assert_eq!(again, Ok(manifest), "{}", case.name);
    }
    let runs = Runs::new(&v.manifests);
    assert_eq!(v.same_manifests.len(), 2);
    for case in &v.same_manifests {
        let read = Manifest::from_bytes(case.json.as_bytes()).expect(&case.json);
        assert_eq!(read, runs.0[&case.name].0);
    }
}

#[test]
fn bad_manifests_by_name() {
    let v = vectors();
    assert!(v.bad_manifests.len() > 40);
    for case in &v.bad_manifests {
        let refused = Manifest::from_bytes(case.json.as_bytes());
        let name = match refused.expect_err(&case.name) {
            ManifestError::Syntax(_) => "syntax".to_owned(),
            ManifestError::Version { .. } => "version".to_owned(),
            ManifestError::Field { field, .. } => format!("field {field}"),
            other => panic!("{}: {other}", case.name),
        };
        assert_eq!(name, case.error, "{}", case.name);
    }
}

#[test]
fn what_a_manifest_lets_travel() {
    let v = vectors();
    let runs = Runs::new(&v.manifests);
    assert_eq!(v.limits.len(), 4 * v.manifests.len());
    for case in &v.limits {
        case.check(&runs.terms(&case.manifest, case.round));
    }
}

#[test]
fn who_may_send_what() {
    let v = vectors();
    let runs = Runs::new(&v.manifests);
    assert!(v.domains.len() > 40);
    for case in &v.domains {
        let (terms, n) = (runs.terms(&case.manifest, case.round), runs.n(&case.manifest));
        let shared = case.shared.clone().map(Support::Indices);
        let domain = terms.domain(ClientId(array(&case.client)), shared.as_ref());
        let expected = case.domain.clone().map_or(Support::All, Support::Indices);
        let name = (&case.manifest, case.round, &case.client);
        assert_eq!(listed(&domain, n), listed(&expected, n), "{name:?}");
        assert_eq!(terms.upload_share(&domain), case.share, "{name:?}");
    }
}
