//! `gossamer-sim`: simulated federations from the command line.

use std::collections::HashSet;
use std::io::{ErrorKind, IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use gossamer_protocol::density::Density;
use gossamer_protocol::manifest::{Coding, Ranking, Scope, Select, Values};
use gossamer_sim::compare::{Options, Progress, compare};
use gossamer_sim::deltas;
use gossamer_sim::pretrain::{Recipe, pretrain};
use gossamer_sim::report::table;
use gossamer_sim::scenario::Scenario;
use gossamer_sim::wire::{self, Change, Cost, Entries, Opened, Rule};

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
    /// What saved changes cost on the wire, part by part.
    ///
    /// Changes are saved by `run --deltas`; any safetensors file of LoRA tensors will do.
    #[command(subcommand)]
    Wire(Wire),
}

#[derive(Subcommand)]
enum Wire {
    /// Shows the bytes of a change by part, beside the bound and other ways to write the same.
    ///
    /// FILE is a change, for which a table over densities and values is shown, or what `encode` wrote.
    /// They are told apart by their first bytes.
    Inspect {
        /// The file.
        file: PathBuf,
        /// Shares of entries sent [default: 1, 1/4, 1/16, 1/64].
        #[arg(long = "density", value_name = "SHARE", value_parser = wire::rule::density)]
        densities: Vec<Density>,
        /// How values are coded, as in a manifest [default: f32, int8, int4, lloyd3, lloyd2, sign].
        #[arg(long = "values", value_parser = wire::rule::word::<Values>)]
        values: Vec<Values>,
        #[command(flatten)]
        choice: Choice,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Writes a change as coded entries, in a file that stands alone.
    ///
    /// The file is one line of JSON, which has the layout, the values, the body's name, the number of
    /// entries, the bits spent on each part and the body's SHA-256; behind the line, the body.
    Encode {
        /// The change, a safetensors file.
        file: PathBuf,
        /// The file to write.
        #[arg(long, short)]
        out: PathBuf,
        /// Share of entries sent.
        #[arg(long, value_name = "SHARE", default_value = "1/16", value_parser = wire::rule::density)]
        density: Density,
        /// How values are coded, as in a manifest.
        #[arg(long, default_value = "int8", value_parser = wire::rule::word::<Values>)]
        values: Values,
        #[command(flatten)]
        choice: Choice,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Writes what `encode` wrote as a dense change again: zero where nothing was sent.
    Decode {
        /// The file that `encode` wrote.
        file: PathBuf,
        /// The safetensors file to write.
        #[arg(long, short)]
        out: PathBuf,
    },
}

/// Which entries travel, and in which bodies. A task head travels whole.
#[derive(Args)]
struct Choice {
    /// What ranks entries: magnitude, importance or rank-wise [default: magnitude].
    #[arg(long, value_name = "RANKING", value_parser = wire::rule::word::<Ranking>)]
    by: Option<Ranking>,
    /// What entries compete with: global, tensor or floor=SHARE [default: global].
    #[arg(long, value_parser = wire::rule::scope)]
    scope: Option<Scope>,
    /// Which bodies to choose from: smallest or packed [default: smallest].
    #[arg(long, value_parser = wire::rule::word::<Coding>)]
    coding: Option<Coding>,
    /// The adapter that was trained, a safetensors file; for importance.
    #[arg(long, value_name = "FILE")]
    adapter: Option<PathBuf>,
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
        Command::Wire(command) => command.run(),
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

impl Wire {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Inspect { file, densities, values, choice, json } => {
                let costs = match wire::open(&file)? {
                    Opened::Change(change) => {
                        let theta = choice.theta(&change)?;
                        let rules = choice.rules(&densities, &values);
                        wire::inspect(&change, theta.as_deref(), &rules)?
                    }
                    Opened::Entries(entries) => {
                        let free = densities.is_empty() && values.is_empty() && choice.is_empty();
                        let name = file.display();
                        anyhow::ensure!(free, "{name} is coded already: options cannot change it");
                        vec![Cost::of(&entries, None)]
                    }
                };
                show(&costs, json)
            }
            Self::Encode { file, out, density, values, choice, json } => {
                let change = Change::load(&file)?;
                let theta = choice.theta(&change)?;
                let rule = choice.rule(density, values);
                let entries = rule.encode(&change, theta.as_deref())?;
                entries.save(&out)?;
                show(&[Cost::of(&entries, Some(&change.delta))], json)
            }
            Self::Decode { file, out } => {
                let entries = Entries::load(&file)?;
                Ok(deltas::save(&out, &entries.layout, &entries.dense())?)
            }
        }
    }
}

fn show(costs: &[Cost], json: bool) -> anyhow::Result<()> {
    let text = match json {
        true => serde_json::to_string_pretty(costs)?,
        false => format!("{}\n{}", wire::table(costs).text(), wire::caption()),
    };
    // A reader that has seen enough, such as `head`, is no fault.
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

impl Choice {
    fn is_empty(&self) -> bool {
        let Self { by, scope, coding, adapter } = self;
        by.is_none() && scope.is_none() && coding.is_none() && adapter.is_none()
    }

    fn theta(&self, change: &Change) -> anyhow::Result<Option<Vec<f32>>> {
        let read = |path: &PathBuf| wire::rule::adapter(path, change);
        Ok(self.adapter.as_ref().map(read).transpose()?)
    }

    fn rule(&self, density: Density, values: Values) -> Rule {
        let by = self.by.unwrap_or_default();
        let select = Select { by, scope: self.scope.unwrap_or_default(), ..Select::default() };
        Rule { density, values, select, coding: self.coding.unwrap_or_default() }
    }

    /// Every density with every one of `values`; the usual ones where none are given.
    fn rules(&self, densities: &[Density], values: &[Values]) -> Vec<Rule> {
        let densities =
            if densities.is_empty() { &wire::rule::usual_densities() } else { densities };
        let values = if values.is_empty() { &wire::rule::USUAL_VALUES } else { values };
        let each = |&density| values.iter().map(move |&values| self.rule(density, values));
        densities.iter().flat_map(each).collect()
    }
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn commands_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_table_has_what_is_asked_for_or_the_usual() {
        let rules = |line: &[&str]| {
            let line = ["gossamer-sim", "wire", "inspect", "f"].iter().chain(line);
            let Command::Wire(Wire::Inspect { densities, values, choice, .. }) =
                Cli::try_parse_from(line).expect("sound").command
            else {
                panic!("another command")
            };
            choice.rules(&densities, &values)
        };
        assert_eq!(rules(&[]).len(), 4 * 6);
        let asked =
            ["--density", "1/8", "--values", "fp4", "--scope", "floor=0.5", "--by", "rank-wise"];
        let select =
            Select { by: Ranking::RankWise, scope: Scope::Floor(0.5), ..Select::default() };
        let density = Density::try_from(0.125).expect("a share");
        let expected = Rule { density, values: Values::Fp4, select, coding: Coding::Smallest };
        assert_eq!(rules(&asked), [expected]);
    }
}
