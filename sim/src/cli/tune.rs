//! `compare --tune-lr`: learning rates for each method by itself.

use std::path::Path;

use clap::Args;
use gossamer_sim::ranks::Ranks;
use gossamer_sim::report::{Tuned, csv, rates_table};
use gossamer_sim::scenario::Scenario;
use gossamer_sim::tune::{Grid, set, tune};

use super::simulate::{Keep, Work};

/// Which learning rates are tried.
#[derive(Args, Default)]
pub(crate) struct Tune {
    /// Tries so many of the clients' learning rates for each method, around the file's, on a seed and text that are
    /// not reported, and takes the best.
    #[arg(long, value_name = "N")]
    tune_lr: Option<usize>,
    /// The same of the server's learning rate; with both, every pair.
    #[arg(long, value_name = "N")]
    tune_server_lr: Option<usize>,
    /// From one rate to the next.
    #[arg(long, value_name = "FACTOR", default_value_t = 3.162_277_660_168_379_5)]
    tune_factor: f64,
    /// Rounds of each try [default: as many as are reported].
    #[arg(long, value_name = "ROUNDS")]
    tune_rounds: Option<u64>,
}

impl Tune {
    /// What is to be tried; none where nothing is.
    pub(crate) fn grid(&self) -> Option<Grid> {
        let (local, server) = (self.tune_lr, self.tune_server_lr);
        (local.is_some() || server.is_some()).then_some(Grid {
            local: local.unwrap_or(1),
            server: server.unwrap_or(1),
            factor: self.tune_factor,
        })
    }

    /// The scenario with the best rates, and what was tried; each try's report is in a folder of its own.
    pub(crate) fn tune(
        &self,
        keep: &Keep,
        mut scenario: Scenario,
        grid: &Grid,
        out: &Path,
        resume: bool,
        ranks: &Ranks,
    ) -> anyhow::Result<(Scenario, Vec<Tuned>)> {
        anyhow::ensure!(ranks.is_alone(), "learning rates are tuned in one process only");
        let some = grid.local > 0 && grid.server > 0;
        anyhow::ensure!(some, "--tune-lr and --tune-server-lr must be at least 1");
        let grows = grid.factor.is_finite() && grid.factor > 1.0;
        anyhow::ensure!(grows, "--tune-factor must be above 1, got {}", grid.factor);
        anyhow::ensure!(self.tune_rounds != Some(0), "--tune-rounds must be at least 1");
        let n = grid.points().len();
        let mut shorter = scenario.clone();
        shorter.rounds = self.tune_rounds.unwrap_or(scenario.rounds);
        let folder = out.join("tuning");
        let tuned = tune(&shorter, grid, |at, point| {
            eprintln!("learning rates, {} of {n}", at + 1);
            let mut work = Work::new(folder.join(at.to_string()), resume, Ranks::default());
            work.tuning = true;
            anyhow::Ok(keep.simulate_among(point, work)?.comparison)
        })?;
        std::fs::write(folder.join("rates.csv"), csv::table(&rates_table(&tuned)))?;
        for (at, tuned) in tuned.iter().enumerate() {
            set(&mut scenario, at, tuned.rates);
        }
        Ok((scenario, tuned))
    }
}
