//! Comma-separated values, RFC 4180: full precision, empty where there is nothing.

use super::comparison::{Comparison, MethodSummary};
use super::table::Table;
use super::{Interval, RoundRow};

/// One line a row.
#[must_use]
pub fn metrics(rows: &[RoundRow]) -> String {
    let classified = rows.iter().any(|row| row.heldout_accuracy.is_some());
    let mut text = line(&metrics_head(classified));
    rows.iter().for_each(|row| text += &line(&metrics_cells(row, classified)));
    text
}

/// The first line of [`metrics`], with or without accuracies.
pub(super) fn metrics_head(classified: bool) -> Vec<&'static str> {
    let mut head = vec!["method", "seed", "round", "train_loss", "heldout_loss", "server_loss"];
    if classified {
        head.extend(["heldout_accuracy", "server_accuracy"]);
    }
    head.extend(["upload_bytes", "download_bytes", "cumulative_bytes", "product_error"]);
    head.extend(["control_bytes", "accepted", "virtual_s", "joules", "wall_s"]);
    head
}

/// A line of [`metrics`].
pub(super) fn metrics_cells(row: &RoundRow, classified: bool) -> Vec<String> {
    let mut cells = vec![
        row.method.clone(),
        row.seed.to_string(),
        row.round.to_string(),
        row.train_loss.to_string(),
        optional(row.heldout_loss),
        optional(row.server_loss),
    ];
    if classified {
        cells.extend([optional(row.heldout_accuracy), optional(row.server_accuracy)]);
    }
    cells.extend([
        row.upload_bytes.to_string(),
        row.download_bytes.to_string(),
        row.cumulative_bytes.to_string(),
        optional(row.product_error),
        row.control_bytes.to_string(),
        row.accepted.to_string(),
        optional(row.virtual_s),
        optional(row.joules),
        row.wall_s.to_string(),
    ]);
    cells
}

/// A table as it is shown to people.
#[must_use]
pub fn table(table: &Table) -> String {
    std::iter::once(&table.head).chain(&table.rows).map(|cells| line(cells)).collect()
}

/// One line a method.
#[must_use]
pub fn summary(comparison: &Comparison) -> String {
    let losses = ["initial_loss", "final_loss", "final_loss_half_95", "final_server_loss"];
    let mut head: Vec<String> =
        ["method", "seeds", "diverged", "rounds"].map(str::to_owned).to_vec();
    head.extend(losses.map(str::to_owned));
    if comparison.of_classes() {
        head.extend(losses.map(|name| name.replace("loss", "accuracy")));
    }
    head.extend(
        [
            "upload_bytes_a_client_round",
            "download_bytes_a_client_round",
            "upload_bytes",
            "download_bytes",
            "upload_saving",
            "download_saving",
            "total_saving",
            "improvement_kept",
            "improvement_kept_half_95",
            "bytes_to_target",
            "virtual_s",
            "seconds_to_target",
            "product_error",
            "wall_s",
        ]
        .map(str::to_owned),
    );
    head.extend(comparison.budgets.iter().map(|budget| format!("loss_at_{budget:.0}_bytes")));
    let mut text = line(&head);
    for method in &comparison.methods {
        text += &line(&cells(method, comparison.of_classes()));
    }
    text
}

fn cells(method: &MethodSummary, classified: bool) -> Vec<String> {
    let mean = |interval: Option<Interval>| optional(interval.map(|interval| interval.mean));
    let half = |interval: Option<Interval>| optional(interval.and_then(|interval| interval.half));
    let mut cells = vec![
        method.name.clone(),
        method.seeds.to_string(),
        method.diverged.to_string(),
        method.rounds.to_string(),
        mean(method.initial_loss),
        mean(method.final_loss),
        half(method.final_loss),
        mean(method.final_server_loss),
    ];
    if classified {
        cells.extend([
            mean(method.initial_accuracy),
            mean(method.final_accuracy),
            half(method.final_accuracy),
            mean(method.final_server_accuracy),
        ]);
    }
    cells.extend([
        method.upload_bytes_a_client_round.to_string(),
        method.download_bytes_a_client_round.to_string(),
        method.upload_bytes.to_string(),
        method.download_bytes.to_string(),
        optional(method.upload_saving),
        optional(method.download_saving),
        optional(method.total_saving),
        mean(method.improvement_kept),
        half(method.improvement_kept),
        optional(method.bytes_to_target),
        optional(method.virtual_s),
        optional(method.seconds_to_target),
        mean(method.product_error),
        method.wall_s.to_string(),
    ]);
    cells.extend(method.at_budget.iter().map(|at| mean(at.map(|at| at.loss))));
    cells
}

fn optional(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// Cells as one line, quoted where they must be.
pub(super) fn line<S: AsRef<str>>(cells: &[S]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| quoted(cell.as_ref())).collect();
    cells.join(",") + "\n"
}

fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{classified, rows};

    #[test]
    fn only_what_needs_quotes_has_them() {
        assert_eq!(line(&["a b", "c,d", "e\"f", "g\nh"]), "a b,\"c,d\",\"e\"\"f\",\"g\nh\"\n");
    }

    #[test]
    fn every_line_has_every_column() {
        for rows in [rows(), classified()] {
            let comparison = Comparison::new(&rows, "dense");
            for text in [metrics(&rows), summary(&comparison)] {
                let columns = |line: &str| line.matches(',').count();
                let head = text.lines().next().map(columns);
                assert!(text.lines().all(|line| Some(columns(line)) == head), "{text}");
            }
        }
    }
}
