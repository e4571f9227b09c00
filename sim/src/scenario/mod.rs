//! One TOML file: the data, how it is dealt, what every method shares, and the methods to compare.
//!
//! All methods run on the same base, data, split, seeds and evaluation. What a method may change is
//! listed in [`MethodSpec`], so a comparison cannot differ in anything else. Whatever is impossible
//! is refused here, by file and field, before anything is trained.

use std::path::{Path, PathBuf};

use gossamer_protocol::layout::Layout;
use gossamer_protocol::manifest::{
    Base, Cohort, Head, Lora, MANIFEST_VERSION, Manifest, Selection, ServerOptimizer, Training,
};

mod check;
mod data;
mod error;
mod file;
mod fleet;
mod heldout;
mod method;
mod partition;

pub use data::{Data, Format, List, Rows};
pub use error::ScenarioError;
pub use fleet::{DeviceTier, FleetSpec};
pub use heldout::{Eval, Heldout};
pub use method::{CohortChange, Decay, LoraChange, MethodSpec, TrainingChange};
pub use partition::{Partition, PartitionRule};

/// One comparison, checked.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What people call it.
    pub name: String,
    /// The frozen model.
    pub base: BaseModel,
    /// Where the text comes from.
    pub data: Data,
    /// Clients in all, where they are more than text is dealt to: each of those beyond has the text of one that
    /// it is dealt to, in turn. For scale, not for statistics.
    pub registered: Option<usize>,
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
    /// What devices are like; without it, no time passes.
    pub fleet: Option<FleetSpec>,
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
            method: method.method(self.rounds),
            training: self.training(method),
            cohort: self.cohort(method),
            optimizer: method.optimizer.unwrap_or(self.optimizer),
            stop: None,
            evaluation: None,
            start: None,
        }
    }

    /// The adapter `method` trains.
    #[must_use]
    pub fn lora(&self, method: &MethodSpec) -> Lora {
        Lora {
            rank: method.lora.rank.unwrap_or(self.lora.rank),
            alpha: method.lora.alpha.unwrap_or(self.lora.alpha),
            freeze_a: method.lora.freeze_a.unwrap_or(self.lora.freeze_a),
            targets: method.lora.targets.clone().unwrap_or_else(|| self.lora.targets.clone()),
            ..self.lora.clone()
        }
    }

    /// Who takes part under `method`.
    #[must_use]
    pub fn cohort(&self, method: &MethodSpec) -> Cohort {
        let CohortChange { goal, ask, min, deadline_s, buffered } = method.cohort;
        let shared = self.cohort.clone();
        let selection = match buffered {
            Some(_) => Selection::FirstCome,
            None => shared.selection,
        };
        Cohort {
            goal: goal.unwrap_or(shared.goal),
            ask: ask.unwrap_or(shared.ask),
            min: min.unwrap_or(shared.min),
            deadline_s: deadline_s.unwrap_or(shared.deadline_s),
            buffered: buffered.or(shared.buffered),
            selection,
            ..shared
        }
    }

    /// A client's work under `method`.
    #[must_use]
    pub fn training(&self, method: &MethodSpec) -> Training {
        Training {
            optimizer: method.training.optimizer.unwrap_or(self.training.optimizer),
            proximal: method.training.proximal.unwrap_or(self.training.proximal),
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
            registered: raw.registered,
            seeds: raw.seeds,
            rounds: raw.rounds,
            lora: raw.lora,
            head: raw.head,
            training: raw.training,
            cohort: raw.cohort,
            fleet: raw.fleet.map(|fleet| fleet.within(dir)),
            optimizer: raw.optimizer,
            methods: raw.method,
            text,
            file,
        };
        scenario.check()?;
        Ok(scenario)
    }
}

#[cfg(test)]
mod tests;
