//! Learning rates: which each method had, and whether they were tuned.

use serde::Serialize;

use super::html::Section;
use super::table::Table;

/// The learning rates of one method.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Of the clients' optimiser.
    pub local: f64,
    /// Of the server's.
    pub server: f64,
}

/// What one method trains with, and how that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tuned {
    /// The method.
    pub method: String,
    /// Its rates.
    pub rates: Rates,
    /// What was tried; nothing where the rates are the file's, untuned.
    pub trials: Vec<Trial>,
    /// Whether a rate that was tuned is the least or the largest tried.
    pub at_edge: bool,
}

/// One point of the grid.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// The rates.
    pub rates: Rates,
    /// Loss, or minus the accuracy, after the last round on the tuning text; none where it diverged.
    pub cost: Option<f64>,
}

/// In a table of methods: the clients' rate, with a star where one of the two was tuned, and another where the best
/// lies at the edge of what was tried.
pub(super) fn cell(tuned: &Tuned) -> String {
    let mark = match (tuned.trials.is_empty(), tuned.at_edge) {
        (true, _) => "",
        (false, false) => " *",
        (false, true) => " **",
    };
    format!("{}{mark}", rate(tuned.rates.local))
}

/// What [`cell`] says.
pub(super) const CAPTION: &str = " lr: the clients' learning rate; *: tuned, **: tuned, and the best of those tried \
                                  lies at the edge, so that a better one may lie beyond; others are untuned.";

pub(super) fn sections(rates: &[Tuned]) -> Vec<Section> {
    if rates.iter().all(|tuned| tuned.trials.is_empty()) {
        return Vec::new();
    }
    let caption = "Tried on text of the training clients that is not reported, from a seed that is not: the held-out \
                   loss there, or minus the accuracy; the least was taken."
        .to_owned();
    vec![Section::Heading("Learning rates".into()), Section::Table { table: table(rates), caption }]
}

/// One line a trial, or a method that was not tuned.
#[must_use]
pub fn table(rates: &[Tuned]) -> Table {
    let head = ["method", "clients' rate", "server's rate", "tuning", "taken"];
    let row = |method: &str, rates: &Rates, tuning: String, taken: String| {
        vec![method.to_owned(), rate(rates.local), rate(rates.server), tuning, taken]
    };
    let of = |tuned: &Tuned| {
        let mut rows: Vec<Vec<String>> = Vec::new();
        for trial in &tuned.trials {
            let cost = trial.cost.map_or_else(|| "diverged".into(), |cost| format!("{cost:.4}"));
            let taken = match (trial.rates == tuned.rates, tuned.at_edge) {
                (true, false) => "yes",
                (true, true) => "yes, at the edge",
                (false, _) => "",
            };
            rows.push(row(&tuned.method, &trial.rates, cost, taken.into()));
        }
        if rows.is_empty() {
            rows.push(row(&tuned.method, &tuned.rates, "untuned".into(), "yes".into()));
        }
        rows
    };
    let rows = rates.iter().flat_map(of).collect();
    Table { head: head.map(str::to_owned).into(), rows }
}

/// Three digits; as a power of ten where it is far from 1.
fn rate(rate: f64) -> String {
    if rate.abs() >= 1e4 || (rate != 0.0 && rate.abs() < 1e-3) {
        let text = format!("{rate:.2e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.'));
    }
    let digits = (2.0 - rate.abs().max(1e-9).log10().floor()).clamp(0.0, 12.0) as usize;
    let text = format!("{rate:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_three_digits() {
        for (value, text) in [
            (0.05, "0.05"),
            (0.158_113_8, "0.158"),
            (1.0, "1"),
            (1234.0, "1234"),
            (0.001, "0.001"),
            (3.16e-5, "3.16e-5"),
            (1e9, "1e9"),
            (0.0, "0"),
        ] {
            assert_eq!(rate(value), text);
        }
    }

    #[test]
    fn what_was_tuned_is_told_apart() {
        let of = |local| Rates { local, server: 1.0 };
        let trial = |local, cost| Trial { rates: of(local), cost };
        let trials = vec![trial(0.1, Some(1.5)), trial(1.0, None)];
        let tuned = Tuned { method: "a".into(), rates: of(0.1), trials, at_edge: true };
        let plain =
            Tuned { method: "b".into(), rates: of(0.5), trials: Vec::new(), at_edge: false };
        assert_eq!([cell(&tuned), cell(&plain)], ["0.1 **", "0.5"]);
        let table = table(&[tuned, plain.clone()]);
        assert_eq!(table.rows[0], ["a", "0.1", "1", "1.5000", "yes, at the edge"]);
        assert_eq!(table.rows[1], ["a", "1", "1", "diverged", ""]);
        assert_eq!(table.rows[2], ["b", "0.5", "1", "untuned", "yes"]);
        assert!(sections(&[plain]).is_empty());
    }
}
