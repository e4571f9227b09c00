//! Manifests, what they let travel, and frames: good ones both ways, bad ones by their error.

use std::collections::HashMap;

use gossamer_protocol::codec::CodecError;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{FrameError, Snapshot, Terms, Update};
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::sparse::{Sparse, Support};
use serde::Deserialize;

use crate::{array, bits, bytes, floats, vectors};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ManifestCase {
    name: String,
    json: String,
    digest: String,
    run: String,
    n: usize,
    layout: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MinimalManifest {
    full: String,
    json: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitCase {
    manifest: String,
    round: u64,
    download_entries: usize,
    upload_entries: usize,
    update_len_max: usize,
    snapshot_len_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Snapshot,
    Update,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FrameCase {
    name: String,
    manifest: String,
    round: u64,
    shared: Option<Vec<u32>>,
    kind: Kind,
    frame: String,
    positions: String,
    support: Option<Vec<u32>>,
    source: String,
    values: String,
    attempt: Option<u32>,
    client: Option<String>,
    snapshot: Option<String>,
    examples: Option<u32>,
    loss: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BadFrame {
    name: String,
    manifest: String,
    round: u64,
    shared: Option<Vec<u32>>,
    kind: Kind,
    frame: String,
    error: String,
}

fn manifests(cases: &[ManifestCase]) -> HashMap<String, (Manifest, RunId)> {
    let read = |case: &ManifestCase| {
        let manifest = Manifest::from_bytes(case.json.as_bytes()).expect("a manifest");
        (case.name.clone(), (manifest, RunId(array(&case.run))))
    };
    cases.iter().map(read).collect()
}

fn support(indices: &Option<Vec<u32>>) -> Support {
    indices.clone().map_or(Support::All, Support::Indices)
}

#[test]
fn manifests_and_their_names() {
    let v = vectors();
    for case in &v.manifests {
        let manifest = Manifest::from_bytes(case.json.as_bytes()).expect(&case.name);
        let written = manifest.to_bytes().expect("in range");
        assert_eq!(String::from_utf8_lossy(&written), case.json, "{}", case.name);
        let digest = Digest::of(case.json.as_bytes());
        assert_eq!(digest.to_string(), case.digest, "{}", case.name);
        assert_eq!(RunId::of(digest).to_string(), case.run, "{}", case.name);
        assert_eq!(manifest.layout.n(), case.n, "{}", case.name);
        assert_eq!(manifest.layout.digest().to_string(), case.layout, "{}", case.name);
    }
    let minimal = Manifest::from_bytes(v.minimal_manifest.json.as_bytes()).expect("all defaults");
    assert_eq!(minimal, manifests(&v.manifests)[&v.minimal_manifest.full].0);
}

#[test]
fn what_a_manifest_lets_travel() {
    let v = vectors();
    let manifests = manifests(&v.manifests);
    assert!(v.limits.len() >= 2 * manifests.len());
    for case in &v.limits {
        let terms = Terms::new(&manifests[&case.manifest].0, RoundId(case.round));
        let name = (&case.manifest, case.round);
        assert_eq!(terms.download_entries(), case.download_entries, "{name:?}");
        assert_eq!(terms.upload_entries(), case.upload_entries, "{name:?}");
        assert_eq!(terms.update_len_max(), case.update_len_max, "{name:?}");
        assert_eq!(terms.snapshot_len_max(), case.snapshot_len_max, "{name:?}");
    }
}

#[test]
fn good_frames_both_ways() {
    let v = vectors();
    let manifests = manifests(&v.manifests);
    let mut seen = std::collections::BTreeSet::new();
    for case in &v.frames {
        let (manifest, run) = &manifests[&case.manifest];
        let terms = Terms::new(manifest, RoundId(case.round));
        let frame = bytes(&case.frame);
        seen.insert((case.positions.clone(), frame[7], frame[8]));
        let sparse = |bits: &str| {
            Sparse::new(manifest.layout.n(), support(&case.support), floats(bits)).expect("rising")
        };
        let (encoded, decoded) = match case.kind {
            Kind::Update => update(case, *run, &terms, &frame, sparse(&case.source)),
            Kind::Snapshot => snapshot(case, *run, &terms, &frame, sparse(&case.source)),
        };
        assert_eq!(encoded, frame, "{}", case.name);
        assert_eq!(bits(decoded.values()), case.values, "{}", case.name);
        assert_eq!(decoded.support(), &support(&case.support), "{}", case.name);
    }
    let codes = seen.iter().map(|(name, p, v)| (name.as_str(), *p, *v)).collect::<Vec<_>>();
    let all = [("bitmap", 1), ("dense", 0), ("rice", 2), ("shared", 3)];
    let all: Vec<_> = all.iter().flat_map(|&(name, p)| [(name, p, 0), (name, p, 1)]).collect();
    assert_eq!(codes, all, "every code is there");
}

fn update(
    case: &FrameCase,
    run: RunId,
    terms: &Terms<'_>,
    frame: &[u8],
    delta: Sparse,
) -> (Vec<u8>, Sparse) {
    let source = Update {
        run,
        round: RoundId(case.round),
        attempt: Attempt(case.attempt.expect("an update")),
        client: ClientId(array(case.client.as_deref().expect("an update"))),
        snapshot: Digest(array(case.snapshot.as_deref().expect("an update"))),
        examples: case.examples.expect("an update"),
        loss: floats(case.loss.as_deref().expect("an update"))[0],
        delta,
    };
    let shared = case.shared.clone().map(Support::Indices);
    let decoded = Update::decode(frame, terms, shared.as_ref()).expect(&case.name);
    let head = Update::peek(frame, terms).expect(&case.name);
    assert_eq!(head.entries, decoded.delta.values().len(), "{}", case.name);
    let delta = decoded.delta.clone();
    assert_eq!(decoded, Update { delta: delta.clone(), ..source.clone() }, "{}", case.name);
    (source.encode(terms).expect(&case.name), delta)
}

fn snapshot(
    case: &FrameCase,
    run: RunId,
    terms: &Terms<'_>,
    frame: &[u8],
    values: Sparse,
) -> (Vec<u8>, Sparse) {
    let decoded = Snapshot::decode(frame, terms).expect(&case.name);
    let source = Snapshot { run, round: RoundId(case.round), reference: decoded.reference, values };
    assert_eq!((decoded.run, decoded.round), (run, source.round), "{}", case.name);
    (source.encode(terms).expect(&case.name), decoded.values)
}

#[test]
fn bad_frames_by_name() {
    let v = vectors();
    let manifests = manifests(&v.manifests);
    for case in &v.bad_frames {
        let terms = Terms::new(&manifests[&case.manifest].0, RoundId(case.round));
        let frame = bytes(&case.frame);
        let shared = case.shared.clone().map(Support::Indices);
        let refused = match case.kind {
            Kind::Update => Update::decode(&frame, &terms, shared.as_ref()).err(),
            Kind::Snapshot => Snapshot::decode(&frame, &terms).err(),
        };
        let refused = refused.unwrap_or_else(|| panic!("{} was taken", case.name));
        assert_eq!(name(&refused), case.error, "{}: {refused}", case.name);
    }
}

fn name(error: &FrameError) -> String {
    match error {
        FrameError::Truncated { .. } => "truncated".into(),
        FrameError::Oversized { .. } => "oversized".into(),
        FrameError::Magic => "magic".into(),
        FrameError::Version { .. } => "version".into(),
        FrameError::Code { field, .. } => format!("code {field}"),
        FrameError::Digest => "digest".into(),
        FrameError::Layout { .. } => "layout".into(),
        FrameError::Density { .. } => "density".into(),
        FrameError::Metadata(_) => "metadata".into(),
        FrameError::Entries(CodecError::Value { .. }) => "entries value".into(),
        FrameError::Entries(CodecError::Exponent { .. }) => "entries exponent".into(),
        FrameError::Entries(CodecError::Length { part, .. }) => format!("entries length {part}"),
        FrameError::Entries(CodecError::Positions(_)) => "entries positions".into(),
        FrameError::Entries(CodecError::NoSharedSupport) => "entries no shared support".into(),
        FrameError::Entries(CodecError::Count { .. }) => "entries count".into(),
        FrameError::Entries(CodecError::Support(_)) => "entries support".into(),
        other => panic!("an error without a vector: {other:?}"),
    }
}
