//! What a comparison keeps on the disk while it runs.
//!
//! `metrics.jsonl` has the rows as they come; `repetitions.jsonl` a line for each repetition that
//! reached its end, with the digest of its settings. A repetition counts as done only where both say
//! so, in that order, so a kill at any time loses no more than what was under way.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use gossamer_protocol::digest::Digest;
use serde::{Deserialize, Serialize};

use crate::report::{JsonLines, ReportError, RoundRow, read_rows};

const METRICS: &str = "metrics.jsonl";
const DONE: &str = "repetitions.jsonl";

/// A method and a seed.
pub(super) type Name = (String, u64);

/// A repetition that reached its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Done {
    pub(super) method: String,
    pub(super) seed: u64,
    /// Of all that its rows follow from.
    pub(super) settings: Digest,
    /// The signed record of its last snapshot.
    pub(super) last_record: Digest,
}

impl Done {
    fn name(&self) -> Name {
        (self.method.clone(), self.seed)
    }
}

/// The rows and repetitions of a comparison, in memory and on the disk.
pub(super) struct Book {
    dir: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    file: JsonLines,
    rows: Vec<RoundRow>,
    done: BTreeMap<Name, Done>,
    /// The first failure to write; told at the end, since rows in memory are still worth a report.
    failed: Option<ReportError>,
}

impl Book {
    /// Opens the book in `dir` with what `keep` says of an earlier one's; the rest of that is gone.
    pub(super) fn open(
        dir: &Path,
        keep: impl Fn(&Done, &[RoundRow]) -> bool,
    ) -> Result<Self, ReportError> {
        let failed = |source| ReportError::File { path: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(failed)?;
        let (mut rows, mut done) = (BTreeMap::<Name, Vec<RoundRow>>::new(), BTreeMap::new());
        if dir.join(METRICS).exists() && dir.join(DONE).exists() {
            for row in read_rows(&dir.join(METRICS))? {
                rows.entry((row.method.clone(), row.seed)).or_default().push(row);
            }
            for line in read_done(&dir.join(DONE))? {
                done.insert(line.name(), line);
            }
        }
        done.retain(|name, line: &mut Done| rows.get(name).is_some_and(|rows| keep(line, rows)));
        rows.retain(|name, _| done.contains_key(name));
        let rows: Vec<RoundRow> = rows.into_values().flatten().collect();
        replace(&dir.join(METRICS), &rows)?;
        replace(&dir.join(DONE), done.values())?;
        let file = JsonLines::append(&dir.join(METRICS))?;
        let inner = Mutex::new(Inner { file, rows, done, failed: None });
        Ok(Self { dir: dir.to_owned(), inner })
    }

    /// Notes a row.
    pub(super) fn row(&self, row: &RoundRow) {
        let mut inner = self.lock();
        if let Err(error) = inner.file.write(row) {
            inner.failed.get_or_insert(error);
        }
        inner.rows.push(row.clone());
    }

    /// Notes that something else could not be written.
    pub(super) fn failed(&self, error: ReportError) {
        self.lock().failed.get_or_insert(error);
    }

    /// Notes that a repetition is done; all its rows were noted.
    pub(super) fn done(&self, line: Done) {
        let mut inner = self.lock();
        inner.done.insert(line.name(), line);
        // Few and short: the whole file anew each time is never torn.
        if let Err(error) = replace(&self.dir.join(DONE), inner.done.values()) {
            inner.failed.get_or_insert(error);
        }
    }

    /// The repetitions done so far.
    pub(super) fn finished(&self) -> HashMap<Name, Digest> {
        let inner = self.lock();
        inner.done.iter().map(|(name, done)| (name.clone(), done.last_record)).collect()
    }

    /// All rows of repetitions that are done, ordered by `key`; the file has that order then too.
    pub(super) fn close<K: Ord>(
        &self,
        key: impl Fn(&RoundRow) -> K,
    ) -> Result<Vec<RoundRow>, ReportError> {
        let mut inner = self.lock();
        inner.rows.sort_by_key(key);
        if let Some(error) = inner.failed.take() {
            return Err(error);
        }
        replace(&self.dir.join(METRICS), &inner.rows)?;
        let is_done = |row: &&RoundRow| inner.done.contains_key(&(row.method.clone(), row.seed));
        Ok(inner.rows.iter().filter(is_done).cloned().collect())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes `lines` beside `path`, then in its place.
fn replace<T: Serialize>(
    path: &Path,
    lines: impl IntoIterator<Item = T>,
) -> Result<(), ReportError> {
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, &line)?;
        text.push(b'\n');
    }
    let beside = path.with_added_extension("new");
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().map_err(|source| ReportError::File { path: path.to_owned(), source })
}

fn read_done(path: &Path) -> Result<Vec<Done>, ReportError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ReportError::File { path: path.to_owned(), source })?;
    let line = |(at, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|source| ReportError::Row {
            path: path.to_owned(),
            line: at + 1,
            source,
        })
    };
    text.lines().enumerate().map(line).collect()
}
