//! A repetition between two rounds, on the disk: where a killed one goes on, to the same bytes.
//!
//! ```text
//! checkpoint.json    a line with the SHA-256 of the rest, then what is there and by which names
//! objects/{digest}   immutable bytes: snapshots, the aggregator's state, what clients remember
//! ```
//!
//! Objects are written first, then `checkpoint.json` beside its name and renamed, so that a kill leaves
//! the checkpoint before or this one; objects that neither names are swept. What is damaged is refused,
//! by file, and never silently begun anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use gossamer_client::transport::metered::Traffic;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::message::Signed;
use gossamer_protocol::sign::Signature;
use gossamer_server::coordinator::Published;
use serde::{Deserialize, Serialize};

use crate::report::RoundRow;

const VERSION: u16 = 1;
const HEAD: &str = "checkpoint.json";
const OBJECTS: &str = "objects";
/// What is no longer lies in the head itself.
const SHORT: usize = 512;

/// Why a repetition can neither be kept nor gone on with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file could not be written or read.
    #[error("cannot write or read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that does not hold what was written.
    #[error("checkpoint {path} is damaged: {why}; remove it to begin the repetition anew")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was expected, and what is there.
        why: String,
    },
}

/// What a repetition goes on from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Saved {
    /// Of all that the rows follow from; another's checkpoint is not gone on with.
    pub(super) settings: Digest,
    /// The rows so far.
    pub(super) rows: Vec<RoundRow>,
    /// Bytes moved so far.
    pub(super) traffic: Traffic,
    /// Every round published so far.
    pub(super) published: Vec<Published>,
    /// The aggregator's state behind the last.
    pub(super) state: Bytes,
    /// What clients remember, by their names.
    pub(super) clients: BTreeMap<String, BTreeMap<String, Bytes>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    version: u16,
    settings: Digest,
    rows: Vec<RoundRow>,
    traffic: Traffic,
    records: Vec<Record>,
    state: Digest,
    clients: BTreeMap<String, BTreeMap<String, Entry>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    bytes: String,
    signature: String,
    snapshot: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Entry {
    Short(String),
    Object(Digest),
}

/// Where one repetition's checkpoints lie, each in the place of the one before.
pub(crate) struct Checkpoints {
    dir: PathBuf,
    /// Time between two.
    every: Duration,
    last: Option<Instant>,
}

impl Checkpoints {
    /// In `dir`, at most one in `every`.
    pub(crate) fn new(dir: PathBuf, every: Duration) -> Self {
        Self { dir, every, last: None }
    }

    /// Whether it is time for the next.
    pub(super) fn is_due(&self) -> bool {
        self.last.is_none_or(|last| last.elapsed() >= self.every)
    }

    /// Removes the checkpoint: the repetition is over, or begins anew.
    pub(crate) fn remove(&self) -> Result<(), CheckpointError> {
        // First what names the rest: killed in between, there is no checkpoint, not one without its objects.
        let head = self.dir.join(HEAD);
        match std::fs::remove_file(&head) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                return Err(CheckpointError::File { path: head, source });
            }
            _ => {}
        }
        match std::fs::remove_dir_all(&self.dir) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(CheckpointError::File { path: self.dir.clone(), source })
            }
            _ => Ok(()),
        }
    }

    /// Keeps `saved` in the place of the checkpoint before.
    pub(super) fn save(&mut self, saved: &Saved) -> Result<(), CheckpointError> {
        let objects = self.dir.join(OBJECTS);
        std::fs::create_dir_all(&objects).map_err(|e| file(&objects, e))?;
        let mut named = BTreeSet::new();
        let mut keep = |bytes: &[u8]| -> Result<Digest, CheckpointError> {
            let digest = Digest::of(bytes);
            let path = objects.join(digest.to_string());
            if named.insert(digest) && !path.exists() {
                replace(&path, bytes)?;
            }
            Ok(digest)
        };
        let mut records = Vec::with_capacity(saved.published.len());
        for Published { record, snapshot } in &saved.published {
            let bytes = BASE64_STANDARD.encode(&record.bytes);
            let signature = record.signature.to_string();
            records.push(Record { bytes, signature, snapshot: keep(snapshot)? });
        }
        let mut clients = BTreeMap::new();
        for (client, entries) in &saved.clients {
            let mut kept = BTreeMap::new();
            for (name, bytes) in entries {
                let entry = match bytes.len() {
                    0..=SHORT => Entry::Short(BASE64_STANDARD.encode(bytes)),
                    _ => Entry::Object(keep(bytes)?),
                };
                kept.insert(name.clone(), entry);
            }
            clients.insert(client.clone(), kept);
        }
        let state = keep(&saved.state)?;
        let Saved { settings, rows, traffic, .. } = saved;
        let (settings, rows, traffic) = (*settings, rows.clone(), *traffic);
        let head = Head { version: VERSION, settings, rows, traffic, records, state, clients };
        let path = self.dir.join(HEAD);
        let body = serde_json::to_string(&head).map_err(|e| file(&path, e.into()))?;
        replace(&path, format!("{}\n{body}\n", Digest::of(body.as_bytes())).as_bytes())?;
        sweep(&objects, &named);
        self.last = Some(Instant::now());
        Ok(())
    }

    /// Whether what is there can be gone on with, or is another's, or nothing is.
    pub(crate) fn check(&self, settings: Digest) -> Result<(), CheckpointError> {
        self.load(settings).map(drop)
    }

    /// The checkpoint of a repetition with these settings, if there is one.
    pub(super) fn load(&self, settings: Digest) -> Result<Option<Saved>, CheckpointError> {
        let path = self.dir.join(HEAD);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CheckpointError::File { path, source }),
        };
        let damaged = |why: &str| CheckpointError::Damaged { path: path.clone(), why: why.into() };
        let text = String::from_utf8(text).map_err(|_| damaged("text expected"))?;
        let (digest, body) = text.split_once('\n').unwrap_or_default();
        let body = body.trim_end();
        if digest.parse() != Ok(Digest::of(body.as_bytes())) {
            return Err(damaged("its first line is not the SHA-256 of the rest"));
        }
        let head: Head = serde_json::from_str(body).map_err(|e| damaged(&e.to_string()))?;
        if head.version != VERSION {
            let why = format!("version {VERSION} expected, found {}", head.version);
            return Err(damaged(&why));
        }
        if head.settings != settings {
            return Ok(None);
        }
        let short =
            |text: &str| BASE64_STANDARD.decode(text).map_err(|_| damaged("base64 expected"));
        let mut published = Vec::with_capacity(head.records.len());
        for Record { bytes, signature, snapshot } in &head.records {
            let signature: Signature =
                signature.parse().map_err(|_| damaged("a signature expected"))?;
            let record = Signed { bytes: short(bytes)?, signature };
            published.push(Published { record, snapshot: self.object(*snapshot)? });
        }
        let mut clients = BTreeMap::new();
        for (client, entries) in head.clients {
            let mut kept = BTreeMap::new();
            for (name, entry) in entries {
                let bytes = match entry {
                    Entry::Short(text) => short(&text)?.into(),
                    Entry::Object(digest) => self.object(digest)?,
                };
                kept.insert(name, bytes);
            }
            clients.insert(client, kept);
        }
        let state = self.object(head.state)?;
        let Head { rows, traffic, .. } = head;
        Ok(Some(Saved { settings, rows, traffic, published, state, clients }))
    }

    fn object(&self, digest: Digest) -> Result<Bytes, CheckpointError> {
        let path = self.dir.join(OBJECTS).join(digest.to_string());
        let bytes = std::fs::read(&path).map_err(|e| file(&path, e))?;
        if Digest::of(&bytes) != digest {
            let why = "its bytes do not have the digest that it is called by".to_owned();
            return Err(CheckpointError::Damaged { path, why });
        }
        Ok(bytes.into())
    }
}

