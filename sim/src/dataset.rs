//! Rows of a file, as documents.
//!
//! A document belongs to a client, or to nobody, and has a class, or none. The order is the file's,
//! so a dataset is a pure function of its files and of `[data]`; [`Dataset::digest`] names it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use gossamer_protocol::digest::{Digest, Hasher};
use serde_json::{Map, Value};

use crate::languages::{self, NoSuchLanguage};
use crate::scenario::Rows;

/// One text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Whose it is.
    pub client: Option<String>,
    /// Its class.
    pub label: Option<u32>,
    /// The text.
    pub text: String,
}

/// All texts of a scenario.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// In the order of the file.
    pub documents: Vec<Document>,
    /// Those of `heldout.only`, which are dealt to nobody.
    pub heldout: Vec<Document>,
    /// SHA-256 of the documents that are dealt, each part behind its length.
    pub digest: Digest,
}

/// Why there is no dataset.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// A file or folder could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not a JSON object.
    #[error("{path}, line {line}: not a JSON object")]
    Json {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
    /// A key that is missing or holds something else.
    #[error("{path}, line {line}: key {key:?}: {expected} expected")]
    Key {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The key, as the scenario names it.
        key: String,
        /// What should be there.
        expected: &'static str,
    },
    /// Whole-number labels on some lines, words on others.
    #[error("{path}: key {key:?} is a number on some lines and a word on others")]
    MixedLabels {
        /// The file.
        path: PathBuf,
        /// The label's key.
        key: String,
    },
    /// A language without sentences here.
    #[error(transparent)]
    Language(#[from] NoSuchLanguage),
    /// No text is left.
    #[error("no document in {from} ({read} rows read, the others too short or not asked for)")]
    Empty {
        /// Where from.
        from: String,
        /// Rows that passed `data.only`.
        read: usize,
    },
}

/// A class as written.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Number(u32),
    Word(String),
}

/// A row before classes are numbered and short clients are left out.
struct Row {
    client: Option<String>,
    label: Option<Label>,
    text: String,
    /// Characters without the newlines put in by joining.
    chars: usize,
}

impl Dataset {
    /// Reads what `[data]` asks for, and beside it the rows that `heldout` asks for, if any.
    ///
    /// # Errors
    /// [`DatasetError`] at the first row that is off, or where nothing is left.
    pub fn load(rows: &Rows, heldout: &BTreeMap<String, String>) -> Result<Self, DatasetError> {
        let (read, n_read) = read(rows)?;
        let (mut kept, mut n_kept) = (Vec::new(), 0);
        if !heldout.is_empty() {
            (kept, n_kept) = self::read(&Rows { only: heldout.clone(), ..rows.clone() })?;
        }
        let numbers = number_labels(read.iter().chain(&kept), rows)?;
        let document = |row: Row| Document {
            client: row.client,
            label: row.label.map(|label| numbers[&label]),
            text: row.text,
        };
        let from = || rows.path.display().to_string();
        let documents = read.into_iter().map(document).collect();
        let mut dataset = Self::build(documents, from(), n_read)?;
        if !heldout.is_empty() {
            let documents = kept.into_iter().map(document).collect();
            dataset.heldout = Self::build(documents, from(), n_kept)?.documents;
        }
        Ok(dataset)
    }

    /// Real sentences of each of `names`; the language is client and label.
    ///
    /// # Errors
    /// [`DatasetError::Language`] where there are none of one.
    pub fn languages(names: &[String]) -> Result<Self, DatasetError> {
        let mut documents = Vec::new();
        for (label, name) in names.iter().enumerate() {
            documents.extend(languages::sentences(name)?.into_iter().map(|text| Document {
                client: Some(name.clone()),
                label: Some(label as u32),
                text: text.to_owned(),
            }));
        }
        Self::from_documents(documents)
    }

    /// A dataset of texts made elsewhere.
    ///
    /// # Errors
    /// [`DatasetError::Empty`] where there is none, or only empty ones.
    pub fn from_documents(documents: Vec<Document>) -> Result<Self, DatasetError> {
        let read = documents.len();
        Self::build(documents, "the given documents".to_owned(), read)
    }

