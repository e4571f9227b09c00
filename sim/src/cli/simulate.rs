//! What `run` and `compare` share.

use std::collections::HashSet;
use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use gossamer_sim::compare::{Options, Outcome, Progress, compare};
use gossamer_sim::engine;
use gossamer_sim::ranks::Ranks;
use gossamer_sim::report::{Tuned, table};
use gossamer_sim::scenario::Scenario;

use super::say;
use super::tune::Tune;

#[derive(Args)]
pub(crate) struct Common {
    /// The scenario, a TOML file.
    scenario: PathBuf,
    #[command(flatten)]
    pub(crate) keep: Keep,
}

/// How comparisons are run, and where what they find is kept.
#[derive(Args)]
pub(crate) struct Keep {
    /// Where tables, plots and rows are written [default: out/NAME].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Rounds, in place of the file's.
    #[arg(long)]
    rounds: Option<u64>,
    /// Threads that compute [default: all].
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Keeps every trained change in this folder, as safetensors, before anything is selected.
    #[arg(long, value_name = "DIR")]
    deltas: Option<PathBuf>,
    /// Seconds between two checkpoints of a repetition; `compare --resume` goes on from the last.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    checkpoint_every: f64,
    /// Prints the summary as JSON.
    #[arg(long)]
    json: bool,
}

/// One comparison to run.
pub(crate) struct Work {
    out: PathBuf,
    resume: bool,
    /// On what learning rates are tuned by.
    pub(crate) tuning: bool,
    tuned: Vec<Tuned>,
    ranks: Ranks,
}

impl Work {
    pub(crate) fn new(out: PathBuf, resume: bool, ranks: Ranks) -> Self {
        Self { out, resume, tuning: false, tuned: Vec::new(), ranks }
    }
}

impl Common {
    pub(crate) fn scenario(&self) -> &Path {
        &self.scenario
    }

    pub(crate) fn load(&self) -> anyhow::Result<Scenario> {
        self.keep.load(&self.scenario)
    }

    pub(crate) fn run(
        &self,
        scenario: Scenario,
        resume: bool,
        ranks: Ranks,
        tune: &Tune,
    ) -> anyhow::Result<()> {
        let (out, rank) = (self.keep.out(&scenario.name), ranks.rank());
        let began = Instant::now();
        let (scenario, tuned) = match tune.grid() {
            None => (scenario, Vec::new()),
            Some(grid) => tune.tune(&self.keep, scenario, &grid, &out, resume, &ranks)?,
        };
        let work = Work { tuned, ..Work::new(out.clone(), resume, ranks) };
        let outcome = self.keep.simulate_among(scenario, work)?;
        if rank > 0 {
            return Ok(());
        }
        if self.keep.json {
            return say(&serde_json::to_string_pretty(&outcome)?);
        }
        let comparison = &outcome.comparison;
        let mut text = format!(
            "{}\n{}\n{}\n",
            table::summary(comparison).text(),
            table::summary_caption(comparison),
            table::verdict(comparison)
        );
        if let Some(times) = table::in_time(comparison) {
            text += &format!("\n{}\n{}\n\n", times.text(), table::IN_TIME_CAPTION);
        }
        for (name, record) in &outcome.records {
            text += &format!("{name}: last record {record}\n");
        }
        text += &format!("Took {:.1} s", began.elapsed().as_secs_f64());
        if let Some(bytes) = memory_peak() {
            text += &format!(", with at most {} in memory", table::bytes(bytes));
        }
        say(&format!("{text}\nReport: {}", out.join("report.html").display()))
    }
}

impl Keep {
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Where to write, by default `out/NAME`.
    pub(crate) fn out(&self, name: &str) -> PathBuf {
        self.out.clone().unwrap_or_else(|| PathBuf::from("out").join(name))
    }

    pub(crate) fn load(&self, path: &Path) -> anyhow::Result<Scenario> {
        self.adjusted(Scenario::load(path)?)
    }

    /// With what the command line says in place of the file.
    pub(crate) fn adjusted(&self, mut scenario: Scenario) -> anyhow::Result<Scenario> {
        if let Some(rounds) = self.rounds {
            anyhow::ensure!(rounds > 0, "--rounds must be at least 1");
            scenario.rounds = rounds;
        }
        Ok(scenario)
    }

    pub(crate) fn simulate(
        &self,
        scenario: Scenario,
        out: PathBuf,
        resume: bool,
    ) -> anyhow::Result<Outcome> {
        self.simulate_among(scenario, Work::new(out, resume, Ranks::default()))
    }

    pub(crate) fn simulate_among(&self, scenario: Scenario, work: Work) -> anyhow::Result<Outcome> {
        let Work { out, resume, tuning, tuned, ranks } = work;
        let all = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let options = Options {
            out,
            threads: self.threads.unwrap_or(all),
            deltas: self.deltas.clone(),
            resume,
            checkpoint: Duration::try_from_secs_f64(self.checkpoint_every)
                .context("--checkpoint-every must be seconds")?,
            progress: match !self.json && std::io::stderr().is_terminal() {
                true => Progress::Bars,
                false => Progress::Lines,
            },
            command: Some(command()),
            tuning,
            tuned,
            ranks,
        };
        let runtime = engine::runtime(options.threads).context("cannot start the runtime")?;
        Ok(runtime.block_on(compare(scenario, &options))?)
    }
}

/// This process's command, as a shell would take it.
pub(crate) fn command() -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    let quoted = |word: String| match !word.is_empty() && word.chars().all(plain) {
        true => word,
        false => format!("'{}'", word.replace('\'', r"'\''")),
    };
    // Wherever the program lies.
    let words = std::env::args().skip(1).map(quoted);
    std::iter::once("gossamer-sim".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// Most bytes that this process has had in memory so far, where the system says so.
fn memory_peak() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(1024.0 * peak.trim().strip_suffix(" kB")?.parse::<f64>().ok()?)
}

/// A part of a scenario; where nothing is named, all of it.
#[derive(Args)]
pub(crate) struct Only {
    /// Only these methods.
    #[arg(long = "method")]
    methods: Vec<String>,
    /// Only these seeds.
    #[arg(long = "seed")]
    seeds: Vec<u64>,
}

impl Only {
    /// Leaves just these methods, and has these seeds, each once, in place of the file's.
    pub(crate) fn keep(&self, scenario: &mut Scenario) -> anyhow::Result<()> {
        if !self.methods.is_empty() {
            keep_methods(scenario, &self.methods)?;
        }
        if !self.seeds.is_empty() {
            let mut seen = HashSet::new();
            scenario.seeds = self.seeds.iter().copied().filter(|seed| seen.insert(*seed)).collect();
        }
        Ok(())
    }
}

/// Leaves just the methods of these names.
pub(crate) fn keep_methods(scenario: &mut Scenario, names: &[String]) -> anyhow::Result<()> {
    let known: Vec<&str> = scenario.methods.iter().map(|method| method.name.as_str()).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        anyhow::bail!("no method {unknown:?} in the scenario; it has {}", known.join(", "));
    }
    scenario.methods.retain(|method| names.contains(&method.name));
    Ok(())
}
