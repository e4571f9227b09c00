//! Tables: numbers as people read them, aligned for a terminal.

use super::comparison::{Comparison, MethodSummary, Verdict};
use super::{Interval, rates};

/// A head and rows of as many cells; the first column is words, the others numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Column names.
    pub head: Vec<String>,
    /// Cells.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Aligned columns: the first to the left, the others to the right.
    #[must_use]
    pub fn text(&self) -> String {
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let columns = lines().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            lines().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        let mut push = |line: &[String]| {
            let cells: Vec<String> = line
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, &width))| match column {
                    0 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                })
                .collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        };
        push(&self.head);
        push(&widths.iter().map(|&width| "-".repeat(width)).collect::<Vec<_>>());
        self.rows.iter().for_each(|row| push(row));
        text
    }
}

/// One line a method. "kept" is its share of the baseline's improvement.
#[must_use]
pub fn summary(comparison: &Comparison) -> Table {
    let mut head = vec!["method"];
    match comparison.of_classes() {
        true => head.extend(["accuracy", "server copy", "held-out loss"]),
        false => head.extend(["held-out loss", "server copy"]),
    }
    let has_rates = comparison.methods.iter().any(|method| method.rates.is_some());
    if has_rates {
        head.push("lr");
    }
    head.extend(["kept", "up", "down", "up less", "down less", "total", "to 90%"]);
    let has_error = comparison.methods.iter().any(|method| method.product_error.is_some());
    if has_error {
        head.push("product error");
    }
    let row = |method: &MethodSummary| {
        let loss = match method.diverged {
            0 => method.final_loss.map_or_else(none, |loss| loss.to_string()),
            n if n == method.seeds => format!("diverged, round {}", method.rounds),
            n => format!("diverged, {n} of {}", method.seeds),
        };
        let mut cells = vec![method.name.clone()];
        if comparison.of_classes() {
            cells.extend([
                method.final_accuracy.map_or_else(none, accuracy),
                method.final_server_accuracy.map_or_else(none, |own| percent(own.mean)),
                loss,
            ]);
        } else {
            let own = method.final_server_loss;
            cells.extend([loss, own.map_or_else(none, |loss| format!("{:.4}", loss.mean))]);
        }
        if has_rates {
            cells.push(method.rates.as_ref().map_or_else(none, rates::cell));
        }
        cells.extend([
            method.improvement_kept.map_or_else(none, |kept| percent(kept.mean)),
            bytes(method.upload_bytes_a_client_round),
            bytes(method.download_bytes_a_client_round),
            method.upload_saving.map_or_else(none, times),
            method.download_saving.map_or_else(none, times),
            bytes(method.total_bytes()),
            method.bytes_to_target.map_or_else(none, bytes),
        ]);
        if has_error {
            cells.push(method.product_error.map_or_else(none, |error| error.text(3)));
        }
        cells
    };
    Table {
        head: head.into_iter().map(str::to_owned).collect(),
        rows: comparison.methods.iter().map(row).collect(),
    }
}

/// What the columns of [`summary`] mean.
#[must_use]
pub fn summary_caption(comparison: &Comparison) -> String {
    let seeds = comparison.methods.iter().map(|method| method.seeds).max().unwrap_or(0);
    let loss = comparison.methods.iter().find_map(|method| method.initial_loss);
    let share = comparison.methods.iter().find_map(|method| method.initial_accuracy);
    let (measure, initial) = if comparison.of_classes() {
        let initial = loss.zip(share);
        let initial = initial.map(|(l, s)| format!("{} and {:.4}", percent(s.mean), l.mean));
        ("accuracy, held-out loss: after the last round, nats an example", initial)
    } else {
        let initial = loss.map(|loss| format!("{:.4}", loss.mean));
        ("held-out loss: after the last round, nats a token", initial)
    };
    let mut caption = format!(
        "{measure}, with the adapter that clients receive; server copy: with the aggregator's own"
    );
    if let Some(initial) = initial {
        caption += &format!("; before training {initial}");
    }
    if seeds > 1 {
        caption += &format!("; ± is a 95 % t-interval over {seeds} seeds");
    }
    caption += ". up, down: bytes for each accepted update. total: the whole run, all clients.";
    if comparison.methods.iter().any(|method| method.product_error.is_some()) {
        caption += " product error: how far mean(B) mean(A) is from mean(B A), of the last cohort.";
    }
    if comparison.methods.iter().any(|method| method.rates.is_some()) {
        caption += rates::CAPTION;
    }
    if let Some(baseline) = &comparison.baseline {
        caption += &format!(
            " kept: share of {baseline}'s improvement. less: times fewer bytes than {baseline}. \
             to 90%: total bytes spent when 90 % of {baseline}'s improvement was reached."
        );
    }
    caption
}

