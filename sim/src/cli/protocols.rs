//! `protocols`: quality under a budget, cost to a target, robustness.

use anyhow::Context;
use clap::Args;
use gossamer_sim::protocols::{Strain, perturbed, write};
use gossamer_sim::report::protocols::{Asked, Protocols as Found};
use gossamer_sim::report::{RoundRow, read_rows};
use gossamer_sim::scenario::Scenario;

use super::say;
use super::simulate::{Common, Only, command};

#[derive(Args)]
pub(crate) struct Protocols {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    only: Only,
    /// The method whose gain the target is of [default: dense, or else the first].
    #[arg(long)]
    baseline: Option<String>,
    /// Budget of bytes, all devices, both ways [default: the thriftiest method's whole run; so too the others].
    #[arg(long, value_name = "BYTES")]
    bytes: Option<f64>,
    /// Budget of energy, all devices.
    #[arg(long, value_name = "JOULES")]
    joules: Option<f64>,
    /// Budget of virtual time.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// The loss, or accuracy, to reach [default: where the baseline has made 90 % of its gain].
    #[arg(long)]
    target: Option<f64>,
    /// Share of the asked that do not deliver, of the run with dropouts.
    #[arg(long, value_name = "SHARE", default_value_t = 0.3)]
    dropout: f64,
    /// Spread of training times, of the run with stragglers: each takes e^(spread z) times as long.
    #[arg(long, default_value_t = 1.0)]
    spread: f64,
    /// Dirichlet concentration of the run with skewed data.
    #[arg(long, default_value_t = 0.1)]
    alpha: f64,
    /// Goes on with an earlier call: what was done from the same settings and text is kept.
    #[arg(long)]
    resume: bool,
}

impl Protocols {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut scenario = self.common.load()?;
        let fleet = scenario.fleet.is_some();
        anyhow::ensure!(fleet, "the scenario needs a [fleet]: without one no time passes");
        let share = (0.0..1.0).contains(&self.dropout);
        anyhow::ensure!(share, "--dropout must be in [0, 1), got {}", self.dropout);
        for (name, value) in [("--spread", self.spread), ("--alpha", self.alpha)] {
            let above = value.is_finite() && value > 0.0;
            anyhow::ensure!(above, "{name} must be above 0, got {value}");
        }
        self.only.keep(&mut scenario)?;
        let names: Vec<&str> = scenario.methods.iter().map(|method| method.name.as_str()).collect();
        let usual = names.iter().find(|name| **name == "dense").unwrap_or(&names[0]);
        let baseline = self.baseline.as_deref().unwrap_or(usual);
        let known = names.contains(&baseline);
        anyhow::ensure!(known, "no method {baseline:?}; there are {}", names.join(", "));

        let out = self.common.keep.out(&format!("{}-protocols", scenario.name));
        let rows = |name: &str, scenario: &Scenario| -> anyhow::Result<Vec<RoundRow>> {
            eprintln!("{name}");
            let folder = out.join(name);
            self.common.keep.simulate(scenario.clone(), folder.clone(), self.resume)?;
            let mut rows = read_rows(&folder.join("metrics.jsonl")).context("its rows")?;
            rows.retain(|row| {
                scenario.seeds.contains(&row.seed)
                    && scenario.methods.iter().any(|method| method.name == row.method)
            });
            Ok(rows)
        };
        let clean = rows("as-it-is", &scenario)?;
        let strain = Strain { dropout: self.dropout, spread: self.spread, alpha: self.alpha };
        let mut strained = Vec::new();
        for (name, scenario) in perturbed(&scenario, &strain) {
            strained.push((name.clone(), rows(&name, &scenario)?));
        }
        let budgets = [self.bytes, self.joules, self.seconds];
        let asked = Asked { baseline, budgets, target: self.target };
        let found = Found::of(&asked, &clean, &strained);
        write(&out, &found, &scenario, &command())?;
        if self.common.keep.json() {
            return say(&serde_json::to_string_pretty(&found)?);
        }
        let page = out.join("protocols.html");
        say(&format!("{}\n{}\nReport: {}", found.table().text(), found.caption(), page.display()))
    }
}
