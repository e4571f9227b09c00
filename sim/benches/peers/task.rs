//! The task as a folder that the peers read.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use gossamer_client::data::{Batch, IGNORE, Plan, TextDataset, TrainingTask};
use gossamer_client::model::BaseModel;
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::manifest::{LocalOptimizer, Manifest};
use gossamer_protocol::sign::SigningKey;
use gossamer_sim::engine::{Change, Laboratory, identity};
use gossamer_sim::scenario::{BaseModel as Base, Scenario};
use serde_json::{Value, json};

use crate::Fallible;

/// Rows of a batch of the evaluation.
const ROWS: usize = 16;

/// How much work a task is.
pub(crate) struct Facts {
    pub(crate) rounds: usize,
    /// Client-steps and tokens of each round.
    work: Vec<(usize, usize)>,
    clients: usize,
    trained: usize,
}

impl Facts {
    /// Client-steps and tokens of all rounds but the first and the last.
    pub(crate) fn between(&self) -> (usize, usize) {
        let counted = &self.work[1..self.rounds - 1];
        counted.iter().fold((0, 0), |sum, work| (sum.0 + work.0, sum.1 + work.1))
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (steps, tokens) = self.between();
        let Self { rounds, clients, trained, .. } = self;
        write!(
            f,
            "{clients} clients, {trained} trained values, {rounds} rounds, of which {} count: {steps} client-steps, {tokens} tokens",
            rounds - 2
        )
    }
}

/// Tokens, one batch behind the other: its inputs, its targets.
struct Tokens {
    file: BufWriter<File>,
    at: usize,
}

impl Tokens {
    fn write(&mut self, batch: &Batch) -> Fallible<Value> {
        let place = json!({ "at": self.at, "rows": batch.rows, "cols": batch.cols });
        for &token in batch.inputs.iter().chain(&batch.targets) {
            let number = if token == IGNORE { -100 } else { i32::try_from(token)? };
            self.file.write_all(&number.to_le_bytes())?;
        }
        self.at += batch.inputs.len() + batch.targets.len();
        Ok(place)
    }
}

/// Simulates the scenario's first method once to see who trains when, and writes all into `folder`.
pub(crate) fn write(scenario: &Scenario, folder: &Path) -> Fallible<Facts> {
    let Base::Folder(model) = &scenario.base else { return Err("a model in a folder".into()) };
    let LocalOptimizer::Sgd { lr, momentum } = scenario.training.optimizer else {
        return Err("plain steps".into());
    };
    std::fs::create_dir_all(folder)?;
    let base = BaseModel::load(model)?;
    let Drawn { cohorts, laboratory, manifest } = draw(scenario)?;
    let theta = manifest.layout.init(manifest.seed);
    gossamer_client::peft::export(&folder.join("adapter"), &manifest, &base, &theta)?;

    let file = BufWriter::new(File::create(folder.join("tokens.bin"))?);
    let mut tokens = Tokens { file, at: 0 };
    let split = laboratory.split();
    let data: BTreeMap<&str, TextDataset> = split
        .train
        .iter()
        .map(|client| Ok((client.name.as_str(), TextDataset::new(&base, &client.documents)?)))
        .collect::<Fallible<_>>()?;
    let cols = scenario.training.context as usize;
    let (mut rounds, mut work) = (Vec::new(), Vec::new());
    for (round, names) in cohorts {
        let (mut cohort, mut steps, mut size) = (Vec::new(), 0, 0);
        for name in names {
            let client = ClientId::of(&SigningKey::from_seed(&identity(&name)).public().0);
            let rows = scenario.training.batch as usize;
            let plan = Plan { seed: manifest.seed, client, round: RoundId(round), rows, cols };
            let mut places = Vec::new();
            for step in 0..scenario.training.steps {
                let batch = data[name.as_str()].batch(&plan, step)?;
                (steps, size) = (steps + 1, size + batch.inputs.len());
                places.push(tokens.write(&batch)?);
            }
            cohort.push(places);
        }
        rounds.push(cohort);
        work.push((steps, size));
    }
    let each = scenario.eval.tokens.map(|all| (all / (split.heldout.len() * cols)).max(1));
    let mut evaluation = Vec::new();
    for client in &split.heldout {
        let mut left = each.unwrap_or(usize::MAX);
        for mut batch in TextDataset::new(&base, &client.documents)?.sequences(ROWS, cols) {
            batch.rows = batch.rows.min(left);
            left -= batch.rows;
            batch.inputs.truncate(batch.rows * batch.cols);
            batch.targets.truncate(batch.rows * batch.cols);
            if batch.rows > 0 {
                evaluation.push(tokens.write(&batch)?);
            }
        }
    }
    tokens.file.flush()?;
    let model = std::path::absolute(model)?;
    let terms = json!({
        "model": model, "clients": laboratory.clients(), "lr": lr, "momentum": momentum,
        "rounds": rounds, "evaluation": evaluation,
    });
    std::fs::write(folder.join("task.json"), serde_json::to_vec(&terms)?)?;
    Ok(Facts {
        rounds: work.len(),
        work,
        clients: laboratory.clients(),
        trained: manifest.layout.n(),
    })
}

/// What the simulator draws.
struct Drawn {
    /// Who trains in which round, by name.
    cohorts: BTreeMap<u64, Vec<String>>,
    laboratory: Laboratory,
    manifest: Manifest,
}

fn draw(scenario: &Scenario) -> Fallible<Drawn> {
    let heard: Arc<Mutex<BTreeMap<u64, Vec<String>>>> = Arc::default();
    let hear = heard.clone();
    let on_change = Arc::new(move |change: &Change<'_>| {
        let mut cohorts = hear.lock().unwrap_or_else(PoisonError::into_inner);
        cohorts.entry(change.round).or_default().push(change.client.to_owned());
    });
    let threads = NonZeroUsize::MIN.saturating_add(1);
    let laboratory = Laboratory::open(scenario.clone(), threads)?.on_change(on_change);
    let (method, seed) = (&scenario.methods[0], scenario.seeds[0]);
    let run = laboratory.repeat(method, seed, Arc::new(|_: &_| {}));
    let manifest = tokio::runtime::Runtime::new()?.block_on(run)?.manifest;
    let mut cohorts = std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner));
    cohorts.values_mut().for_each(|names| names.sort());
    Ok(Drawn { cohorts, laboratory, manifest })
}
