//! Every method and seed of a scenario, side by side; rows are kept as they come.

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use gossamer_protocol::digest::Digest;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::engine::{EngineError, Laboratory, OnRow};
use crate::report::{self, Comparison, JsonLines, Report, ReportError, RoundRow, read_rows};
use crate::scenario::Scenario;

/// How a comparison is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything is written.
    pub out: PathBuf,
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// Keeps repetitions that an earlier run finished.
    pub resume: bool,
    /// Draws progress bars.
    pub progress: bool,
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
/// # Errors
/// [`EngineError`] at the first repetition that fails.
pub async fn compare(scenario: Scenario, options: &Options) -> Result<Outcome, EngineError> {
    let metrics = options.out.join("metrics.jsonl");
    let io = |path: &Path, source| ReportError::File { path: path.to_owned(), source };
    std::fs::create_dir_all(&options.out).map_err(|e| io(&options.out, e))?;
    let mut kept = Vec::new();
    if metrics.exists() {
        if options.resume {
            kept = finished(&read_rows(&metrics)?, &scenario);
        }
        std::fs::remove_file(&metrics).map_err(|e| io(&metrics, e))?;
    }
    let mut file = JsonLines::append(&metrics)?;
    for row in &kept {
        file.write(row)?;
    }
    let done: HashSet<(String, u64)> =
        kept.iter().map(|row| (row.method.clone(), row.seed)).collect();
    let sink = Arc::new(Sink { file: Mutex::new((file, kept, None)) });

    let lab = Laboratory::open(scenario, options.threads)?;
    let bars = if options.progress { MultiProgress::new() } else { hidden() };
    // As many repetitions at once as threads: each has a serial part between its rounds.
    let turns = Arc::new(Semaphore::new(options.threads.get()));
    let mut work = JoinSet::new();
    let mut records = BTreeMap::new();
    for seed in lab.scenario().seeds.clone() {
        for method in lab.scenario().methods.clone() {
            if done.contains(&(method.name.clone(), seed)) {
                continue;
            }
            let (lab, sink, bars) = (lab.clone(), sink.clone(), bars.clone());
            let turn = turns.clone();
            work.spawn(async move {
                let _turn = turn.acquire_owned().await;
                let bar = bars.add(bar(lab.scenario().rounds, &method.name, seed));
                let on_row: OnRow = {
                    let bar = bar.clone();
                    Arc::new(move |row| {
                        sink.write(row);
                        bar.set_position(row.round);
                        if let Some(loss) = row.heldout_loss {
                            bar.set_message(format!("{loss:.4} nats/token"));
                        }
                    })
                };
                let repetition = lab.repeat(&method, seed, on_row).await;
                bar.finish();
                (format!("{}/{seed}", method.name), repetition)
            });
        }
    }
    while let Some(finished) = work.join_next().await {
        let (name, repetition) = finished.map_err(|_| EngineError::Thread)?;
        records.insert(name, repetition?.last_record);
    }
    let mut rows = sink.rows()?;
    // Repetitions ran beside each other; a report has the scenario's order.
    let order = |row: &RoundRow| {
        let methods = &lab.scenario().methods;
        (methods.iter().position(|method| method.name == row.method), row.seed, row.round)
    };
    rows.sort_by_key(order);
    let comparison = write_report(lab.scenario(), &lab, &options.out, &rows)?;
    Ok(Outcome { comparison, records })
}

fn write_report(
    scenario: &Scenario,
    lab: &Laboratory,
    out: &Path,
    rows: &[RoundRow],
) -> Result<Comparison, ReportError> {
    let split = lab.split();
    let paragraphs = [
        format!(
            "{} clients train; evaluated are {} held-out clients on {} tokens, with the adapter that \
             clients receive. Losses are in nats a token.",
            split.train.len(),
            lab.heldout().clients(),
            lab.heldout().tokens(),
        ),
        "Bytes are the frames that travelled, headers and checksums included. Control messages \
         (manifests once a client, records, check-ins, receipts) are in metrics.csv."
            .to_owned(),
    ];
    let report = Report {
        title: &scenario.name,
        baseline: "dense",
        paragraphs: &paragraphs,
        config: &scenario.text,
    };
    report::write(out, &report, rows)
}

/// Rows of the repetitions that reached their last round.
fn finished(rows: &[RoundRow], scenario: &Scenario) -> Vec<RoundRow> {
    let name = |row: &RoundRow| (row.method.clone(), row.seed);
    let last = rows.iter().filter(|row| row.round == scenario.rounds).map(name);
    let wanted = |(method, seed): &(String, u64)| {
        scenario.seeds.contains(seed) && scenario.methods.iter().any(|m| m.name == *method)
    };
    let done: HashSet<_> = last.filter(wanted).collect();
    rows.iter().filter(|row| done.contains(&name(row))).cloned().collect()
}

/// Rows from several repetitions at once.
struct Sink {
    file: Mutex<(JsonLines, Vec<RoundRow>, Option<ReportError>)>,
}

impl Sink {
    fn write(&self, row: &RoundRow) {
        let mut guard = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, rows, failed) = &mut *guard;
        if let Err(error) = file.write(row) {
            failed.get_or_insert(error);
        }
        rows.push(row.clone());
    }

    fn rows(&self) -> Result<Vec<RoundRow>, ReportError> {
        let mut guard = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        match guard.2.take() {
            Some(error) => Err(error),
            None => Ok(guard.1.clone()),
        }
    }
}

fn hidden() -> MultiProgress {
    MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::hidden())
}

fn bar(rounds: u64, method: &str, seed: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:28} {bar:30} {pos:>4}/{len} {eta:>5} {msg}");
    let bar = ProgressBar::new(rounds).with_prefix(format!("{method} seed {seed}"));
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
