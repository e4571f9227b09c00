//! Manifests, what they let travel, and frames: good ones both ways, bad ones by their error.

use std::collections::HashMap;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::v1::CodecError;
use gossamer_protocol::frame::{FrameError, Origin, Snapshot, Terms, Update};
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::sparse::{Sparse, Support};
use serde::Deserialize;

use crate::{array, bits, bytes, floats, vectors};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ManifestCase {
    pub(crate) name: String,
    pub(crate) json: String,
    pub(crate) digest: String,
    pub(crate) run: String,
    pub(crate) n: usize,
    pub(crate) layout: String,
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
    pub(crate) manifest: String,
    pub(crate) round: u64,
    download_entries: usize,
    upload_entries: usize,
    update_len_max: usize,
    snapshot_len_max: usize,
}

impl LimitCase {
    pub(crate) fn check(&self, terms: &Terms<'_>) {
        let name = (&self.manifest, self.round);
        assert_eq!(terms.download_entries(), self.download_entries, "{name:?}");
        assert_eq!(terms.upload_entries(), self.upload_entries, "{name:?}");
        assert_eq!(terms.update_len_max(), self.update_len_max, "{name:?}");
        assert_eq!(terms.snapshot_len_max(), self.snapshot_len_max, "{name:?}");
    }
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

fn terms((manifest, run): &(Manifest, RunId), round: u64) -> Terms<'_> {
    Terms::new(manifest, *run, RoundId(round))
}

/// What a version 1 frame says it is for; nothing, where it is too short to say it.
fn origin(frame: &[u8], run: RunId, round: u64) -> Origin {
    let mut own = [0; 52];
    if let Some(said) = frame.get(46..98) {
        own.copy_from_slice(said);
    }
    let (attempt, rest) = own.split_first_chunk().expect("4 of 52");
    let (client, rest) = rest.split_first_chunk().expect("16 of 48");
    let (snapshot, _) = rest.split_first_chunk().expect("32 of 32");
    Origin {
        run,
        round: RoundId(round),
        attempt: Attempt(u32::from_le_bytes(*attempt)),
        client: ClientId(*client),
        snapshot: Digest(*snapshot),
    }
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
        case.check(&terms(&manifests[&case.manifest], case.round));
    }
}

#[test]
fn good_frames_both_ways() {
    let v = vectors();
    let manifests = manifests(&v.manifests);
    let mut seen = std::collections::BTreeSet::new();
    for case in &v.frames {
        let (manifest, run) = &manifests[&case.manifest];
        let terms = terms(&manifests[&case.manifest], case.round);
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
    let origin = Origin {
        run,
        round: RoundId(case.round),
        attempt: Attempt(case.attempt.expect("an update")),
        client: ClientId(array(case.client.as_deref().expect("an update"))),
        snapshot: Digest(array(case.snapshot.as_deref().expect("an update"))),
    };
    let source = Update {
        origin,
        examples: case.examples.expect("an update"),
        loss: floats(case.loss.as_deref().expect("an update"))[0],
        delta,
    };
    let shared = case.shared.clone().map(Support::Indices);
    let decoded = Update::decode(frame, terms, &origin, shared.as_ref()).expect(&case.name);
    let head = Update::peek(frame, terms, &origin).expect(&case.name);
    assert_eq!(head.entries, decoded.delta.values().len(), "{}", case.name);
    let delta = decoded.delta.clone();
    assert_eq!(decoded, Update { delta: delta.clone(), ..source.clone() }, "{}", case.name);
    (source.encode(terms, shared.as_ref()).expect(&case.name), delta)
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
        let terms = terms(&manifests[&case.manifest], case.round);
        let frame = bytes(&case.frame);
        let shared = case.shared.clone().map(Support::Indices);
        let refused = match case.kind {
            Kind::Update => {
                let origin = origin(&frame, manifests[&case.manifest].1, case.round);
                Update::decode(&frame, &terms, &origin, shared.as_ref()).err()
            }
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
        FrameError::EntriesV1(CodecError::Value { .. }) => "entries value".into(),
        FrameError::EntriesV1(CodecError::Exponent { .. }) => "entries exponent".into(),
        FrameError::EntriesV1(CodecError::Length { part, .. }) => format!("entries length {part}"),
        FrameError::EntriesV1(CodecError::Positions(_)) => "entries positions".into(),
        FrameError::EntriesV1(CodecError::NoSharedSupport) => "entries no shared support".into(),
        FrameError::EntriesV1(CodecError::Count { .. }) => "entries count".into(),
        FrameError::EntriesV1(CodecError::Support(_)) => "entries support".into(),
        other => panic!("an error without a vector: {other:?}"),
    }
}
