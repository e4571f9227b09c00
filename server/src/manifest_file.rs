//! The operator's `MANIFEST.toml`, and the manifest it stands for.
//!
//! Its fields are [`Manifest`]'s, without `version` and `layout`; `base` is the folder of a Hugging
//! Face model of a family in [`families`](crate::families), relative to the file: `base = "../models/tiny"`, or a
//! table of `path` and `name`. An encoder wants a `head`, a decoder none. Errors name the file, the line and the
//! field.

use std::path::{Path, PathBuf};

use gossamer_protocol::digest::{Digest, Hasher};
use gossamer_protocol::layout::{BaseLinear, LayoutError};
use gossamer_protocol::manifest::{
    Base, Cohort, Evaluation, Head, Lora, MANIFEST_VERSION, Manifest, ManifestError, Method,
    ServerOptimizer, Stop, Training, base_digest, start_digest,
};
use gossamer_protocol::modules::BadPattern;
use gossamer_protocol::peft::{self, Files, PeftError};
use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use crate::families::{FamilyError, Shapes, shapes};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    seed: u64,
    rounds: u64,
    base: BaseFolder,
    lora: Lora,
    head: Option<Head>,
    method: Method,
    training: Training,
    cohort: Cohort,
    optimizer: ServerOptimizer,
    stop: Option<Stop>,
    evaluation: Option<Evaluation>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "base is a model folder's path, or a table of path and name")]
enum BaseFolder {
    Path(PathBuf),
    Named(NamedFolder),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedFolder {
    path: PathBuf,
    name: Option<String>,
}

/// A manifest with what the server keeps beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The manifest.
    pub manifest: Manifest,
    /// The base model's linears.
    pub linears: Vec<BaseLinear>,
    /// Width of the features that a head takes.
    pub hidden: usize,
}

impl Loaded {
    /// Sets the adapter in PEFT's `files` as the run's start; gives its values, shape `[n]`.
    ///
    /// # Errors
    /// [`StartError`] where the files hold no adapter of this base model, or another than the manifest's.
    pub fn start_from(&mut self, files: &Files) -> Result<Vec<f32>, StartError> {
        let Manifest { base, lora, layout, .. } = &self.manifest;
        let shapes =
            peft::Shapes { digest: base.digest, linears: &self.linears, hidden: self.hidden };
        let adapter = files.import(&shapes)?;
        let (ours, theirs) = (lora.rules()?, adapter.lora.rules()?);
        let scales = |name: &str| [ours.scale(name), theirs.scale(name)];
        if adapter.layout != *layout {
            let n = [layout.n(), adapter.layout.n()];
            return Err(StartError::Layout { wanted: n[0], found: n[1] });
        }
        for linear in &self.linears {
            let [wanted, found] = scales(&linear.name);
            if wanted != found {
                return Err(StartError::Scale { module: linear.name.clone(), wanted, found });
            }
        }
        self.manifest.start = Some(start_digest(&adapter.theta));
        Ok(adapter.theta)
    }
}

/// Why an adapter is no start for a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The files cannot be read as an adapter of the base model.
    #[error("the adapter to start from")]
    Files(#[from] PeftError),
    /// A pattern that cannot be matched.
    #[error("the adapter to start from")]
    Pattern(#[from] BadPattern),
    /// Other tensors than the manifest's: rank, targets, head, or parts that only a method has.
    #[error(
        "the adapter to start from has other tensors ({found} parameters) than the manifest ({wanted})"
    )]
    Layout {
        /// Parameters of the manifest's layout.
        wanted: usize,
        /// Those of the adapter.
        found: usize,
    },
    /// Another scale: the same values would mean something else.
    #[error("the adapter to start from scales {module} by {found}, the manifest by {wanted}")]
    Scale {
        /// The linear.
        module: String,
        /// By the manifest.
        wanted: f64,
        /// By the adapter.
        found: f64,
    },
}

/// Why a file is no manifest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestFileError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, or an unknown, missing or malformed field.
    #[error("{path}:{line}: {why}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// What is off, with the field's name.
        why: String,
    },
    /// A field outside its range.
    #[error("{path}:{line}: {field}: {why}")]
    Field {
        /// The file.
        path: PathBuf,
        /// The line, or that of the table it is missing from.
        line: usize,
        /// Its dotted name.
        field: String,
        /// What is expected.
        why: String,
    },
    /// The base model is none that can be adapted.
    #[error("{path}")]
    Model {
        /// Its `config.json`.
        path: PathBuf,
        /// Why.
        source: FamilyError,
    },
}

