//! What `run` and `compare` share.

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use gossamer_sim::compare::{Options, Progress, compare};
use gossamer_sim::report::table;
use gossamer_sim::scenario::Scenario;

use super::say;

#[derive(Args)]
pub(crate) struct Common {
    /// The scenario, a TOML file.
    scenario: PathBuf,
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
    /// Prints the summary as JSON.
    #[arg(long)]
    json: bool,
}

impl Common {
    pub(crate) fn load(&self) -> anyhow::Result<Scenario> {
        let mut scenario = Scenario::load(&self.scenario)?;
        if let Some(rounds) = self.rounds {
            anyhow::ensure!(rounds > 0, "--rounds must be at least 1");
            scenario.rounds = rounds;
        }
        Ok(scenario)
    }

    pub(crate) fn run(&self, scenario: Scenario, resume: bool) -> anyhow::Result<()> {
        let out = self.out.clone().unwrap_or_else(|| PathBuf::from("out").join(&scenario.name));
        let all = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let options = Options {
            out: out.clone(),
            threads: self.threads.unwrap_or(all),
            deltas: self.deltas.clone(),
            resume,
            progress: match !self.json && std::io::stderr().is_terminal() {
                true => Progress::Bars,
                false => Progress::Lines,
            },
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.threads.get())
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let outcome = runtime.block_on(compare(scenario, &options))?;
        if self.json {
            return say(&serde_json::to_string_pretty(&outcome)?);
        }
        let comparison = &outcome.comparison;
        let mut text = format!(
            "{}\n{}\n",
            table::summary(comparison).text(),
            table::summary_caption(comparison)
        );
        for (name, record) in &outcome.records {
            text += &format!("{name}: last record {record}\n");
        }
        say(&format!("{text}Report: {}", out.join("report.html").display()))
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
