//! One TOML file: the data, how it is dealt, what every method shares, and the methods to compare.
//!
//! All methods run on the same base, data, split, seeds and evaluation. What a method may change is
//! listed in [`MethodSpec`], so a comparison cannot differ in anything else. Whatever is impossible
//! is refused here, by file and field, before anything is trained.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gossamer_protocol::layout::Layout;
use gossamer_protocol::manifest::{
    Base, Cohort, Head, LocalOptimizer, Lora, MANIFEST_VERSION, Manifest, Method, ServerOptimizer,
    Training,
};
use serde::Deserialize;

mod check;
mod file;

/// One comparison, checked.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What people call it.
    pub name: String,
    /// The frozen model.
    pub base: BaseModel,
    /// Where the text comes from.
    pub data: Data,
    /// How it is dealt to clients.
    pub partition: Partition,
    /// What no client trains on.
    pub heldout: Heldout,
    /// How much of that is read, and when.
    pub eval: Eval,
    /// One repetition of every method for each.
    pub seeds: Vec<u64>,
    /// Rounds of every repetition.
    pub rounds: u64,
    /// The adapter, unless a method says otherwise.
    pub lora: Lora,
    /// Makes the task a classification of the data's labels; without it, it is the next token.
    pub head: Option<Head>,
    /// A client's work, unless a method says otherwise.
    pub training: Training,
    /// Who takes part.
    pub cohort: Cohort,
    /// The server optimiser, unless a method says otherwise.
    pub optimizer: ServerOptimizer,
    /// What is compared, in the order of the file.
    pub methods: Vec<MethodSpec>,
    /// The file as read, for reports.
    pub text: String,
    file: String,
}

/// The frozen model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseModel {
    /// The word `"tiny"`: the one embedded in the binary.
    Tiny,
    /// A Hugging Face model folder; already joined to the scenario's own folder.
    Folder(PathBuf),
}

/// Where the text comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// `kind = "rows"`: a `.jsonl`, a `.jsonl.gz` or a folder of `.txt`.
    Rows(Rows),
    /// `kind = "languages"`: real sentences of these languages; the language is the label, and
    /// the client under `partition.kind = "natural"`.
    Languages(Vec<String>),
}

/// Rows of a file, and which of their keys mean what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// `.jsonl`, `.jsonl.gz`, or a folder of `.txt` (one document each, client = the file's stem).
    pub path: PathBuf,
    /// Keys whose strings, or lists of strings, are joined with a newline; one document a row.
    pub text: Vec<String>,
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

/// How documents are dealt to clients. The same for every repetition: seeds vary training only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Partition {
    /// The rule.
    pub rule: PartitionRule,
    /// Seeds the deal and the held-out draw.
    pub seed: u64,
}

/// See [`crate::partition`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PartitionRule {
    /// As the data say.
    Natural,
    /// Shuffled and dealt in turn.
    Iid {
        /// Clients to deal to.
        clients: usize,
    },
    /// Each class in Dirichlet proportions.
    Dirichlet {
        /// Concentration: small is skewed, large is even.
        alpha: f64,
        /// Clients to deal to.
        clients: usize,
    },
}

/// What no client trains on; at least one of the three is there.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heldout {
    /// Share of clients held out whole, in `[0, 1)`; above 0, at least one is.
    #[serde(default)]
    pub clients: f64,
    /// Share of each other client's characters, from the end, in `[0, 1)`; only for next tokens.
    #[serde(default)]
    pub tail: f64,
    /// Rows of the same file, in place of those that `data.only` asks for: a test set.
    #[serde(default)]
    pub only: BTreeMap<String, String>,
}

impl Heldout {
    /// Clients of `n` that are held out whole; one is always left to train.
    #[must_use]
    pub fn count(&self, n: usize) -> usize {
        let count = (self.clients * n as f64).round() as usize;
        count.max(usize::from(self.clients > 0.0)).min(n.saturating_sub(1))
    }
}

/// How much held-out text is read, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Eval {
    /// Held-out clients read at most.
    pub clients: Option<usize>,
    /// Tokens read at most in one evaluation, all clients together.
    pub tokens: Option<usize>,
    /// The same in place of `tokens` where there is a head: examples, drawn by `partition.seed`.
    pub examples: Option<usize>,
    /// Rounds between evaluations; before the first and after the last there is always one.
    #[serde(default = "one")]
    pub every: u64,
}

fn one() -> u64 {
    1
}