/// Reads the file at `path` and the model folder it names.
///
/// # Errors
/// [`ManifestFileError`] at the first thing that is off.
pub fn load(path: &Path) -> Result<Loaded, ManifestFileError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ManifestFileError::Read { path: path.to_owned(), source })?;
    let file: File = toml::from_str(&text).map_err(|e| ManifestFileError::Syntax {
        path: path.to_owned(),
        line: line(&text, e.span().map_or(0, |span| span.start)),
        why: e.message().to_owned(),
    })?;
    let field = |field: &str, why: String| ManifestFileError::Field {
        path: path.to_owned(),
        line: line(&text, place(&text, field)),
        field: field.to_owned(),
        why,
    };
    let NamedFolder { path: folder, name } = match file.base {
        BaseFolder::Path(path) => NamedFolder { path, name: None },
        BaseFolder::Named(named) => named,
    };
    let folder = path.parent().unwrap_or(Path::new("")).join(folder);
    let name = name.or_else(|| Some(folder.file_name()?.to_str()?.to_owned()));
    let name = name.ok_or_else(|| field("base", "give the model a name".to_owned()))?;

    let config = folder.join("config.json");
    let Shapes { linears, hidden, encoder } = shapes(&read(&config)?)
        .map_err(|source| ManifestFileError::Model { path: config.clone(), source })?;
    let digest = base_digest(
        file_digest(&config)?,
        file_digest(&folder.join("tokenizer.json"))?,
        file_digest(&folder.join("model.safetensors"))?,
    );
    let lora = file.lora;
    let layout = lora.layout(&linears).and_then(|layout| file.method.complete(layout));
    let layout = layout.map_err(|e| match &e {
        LayoutError::ZeroRank => field("lora.rank", e.to_string()),
        LayoutError::Pattern(BadPattern { field: at, pattern, why }) => {
            field(&format!("lora.{at}"), format!("pattern {pattern:?}: {why}"))
        }
        _ => field("lora.targets", e.to_string()),
    })?;
    let layout = match (file.head, encoder) {
        (None, false) => layout,
        (Some(Head { classes }), true) => {
            let with_head = layout.with_head(classes, hidden);
            with_head.map_err(|e| field("head.classes", e.to_string()))?
        }
        (None, true) => {
            let why = "the base model is an encoder: say how many classes its head tells apart, \
                       [head] classes = 2";
            return Err(field("head", why.to_owned()));
        }
        (Some(_), false) => {
            let why = "the base model is a decoder, which has no head";
            return Err(field("head", why.to_owned()));
        }
    };
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        name: file.name,
        seed: file.seed,
        rounds: file.rounds,
        base: Base { name, digest },
        lora,
        layout,
        head: file.head,
        method: file.method,
        training: file.training,
        cohort: file.cohort,
        optimizer: file.optimizer,
        stop: file.stop,
        evaluation: file.evaluation,
        start: None,
    };
    match manifest.to_bytes() {
        Ok(_) => Ok(Loaded { manifest, linears, hidden }),
        Err(ManifestError::Field { field: at, why }) => Err(field(at, format!("expected {why}"))),
        Err(other) => Err(field("", other.to_string())),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ManifestFileError> {
    std::fs::read(path).map_err(|source| ManifestFileError::Read { path: path.to_owned(), source })
}

/// A file's digest, read in pieces: weights may be larger than memory.
fn file_digest(path: &Path) -> Result<Digest, ManifestFileError> {
    let failed = |source| ManifestFileError::Read { path: path.to_owned(), source };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mut hasher = Hasher::default();
    let mut piece = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut piece).map_err(failed)? {
            0 => return Ok(hasher.finish()),
            got => hasher.update(&piece[..got]),
        }
    }
}

/// The line, from 1, that byte `at` is on.
fn line(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|&b| b == b'\n').count()
}

/// The byte where a dotted field's value is; where it is missing, the innermost table that is there.
fn place(text: &str, field: &str) -> usize {
    let Ok(root) = DeTable::parse(text) else { return 0 };
    let mut at = 0;
    let mut table = root.into_inner();
    for key in field.split('.') {
        let Some(value) = table.remove(key) else { break };
        at = value.span().start;
        match value.into_inner() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    at
}

#[cfg(test)]
mod tests;
