//! The three protocols of EdgeFlowerTune (arXiv:2605.08636), run: a scenario, and the same with devices that drop out,
//! that straggle, and whose data differ more. What they came to is [`crate::report::protocols`]'s.

use std::path::Path;

use crate::report::html::{self, Section};
use crate::report::protocols::Protocols;
use crate::report::{ReportError, csv};
use crate::scenario::{PartitionRule, Scenario};

/// How much worse things get.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strain {
    /// Share of the asked that do not deliver, at least.
    pub dropout: f64,
    /// Deviation of the logarithm of how long training takes, at least.
    pub spread: f64,
    /// Concentration of classes, or where there are none of sizes.
    pub alpha: f64,
}

/// The scenario under each, by name.
#[must_use]
pub fn perturbed(scenario: &Scenario, strain: &Strain) -> Vec<(String, Scenario)> {
    let tiers = |change: &dyn Fn(&mut crate::scenario::DeviceTier)| {
        let mut scenario = scenario.clone();
        scenario.fleet.iter_mut().flat_map(|fleet| &mut fleet.tier).for_each(change);
        scenario
    };
    let mut all = vec![
        ("dropouts".to_owned(), tiers(&|tier| tier.dropout = tier.dropout.max(strain.dropout))),
        ("stragglers".to_owned(), tiers(&|tier| tier.spread = tier.spread.max(strain.spread))),
    ];
    if let Some(clients) = scenario.partition.rule.clients() {
        let mut skewed = scenario.clone();
        let alpha = strain.alpha;
        skewed.partition.rule = match skewed.has_labels() {
            true => PartitionRule::Dirichlet { alpha, clients },
            false => PartitionRule::Quantity { alpha, clients },
        };
        skewed.partition.mix = 0.0;
        all.push(("skew".to_owned(), skewed));
    }
    all
}

/// Writes `protocols.html`, `protocols.json` and `protocols.csv` to `dir`.
///
/// # Errors
/// [`ReportError`] at the first that cannot be written.
pub fn write(
    dir: &Path,
    found: &Protocols,
    scenario: &Scenario,
    command: &str,
) -> Result<(), ReportError> {
    let sections = [
        Section::Paragraph(
            "Quality under a budget, cost to a target, robustness: the protocols of EdgeFlowerTune (arXiv:2605.08636). \
             The folders beside this page have each comparison's own report."
                .into(),
        ),
        Section::Heading("Protocols".into()),
        Section::Table { table: found.table(), caption: found.caption() },
        Section::Heading("Command".into()),
        Section::Preformatted(command.to_owned()),
        Section::Heading("Scenario".into()),
        Section::Preformatted(scenario.text.clone()),
    ];
    let page = html::page(&format!("{}: three protocols", scenario.name), &sections);
    let json = serde_json::to_string_pretty(found)? + "\n";
    let files = [
        ("protocols.html", page),
        ("protocols.json", json),
        ("protocols.csv", csv::table(&found.table())),
    ];
    for (name, text) in files {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|source| ReportError::File { path, source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_strain_changes_one_thing() {
        let text = include_str!("../scenarios/fleet.toml");
        let scenario = Scenario::parse(text, Path::new("")).expect("sound");
        let strain = Strain { dropout: 0.05, spread: 1.0, alpha: 0.1 };
        let all = perturbed(&scenario, &strain);
        let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["dropouts", "stragglers", "skew"]);
        let tier = |at: usize| all[at].1.fleet.as_ref().expect("a fleet").tier.clone();
        // Phones drop out more often already.
        assert_eq!(tier(0).iter().map(|tier| tier.dropout).collect::<Vec<_>>(), [0.1, 0.05]);
        assert_eq!(tier(0)[0].spread, 0.3);
        assert!(tier(1).iter().all(|tier| tier.spread == 1.0) && tier(1)[0].dropout == 0.1);
        let rule = all[2].1.partition.rule;
        assert_eq!(rule, PartitionRule::Dirichlet { alpha: 0.1, clients: 12 });
        assert_eq!(all[2].1.fleet, scenario.fleet);
    }
}