impl Eval {
    /// Whether the adapter after `round` of `rounds` is evaluated; 0 is before training.
    #[must_use]
    pub fn is_due(&self, round: u64, rounds: u64) -> bool {
        round == rounds || round.is_multiple_of(self.every)
    }
}

/// One method, and all in which it may differ from the others.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MethodSpec {
    /// What reports call it. A name's part before `-` and a digit is its family: one colour.
    pub name: String,
    /// What travels.
    pub method: Method,
    /// Changes to `[lora]`.
    #[serde(default)]
    pub lora: LoraChange,
    /// Changes to `[training]`.
    #[serde(default)]
    pub training: TrainingChange,
    /// In place of `[optimizer]`.
    pub optimizer: Option<ServerOptimizer>,
}

/// Changes to `[lora]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraChange {
    /// In place of `lora.rank`.
    pub rank: Option<usize>,
    /// In place of `lora.alpha`.
    pub alpha: Option<f64>,
    /// In place of `lora.freeze_a`.
    pub freeze_a: Option<bool>,
}

/// Changes to `[training]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingChange {
    /// In place of `training.optimizer`.
    pub optimizer: Option<LocalOptimizer>,
}

/// Why a scenario cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// The file could not be read.
    #[error("cannot read the scenario {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not the TOML of a scenario: unknown, missing or malformed field.
    #[error("{file}: {why}")]
    Syntax {
        /// The file.
        file: String,
        /// Line, field and what is expected.
        why: String,
    },
    /// A field outside its range.
    #[error("{file}: field {field}: expected {expected}")]
    Field {
        /// The file.
        file: String,
        /// Its dotted name.
        field: String,
        /// What is expected, and what is there instead.
        expected: String,
    },
}

impl Scenario {
    /// Reads a scenario; paths in it are relative to its own folder, and must exist.
    ///
    /// # Errors
    /// [`ScenarioError`] at the first thing that is off.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ScenarioError::Read { path: path.into(), source })?;
        let dir = path.parent().unwrap_or(Path::new(""));
        let scenario = Self::from_toml(text, dir, path.display().to_string())?;
        scenario.check_paths()?;
        Ok(scenario)
    }

    /// Parses and checks `text` whose paths are relative to `dir`; touches no file.
    ///
    /// # Errors
    /// [`ScenarioError`] at the first thing that is off.
    pub fn parse(text: &str, dir: &Path) -> Result<Self, ScenarioError> {
        Self::from_toml(text.to_owned(), dir, "scenario".to_owned())
    }

    /// The manifest of one repetition of `method`.
    #[must_use]
    pub fn manifest(&self, method: &MethodSpec, seed: u64, base: Base, layout: Layout) -> Manifest {
        Manifest {
            version: MANIFEST_VERSION,
            name: format!("{}/{}/{seed}", self.name, method.name),
            seed,
            rounds: self.rounds,
            base,
            lora: self.lora(method),
            layout,
            head: self.head,
            method: method.method.clone(),
            training: self.training(method),
            cohort: self.cohort.clone(),
            optimizer: method.optimizer.unwrap_or(self.optimizer),
        }
    }

    /// The adapter `method` trains.
    #[must_use]
    pub fn lora(&self, method: &MethodSpec) -> Lora {
        Lora {
            rank: method.lora.rank.unwrap_or(self.lora.rank),
            alpha: method.lora.alpha.unwrap_or(self.lora.alpha),
            freeze_a: method.lora.freeze_a.unwrap_or(self.lora.freeze_a),
            ..self.lora.clone()
        }
    }

    /// A client's work under `method`.
    #[must_use]
    pub fn training(&self, method: &MethodSpec) -> Training {
        Training {
            optimizer: method.training.optimizer.unwrap_or(self.training.optimizer),
            ..self.training.clone()
        }
    }

    fn from_toml(text: String, dir: &Path, file: String) -> Result<Self, ScenarioError> {
        let raw: file::Raw = toml::from_str(&text).map_err(|e| ScenarioError::Syntax {
            file: file.clone(),
            why: e.to_string().trim_end().to_owned(),
        })?;
        let misfit = |(field, expected): file::Misfit| ScenarioError::Field {
            file: file.clone(),
            field,
            expected,
        };
        let scenario = Self {
            name: raw.name,
            base: match raw.base.as_str() {
                "tiny" => BaseModel::Tiny,
                path => BaseModel::Folder(dir.join(path)),
            },
            data: raw.data.typed(dir).map_err(misfit)?,
            partition: raw.partition.typed().map_err(misfit)?,
            heldout: raw.heldout,
            eval: raw.eval,
            seeds: raw.seeds,
            rounds: raw.rounds,
            lora: raw.lora,
            head: raw.head,
            training: raw.training,
            cohort: raw.cohort,
            optimizer: raw.optimizer,
            methods: raw.method,
            text,
            file,
        };
        scenario.check()?;
        Ok(scenario)
    }
}