    fn build(
        mut documents: Vec<Document>,
        from: String,
        read: usize,
    ) -> Result<Self, DatasetError> {
        documents.retain(|document| !document.text.trim().is_empty());
        if documents.is_empty() {
            return Err(DatasetError::Empty { from, read });
        }
        let digest = digest(&documents);
        Ok(Self { documents, heldout: Vec::new(), digest })
    }
}

fn digest(documents: &[Document]) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(b"gossamer/v1/dataset\0");
    for document in documents {
        let label = document.label.map(|label| label.to_le_bytes());
        for part in [
            document.client.as_deref().map(str::as_bytes),
            label.as_ref().map(<[u8; 4]>::as_slice),
            Some(document.text.as_bytes()),
        ] {
            // No part has this length, so "none" differs from "empty".
            let len = part.map_or(u64::MAX, |part| part.len() as u64);
            hasher.update(&len.to_le_bytes());
            hasher.update(part.unwrap_or_default());
        }
    }
    hasher.finish()
}

/// The rows of long enough clients, cut to what a client may have; and how many were read.
fn read(rows: &Rows) -> Result<(Vec<Row>, usize), DatasetError> {
    let mut read = if rows.is_jsonl() { read_jsonl(rows)? } else { read_texts(rows)? };
    let n_read = read.len();
    drop_short_clients(&mut read, rows.min_chars);
    if let Some(max) = rows.max_chars {
        cut_long_clients(&mut read, max);
    }
    Ok((read, n_read))
}

fn read_jsonl(rows: &Rows) -> Result<Vec<Row>, DatasetError> {
    let path = &rows.path;
    let unreadable = |source| DatasetError::Read { path: path.clone(), source };
    let file = File::open(path).map_err(unreadable)?;
    let bytes: Box<dyn Read> = if path.extension().is_some_and(|end| end == "gz") {
        Box::new(MultiGzDecoder::new(BufReader::new(file)))
    } else {
        Box::new(file)
    };

    let mut read = Vec::new();
    for (at, line) in BufReader::new(bytes).lines().enumerate() {
        let line = line.map_err(unreadable)?;
        if line.trim().is_empty() {
            continue;
        }
        let at = Place { path, line: at + 1 };
        let object: Map<String, Value> = serde_json::from_str(&line)
            .map_err(|source| DatasetError::Json { path: path.clone(), line: at.line, source })?;
        if let Some(row) = at.row(&object, rows)? {
            read.push(row);
        }
        if rows.limit.is_some_and(|limit| read.len() >= limit) {
            break;
        }
    }
    Ok(read)
}

/// A line of a file, for errors.
#[derive(Clone, Copy)]
struct Place<'a> {
    path: &'a Path,
    line: usize,
}

impl Place<'_> {
    /// The row, or nothing where `data.only` does not ask for it.
    fn row(self, object: &Map<String, Value>, rows: &Rows) -> Result<Option<Row>, DatasetError> {
        for (key, wanted) in &rows.only {
            if self.word(object, key)? != *wanted {
                return Ok(None);
            }
        }
        let mut pieces = Vec::new();
        for key in &rows.text {
            self.pieces(object, key, &mut pieces)?;
        }
        let client = rows.client.as_ref().map(|key| self.word(object, key)).transpose()?;
        let label = rows.label.as_ref().map(|key| self.label(object, key)).transpose()?;
        let chars = pieces.iter().map(|piece| piece.chars().count()).sum();
        Ok(Some(Row { client, label, text: pieces.join("\n"), chars }))
    }

    /// A string, or every string of a list; empty ones are left out.
    fn pieces<'v>(
        self,
        object: &'v Map<String, Value>,
        key: &str,
        pieces: &mut Vec<&'v str>,
    ) -> Result<(), DatasetError> {
        let off = || self.off(key, "a string or a list of strings");
        match object.get(key).ok_or_else(off)? {
            Value::String(text) => pieces.push(text),
            Value::Array(list) => {
                for item in list {
                    pieces.push(item.as_str().ok_or_else(off)?);
                }
            }
            _ => return Err(off()),
        }
        pieces.retain(|piece| !piece.is_empty());
        Ok(())
    }

    /// A string, or a whole number written as one.
    fn word(self, object: &Map<String, Value>, key: &str) -> Result<String, DatasetError> {
        match object.get(key) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
            Some(Value::Number(number)) => Ok(number.to_string()),
            _ => Err(self.off(key, "a string or a number")),
        }
    }

    fn label(self, object: &Map<String, Value>, key: &str) -> Result<Label, DatasetError> {
        let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
        match object.get(key) {
            Some(Value::String(word)) if !word.is_empty() => Ok(Label::Word(word.clone())),
            Some(value) if number(value).is_some() => {
                Ok(Label::Number(number(value).expect("just seen to be one")))
            }
            _ => Err(self.off(key, "a word or a whole number below 2^32")),
        }
    }

    fn off(self, key: &str, expected: &'static str) -> DatasetError {
        DatasetError::Key { path: self.path.into(), line: self.line, key: key.into(), expected }
    }
}