/// Virtual time and energy, a line a method; none where no time passed.
#[must_use]
pub fn in_time(comparison: &Comparison) -> Option<Table> {
    let timed = |method: &&MethodSummary| method.virtual_s.is_some();
    let row = |method: &MethodSummary| {
        let duration = |seconds: Option<f64>| seconds.map_or_else(none, duration);
        vec![
            method.name.clone(),
            duration(method.seconds_to_target),
            duration(method.virtual_s),
            method.joules.map_or_else(none, joules),
        ]
    };
    let rows: Vec<_> = comparison.methods.iter().filter(timed).map(row).collect();
    let head = ["method", "time to 90%", "whole run", "energy"].map(str::to_owned).into();
    (!rows.is_empty()).then_some(Table { head, rows })
}

/// What the columns of [`in_time`] mean.
pub const IN_TIME_CAPTION: &str = "Virtual time, means over seeds: until 90 % of the baseline's improvement was reached, \
                                   and of all rounds; energy of all devices in a whole run.";

/// Who won, or why nobody can be said to.
#[must_use]
pub fn verdict(comparison: &Comparison) -> String {
    let measure = if comparison.of_classes() { "highest accuracy" } else { "lowest loss" };
    match &comparison.verdict {
        Some(Verdict::Winner(name)) => {
            format!(
                "After the last round {name} has the {measure}; its interval lies apart from all others."
            )
        }
        Some(Verdict::Tied(names)) => {
            let (best, near) = (&names[0], names[1..].join(", "));
            format!(
                "No winner: {best} has the {measure}, but the intervals of {near} reach into its own."
            )
        }
        None if comparison.methods.len() < 2 => {
            "One method: nothing to compare it with.".to_owned()
        }
        None => "No winner can be named from one seed: there are no intervals.".to_owned(),
    }
}

/// Losses, or accuracies, at equal cumulative bytes: a line a method, a column a budget.
#[must_use]
pub fn equal_bytes(comparison: &Comparison) -> Table {
    let head = comparison.budgets.iter().map(|&budget| bytes(budget));
    let row = |method: &MethodSummary| {
        let cell = |at: &Option<super::AtBudget>| {
            at.map_or_else(none, |at| {
                let value = at.accuracy.map_or_else(|| at.loss.to_string(), accuracy);
                format!("{value}{}", if at.ended { " *" } else { "  " })
            })
        };
        std::iter::once(method.name.clone()).chain(method.at_budget.iter().map(cell)).collect()
    };
    let winner = |at: usize| match comparison.verdict_at(at) {
        Some(Verdict::Winner(name)) => name,
        Some(Verdict::Tied(_)) => "tied".to_owned(),
        None => none(),
    };
    let mut rows: Vec<Vec<String>> = comparison.methods.iter().map(row).collect();
    if rows.len() > 1 {
        let winners = (0..comparison.budgets.len()).map(winner);
        rows.push(std::iter::once("(winner)".to_owned()).chain(winners).collect());
    }
    Table { head: std::iter::once("method".to_owned()).chain(head).collect(), rows }
}

/// What the cells of [`equal_bytes`] mean.
#[must_use]
pub fn equal_bytes_caption(comparison: &Comparison) -> String {
    let measure = if comparison.of_classes() { "accuracy" } else { "loss" };
    format!(
        "Held-out {measure} once all clients together have moved so many bytes, both ways; linear \
         between evaluations. *: the run ended before, this is its last {measure}. A winner is named \
         where its 95 % interval lies apart from all others."
    )
}

/// In per cent, with its interval where there is one.
pub(super) fn accuracy(interval: Interval) -> String {
    let hundred = Interval {
        mean: 100.0 * interval.mean,
        half: interval.half.map(|half| 100.0 * half),
        ..interval
    };
    format!("{} %", hundred.text(1))
}

fn none() -> String {
    "–".to_owned()
}