fn file(path: &Path, source: std::io::Error) -> CheckpointError {
    CheckpointError::File { path: path.to_owned(), source }
}

/// Writes `bytes` beside `path`, then in its place.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let beside = path.with_added_extension("new");
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().map_err(|source| file(path, source))
}

/// Drops what the checkpoint does not name. What stays behind only takes room.
fn sweep(objects: &Path, named: &BTreeSet<Digest>) {
    for entry in std::fs::read_dir(objects).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let digest = name.to_str().and_then(|name| name.parse::<Digest>().ok());
        if digest.is_none_or(|digest| !named.contains(&digest)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(state: &'static str) -> Saved {
        let entries = [("short", Bytes::from("s")), ("long", Bytes::from(vec![7; 2_000]))];
        let entries = entries.map(|(name, bytes)| (name.to_owned(), bytes));
        let record = Signed { bytes: b"record".to_vec(), signature: Signature([3; 64]) };
        Saved {
            settings: Digest::of(b"settings"),
            rows: crate::report::tests::rows()[1..3].to_vec(),
            traffic: Traffic { updates: 1, snapshots: 2, control_up: 3, control_down: 4 },
            published: vec![Published { record, snapshot: "snapshot".into() }],
            state: state.into(),
            clients: BTreeMap::from([("a".to_owned(), BTreeMap::from(entries))]),
        }
    }

    #[test]
    fn what_is_kept_is_found_and_what_is_not_named_is_swept() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut place = Checkpoints::new(dir.path().join("c"), Duration::ZERO);
        assert_eq!(place.load(saved("one").settings).expect("none"), None);
        for state in ["one", "two"] {
            place.save(&saved(state)).expect("written");
            assert_eq!(place.load(saved(state).settings).expect("sound"), Some(saved(state)));
        }
        let objects = std::fs::read_dir(dir.path().join("c/objects")).expect("there").count();
        assert_eq!(objects, 3, "snapshot, state, long");
        assert_eq!(place.load(Digest::of(b"others")).expect("another's"), None);
        place.remove().expect("removed");
        assert_eq!(place.load(saved("one").settings).expect("none"), None);
    }

    /// Any bit of any file: refused by the file's name.
    #[test]
    fn damage_is_refused_by_file() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut place = Checkpoints::new(dir.path().to_owned(), Duration::ZERO);
        place.save(&saved("one")).expect("written");
        let objects = std::fs::read_dir(dir.path().join("objects")).expect("there");
        let objects = objects.map(|entry| entry.expect("an entry").path());
        for path in objects.chain([dir.path().join(HEAD)]) {
            let sound = std::fs::read(&path).expect("there");
            for at in [0, sound.len() / 2, sound.len() - 2] {
                let mut torn = sound.clone();
                torn[at] ^= 1;
                std::fs::write(&path, &torn).expect("written");
                let refused = place.load(saved("one").settings).expect_err("damaged");
                let CheckpointError::Damaged { path: named, .. } = refused else {
                    panic!("{refused:?}")
                };
                assert_eq!(named, path);
            }
            std::fs::write(&path, &sound[..sound.len() / 2]).expect("written");
            assert!(place.load(saved("one").settings).is_err());
            std::fs::write(&path, &sound).expect("written");
        }
    }
}