/// Every `.txt` of a folder, by name; what else lies there is left alone.
fn read_texts(rows: &Rows) -> Result<Vec<Row>, DatasetError> {
    let unreadable = |path: &Path, source| DatasetError::Read { path: path.to_owned(), source };
    let folder = rows.path.as_path();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| unreadable(folder, e))? {
        let path = entry.map_err(|e| unreadable(folder, e))?.path();
        if path.extension().is_some_and(|end| end == "txt") {
            files.push(path);
        }
    }
    files.sort();
    files.truncate(rows.limit.unwrap_or(usize::MAX));
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).map_err(|e| unreadable(&path, e))?;
        let client = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        Ok(Row { client, label: None, chars: text.chars().count(), text })
    };
    files.into_iter().map(read).collect()
}

fn drop_short_clients(rows: &mut Vec<Row>, min_chars: usize) {
    let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows.iter() {
        if let Some(client) = &row.client {
            *sizes.entry(client.clone()).or_default() += row.chars;
        }
    }
    rows.retain(|row| row.client.as_ref().map_or(row.chars, |client| sizes[client]) >= min_chars);
}

/// Keeps the first `max` characters of every client, joins included.
fn cut_long_clients(rows: &mut Vec<Row>, max: usize) {
    let mut left: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows.iter_mut() {
        let mut own = max;
        let left = match &row.client {
            Some(client) => left.entry(client.clone()).or_insert(max),
            None => &mut own,
        };
        match row.text.char_indices().nth(*left) {
            Some((end, _)) => {
                row.text.truncate(end);
                *left = 0;
            }
            None => *left -= row.text.chars().count(),
        }
    }
    rows.retain(|row| !row.text.is_empty());
}

