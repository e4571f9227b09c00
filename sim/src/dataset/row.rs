//! A row's fields, and what the scenario makes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value};

use super::DatasetError;
use crate::scenario::{Format, List, Rows};

/// A row as its file has it.
pub(super) type Fields = Map<String, Value>;

/// A class as written.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Label {
    Number(u32),
    Word(String),
}

impl Label {
    /// The whole number it is, or is written as.
    fn written(&self) -> Option<u32> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Word(word) => word.parse().ok(),
        }
    }
}

/// A row before classes are numbered and short clients are left out.
pub(super) struct Row {
    pub(super) client: Option<String>,
    pub(super) label: Option<Label>,
    pub(super) text: String,
    /// Characters without the newlines put in by joining.
    pub(super) chars: usize,
}

/// A line of a file, for errors.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) path: &'a Path,
    pub(super) line: usize,
}

impl Place<'_> {
    /// The row's documents, none where all its strings are empty; or nothing where `data.only` does not
    /// ask for it.
    pub(super) fn rows(
        self,
        fields: &Fields,
        rows: &Rows,
    ) -> Result<Option<Vec<Row>>, DatasetError> {
        for (key, wanted) in &rows.only {
            if self.word(fields, key)? != *wanted {
                return Ok(None);
            }
        }
        let mut pieces = Vec::new();
        for key in &rows.text {
            self.pieces(fields, key, &mut pieces)?;
        }
        let client = rows.client.as_ref().map(|key| self.word(fields, key)).transpose()?;
        let label = rows.label.as_ref().map(|key| self.label(fields, key)).transpose()?;
        let row = |pieces: &[&str]| Row {
            client: client.clone(),
            label: label.clone(),
            text: pieces.join("\n"),
            chars: pieces.iter().map(|piece| piece.chars().count()).sum(),
        };
        Ok(Some(match rows.list {
            List::Join => vec![row(&pieces)],
            List::Split => pieces.iter().map(|piece| row(&[piece])).collect(),
        }))
    }

    /// A string, or every string of a list; empty ones are left out.
    fn pieces<'v>(
        self,
        fields: &'v Fields,
        key: &str,
        pieces: &mut Vec<&'v str>,
    ) -> Result<(), DatasetError> {
        let off = || self.off(key, "a string or a list of strings");
        match fields.get(key).ok_or_else(off)? {
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
    fn word(self, fields: &Fields, key: &str) -> Result<String, DatasetError> {
        match fields.get(key) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
            Some(Value::Number(number)) => Ok(number.to_string()),
            _ => Err(self.off(key, "a string or a number")),
        }
    }

    fn label(self, fields: &Fields, key: &str) -> Result<Label, DatasetError> {
        let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
        match fields.get(key) {
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

/// Numbers stay as they are; words are numbered in sorted order. A table has words alone: where all of
/// a column's are whole numbers they stay too.
pub(super) fn number_labels<'r>(
    rows: impl Iterator<Item = &'r Row>,
    source: &Rows,
) -> Result<BTreeMap<Label, u32>, DatasetError> {
    let labels: BTreeSet<&Label> = rows.filter_map(|row| row.label.as_ref()).collect();
    let is_table = matches!(source.format(), Format::Csv | Format::Tsv);
    let written: Option<Vec<u32>> = labels.iter().map(|label| label.written()).collect();
    if let (true, Some(numbers)) = (is_table, written) {
        return Ok(labels.into_iter().cloned().zip(numbers).collect());
    }
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
