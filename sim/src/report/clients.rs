//! The report's part on clients told apart: a table by tier, strips, the worst tenth by round, and two files.

use super::comparison::{Comparison, MethodSummary};
use super::csv::line;
use super::html::Section;
use super::table::{Table, percent};
use super::{
    Interval, Measure, ReportError, RoundRow, Spread, TierSummary, curves, spread, strips,
};

/// Plots of clients told apart.
pub(super) struct Clients {
    measure: Measure,
    strips: String,
    worst_tenth: Option<String>,
}

impl Clients {
    /// None where they were not.
    pub(super) fn of(comparison: &Comparison) -> Result<Option<Self>, ReportError> {
        let Some(strips) = strips::strips(comparison)? else { return Ok(None) };
        let measure = if comparison.of_classes() { Measure::Accuracy } else { Measure::Loss };
        Ok(Some(Self { measure, strips, worst_tenth: curves::worst_tenth(comparison)? }))
    }

    /// Names and texts.
    pub(super) fn files(self, rows: &[RoundRow]) -> Vec<(String, String)> {
        let name = self.measure.name();
        let mut files = vec![
            ("clients.csv".to_owned(), each(rows)),
            ("tiers.csv".to_owned(), by_tier(rows)),
            (format!("{name}_by_client.svg"), self.strips),
        ];
        files.extend(self.worst_tenth.map(|svg| (format!("{name}_worst_tenth.svg"), svg)));
        files
    }

    pub(super) fn sections(&self, comparison: &Comparison) -> Vec<Section> {
        let mut sections = vec![
            Section::Heading("Clients and tiers".into()),
            Section::Table { table: table(comparison), caption: self.caption() },
            Section::Svg {
                svg: self.strips.clone(),
                caption: "A strip's shape is the density of its clients, all seeds together; lines reach from the \
                          lowest to the highest, over the middle four fifths, and over the middle half; the dot is \
                          the median, the stroke the worst tenth. Methods of which a seed diverged are not there."
                    .into(),
            },
        ];
        let worst = self.worst_tenth.iter().map(|svg| Section::Svg {
            svg: svg.clone(),
            caption: "Mean of the tenth of all clients worst off after each round.".into(),
        });
        sections.extend(worst);
        sections
    }

    fn caption(&self) -> String {
        let worst = match self.measure {
            Measure::Loss => "highest losses",
            Measure::Accuracy => "lowest accuracies",
        };
        format!(
            "Each client's own held-out text, with the adapter that this client receives, after the last round; every \
             client counts once. worst 10 %: mean of the tenth with the {worst}. clients.csv has each."
        )
    }
}

/// One line a tier of each method that did not diverge.
fn table(comparison: &Comparison) -> Table {
    let head = ["method", "tier", "clients", "mean", "median", "10 to 90 %", "worst 10 %"];
    let number = |value: f64| match comparison.of_classes() {
        true => percent(value),
        false => format!("{value:.4}"),
    };
    let interval = |of: Interval| match comparison.of_classes() {
        true => super::table::accuracy(of),
        false => of.to_string(),
    };
    let row = |method: &MethodSummary, tier: &TierSummary| {
        let Spread { clients, median, p10, p90, .. } = tier.spread;
        vec![
            method.name.clone(),
            tier.tier.clone(),
            (clients / tier.mean.n.max(1)).to_string(),
            interval(tier.mean),
            number(median),
            format!("{} – {}", number(p10), number(p90)),
            interval(tier.worst_tenth),
        ]
    };
    let of = |method: &MethodSummary| -> Vec<Vec<String>> {
        method.tiers.iter().map(|tier| row(method, tier)).collect()
    };
    let sound = comparison.methods.iter().filter(|method| method.diverged == 0);
    let rows = sound.flat_map(of).collect();
    Table { head: head.map(str::to_owned).into(), rows }
}

/// One line a client and evaluation.
fn each(rows: &[RoundRow]) -> String {
    let mut text =
        line(&["method", "seed", "round", "client", "tier", "targets", "loss", "accuracy"]);
    for row in rows {
        for client in &row.clients {
            text += &line(&[
                row.method.clone(),
                row.seed.to_string(),
                row.round.to_string(),
                client.client.clone(),
                client.tier.clone().unwrap_or_default(),
                client.targets.to_string(),
                client.loss.to_string(),
                client.accuracy.map_or_else(String::new, |accuracy| accuracy.to_string()),
            ]);
        }
    }
    text
}

/// One line a tier and evaluation: of losses, and where there are any of accuracies.
fn by_tier(rows: &[RoundRow]) -> String {
    let mut head = vec!["method", "seed", "round", "tier", "measure", "clients"];
    head.extend(Spread::NAMES);
    let mut text = line(&head);
    for row in rows {
        for measure in [Measure::Loss, Measure::Accuracy] {
            for (tier, values) in spread::by_tier(&row.clients, measure) {
                let Some(spread) = Spread::of(&values, measure) else { continue };
                let (seed, round) = (row.seed.to_string(), row.round.to_string());
                let mut cells = vec![row.method.clone(), seed, round, tier];
                cells.extend([measure.name().to_owned(), spread.clients.to_string()]);
                cells.extend(spread.values().map(|value| value.to_string()));
                text += &line(&cells);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::told_apart;

    /// Twelve clients 0.01 apart around the row's loss, phones the even ones: of the last round of dense and seed 2
    /// `1 + e^-3`, the worst tenth the highest two of twelve, of six phones the highest one.
    #[test]
    fn files_have_a_line_a_client_and_a_line_a_tier() {
        let rows = told_apart();
        assert_eq!(each(&rows).lines().count(), 1 + 10 * 3 * 13 * 12);
        let tiers = by_tier(&rows);
        assert_eq!(tiers.lines().count(), 1 + 10 * 3 * 13 * 3);
        let of = |tier: &str| -> Vec<f64> {
            let head = format!("dense,2,60,{tier},loss,");
            let line = tiers.lines().find_map(|line| line.strip_prefix(&head)).expect("a line");
            line.split(',').map(|cell| cell.parse().expect("a number")).collect()
        };
        let loss = 1.0 + (-3.0_f64).exp();
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found}");
        let all = of("all clients");
        assert_eq!((all.len(), all[0]), (10, 12.0));
        near(all[1], loss);
        near(all[9], loss + 0.05);
        let phones = of("phone");
        assert_eq!(phones[0], 6.0);
        near(phones[1], loss - 0.005);
        near(phones[9], loss + 0.045);
    }

    #[test]
    fn the_table_has_a_line_a_tier() {
        let comparison = Comparison::new(&told_apart(), "dense");
        let table = table(&comparison);
        assert_eq!(table.rows.len(), 30);
        // Seeds lie 0.01 (1 - e^-3) apart: 4.3027 / sqrt(3) of that on either side.
        assert_eq!(table.rows[0][..4], ["dense", "all clients", "12", "1.0498 ± 0.0236"]);
    }
}
