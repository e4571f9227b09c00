//! `gossamer-sim`: simulated federations from the command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod cli;

use cli::partition::Partition;
use cli::pretrain::Pretrain;
use cli::protocols::Protocols;
use cli::reproduce::Reproduce;
use cli::search::Search;
use cli::session::Session;
use cli::simulate::{Common, Only, keep_methods};
use cli::sweep::Sweep;
use cli::tune::Tune;
use cli::wire::Wire;

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
        #[command(flatten)]
        only: Only,
        /// Keeps the repetitions that an earlier run finished from the very same settings and text, and goes on
        /// with those that it had begun.
        #[arg(long)]
        resume: bool,
        #[command(flatten)]
        tune: Tune,
    },
    /// Runs a scenario at every point of a grid over its fields.
    Sweep(Sweep),
    /// Searches rank and density of a method under a byte budget (FLASC-Search).
    Search(Search),
    /// Quality under a budget, cost to a target, robustness: a scenario as it is, and with dropouts, stragglers and
    /// skewed data (EdgeFlowerTune's protocols).
    Protocols(Protocols),
    /// Measures published claims again.
    #[command(subcommand)]
    Reproduce(Reproduce),
    /// Shows who gets what: reads and deals a scenario's text, and trains nothing.
    Partition(Partition),
    /// Trains a tiny base model on real sentences, from scratch.
    Pretrain(Pretrain),
    /// What saved changes cost on the wire, part by part.
    ///
    /// Changes are saved by `run --deltas`; any safetensors file of LoRA tensors will do.
    #[command(subcommand)]
    Wire(Wire),
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
    if matches!(cli.command, Command::Run { .. } | Command::Compare { .. }) {
        let session = Session::start()?;
        let done = together(cli.command, &session);
        session.end(done.as_ref().err());
        return done;
    }
    Session::only_alone()?;
    match cli.command {
        Command::Run { .. } | Command::Compare { .. } => Ok(()),
        Command::Sweep(command) => command.run(),
        Command::Search(command) => command.run(),
        Command::Protocols(command) => command.run(),
        Command::Reproduce(command) => command.run(),
        Command::Partition(command) => command.run(),
        Command::Pretrain(command) => command.run(),
        Command::Wire(command) => command.run(),
    }
}

/// What several processes may do together.
fn together(command: Command, session: &Session) -> anyhow::Result<()> {
    match command {
        Command::Run { common, method, seed } => {
            let mut scenario = common.load()?;
            let method = method.unwrap_or_else(|| scenario.methods[0].name.clone());
            keep_methods(&mut scenario, &[method])?;
            scenario.seeds = vec![seed.unwrap_or(scenario.seeds[0])];
            common.run(scenario, false, session.ranks(), &Tune::default())
        }
        Command::Compare { common, only, resume, tune } => {
            let mut scenario = common.load()?;
            only.keep(&mut scenario)?;
            common.run(scenario, resume, session.ranks(), &tune)
        }
        _ => Ok(()),
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
}
