//! Every method and seed of a scenario, side by side; rows are kept as they come.

mod book;
#[cfg(test)]
mod fleet_tests;
#[cfg(test)]
mod method_tests;
#[cfg(test)]
mod ranks_tests;
mod show;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gossamer_protocol::digest::Digest;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::{Id, JoinError, JoinSet};

use crate::deltas::{self, DeltaError};
use crate::engine::checkpoint::Checkpoints;
use crate::engine::{Change, EngineError, Laboratory, OnChange, OnRow, Repetition};
use crate::partition::Census;
use crate::ranks::Ranks;
use crate::report::{self, Comparison, Report, ReportError, RoundRow, RunFiles, Tuned, folder};
use crate::scenario::{MethodSpec, Scenario};
use crate::tune;
use book::{Book, Done, Name};
use show::{Show, reached};

/// How a comparison is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything is written.
    pub out: PathBuf,
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// Where every trained change is kept, as safetensors, before anything is selected or rounded.
    pub deltas: Option<PathBuf>,
    /// Keeps repetitions that an earlier run finished from the same settings and text, and goes on with
    /// those it had begun.
    pub resume: bool,
    /// Time between two checkpoints of a repetition.
    pub checkpoint: Duration,
    /// What is shown on the way, on standard error.
    pub progress: Progress,
    /// The command that asked for this, for the report.
    pub command: Option<String>,
    /// Trains and evaluates on the text that learning rates are tuned by.
    pub tuning: bool,
    /// The rates that were tuned, for the report; of other methods they are the file's.
    pub tuned: Vec<Tuned>,
    /// This process, among those that simulate this together. Where there are several, repetitions run one after
    /// the other, and rank 0 alone writes to `out`.
    pub ranks: Ranks,
}

/// What is shown on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A bar for each repetition, for a terminal.
    Bars,
    /// A line for each repetition that ended, and now and then how long it will take; for a log.
    Lines,
}

/// What a comparison came to.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The table.
    pub comparison: Comparison,
    /// The last signed record of each repetition: the proof that two runs agree.
    pub records: BTreeMap<String, Digest>,
}

