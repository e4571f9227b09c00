//! `partition`: who gets what.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use gossamer_sim::engine;
use gossamer_sim::partition::Census;
use gossamer_sim::report::partition;
use gossamer_sim::scenario::Scenario;

use super::say;

#[derive(Args)]
pub(crate) struct Partition {
    /// The scenario, a TOML file.
    scenario: PathBuf,
    /// Prints JSON: documents, characters and classes of every client.
    #[arg(long)]
    json: bool,
    /// Draws it to this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

impl Partition {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let census = Census::of(&engine::split(&Scenario::load(&self.scenario)?)?);
        if let Some(path) = self.svg {
            let text = partition::svg(&census);
            let failed = || format!("cannot write {}", path.display());
            std::fs::write(&path, text).with_context(failed)?;
        }
        say(&match self.json {
            true => serde_json::to_string_pretty(&census)?,
            false => format!(
                "{}{}\n\n{}",
                partition::summary(&census).text(),
                partition::caption(&census),
                partition::clients(&census).text()
            ),
        })
    }
}
