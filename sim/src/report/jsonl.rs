//! `metrics.jsonl`: one [`RoundRow`] a line, written as rounds end.
//!
//! JSON has no NaN; losses that are no number are the strings `"NaN"`, `"inf"` and `"-inf"`, so that a
//! method that diverged still reads as one that did.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{ReportError, RoundRow};

/// Appends rows to a file.
#[derive(Debug)]
pub struct JsonLines {
    file: File,
    path: PathBuf,
}

impl JsonLines {
    /// Opens `path` behind its last whole line, and makes it where it is not there.
    ///
    /// A line cut short by a kill is dropped, so that the next row does not run into it.
    ///
    /// # Errors
    /// [`ReportError::File`] where the file cannot be opened.
    pub fn append(path: &Path) -> Result<Self, ReportError> {
        let failed = |source| ReportError::File { path: path.to_owned(), source };
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = file.map_err(failed)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        file.set_len(whole as u64).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Writes one row as one line, in one call.
    ///
    /// # Errors
    /// [`ReportError`] where it cannot be written.
    pub fn write(&mut self, row: &RoundRow) -> Result<(), ReportError> {
        let mut line = serde_json::to_vec(row)?;
        line.push(b'\n');
        let failed = |source| ReportError::File { path: self.path.clone(), source };
        self.file.write_all(&line).map_err(failed)
    }
}

/// Reads what [`JsonLines`] wrote; a last line without its end is left out.
///
/// # Errors
/// [`ReportError`] at the first line that is no row.
pub fn read_rows(path: &Path) -> Result<Vec<RoundRow>, ReportError> {
    let failed = |source| ReportError::File { path: path.to_owned(), source };
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let mut rows = Vec::new();
    for number in 1.. {
        let mut line = String::new();
        file.read_line(&mut line).map_err(failed)?;
        if !line.ends_with('\n') {
            break;
        }
        let row = serde_json::from_str(&line).map_err(|source| ReportError::Row {
            path: path.to_owned(),
            line: number,
            source,
        })?;
        rows.push(row);
    }
    Ok(rows)
}

/// A number, or the name of one that JSON has not.
pub(super) mod number {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    pub(super) enum Written {
        Number(f64),
        Name(String),
    }

    impl Written {
        pub(super) fn value<E: Error>(self) -> Result<f64, E> {
            match self {
                Self::Number(value) => Ok(value),
                Self::Name(name) => match name.as_str() {
                    "NaN" => Ok(f64::NAN),
                    "inf" => Ok(f64::INFINITY),
                    "-inf" => Ok(f64::NEG_INFINITY),
                    other => Err(E::custom(format!("a number expected, got {other:?}"))),
                },
            }
        }
    }

    pub(in crate::report) fn serialize<S: Serializer>(
        value: &f64,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        // Rust writes the three as `NaN`, `inf` and `-inf`.
        if value.is_finite() {
            s.serialize_f64(*value)
        } else {
            s.serialize_str(&value.to_string())
        }
    }

    pub(in crate::report) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
        Written::deserialize(d)?.value()
    }
}

/// As [`number`], or `null`.
pub(super) mod optional {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::number::{self, Written};

    pub(in crate::report) fn serialize<S: Serializer>(
        value: &Option<f64>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => number::serialize(value, s),
            None => s.serialize_none(),
        }
    }

    pub(in crate::report) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<f64>, D::Error> {
        Option::<Written>::deserialize(d)?.map(Written::value).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(round: u64, loss: Option<f64>) -> RoundRow {
        RoundRow {
            method: "m \"1\"\n".into(),
            seed: 1,
            round,
            train_loss: 0.1 + 0.2,
            heldout_loss: loss,
            upload_bytes: u64::MAX,
            download_bytes: 0,
            server_loss: Some(2.5),
            heldout_accuracy: None,
            server_accuracy: loss.map(|_| 0.25),
            cumulative_bytes: 0,
            product_error: None,
            control_bytes: 0,
            accepted: 1,
            virtual_s: None,
            joules: None,
            wall_s: 0.5,
            clients: Vec::new(),
        }
    }

    #[test]
    fn rows_come_back_even_those_that_diverged() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("metrics.jsonl");
        let mut file = JsonLines::append(&path).expect("made");
        let rows = [row(0, None), row(1, Some(f64::INFINITY)), row(2, Some(1.0 / 3.0))];
        rows.iter().for_each(|row| file.write(row).expect("written"));
        assert_eq!(read_rows(&path).expect("rows"), rows);
        file.write(&row(3, Some(f64::NAN))).expect("written");
        let last = read_rows(&path).expect("rows").pop().expect("four");
        assert!(last.heldout_loss.expect("measured").is_nan());
    }

    #[test]
    fn a_line_cut_short_is_dropped() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("metrics.jsonl");
        JsonLines::append(&path).expect("made").write(&row(1, None)).expect("written");
        let mut bytes = std::fs::read(&path).expect("read");
        let half = bytes[..bytes.len() / 2].to_vec();
        bytes.extend(half);
        std::fs::write(&path, bytes).expect("written");
        assert_eq!(read_rows(&path).expect("rows").len(), 1);
        JsonLines::append(&path).expect("opened").write(&row(2, None)).expect("written");
        assert_eq!(read_rows(&path).expect("rows"), [row(1, None), row(2, None)]);
    }

    #[test]
    fn a_bad_line_is_named() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("metrics.jsonl");
        JsonLines::append(&path).expect("made").write(&row(1, None)).expect("written");
        let text = std::fs::read_to_string(&path).expect("read") + "{}\n";
        std::fs::write(&path, text).expect("written");
        let refused = read_rows(&path).expect_err("no row").to_string();
        assert!(refused.contains("metrics.jsonl, line 2"), "{refused}");
    }
}