/// Runs what `scenario` asks for; gives the summary that was also written.
///
/// A repetition that fails leaves the others alone: they are run, kept and reported.
///
/// # Errors
/// [`EngineError`] where the scenario cannot begin, then nothing on the disk has changed;
/// [`EngineError::Repetition`] for the first repetition that failed, after the report was written.
pub async fn compare(scenario: Scenario, options: &Options) -> Result<Outcome, EngineError> {
    let lab = match options.tuning {
        true => Laboratory::open_tuning(scenario, options.threads)?,
        false => Laboratory::open(scenario, options.threads)?,
    };
    let mut lab = lab.among(options.ranks.clone()).await?;
    if let Some(dir) = &options.deltas {
        lab = lab.on_change(keep_deltas(dir)?);
    }
    let work = plan(&lab)?;
    let rounds = lab.scenario().rounds;
    let checkpoints = |name: &Name| {
        let dir = options.out.join("checkpoints").join(folder(&name.0, name.1));
        Checkpoints::new(dir, options.checkpoint)
    };
    let (ranks, together) = (&options.ranks, !options.ranks.is_alone());
    if ranks.rank() > 0 {
        return follow(&lab, &work, ranks, checkpoints).await;
    }
    if options.resume {
        for (name, (_, settings)) in &work {
            checkpoints(name).check(*settings)?;
        }
    }
    let book = Book::open(&options.out, |done, rows| {
        let name = (done.method.clone(), done.seed);
        options.resume
            && match work.get(&name) {
                // Of methods and seeds that were not asked for this time nothing is known, or lost.
                None => true,
                Some((_, settings)) => done.settings == *settings && is_whole(rows, rounds),
            }
    })?;
    let book = Arc::new(book);
    let before = book.finished();
    let left = lab.scenario().seeds.clone().into_iter().flat_map(|seed| {
        lab.scenario().methods.iter().map(move |method| (method.name.clone(), seed))
    });
    let left: Vec<Name> = left.filter(|name| !before.contains_key(name)).collect();

    let show = Show::new(options.progress, left.len(), rounds);
    // As many repetitions at once as threads: each has a serial part between its rounds.
    let turns = Arc::new(Semaphore::new(options.threads.get()));
    let (mut running, mut names) = (JoinSet::new(), HashMap::new());
    let mut failed = None;
    let settle = |ended: Ended, names: &HashMap<Id, Name>, failed: &mut Option<EngineError>| {
        let (id, repetition) = match ended {
            Ok(ended) => ended,
            Err(panicked) => (panicked.id(), Err(EngineError::Thread)),
        };
        let (method, seed) = names[&id].clone();
        match repetition {
            Ok((settings, repetition)) => {
                show.done(&method, seed, &repetition);
                let last_record = repetition.last_record;
                book.done(Done { method, seed, settings, last_record });
            }
            Err(error) => {
                show.failed(&method, seed, &error);
                let source = Box::new(error);
                failed.get_or_insert(EngineError::Repetition { method, seed, source });
            }
        }
    };
    for name in left {
        if together {
            if failed.is_some() {
                break;
            }
            ranks.lead(Some(name.clone())).await?;
        }
        let (method, settings) = work[&name].clone();
        let (lab, book, show, turns) = (lab.clone(), book.clone(), show.clone(), turns.clone());
        let seed = name.1;
        let files = options.out.join("runs").join(folder(&method.name, seed));
        let (keep, over, resume) = (checkpoints(&name), checkpoints(&name), options.resume);
        let task = running.spawn(async move {
            let _turn = turns.acquire_owned().await;
            if !resume {
                keep.remove()?;
            }
            let files = Mutex::new(RunFiles::create(&files)?);
            let bar = show.bar(rounds, &method.name, seed);
            let on_row: OnRow = {
                let (bar, book, show) = (bar.clone(), book.clone(), show.clone());
                Arc::new(move |row| {
                    book.row(row);
                    let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Err(error) = files.row(row) {
                        book.failed(error);
                    }
                    bar.set_position(row.round);
                    show.round(row.round);
                    if let Some(reached) = reached(row) {
                        bar.set_message(reached);
                    }
                })
            };
            let repetition = lab.repeat_kept(&method, seed, on_row, keep).await?;
            bar.finish();
            over.remove()?;
            Ok((settings, repetition))
        });
        names.insert(task.id(), name);
        if together && let Some(ended) = running.join_next_with_id().await {
            settle(ended, &names, &mut failed);
        }
    }
    while let Some(ended) = running.join_next_with_id().await {
        settle(ended, &names, &mut failed);
    }
    if failed.is_none() {
        ranks.lead(None::<Name>).await?;
    }
    // Repetitions ran beside each other; files have the scenario's order.
    let methods = &lab.scenario().methods;
    let place = |name: &str| methods.iter().position(|method| method.name == name);
    let rows = book.close(|row| (place(&row.method), row.method.clone(), row.seed, row.round))?;
    let asked = |row: &RoundRow| work.contains_key(&(row.method.clone(), row.seed));
    let rows: Vec<RoundRow> = rows.into_iter().filter(asked).collect();
    let mut comparison = None;
    if !rows.is_empty() {
        comparison = Some(write_report(lab.scenario(), &lab, options, &rows)?);
    }
    match (failed, comparison) {
        (Some(error), _) => Err(error),
        (None, comparison) => {
            let of_this = |(name, record): (Name, Digest)| {
                work.contains_key(&name).then(|| (format!("{}/{}", name.0, name.1), record))
            };
            let records = book.finished().into_iter().filter_map(of_this).collect();
            let comparison = comparison.unwrap_or_else(|| Comparison::new(&[], "dense"));
            Ok(Outcome { comparison, records })
        }
    }
}

