//! Frames of version 2: good ones read whole and in pieces, and made again; bad ones by their error.

use std::collections::{BTreeSet, HashMap};
use std::io::Read;

use gossamer_protocol::codec::CodecError;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{FrameError, Origin, Reader, Snapshot, Terms, Update};
use gossamer_protocol::ids::{Attempt, ClientId, RoundId};
use gossamer_protocol::sparse::{Sparse, Support};
use serde::Deserialize;

use super::{Runs, listed, vectors};
use crate::{array, bits, bytes, floats};

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
    kind: Kind,
    shared: Option<Vec<u32>>,
    client: String,
    snapshot: String,
    examples: Option<u32>,
    loss: Option<String>,
    body: String,
    code: String,
    support: Option<Vec<u32>>,
    values: String,
    /// What the frame was made of, where the page says how to the bit.
    source: Option<String>,
    frame: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BadFrame {
    name: String,
    manifest: String,
    round: u64,
    kind: Kind,
    shared: Option<Vec<u32>>,
    client: String,
    snapshot: String,
    frame: String,
    error: String,
}

fn origin(terms: &Terms<'_>, runs: &Runs, manifest: &str, client: &str, snapshot: &str) -> Origin {
    Origin {
        run: runs.0[manifest].1,
        round: terms.round(),
        attempt: Attempt(2),
        client: ClientId(array(client)),
        snapshot: Digest(array(snapshot)),
    }
}

/// Gives a few bytes at once, as a network may.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let most = out.len().min(7);
        self.0.read(&mut out[..most])
    }
}

#[test]
fn good_frames_are_read_as_they_should() {
    let v = vectors();
    let runs = Runs::new(&v.manifests);
    let mut seen = HashMap::new();
    for case in &v.frames {
        let (terms, frame) = (runs.terms(&case.manifest, case.round), bytes(&case.frame));
        seen.insert((case.body.clone(), case.code.clone()), frame[7]);
        let n = runs.n(&case.manifest);
        let expected = case.support.clone().map_or(Support::All, Support::Indices);
        let read = match case.kind {
            Kind::Snapshot => Snapshot::decode(&frame, &terms).expect(&case.name).values,
            Kind::Update => read_update(case, &terms, &runs, &frame),
        };
        assert_eq!(listed(read.support(), n), listed(&expected, n), "{}", case.name);
        assert_eq!(bits(read.values()), case.values, "{}", case.name);
    }
    // Every body with every code, each by a byte of its own.
    assert_eq!(seen.len(), 4 * 11);
    assert_eq!(seen.values().collect::<BTreeSet<_>>().len(), 4 * 11);
}

/// Whole and in pieces.
fn read_update(case: &FrameCase, terms: &Terms<'_>, runs: &Runs, frame: &[u8]) -> Sparse {
    let origin = origin(terms, runs, &case.manifest, &case.client, &case.snapshot);
    let shared = case.shared.clone().map(Support::Indices);
    let update = Update::decode(frame, terms, &origin, shared.as_ref()).expect(&case.name);
    assert_eq!(Some(update.examples), case.examples, "{}", case.name);
    assert_eq!(Some(bits(&[update.loss])), case.loss, "{}", case.name);

    let head = Update::peek(frame, terms, &origin).expect(&case.name);
    let said = (head.examples, head.loss, head.entries);
    assert_eq!(said, (update.examples, update.loss, update.delta.values().len()), "{}", case.name);

    let (mut indices, mut values) = (Vec::new(), Vec::new());
    let reader = Reader::new(*terms, origin, shared.as_ref());
    let streamed = reader.update(Trickle(frame), &mut |index, value| {
        indices.push(index);
        values.push(value);
    });
    assert_eq!(streamed, Ok(head), "{}", case.name);
    assert_eq!(indices, listed(update.delta.support(), update.delta.n()), "{}", case.name);
    assert_eq!(bits(&values), bits(update.delta.values()), "{}", case.name);
    update.delta
}