impl Rows {
    /// Whether the path is a `.jsonl` or `.jsonl.gz`; anything else is a folder of `.txt`.
    #[must_use]
    pub fn is_jsonl(&self) -> bool {
        let name = self.path.to_string_lossy();
        name.ends_with(".jsonl") || name.ends_with(".jsonl.gz")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAKESPEARE: &str = include_str!("../../scenarios/shakespeare.toml");
    const SMOKE: &str = include_str!("../../scenarios/smoke.toml");
    const RESIDUAL: &str = include_str!("../../scenarios/residual.toml");
    const NEWSGROUPS: &str = include_str!("../../scenarios/newsgroups.toml");

    #[test]
    fn the_shipped_scenarios_are_sound() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let shakespeare = Scenario::parse(SHAKESPEARE, &dir).expect("sound");
        assert_eq!(shakespeare.methods[0].name, "dense");
        assert_eq!(shakespeare.methods.len(), 14);
        assert!(shakespeare.lora(&shakespeare.methods[2]).freeze_a, "ffa freezes A");
        let residual = Scenario::parse(RESIDUAL, &dir).expect("sound");
        assert_eq!(residual.methods.len(), 4);
        let smoke = Scenario::parse(SMOKE, &dir).expect("sound");
        assert_eq!(smoke.base, BaseModel::Tiny);
        assert!(matches!(smoke.data, Data::Languages(_)));
        let newsgroups = Scenario::parse(NEWSGROUPS, &dir).expect("sound");
        assert_eq!(newsgroups.head, Some(Head { classes: 20 }));
        assert_eq!(newsgroups.heldout.only["split"], "test");
    }

    /// What only a classification has, and what it cannot have.
    #[test]
    fn a_head_needs_labels_and_whole_texts() {
        let cases = [
            ("label = \"label\"\n", "", "field data.label"),
            ("classes = 20", "classes = 1", "field head.classes: expected 2 to 65,536"),
            ("classes = 20", "classes = 20\nnames = 3", "names"),
            ("only = { split = \"test\" }", "tail = 0.2", "field heldout.tail"),
            ("examples = ", "tokens = ", "field eval.tokens"),
            ("examples = ", "examples = 0 #", "field eval.examples"),
            ("context = 64", "context = 2", "field training.context"),
            ("[head]\nclasses = 20\n", "", "field eval.examples"),
        ];
        for (from, to, expected) in cases {
            let text = NEWSGROUPS.replacen(from, to, 1);
            assert_ne!(text, NEWSGROUPS, "{from:?} is not in the file");
            let refused = Scenario::parse(&text, Path::new("")).expect_err(to).to_string();
            assert!(refused.contains(expected), "{to:?} gave: {refused}");
        }
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let scenario = Scenario::parse(SHAKESPEARE, Path::new("/s")).expect("sound");
        let Data::Rows(rows) = scenario.data else { panic!("rows") };
        assert!(rows.path.starts_with("/s/../../.."), "{:?}", rows.path);
        assert!(rows.is_jsonl());
    }

