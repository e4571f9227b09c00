//! `sweep`: a scenario over a grid of its fields.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use gossamer_sim::report::csv;
use gossamer_sim::sweep::{self, Axis, Swept};

use super::say;
use super::simulate::Common;

#[derive(Args)]
pub(crate) struct Sweep {
    #[command(flatten)]
    common: Common,
    /// A field and its values, such as `training.optimizer.lr=0.01,0.1`, or of a method
    /// `method.NAME.upload.density=0.25,1.0` (`*` for all). Several make a grid.
    #[arg(long = "over", value_name = "PATH=V1,V2", required = true)]
    over: Vec<Axis>,
    /// Goes on with an earlier sweep: what was done from the same settings and text is kept.
    #[arg(long)]
    resume: bool,
}

impl Sweep {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let path = self.common.scenario();
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the scenario {}", path.display()))?;
        let dir = path.parent().unwrap_or(Path::new(""));
        let points = sweep::points(&text, dir, &self.over)?;
        let name = &points.first().context("no point to run")?.scenario.name;
        let out = self.common.keep.out(&format!("{name}-sweep"));
        let mut swept = Vec::new();
        let n = points.len();
        for (at, point) in points.into_iter().enumerate() {
            eprintln!("point {} of {n}: {}", at + 1, point.name());
            let scenario = self.common.keep.adjusted(point.scenario.clone())?;
            let folder: PathBuf = out.join(point.folder());
            let outcome = self.common.keep.simulate(scenario, folder, self.resume)?;
            swept.extend(Swept::of(&point, &outcome.comparison));
            let table = sweep::table(&swept);
            std::fs::write(out.join("sweep.csv"), csv::table(&table))?;
            std::fs::write(out.join("sweep.json"), serde_json::to_string_pretty(&swept)? + "\n")?;
        }
        match self.common.keep.json() {
            true => say(&serde_json::to_string_pretty(&swept)?),
            false => {
                let table = sweep::table(&swept).text();
                say(&format!("{table}Each point's report is in {}", out.display()))
            }
        }
    }
}
