//! `[data]`: where the text comes from, and which keys of a row mean what.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

use super::file::Misfit;

/// Where the text comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// `kind = "rows"`: a file of rows, or a folder of texts.
    Rows(Rows),
    /// `kind = "languages"`: real sentences of these languages; the language is the label, and
    /// the client under `partition.kind = "natural"`.
    Languages(Vec<String>),
}

/// Rows of a file, and which of their keys mean what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// The file or folder; see [`Format`].
    pub path: PathBuf,
    /// Keys whose strings, or lists of strings, are a row's text.
    pub text: Vec<String>,
    /// What becomes of a row with several strings.
    pub list: List,
    /// Key that says whose the row is; without it every row stands for itself.
    pub client: Option<String>,
    /// Key of the class: a whole number, or a word (words are numbered in sorted order).
    pub label: Option<String>,
    /// Only rows in which each of these keys has this value.
    pub only: BTreeMap<String, String>,
    /// A client with fewer characters is left out; newlines put in by joining do not count.
    pub min_chars: usize,
    /// Characters of a client after which the rest is cut.
    pub max_chars: Option<usize>,
    /// Rows read at most, counted after `only`.
    pub limit: Option<usize>,
}

/// What becomes of a row with several strings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum List {
    /// One document: they are joined with a newline.
    #[default]
    Join,
    /// A document each, so that they may be dealt apart.
    Split,
}

/// How rows are written, told by the path's ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.jsonl`, `.jsonl.gz`: a JSON object a line.
    Jsonl,
    /// `.csv`, `.csv.gz`: RFC 4180, the first record names the columns.
    Csv,
    /// `.tsv`, `.tsv.gz`: the same with tabs.
    Tsv,
    /// `.parquet`, with the feature of that name.
    #[cfg(feature = "parquet")]
    Parquet,
    /// Anything else: a folder of `.txt` and of folders of `.txt`. A file is a row with the keys
    /// `text`; `file`, its name without the ending, behind that of its folder and a `/` where it lies
    /// in one; and `folder`, the name of that one.
    Folder,
}

impl Rows {
    /// How they are written.
    #[must_use]
    pub fn format(&self) -> Format {
        let name = self.path.to_string_lossy();
        match name.strip_suffix(".gz").unwrap_or(&name).rsplit_once('.') {
            Some((_, "jsonl")) => Format::Jsonl,
            Some((_, "csv")) => Format::Csv,
            Some((_, "tsv")) => Format::Tsv,
            #[cfg(feature = "parquet")]
            Some((_, "parquet")) if !name.ends_with(".gz") => Format::Parquet,
            _ => Format::Folder,
        }
    }
}

/// Flat, not a tagged enum: serde then keeps the line of every mistake.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawData {
    #[serde(default)]
    kind: DataKind,
    path: Option<String>,
    #[serde(default)]
    text: Keys,
    list: Option<List>,
    client: Option<String>,
    label: Option<String>,
    #[serde(default)]
    only: BTreeMap<String, String>,
    min_chars: Option<usize>,
    max_chars: Option<usize>,
    limit: Option<usize>,
    names: Option<Vec<String>>,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum DataKind {
    #[default]
    Rows,
    Languages,
}

impl RawData {
    pub(super) fn typed(self, dir: &Path) -> Result<Data, Misfit> {
        match self.kind {
            DataKind::Languages => self.languages().map(Data::Languages),
            DataKind::Rows => self.rows(dir).map(Data::Rows),
        }
    }

    fn languages(self) -> Result<Vec<String>, Misfit> {
        for (field, set) in [
            ("path", self.path.is_some()),
            ("text", !self.text.0.is_empty()),
            ("list", self.list.is_some()),
            ("client", self.client.is_some()),
            ("label", self.label.is_some()),
            ("only", !self.only.is_empty()),
            ("min_chars", self.min_chars.is_some()),
            ("max_chars", self.max_chars.is_some()),
            ("limit", self.limit.is_some()),
        ] {
            unused(set, field, "languages")?;
        }
        let names = self.names.unwrap_or_default();
        let distinct: HashSet<_> = names.iter().collect();
        if names.is_empty() || distinct.len() != names.len() {
            let why = "a list of languages, each only once".to_owned();
            return Err(("data.names".to_owned(), why));
        }
        Ok(names)
    }

    fn rows(self, dir: &Path) -> Result<Rows, Misfit> {
        unused(self.names.is_some(), "names", "rows")?;
        let missing = || {
            let why = "a .jsonl, .csv or .tsv (or .gz of one), a .parquet, or a folder of .txt"
                .to_owned();
            ("data.path".to_owned(), why)
        };
        let path = self.path.filter(|path| !path.is_empty()).ok_or_else(missing)?;
        if cfg!(not(feature = "parquet")) && path.ends_with(".parquet") {
            let why = "no .parquet: this program was built without the feature \"parquet\"";
            return Err(("data.path".to_owned(), why.to_owned()));
        }
        if self.limit == Some(0) || self.max_chars == Some(0) {
            let field = if self.limit == Some(0) { "limit" } else { "max_chars" };
            return Err((format!("data.{field}"), "at least 1".to_owned()));
        }
        let mut rows = Rows {
            path: dir.join(path),
            text: self.text.0,
            list: self.list.unwrap_or_default(),
            client: self.client,
            label: self.label,
            only: self.only,
            min_chars: self.min_chars.unwrap_or(1),
            max_chars: self.max_chars,
            limit: self.limit,
        };
        if rows.format() == Format::Folder {
            for (field, keys) in [
                ("text", rows.text.iter().collect()),
                ("client", Vec::from_iter(&rows.client)),
                ("label", Vec::from_iter(&rows.label)),
                ("only", rows.only.keys().collect()),
            ] {
                if let Some(key) = keys.into_iter().find(|key| !FOLDER_KEYS.contains(&key.as_str()))
                {
                    let keys = FOLDER_KEYS.join(", ");
                    let why = format!("one of {keys}: a folder of .txt has no key {key:?}");
                    return Err((format!("data.{field}"), why));
                }
            }
            if rows.text.is_empty() {
                rows.text = vec!["text".to_owned()];
            }
            rows.client.get_or_insert_with(|| "file".to_owned());
        } else if rows.text.is_empty() {
            return Err(("data.text".to_owned(), "the key of the text".to_owned()));
        }
        Ok(rows)
    }
}

/// What a row of [`Format::Folder`] has.
const FOLDER_KEYS: [&str; 3] = ["text", "file", "folder"];

fn unused(set: bool, field: &str, kind: &str) -> Result<(), Misfit> {
    let why = || format!("nothing: kind = {kind:?} does not use it");
    if set { Err((format!("data.{field}"), why())) } else { Ok(()) }
}

/// One key or several.
#[derive(Default)]
struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key or a list of keys")
            }

            fn visit_str<E>(self, key: &str) -> Result<Keys, E> {
                Ok(Keys(vec![key.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some(key) = seq.next_element()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
}