    /// Each edit breaks one thing; the error must name it and the file.
    #[test]
    fn what_is_off_is_named() {
        let cases = [
            ("rounds = 60", "roundz = 60", "roundz"),
            ("rounds = 60", "rounds = \"60\"", "rounds"),
            ("rounds = 60", "rounds = 0", "field rounds: expected at least 1"),
            ("name = \"shakespeare\"", "name = \"../shakespeare\"", "field name: expected letters"),
            ("name = \"shakespeare\"", "name = \"/tmp/shakespeare\"", "field name: expected"),
            ("name = \"shakespeare\"", "name = \"..\"", "field name: expected letters"),
            ("rounds = 60\n", "", "missing field `rounds`"),
            ("seeds = [1, 2, 3]", "seeds = [1, 1]", "field seeds"),
            ("seeds = [1, 2, 3]", "seeds = []", "field seeds"),
            ("min_chars = 1000", "min_char = 1000", "min_char"),
            ("min_chars = 1000", "names = [\"x\"]", "field data.names"),
            ("text = \"utterances\"", "text = 3", "a key or a list of keys"),
            ("text = \"utterances\"\n", "", "field data.text"),
            ("client = \"client\"\n", "", "field data.client"),
            ("by_role.jsonl.gz", "by_role", "a folder of .txt has no keys"),
            ("kind = \"natural\"", "kind = \"natura\"", "natura"),
            ("kind = \"natural\"", "kind = \"natural\"\nclients = 4", "field partition.clients"),
            ("kind = \"natural\"", "kind = \"iid\"", "field partition.clients"),
            ("kind = \"natural\"", "kind = \"iid\"\nclients = 9", "field cohort.ask"),
            (
                "kind = \"natural\"",
                "kind = \"dirichlet\"\nclients = 9\nalpha = 0.0",
                "field partition.alpha",
            ),
            (
                "kind = \"natural\"",
                "kind = \"dirichlet\"\nclients = 90\nalpha = 0.1",
                "field data.label",
            ),
            ("clients = 0.1", "clients = 1.0", "field heldout.clients"),
            ("clients = 0.1", "clients = nan", "field heldout.clients"),
            ("clients = 0.1", "clients = 0.0", "field heldout: expected clients or tail"),
            ("every = ", "every = 0 #", "field eval.every"),
            ("rank = 8", "rank = 0", "field lora.rank"),
            ("steps = 4", "steps = 0", "field training.steps"),
            ("momentum = 0.9 }", "momentum = 1.9 }", "field training.optimizer.momentum"),
            ("momentum = 0.9 }", "momentun = 0.9 }", "momentun"),
            ("ask = 10", "ask = 9", "field cohort.goal"),
            ("weight_decay = 0.01", "weight_decay = -1.0", "field optimizer.weight_decay"),
            ("name = \"ffa\"", "name = \"dense\"", "\"dense\" is there twice"),
            ("name = \"ffa\"", "name = \"\"", "field method.name"),
            ("density = 0.25", "density = 1.25", "density must be in (0, 1], got 1.25"),
            ("support = \"once\"", "support = \"once\", trane = 1", "trane"),
        ];
        for (from, to, expected) in cases {
            let text = SHAKESPEARE.replacen(from, to, 1);
            assert_ne!(text, SHAKESPEARE, "{from:?} is not in the file");
            let refused = match Scenario::parse(&text, Path::new("")) {
                Ok(_) => panic!("{to:?} was accepted"),
                Err(error) => error.to_string(),
            };
            assert!(refused.contains(expected), "{to:?} gave: {refused}");
            assert!(refused.starts_with("scenario: "), "{refused}");
        }
    }

    #[test]
    fn no_method_no_scenario() {
        let text = &SHAKESPEARE[..SHAKESPEARE.find("[[method]]").expect("has methods")];
        let refused = Scenario::parse(text, Path::new("")).expect_err("nothing to compare");
        assert!(refused.to_string().contains("field method: expected at least one"), "{refused}");
    }

    #[test]
    fn a_missing_file_is_named_with_its_field() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("s.toml");
        let refused = Scenario::load(&path).expect_err("not there").to_string();
        assert!(refused.contains("s.toml"), "{refused}");
        std::fs::write(&path, SHAKESPEARE).expect("written");
        let refused = Scenario::load(&path).expect_err("no base").to_string();
        assert!(refused.contains("s.toml: field base: "), "{refused}");
    }

    #[test]
    fn a_cohort_needs_its_clients() {
        let scenario = Scenario::parse(SHAKESPEARE, Path::new("")).expect("sound");
        assert!(scenario.check_against(10).is_ok());
        let refused = scenario.check_against(9).expect_err("too few").to_string();
        assert!(refused.contains("field cohort.ask: expected at most the 9 clients"), "{refused}");
    }

    #[test]
    fn evaluations_frame_the_run() {
        let eval = Eval { clients: None, tokens: None, examples: None, every: 4 };
        let due: Vec<u64> = (0..=10).filter(|&r| eval.is_due(r, 10)).collect();
        assert_eq!(due, [0, 4, 8, 10]);
    }

    #[test]
    fn held_out_clients_leave_some_to_train() {
        let heldout = |clients| Heldout { clients, ..Heldout::default() };
        assert_eq!(heldout(0.1).count(620), 62);
        assert_eq!(heldout(0.01).count(10), 1);
        assert_eq!(heldout(0.99).count(3), 2);
        assert_eq!(heldout(0.0).count(10), 0);
    }
}
