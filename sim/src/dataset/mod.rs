//! Rows of a file, as documents.
//!
//! A document belongs to a client, or to nobody, and has a class, or none. The order is the file's,
//! so a dataset is a pure function of its files and of `[data]`; [`Dataset::digest`] names it.
//!
//! - `sources`: how rows are written. `row`: what the scenario makes of one. `limits`: short and long
//!   clients.

use std::collections::BTreeMap;

use gossamer_protocol::digest::{Digest, Hasher};

mod error;
mod limits;
#[cfg(feature = "parquet")]
mod parquet;
mod row;
mod sources;

pub use error::DatasetError;

use crate::languages;
use crate::scenario::Rows;
use row::{Place, Row, number_labels};

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

/// The documents of long enough clients, cut to what a client may have; and how many rows were read.
fn read(rows: &Rows) -> Result<(Vec<Row>, usize), DatasetError> {
    let (mut read, mut n_read) = (Vec::new(), 0);
    for row in sources::open(rows)? {
        let (line, fields) = row?;
        let Some(documents) = (Place { path: &rows.path, line }).rows(&fields, rows)? else {
            continue;
        };
        read.extend(documents);
        n_read += 1;
        if rows.limit.is_some_and(|limit| n_read >= limit) {
            break;
        }
    }
    limits::drop_short_clients(&mut read, rows.min_chars);
    if let Some(max) = rows.max_chars {
        limits::cut_long_clients(&mut read, max);
    }
    Ok((read, n_read))
}

#[cfg(test)]
mod tests;