#[test]
fn sources_are_coded_to_the_bit() {
    let v = vectors();
    let runs = Runs::new(&v.manifests);
    let mut bodies = BTreeSet::new();
    for case in &v.frames {
        let Some(source) = &case.source else { continue };
        let (terms, n) = (runs.terms(&case.manifest, case.round), runs.n(&case.manifest));
        let support = case.support.clone().map_or(Support::All, Support::Indices);
        let entries = Sparse::new(n, support, floats(source)).expect("rising");
        let frame = match case.kind {
            Kind::Snapshot => {
                let reference = runs.0[&case.manifest].0.method.download.of;
                let (run, round) = (runs.0[&case.manifest].1, RoundId(case.round));
                Snapshot { run, round, reference, values: entries }.encode(&terms)
            }
            Kind::Update => {
                let update = Update {
                    origin: origin(&terms, &runs, &case.manifest, &case.client, &case.snapshot),
                    examples: case.examples.expect("an update"),
                    loss: floats(case.loss.as_deref().expect("an update"))[0],
                    delta: entries,
                };
                let shared = case.shared.clone().map(Support::Indices);
                update.encode(&terms, shared.as_ref())
            }
        };
        assert_eq!(frame, Ok(bytes(&case.frame)), "{}", case.name);
        bodies.insert(case.body.clone());
    }
    assert_eq!(bodies.len(), 4, "{bodies:?}");
}

#[test]
fn bad_frames_by_name() {
    let v = vectors();
    let runs = Runs::new(&v.manifests);
    let mut names = BTreeSet::new();
    for case in &v.bad_frames {
        let (terms, frame) = (runs.terms(&case.manifest, case.round), bytes(&case.frame));
        let origin = origin(&terms, &runs, &case.manifest, &case.client, &case.snapshot);
        let shared = case.shared.clone().map(Support::Indices);
        let refused = match case.kind {
            Kind::Snapshot => Snapshot::decode(&frame, &terms).err(),
            Kind::Update => {
                let reader = Reader::new(terms, origin, shared.as_ref());
                let streamed = reader.update(Trickle(&frame), &mut |_, _| ());
                assert!(streamed.is_err(), "{} was taken from a stream", case.name);
                Update::decode(&frame, &terms, &origin, shared.as_ref()).err()
            }
        };
        let refused = refused.unwrap_or_else(|| panic!("{} was taken", case.name));
        assert_eq!(name(&refused), case.error, "{}: {refused}", case.name);
        names.insert(case.error.clone());
    }
    assert_eq!(names.len(), 22, "every check is there: {names:?}");
}

fn name(error: &FrameError) -> String {
    match error {
        FrameError::Truncated { .. } => "truncated".into(),
        FrameError::Oversized { .. } => "oversized".into(),
        FrameError::Trailing { .. } => "trailing".into(),
        FrameError::Magic => "magic".into(),
        FrameError::Version { .. } => "version".into(),
        FrameError::Code { field, .. } => format!("code {field}"),
        FrameError::Digest => "digest".into(),
        FrameError::Density { .. } => "density".into(),
        FrameError::Metadata(_) => "metadata".into(),
        FrameError::Entries(entries) => format!("entries {}", entries_name(entries)),
        other => panic!("an error without a vector: {other:?}"),
    }
}

fn entries_name(error: &CodecError) -> &'static str {
    match error {
        CodecError::Value { .. } => "value",
        CodecError::Count { .. } => "count",
        CodecError::TooFew { .. } => "too few",
        CodecError::Ends => "ends",
        CodecError::Follows => "follows",
        CodecError::Padding => "padding",
        CodecError::Past => "past",
        CodecError::Block(_) => "block",
        CodecError::Outlier => "outlier",
        CodecError::NegativeZero => "minus zero",
        CodecError::Rice(_) => "Rice",
        other => panic!("an error without a vector: {other:?}"),
    }
}