/// Numbers stay as they are; words are numbered in sorted order.
fn number_labels<'r>(
    rows: impl Iterator<Item = &'r Row>,
    source: &Rows,
) -> Result<BTreeMap<Label, u32>, DatasetError> {
    let labels: BTreeSet<&Label> = rows.filter_map(|row| row.label.as_ref()).collect();
    let words = labels.iter().filter(|label| matches!(label, Label::Word(_))).count();
    if words > 0 && words < labels.len() {
        let key = source.label.clone().unwrap_or_default();
        return Err(DatasetError::MixedLabels { path: source.path.clone(), key });
    }
    let number = |(at, label): (usize, &Label)| match label {
        Label::Number(number) => (label.clone(), *number),
        // A file of 2^32 distinct words does not fit in memory.
        Label::Word(_) => (label.clone(), at as u32),
    };
    Ok(labels.into_iter().enumerate().map(number).collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    const NONE: BTreeMap<String, String> = BTreeMap::new();

    fn rows(path: PathBuf) -> Rows {
        Rows {
            path,
            text: vec!["t".into()],
            client: Some("c".into()),
            label: None,
            only: BTreeMap::new(),
            min_chars: 1,
            max_chars: None,
            limit: None,
        }
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    fn jsonl(dir: &tempfile::TempDir, text: &str) -> Rows {
        let path = dir.path().join("d.jsonl");
        std::fs::write(&path, text).expect("written");
        rows(path)
    }

    const TWO: &str = "{\"c\":\"ann\",\"t\":[\"one\",\"two\"]}\n\n{\"c\":\"bob\",\"t\":\"x\"}\n";

    #[test]
    fn a_list_is_joined_and_an_empty_line_skipped() {
        let dir = folder();
        let dataset = Dataset::load(&jsonl(&dir, TWO), &NONE).expect("sound");
        let texts: Vec<_> = dataset.documents.iter().map(|d| d.text.as_str()).collect();
        assert_eq!(texts, ["one\ntwo", "x"]);
        assert_eq!(dataset.documents[0].client.as_deref(), Some("ann"));
    }

    #[test]
    fn gzip_reads_the_same_and_has_the_same_digest() {
        let dir = folder();
        let plain = Dataset::load(&jsonl(&dir, TWO), &NONE).expect("sound");
        let path = dir.path().join("d.jsonl.gz");
        let mut gz = GzEncoder::new(File::create(&path).expect("created"), Compression::default());
        gz.write_all(TWO.as_bytes()).expect("written");
        gz.finish().expect("written");
        let zipped = Dataset::load(&rows(path.clone()), &NONE).expect("sound");
        assert_eq!(plain.documents, zipped.documents);
        assert_eq!(plain.digest, zipped.digest);

        let whole = std::fs::read(&path).expect("read");
        std::fs::write(&path, &whole[..whole.len() / 2]).expect("written");
        let refused = Dataset::load(&rows(path), &NONE).expect_err("cut in half").to_string();
        assert!(refused.contains("d.jsonl.gz"), "{refused}");
    }

    #[test]
    fn what_is_off_is_named_with_its_line() {
        let dir = folder();
        let cases = [
            ("{\"c\":\"a\",\"t\":\"x\"}\n{", "line 2: not a JSON object"),
            ("[1]", "line 1: not a JSON object"),
            ("{\"c\":\"a\"}", "line 1: key \"t\": a string or a list of strings expected"),
            ("{\"c\":\"a\",\"t\":[1]}", "line 1: key \"t\""),
            ("{\"t\":\"x\"}", "line 1: key \"c\": a string or a number expected"),
            ("", "(0 rows read"),
            ("{\"c\":\"a\",\"t\":\" \"}", "(1 rows read"),
        ];
        for (text, expected) in cases {
            let refused = Dataset::load(&jsonl(&dir, text), &NONE).expect_err(text).to_string();
            assert!(refused.contains(expected) && refused.contains("d.jsonl"), "{refused}");
        }
        let refused =
            Dataset::load(&rows(dir.path().join("no.jsonl")), &NONE).expect_err("missing");
        assert!(refused.to_string().contains("no.jsonl"), "{refused}");
    }

    #[test]
    fn short_clients_go_whole_and_joins_do_not_count() {
        let dir = folder();
        let text = "{\"c\":\"a\",\"t\":\"123\"}\n{\"c\":\"b\",\"t\":[\"12\",\"34\"]}\n\
                    {\"c\":\"a\",\"t\":\"45\"}\n";
        let mut ask = jsonl(&dir, text);
        ask.min_chars = 5;
        let dataset = Dataset::load(&ask, &NONE).expect("sound");
        assert!(dataset.documents.iter().all(|d| d.client.as_deref() == Some("a")));
        assert_eq!(dataset.documents.len(), 2);
    }

    #[test]
    fn long_clients_are_cut_on_a_character() {
        let dir = folder();
        let text = "{\"c\":\"a\",\"t\":\"åäö\"}\n{\"c\":\"b\",\"t\":\"1\"}\n\
                    {\"c\":\"a\",\"t\":\"éèê\"}\n{\"c\":\"a\",\"t\":\"x\"}\n";
        let mut ask = jsonl(&dir, text);
        ask.max_chars = Some(4);
        let dataset = Dataset::load(&ask, &NONE).expect("sound");
        let texts: Vec<_> = dataset.documents.iter().map(|d| d.text.as_str()).collect();
        assert_eq!(texts, ["åäö", "1", "é"]);
    }

    #[test]
    fn labels_only_and_limit() {
        let dir = folder();
        let text = "{\"l\":\"sme\",\"s\":\"train\",\"t\":\"a\"}\n{\"l\":\"fin\",\"s\":\"train\",\"t\":\"b\"}\n\
                    {\"l\":\"fin\",\"s\":\"test\",\"t\":\"c\"}\n{\"l\":\"sme\",\"s\":\"train\",\"t\":\"d\"}\n";
        let mut ask = jsonl(&dir, text);
        ask.client = None;
        ask.label = Some("l".into());
        ask.only.insert("s".into(), "train".into());
        let labels = |ask: &Rows| -> Vec<_> {
            let dataset = Dataset::load(ask, &NONE).expect("sound");
            dataset.documents.iter().map(|d| d.label).collect()
        };
        assert_eq!(labels(&ask), [Some(1), Some(0), Some(1)], "fin sorts before sme");
        ask.limit = Some(2);
        assert_eq!(labels(&ask), [Some(1), Some(0)]);

        let mut ask = jsonl(&dir, "{\"l\":3,\"t\":\"a\"}\n{\"l\":7,\"t\":\"b\"}\n");
        ask.client = None;
        ask.label = Some("l".into());
        assert_eq!(labels(&ask), [Some(3), Some(7)], "numbers stay");
        let mut ask = jsonl(&dir, "{\"l\":3,\"t\":\"a\"}\n{\"l\":\"x\",\"t\":\"b\"}\n");
        ask.client = None;
        ask.label = Some("l".into());
        assert!(matches!(Dataset::load(&ask, &NONE), Err(DatasetError::MixedLabels { .. })));
    }

    /// A word has one number, wherever it stands.
    #[test]
    fn held_out_rows_stand_apart() {
        let dir = folder();
        let text = "{\"l\":\"sme\",\"s\":\"train\",\"t\":\"a\"}\n{\"l\":\"sme\",\"s\":\"test\",\"t\":\"b\"}\n\
                    {\"l\":\"fin\",\"s\":\"test\",\"t\":\"c\"}\n";
        let mut ask = jsonl(&dir, text);
        ask.client = None;
        ask.label = Some("l".into());
        ask.only.insert("s".into(), "train".into());
        let of = |split: &str| BTreeMap::from([("s".to_owned(), split.to_owned())]);
        let dataset = Dataset::load(&ask, &of("test")).expect("sound");
        let found = |documents: &[Document]| -> Vec<_> {
            documents.iter().map(|d| (d.label, d.text.clone())).collect()
        };
        assert_eq!(found(&dataset.documents), [(Some(1), "a".into())]);
        assert_eq!(found(&dataset.heldout), [(Some(1), "b".into()), (Some(0), "c".into())]);
        assert!(matches!(
            Dataset::load(&ask, &of("dev")),
            Err(DatasetError::Empty { read: 0, .. })
        ));
        assert!(Dataset::load(&ask, &NONE).expect("sound").heldout.is_empty());
    }

    #[test]
    fn a_folder_of_texts() {
        let dir = folder();
        for (name, text) in [("b.txt", "bee"), ("a.txt", "ay"), ("c.md", "no")] {
            std::fs::write(dir.path().join(name), text).expect("written");
        }
        let mut ask = rows(dir.path().to_owned());
        ask.client = None;
        let dataset = Dataset::load(&ask, &NONE).expect("sound");
        let found: Vec<_> =
            dataset.documents.iter().map(|d| (d.client.as_deref(), d.text.as_str())).collect();
        assert_eq!(found, [(Some("a"), "ay"), (Some("b"), "bee")]);
    }

    #[test]
    fn a_digest_tells_parts_apart() {
        let of = |client: Option<&str>, text: &str| {
            let document =
                Document { client: client.map(Into::into), label: None, text: text.into() };
            Dataset::from_documents(vec![document]).expect("one").digest
        };
        assert_ne!(of(None, "ab"), of(Some(""), "ab"));
        assert_ne!(of(Some("a"), "b"), of(Some("ab"), "b"));
        assert!(Dataset::from_documents(vec![]).is_err());
    }

    /// The number `shared/data/README.md` states; skipped where that data is not at hand.
    #[test]
    fn shakespeare_has_620_roles() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../shared/data/shakespeare_by_role.jsonl.gz");
        if !path.exists() {
            return;
        }
        let ask = Rows {
            text: vec!["utterances".into()],
            client: Some("client".into()),
            min_chars: 1000,
            ..rows(path)
        };
        assert_eq!(Dataset::load(&ask, &NONE).expect("sound").documents.len(), 620);
    }
}
