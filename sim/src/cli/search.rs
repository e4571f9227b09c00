//! `search`: rank and density under a byte budget.

use anyhow::Context;
use clap::Args;
use gossamer_protocol::density::Density;
use gossamer_sim::report::csv;
use gossamer_sim::report::table::{Table, bytes};
use gossamer_sim::scenario::Scenario;
use gossamer_sim::search::{Limits, Setting, Trial, search};

use super::say;
use super::simulate::{Common, keep_methods};

#[derive(Args)]
pub(crate) struct Search {
    #[command(flatten)]
    common: Common,
    /// The method whose rank and densities are searched, from where the file has them.
    #[arg(long)]
    method: String,
    /// Most bytes of a whole run, both ways, all clients.
    #[arg(long, value_name = "BYTES")]
    bytes_max: f64,
    /// Largest rank.
    #[arg(long, value_name = "RANK", default_value_t = 64)]
    rank_max: usize,
    /// Least that a step must lower the held-out loss by.
    #[arg(long, value_name = "NATS", default_value_t = 0.0)]
    gain_min: f64,
}

impl Search {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut scenario = self.common.load()?;
        keep_methods(&mut scenario, std::slice::from_ref(&self.method))?;
        let out = self.common.keep.out(&format!("{}-search", scenario.name));
        let method = &scenario.methods[0];
        let (lora, upload) = (scenario.lora(method), method.method.upload.density);
        let start = Setting { rank: lora.rank, density: upload.into() };
        // The scale stays, so that a step means the same at every rank.
        let scale = lora.alpha / lora.rank as f64;
        let limits =
            Limits { rank_max: self.rank_max, bytes_max: self.bytes_max, gain_min: self.gain_min };
        let trials = search(start, &limits, |setting| {
            let name = format!("rank={}--density={}", setting.rank, setting.density);
            eprintln!("{}", name.replace("--", ", "));
            let scenario = at(&scenario, setting, scale)?;
            let outcome = self.common.keep.simulate(scenario, out.join(name), false)?;
            let method = outcome.comparison.methods.first().context("a method has a summary")?;
            let loss = match (method.diverged, method.final_loss) {
                (0, Some(loss)) => loss.mean,
                _ => f64::NAN,
            };
            anyhow::Ok((loss, method.total_bytes()))
        })?;
        let table = table(&trials);
        std::fs::write(out.join("search.csv"), csv::table(&table))?;
        let json = serde_json::to_string_pretty(&trials)? + "\n";
        std::fs::write(out.join("search.json"), &json)?;
        match (self.common.keep.json(), trials.iter().rev().find(|trial| trial.taken)) {
            (true, _) => say(&json),
            (false, None) => say(&format!("{}Nothing fits the budget", table.text())),
            (false, Some(Trial { setting: Setting { rank, density }, .. })) => {
                say(&format!("{}Rank {rank}, density {density}", table.text()))
            }
        }
    }
}

/// The scenario with its one method at `setting`.
fn at(scenario: &Scenario, setting: Setting, scale: f64) -> anyhow::Result<Scenario> {
    let mut scenario = scenario.clone();
    let density = Density::try_from(setting.density)?;
    let method = &mut scenario.methods[0];
    method.lora.rank = Some(setting.rank);
    method.lora.alpha = Some(scale * setting.rank as f64);
    method.method.download.density = density;
    method.method.upload.density = density;
    Ok(scenario)
}

fn table(trials: &[Trial]) -> Table {
    let row = |trial: &Trial| {
        let Trial { setting, loss, taken, .. } = trial;
        vec![
            setting.rank.to_string(),
            setting.density.to_string(),
            format!("{loss:.4}"),
            bytes(trial.bytes),
            if *taken { "yes" } else { "no" }.to_owned(),
        ]
    };
    let head = ["rank", "density", "held-out loss", "total", "taken"].map(str::to_owned).into();
    Table { head, rows: trials.iter().map(row).collect() }
}
