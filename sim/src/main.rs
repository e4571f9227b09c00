//! `gossamer-sim`: simulated federations from the command line.

use std::collections::HashSet;
use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use gossamer_sim::compare::{Options, Progress, compare};
use gossamer_sim::pretrain::{Recipe, pretrain};
use gossamer_sim::report::table;
use gossamer_sim::scenario::Scenario;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Simulated federations on Gossamer's deployed code.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one method of a scenario from one seed.
    Run {
        #[command(flatten)]
        common: Common,
        /// The method; the first of the file where not given.
        #[arg(long)]
        method: Option<String>,
        /// The seed; the first of the file where not given.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Runs all methods of a scenario from all seeds, side by side.
    Compare {
        #[command(flatten)]
        common: Common,
        /// Only these methods.
        #[arg(long = "method")]
        methods: Vec<String>,
        /// Only these seeds.
        #[arg(long = "seed")]
        seeds: Vec<u64>,
        /// Keeps the repetitions that an earlier run finished from the very same settings and text.
        #[arg(long)]
        resume: bool,
    },
    /// Trains a tiny base model on real sentences, from scratch.
    Pretrain(Pretrain),
}

#[derive(Args)]
struct Common {
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

#[derive(Args)]
struct Pretrain {
    /// Folder for config.json, tokenizer.json, model.safetensors and README.md.
    #[arg(long)]
    out: PathBuf,
    /// Languages to learn [default: those of the embedded model].
    #[arg(long = "language")]
    languages: Vec<String>,
    /// Optimiser steps.
    #[arg(long, default_value_t = Recipe::default().steps)]
    steps: u32,
    /// Seeds weights and batches.
    #[arg(long, default_value_t = Recipe::default().seed)]
    seed: u64,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gossamer-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Run { common, method, seed } => {
            let mut scenario = common.load()?;
            let method = method.unwrap_or_else(|| scenario.methods[0].name.clone());
            keep_methods(&mut scenario, &[method])?;
            scenario.seeds = vec![seed.unwrap_or(scenario.seeds[0])];
            common.run(scenario, false)
        }
        Command::Compare { common, methods, seeds, resume } => {
            let mut scenario = common.load()?;
            if !methods.is_empty() {
                keep_methods(&mut scenario, &methods)?;
            }
            if !seeds.is_empty() {
                let mut seen = HashSet::new();
                scenario.seeds = seeds.into_iter().filter(|seed| seen.insert(*seed)).collect();
            }
            common.run(scenario, resume)
        }
        Command::Pretrain(args) => {
            let mut recipe = Recipe { steps: args.steps, seed: args.seed, ..Recipe::default() };
            if !args.languages.is_empty() {
                recipe.languages = args.languages;
            }
            let made = pretrain(&recipe, &args.out, !args.json)?;
            if args.json {
                println!("{}", serde_json::to_string_pretty(&made)?);
            } else {
                println!("{made}");
            }
            Ok(())
        }
    }
}

fn keep_methods(scenario: &mut Scenario, names: &[String]) -> anyhow::Result<()> {
    let known: Vec<&str> = scenario.methods.iter().map(|method| method.name.as_str()).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        anyhow::bail!("no method {unknown:?} in the scenario; it has {}", known.join(", "));
    }
    scenario.methods.retain(|method| names.contains(&method.name));
    Ok(())
}

impl Common {
    fn load(&self) -> anyhow::Result<Scenario> {
        let mut scenario = Scenario::load(&self.scenario)?;
        if let Some(rounds) = self.rounds {
            anyhow::ensure!(rounds > 0, "--rounds must be at least 1");
            scenario.rounds = rounds;
        }
        Ok(scenario)
    }

    fn run(&self, scenario: Scenario, resume: bool) -> anyhow::Result<()> {
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
            println!("{}", serde_json::to_string_pretty(&outcome)?);
        } else {
            println!("{}", table::summary(&outcome.comparison).text());
            println!("{}", table::summary_caption(&outcome.comparison));
            for (name, record) in &outcome.records {
                println!("{name}: last record {record}");
            }
            println!("Report: {}", out.join("report.html").display());
        }
        Ok(())
    }
}
