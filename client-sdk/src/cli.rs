//! The reference client's command line: text goes in, updates go out, the text stays here.

mod adapter;
mod certificate;
mod device;
mod events;
mod fetch;
mod join;
mod rotate_key;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::EnvFilter;

use crate::model::BaseModel;

/// Fine-tunes on text that never leaves this device.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Enrols where needed, and takes part until the run is over.
    Join(Box<join::Join>),
    /// Fetches the adapter that a tag names, and writes it for PEFT.
    Fetch(fetch::Fetch),
    /// Gives this device another key; it stays the client that it was.
    RotateKey(rotate_key::RotateKey),
    /// Reads, writes and merges adapters as PEFT keeps them.
    #[command(subcommand)]
    Adapter(adapter::Adapter),
    /// Prints the digest that manifests call a base model by.
    BaseDigest {
        /// The model's folder.
        base: PathBuf,
    },
}

/// What `gossamer-client` does.
#[must_use]
pub fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()))
        .with_writer(std::io::stderr)
        .init();
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gossamer-client: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What asks the aggregator: on one thread; training has its own.
fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Adapter(command) => adapter::run(command),
        Command::BaseDigest { base } => {
            println!("{}", BaseModel::load(&base)?.digest());
            Ok(())
        }
        Command::Join(join) => join.run(),
        Command::RotateKey(rotate) => rotate.run(),
        Command::Fetch(fetch) => fetch.run(),
    }
}