/// Does this rank's share of what rank 0 begins, and writes nothing.
async fn follow(
    lab: &Laboratory,
    work: &HashMap<Name, (MethodSpec, Digest)>,
    ranks: &Ranks,
    checkpoints: impl Fn(&Name) -> Checkpoints,
) -> Result<Outcome, EngineError> {
    let mut records = BTreeMap::new();
    while let Some(name) = ranks.lead(None::<Name>).await? {
        let (method, _) = work.get(&name).ok_or(EngineError::Thread)?;
        let seed = name.1;
        let ended = lab.repeat_kept(method, seed, Arc::new(|_| {}), checkpoints(&name)).await;
        let method = name.0.clone();
        let repetition = ended.map_err(|error| {
            let source = Box::new(error);
            EngineError::Repetition { method, seed, source }
        })?;
        records.insert(format!("{}/{}", name.0, name.1), repetition.last_record);
    }
    Ok(Outcome { comparison: Comparison::new(&[], "dense"), records })
}

/// A repetition that came to its end.
type Ended = Result<(Id, Result<(Digest, Repetition), EngineError>), JoinError>;

/// Writes each change to `dir`, by method, seed, round and client. What cannot be written is said, and the
/// comparison goes on.
fn keep_deltas(dir: &Path) -> Result<OnChange, EngineError> {
    let failed = |source| DeltaError::File { path: dir.into(), source };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let dir = dir.to_owned();
    Ok(Arc::new(move |change: &Change<'_>| {
        let client = Digest::of(change.client.as_bytes()).to_string();
        let Change { method, seed, round, .. } = change;
        // Methods may be called 1/4.
        let method = method.replace('/', "_");
        let name = format!("{method}-{seed}-{round:04}-{}.safetensors", &client[..8]);
        if let Err(error) = deltas::save(&dir.join(name), change.layout, change.delta) {
            eprintln!("gossamer-sim: {error}");
        }
    }))
}

/// Every repetition asked for, with its method and the digest of its settings.
fn plan(lab: &Laboratory) -> Result<HashMap<Name, (MethodSpec, Digest)>, EngineError> {
    let mut work = HashMap::new();
    for method in &lab.scenario().methods {
        for &seed in &lab.scenario().seeds {
            let settings = lab.settings(method, seed)?;
            work.insert((method.name.clone(), seed), (method.clone(), settings));
        }
    }
    Ok(work)
}

/// Whether `rows` are those of each round from the start to the last, or to where it diverged, once.
fn is_whole(rows: &[RoundRow], rounds: u64) -> bool {
    let mut found: Vec<u64> = rows.iter().map(|row| row.round).collect();
    found.sort_unstable();
    let diverged = rows.iter().find(|row| row.diverged()).map(|row| row.round);
    found.into_iter().eq(0..=diverged.unwrap_or(rounds))
}

/// How each method's rates were found.
fn rates(scenario: &Scenario, tuned: &[Tuned]) -> Vec<Tuned> {
    let of = |method: &MethodSpec| {
        let found = tuned.iter().find(|tuned| tuned.method == method.name).cloned();
        found.unwrap_or_else(|| tune::untuned(scenario, method))
    };
    scenario.methods.iter().map(of).collect()
}

fn write_report(
    scenario: &Scenario,
    lab: &Laboratory,
    options: &Options,
    rows: &[RoundRow],
) -> Result<Comparison, ReportError> {
    let split = lab.split();
    let (unit, units) = match scenario.head {
        Some(_) => ("an example", "examples"),
        None => ("a token", "tokens"),
    };
    let paragraphs = [
        format!(
            "{} clients train; evaluated are {} held-out clients on {} {units}, with the adapter that \
             clients receive. Losses are in nats {unit}.",
            lab.clients(),
            lab.heldout().clients(),
            lab.heldout().targets(),
        ),
        "Bytes are the frames that travelled, headers and checksums included. Control messages \
         (manifests once a client, records, check-ins, receipts) are in metrics.csv."
            .to_owned(),
    ];
    let report = Report {
        title: &scenario.name,
        baseline: "dense",
        paragraphs: &paragraphs,
        census: Some(&Census::of(split)),
        config: &scenario.text,
        command: options.command.as_deref(),
        rates: &rates(scenario, &options.tuned),
    };
    report::write(&options.out, &report, rows)
}