pub(super) fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.1} %", 100.0 * share) } else { none() }
}

/// Three digits or so: `3.71×`, `14.4×`.
#[must_use]
pub fn times(ratio: f64) -> String {
    if ratio < 10.0 { format!("{ratio:.2}×") } else { format!("{ratio:.1}×") }
}

/// Three digits and a decimal unit: `999 B`, `1.23 MB`.
#[must_use]
pub fn bytes(count: f64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = count;
    let mut unit = 0;
    // 999.5 would be written as 1000.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Three digits and a unit of energy: `999 J`, `1.23 kJ`.
#[must_use]
pub fn joules(joules: f64) -> String {
    match joules {
        ..9.995 => format!("{joules:.2} J"),
        ..999.5 => format!("{joules:.0} J"),
        ..9_995.0 => format!("{:.2} kJ", joules / 1e3),
        ..999_500.0 => format!("{:.0} kJ", joules / 1e3),
        _ => format!("{:.2} MJ", joules / 1e6),
    }
}

/// Three digits and a unit of time: `4.56 s`, `12.3 min`, `45.6 h`, `7.89 d`.
#[must_use]
pub fn duration(seconds: f64) -> String {
    let (value, unit) = match seconds {
        ..100.0 => (seconds, "s"),
        ..6_000.0 => (seconds / 60.0, "min"),
        ..360_000.0 => (seconds / 3_600.0, "h"),
        _ => (seconds / 86_400.0, "d"),
    };
    let digits = match value {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{classified, rows};

    #[test]
    fn bytes_have_three_digits() {
        for (count, text) in [
            (0.0, "0 B"),
            (999.0, "999 B"),
            (999.6, "1.00 kB"),
            (1_234.0, "1.23 kB"),
            (9_996.0, "10.0 kB"),
            (99_960.0, "100 kB"),
            (999_600.0, "1.00 MB"),
            (12_345_678.0, "12.3 MB"),
            (5e20, "500000 PB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn durations_have_three_digits() {
        for (seconds, text) in [
            (0.0, "0.00 s"),
            (9.996, "10.0 s"),
            (99.0, "99.0 s"),
            (150.0, "2.50 min"),
            (7_200.0, "2.00 h"),
            (864_000.0, "10.0 d"),
            (8.64e7, "1000 d"),
        ] {
            assert_eq!(duration(seconds), text);
        }
        let energies = [1.0, 12.34, 1_234.0, 56_789.0, 1.5e6].map(joules);
        assert_eq!(energies, ["1.00 J", "12 J", "1.23 kJ", "57 kJ", "1.50 MJ"]);
    }

    #[test]
    fn columns_line_up() {
        let table = Table {
            head: vec!["method".into(), "loss".into()],
            rows: vec![
                vec!["å".into(), "1.5 ± 0.25".into()],
                vec!["longer name".into(), "2".into()],
            ],
        };
        let expected = "method             loss\n\
                        -----------  ----------\n\
                        å            1.5 ± 0.25\n\
                        longer name           2\n";
        assert_eq!(table.text(), expected);
    }

    #[test]
    fn a_classification_shows_accuracy_first() {
        let comparison = Comparison::new(&classified(), "dense");
        let table = summary(&comparison);
        assert_eq!(table.head[..5], ["method", "accuracy", "server copy", "held-out loss", "kept"]);
        // 2 - (1 + e^-3) is 95.0 %; seeds lie 0.01 (1 - e^-3) around it, so the half width is
        // 4.3027 / sqrt(3) of that.
        assert_eq!(table.rows[0][1..3], ["95.0 ± 2.4 %", "85.0 %"]);
        let caption = summary_caption(&comparison);
        assert!(caption.contains("before training 0.0 % and 2.0000"), "{caption}");
        assert!(equal_bytes(&comparison).text().contains(" %"));
        assert!(equal_bytes_caption(&comparison).starts_with("Held-out accuracy once"));
    }

    #[test]
    fn a_line_a_method() {
        let comparison = Comparison::new(&rows(), "dense");
        let text = summary(&comparison).text();
        assert_eq!(text.lines().count(), 12);
        assert!(text.contains("45.5×"), "gossamer-1/64 sends 22 of 1,000 kB:\n{text}");
        assert!(equal_bytes(&comparison).text().contains(" *"));
    }
}
