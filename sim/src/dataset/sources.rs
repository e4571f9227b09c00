//! How rows are written: JSON lines, tables, folders of texts.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde_json::Value;

use super::DatasetError;
use super::row::Fields;
use crate::scenario::{Format, Rows};

/// Rows with the line each begins at, counted from 1; a folder's are 1.
pub(super) type Source = Box<dyn Iterator<Item = Result<(usize, Fields), DatasetError>>>;

/// The rows of `rows.path`, read as they are asked for.
pub(super) fn open(rows: &Rows) -> Result<Source, DatasetError> {
    match rows.format() {
        Format::Jsonl => jsonl(&rows.path),
        Format::Csv => table(rows, b','),
        Format::Tsv => table(rows, b'\t'),
        #[cfg(feature = "parquet")]
        Format::Parquet => super::parquet::open(rows),
        Format::Folder => folder(&rows.path),
    }
}

fn unreadable(path: &Path, source: std::io::Error) -> DatasetError {
    DatasetError::Read { path: path.to_owned(), source }
}

/// The bytes of a file, unpacked where its name ends in `.gz`.
fn bytes(path: &Path) -> Result<Box<dyn Read>, DatasetError> {
    let file = File::open(path).map_err(|e| unreadable(path, e))?;
    Ok(match path.extension().is_some_and(|end| end == "gz") {
        true => Box::new(MultiGzDecoder::new(BufReader::new(file))),
        false => Box::new(file),
    })
}

/// A JSON object a line; blank lines are passed over.
fn jsonl(path: &Path) -> Result<Source, DatasetError> {
    let lines = BufReader::new(bytes(path)?).lines().enumerate();
    let path = path.to_owned();
    let is_blank =
        |line: &std::io::Result<String>| line.as_ref().is_ok_and(|l| l.trim().is_empty());
    Ok(Box::new(lines.filter(move |(_, line)| !is_blank(line)).map(move |(at, line)| {
        let line = line.map_err(|e| unreadable(&path, e))?;
        let fields = serde_json::from_str(&line).map_err(|source| DatasetError::Json {
            path: path.clone(),
            line: at + 1,
            source,
        })?;
        Ok((at + 1, fields))
    })))
}

/// RFC 4180: the first record names the columns, and all must be there that the scenario names.
fn table(rows: &Rows, delimiter: u8) -> Result<Source, DatasetError> {
    let path = rows.path.clone();
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(bytes(&path)?);
    let head = reader.headers().map_err(|source| record(&path, source))?.clone();
    let asked = rows.text.iter().chain(&rows.client).chain(&rows.label).chain(rows.only.keys());
    for key in asked {
        if !head.iter().any(|column| column == key) {
            let found = head.iter().collect::<Vec<_>>().join(", ");
            return Err(DatasetError::Column { path, key: key.clone(), found });
        }
    }
    Ok(Box::new(reader.into_records().map(move |read| {
        let read = read.map_err(|source| record(&path, source))?;
        let line = read.position().map_or(0, |position| position.line() as usize);
        let cell = |(key, cell): (&str, &str)| (key.to_owned(), Value::String(cell.to_owned()));
        Ok((line, head.iter().zip(read.iter()).map(cell).collect()))
    })))
}

fn record(path: &Path, source: csv::Error) -> DatasetError {
    let line = source.position().map_or(1, |position| position.line() as usize);
    match source.into_kind() {
        csv::ErrorKind::Io(source) => unreadable(path, source),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            DatasetError::Fields { path: path.to_owned(), line, expected: expected_len, found: len }
        }
        _ => DatasetError::Text { path: path.to_owned(), line },
    }
}

/// Every `.txt` of a folder, then of its folders, by name; what else lies there is left alone.
fn folder(root: &Path) -> Result<Source, DatasetError> {
    let mut files = Vec::new();
    let mut below = Vec::new();
    for path in entries(root)? {
        if path.is_dir() { below.push(path) } else { files.push(path) }
    }
    for folder in below {
        files.extend(entries(&folder)?.into_iter().filter(|path| path.is_file()));
    }
    files.retain(|path| path.extension().is_some_and(|end| end == "txt"));
    let root = root.to_owned();
    Ok(Box::new(files.into_iter().map(move |path| {
        let text = std::fs::read_to_string(&path).map_err(|e| unreadable(&path, e))?;
        let name = |name: &OsStr| name.to_string_lossy().into_owned();
        let mut file = path.file_stem().map(name).unwrap_or_default();
        let folder = path.parent().filter(|parent| *parent != root);
        let folder = folder.and_then(Path::file_name).map(name);
        let mut fields = Fields::new();
        if let Some(folder) = folder {
            file = format!("{folder}/{file}");
            fields.insert("folder".into(), folder.into());
        }
        fields.insert("file".into(), file.into());
        fields.insert("text".into(), text.into());
        Ok((1, fields))
    })))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let entries = std::fs::read_dir(folder).map_err(|e| unreadable(folder, e))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths: Vec<PathBuf> =
        paths.collect::<Result<_, _>>().map_err(|e| unreadable(folder, e))?;
    paths.sort();
    Ok(paths)
}
