//! What a simulation found, for people and for programs.
//!
//! Input is plain rows, one for each round of each repetition; nothing here trains, or counts bytes
//! itself. [`JsonLines`] keeps rows while a simulation runs, [`Comparison`] sums them up, and
//! [`write()`] turns both into tables, plots and one page that needs no network.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

mod axis;
mod budget;
pub mod claims;
mod clients;
mod comparison;
pub mod csv;
mod curves;
pub mod html;
mod interval;
mod jsonl;
mod pareto;
#[cfg(feature = "parquet")]
mod parquet;
pub mod partition;
pub mod protocols;
mod rates;
mod repetitions;
mod run_files;
mod spread;
mod strips;
pub mod svg;
pub mod table;
pub mod tensorboard;

pub use budget::AtBudget;
pub use comparison::{Band, Comparison, CurvePoint, MethodSummary, Verdict};
pub use curves::Measure;
pub use interval::Interval;
pub use jsonl::{JsonLines, read_rows};
pub use rates::{Rates, Trial, Tuned, table as rates_table};
pub use run_files::{RunFiles, folder};
pub use spread::{ClientLoss, Spread, TierSummary};

use crate::partition::Census;
use clients::Clients;
use html::Section;

/// One round of one repetition of one method.
///
/// Round 0 is the state before training: it moves no byte, and its `heldout_loss` is the start.
/// Round `r` is the state after `r` rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundRow {
    /// The method's name in the scenario.
    pub method: String,
    /// The repetition.
    pub seed: u64,
    /// Rounds done.
    pub round: u64,
    /// Mean training loss of the round's clients; NaN in round 0.
    #[serde(with = "jsonl::number")]
    pub train_loss: f64,
    /// Mean loss on held-out text, nats a token (or an example); none where it was not measured.
    #[serde(with = "jsonl::optional", default)]
    pub heldout_loss: Option<f64>,
    /// The same of the aggregator's own dense copy, of which clients receive a part.
    #[serde(with = "jsonl::optional", default)]
    pub server_loss: Option<f64>,
    /// Share of held-out examples whose class was found; only of a classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heldout_accuracy: Option<f64>,
    /// The same of the aggregator's own dense copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_accuracy: Option<f64>,
    /// Client to server in this round, all clients together.
    pub upload_bytes: u64,
    /// Server to client in this round, all clients together.
    pub download_bytes: u64,
    /// Both ways, of this round and all before it.
    #[serde(default)]
    pub cumulative_bytes: u64,
    /// How far averaging A and B apart was from averaging their product, of the adapters trained in this
    /// round: `||mean(B_k A_k) - mean(B_k) mean(A_k)||_F / ||mean(B_k A_k)||_F`.
    #[serde(with = "jsonl::optional", default, skip_serializing_if = "Option::is_none")]
    pub product_error: Option<f64>,
    /// Everything else, both ways: manifests (once a client), records, receipts, check-ins.
    #[serde(default)]
    pub control_bytes: u64,
    /// Updates that counted.
    pub accepted: u32,
    /// Seconds of virtual time since the run began, where a fleet's time is simulated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_s: Option<f64>,
    /// Energy of all devices in this round, by the fleet's model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules: Option<f64>,
    /// How long the round took to simulate.
    pub wall_s: f64,
    /// What each held-out client's text came to, where the scenario asks for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<ClientLoss>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A file could not be written or read.
    #[error("cannot write or read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line of `metrics.jsonl` that is no row.
    #[error("{path}, line {line}: not a row of metrics")]
    Row {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
    /// The plotting library refused.
    #[error("plot {title:?}: {why}")]
    Plot {
        /// The plot's title.
        title: String,
        /// Its words.
        why: String,
    },
    /// Rows that could not be written as Parquet.
    #[error("rows as Parquet: {0}")]
    Parquet(String),
    /// A value that JSON cannot hold.
    #[error("summary as JSON")]
    Json(#[from] serde_json::Error),
}

/// What a report says beyond its rows.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Its title.
    pub title: &'a str,
    /// The method that others are measured by; usually `"dense"`.
    pub baseline: &'a str,
    /// What a reader should know first, a paragraph each.
    pub paragraphs: &'a [String],
    /// Who got what, where that is known.
    pub census: Option<&'a Census>,
    /// The scenario as written.
    pub config: &'a str,
    /// The command that made it, where one did.
    pub command: Option<&'a str>,
    /// The methods' learning rates, where they are known.
    pub rates: &'a [Tuned],
}

/// Writes `metrics.csv`, `summary.csv`, `summary.json`, `loss_by_round.svg`, `loss_by_bytes.svg`, of a
/// classification the same two of accuracy, where clients were told apart `clients.csv`, `tiers.csv` and their plots,
/// and `report.html` to `dir`, which is made where it is not there.
///
/// # Errors
/// [`ReportError`] at the first file that cannot be written.
pub fn write(
    dir: &Path,
    report: &Report<'_>,
    rows: &[RoundRow],
) -> Result<Comparison, ReportError> {
    let mut comparison = Comparison::new(rows, report.baseline);
    for method in &mut comparison.methods {
        method.rates = report.rates.iter().find(|tuned| tuned.method == method.name).cloned();
    }
    let mut plots = Vec::new();
    if comparison.of_classes() {
        plots.push(Plots::of(&comparison, Measure::Accuracy)?);
    }
    plots.push(Plots::of(&comparison, Measure::Loss)?);
    let clients = Clients::of(&comparison)?;
    let page = html::page(report.title, &sections(report, &comparison, &plots, clients.as_ref()));

    let failed = |path: &Path, source| ReportError::File { path: path.to_owned(), source };
    std::fs::create_dir_all(dir).map_err(|e| failed(dir, e))?;
    let mut files = vec![
        ("metrics.csv".to_owned(), csv::metrics(rows)),
        ("summary.csv".to_owned(), csv::summary(&comparison)),
        ("summary.json".to_owned(), serde_json::to_string_pretty(&comparison)? + "\n"),
        ("report.html".to_owned(), page),
    ];
    for Plots { measure, by_round, by_bytes, by_time, pareto } in plots {
        files.extend(pareto.map(|svg| (format!("{}_pareto.svg", measure.name()), svg)));
        files.push((format!("{}_by_round.svg", measure.name()), by_round));
        files.push((format!("{}_by_bytes.svg", measure.name()), by_bytes));
        files.extend(by_time.map(|svg| (format!("{}_by_time.svg", measure.name()), svg)));
    }
    files.extend(clients.into_iter().flat_map(|clients| clients.files(rows)));
    #[cfg(feature = "parquet")]
    {
        let mut columns = vec![("metrics.parquet", parquet::metrics(rows)?)];
        if rows.iter().any(|row| !row.clients.is_empty()) {
            columns.push(("clients.parquet", parquet::clients(rows)?));
        }
        for (name, bytes) in columns {
            let path = dir.join(name);
            std::fs::write(&path, bytes).map_err(|e| failed(&path, e))?;
        }
    }
    for (name, text) in files {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|e| failed(&path, e))?;
    }
    Ok(comparison)
}

/// One measure's plots.
struct Plots {
    measure: Measure,
    by_round: String,
    by_bytes: String,
    by_time: Option<String>,
    pareto: Option<String>,
}

impl RoundRow {
    /// Whether the repetition came to its end in this round: a loss, or the adapter, is no number any more.
    #[must_use]
    pub fn diverged(&self) -> bool {
        self.heldout_loss.is_some_and(|loss| !loss.is_finite())
    }

    /// What clients are told apart by: accuracy where there is one.
    #[must_use]
    pub fn measure(&self) -> Measure {
        if self.clients.iter().all(|client| client.accuracy.is_some()) {
            Measure::Accuracy
        } else {
            Measure::Loss
        }
    }
}

impl Plots {
    fn of(comparison: &Comparison, measure: Measure) -> Result<Self, ReportError> {
        let by_round = curves::by_round(comparison, measure)?;
        let by_bytes = curves::by_bytes(comparison, measure)?;
        let by_time = curves::by_time(comparison, measure)?;
        let pareto = pareto::pareto(comparison, measure)?;
        Ok(Self { measure, by_round, by_bytes, by_time, pareto })
    }
}

fn sections(
    report: &Report<'_>,
    comparison: &Comparison,
    plots: &[Plots],
    clients: Option<&Clients>,
) -> Vec<Section> {
    let seeds = comparison.methods.iter().map(|method| method.seeds).max().unwrap_or(0);
    let shown = if seeds > 1 {
        format!(
            "Lines are means over {seeds} seeds; bands reach from the lowest to the highest seed."
        )
    } else {
        "One seed: no interval can be given.".to_owned()
    };
    let mut sections: Vec<Section> =
        report.paragraphs.iter().cloned().map(Section::Paragraph).collect();
    sections.push(Section::Heading("Summary".into()));
    sections.push(Section::Table {
        table: table::summary(comparison),
        caption: table::summary_caption(comparison),
    });
    sections.push(Section::Paragraph(table::verdict(comparison)));
    sections.extend(rates::sections(report.rates));
    for Plots { measure, by_round, by_bytes, by_time, pareto } in plots {
        let heading = |by: &str| Section::Heading(format!("{} and {by}", measure.title()));
        sections.push(heading("rounds"));
        sections.push(Section::Svg { svg: by_round.clone(), caption: shown.clone() });
        sections.push(heading("bytes"));
        sections.push(Section::Svg {
            svg: by_bytes.clone(),
            caption: format!("{shown} Bytes are all clients' uploads and downloads together."),
        });
        if let Some(svg) = pareto {
            sections.push(Section::Heading(format!("{} for all bytes", measure.title())));
            let caption = "After the last round, means over seeds; methods of which a seed diverged are not there. \
                           The line joins those that no other beats with as few bytes."
                .to_owned();
            sections.push(Section::Svg { svg: svg.clone(), caption });
        }
        if let Some(svg) = by_time {
            sections.push(heading("virtual time"));
            sections.push(Section::Svg { svg: svg.clone(), caption: shown.clone() });
            let caption = table::IN_TIME_CAPTION.to_owned();
            let times = table::in_time(comparison);
            sections.extend(times.map(|table| Section::Table { table, caption }));
        }
    }
    if !comparison.budgets.is_empty() {
        sections.push(Section::Heading("At equal bytes".into()));
        sections.push(Section::Table {
            table: table::equal_bytes(comparison),
            caption: table::equal_bytes_caption(comparison),
        });
    }
    sections.extend(clients.into_iter().flat_map(|clients| clients.sections(comparison)));
    if let Some(census) = report.census {
        sections.push(Section::Heading("Who got what".into()));
        sections.push(Section::Table {
            table: partition::summary(census),
            caption: partition::caption(census),
        });
        let caption = "Darker: a larger share of the client's documents.".to_owned();
        let caption = if census.classes.is_empty() { String::new() } else { caption };
        sections.push(Section::Svg { svg: partition::svg(census), caption });
    }
    if let Some(command) = report.command {
        sections.push(Section::Heading("Command".into()));
        sections.push(Section::Preformatted(command.to_owned()));
    }
    sections.push(Section::Heading("Scenario".into()));
    sections.push(Section::Preformatted(report.config.to_owned()));
    sections
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Losses that fall exponentially, by known amounts: `1 + exp(-round / 20)` for dense.
    pub(crate) fn rows() -> Vec<RoundRow> {
        let mut rows = Vec::new();
        for (at, (name, bytes)) in [
            ("dense", 1_000_000),
            ("ffa", 500_000),
            ("sparse-adapter-1/4", 330_000),
            ("fed-select-1/4", 310_000),
            ("flasc-1/4", 300_000),
            ("flasc-1/16", 80_000),
            ("gossamer-1/4", 300_000),
            ("gossamer-1/16", 80_000),
            ("gossamer-1/64", 22_000),
            ("gossamer-1/16-int8", 30_000),
        ]
        .into_iter()
        .enumerate()
        {
            for seed in 1..=3_u64 {
                for round in 0..=60_u64 {
                    let moved = u64::from(round > 0);
                    let decay = (-(round as f64) / (20.0 + 3.0 * at as f64)).exp();
                    let noise = 0.01 * (seed as f64 - 2.0) * (1.0 - decay);
                    rows.push(RoundRow {
                        method: name.to_owned(),
                        seed,
                        round,
                        train_loss: if round == 0 { f64::NAN } else { 1.0 + decay },
                        heldout_loss: round.is_multiple_of(5).then_some(1.0 + decay + noise),
                        server_loss: None,
                        heldout_accuracy: None,
                        server_accuracy: None,
                        upload_bytes: moved * bytes * 10,
                        download_bytes: moved * bytes * 10,
                        cumulative_bytes: round * bytes * 20,
                        product_error: None,
                        control_bytes: moved * 10_000,
                        accepted: 10 * moved as u32,
                        virtual_s: None,
                        joules: None,
                        wall_s: 0.5,
                        clients: Vec::new(),
                    });
                }
            }
        }
        rows
    }

    /// As [`rows`], with six phones and six boards whose losses lie around the mean.
    pub(crate) fn told_apart() -> Vec<RoundRow> {
        let client = |at: u32, loss: f64| ClientLoss {
            client: format!("c{at}"),
            tier: Some(["phone", "board"][at as usize % 2].to_owned()),
            targets: 100,
            loss: loss + 0.01 * (f64::from(at) - 5.5),
            accuracy: None,
        };
        let row = |row: RoundRow| {
            let clients = row.heldout_loss.map(|loss| (0..12).map(|at| client(at, loss)).collect());
            RoundRow { clients: clients.unwrap_or_default(), ..row }
        };
        rows().into_iter().map(row).collect()
    }

    /// As [`rows`], of a classification: accuracies that rise by as much as the losses fall, and end 0.1
    /// apart from the aggregator's.
    pub(crate) fn classified() -> Vec<RoundRow> {
        let row = |row: RoundRow| {
            let accuracy = row.heldout_loss.map(|loss| 2.0 - loss);
            let server_accuracy = accuracy.map(|accuracy| accuracy - 0.1);
            RoundRow { heldout_accuracy: accuracy, server_accuracy, ..row }
        };
        rows().into_iter().map(row).collect()
    }

    /// A classification has two plots and two columns more; next tokens have none of it.
    #[test]
    fn accuracy_is_shown_where_it_was_measured() {
        let report = Report {
            title: "t",
            baseline: "dense",
            paragraphs: &[],
            census: None,
            config: "",
            command: None,
            rates: &[],
        };
        let write = |rows: &[RoundRow]| {
            let dir = tempfile::tempdir().expect("a temporary folder");
            write(dir.path(), &report, rows).expect("written");
            let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).ok();
            ["accuracy_by_bytes.svg", "report.html", "metrics.csv", "summary.csv"].map(read)
        };
        let [plot, page, metrics, summary] = write(&classified()).map(|text| text.expect("there"));
        assert!(plot.contains("held-out accuracy"), "{plot}");
        assert_eq!(page.matches("<svg").count(), 6);
        assert!(page.contains("Accuracy and rounds") && page.contains("nats an example"));
        let head = metrics.lines().next().expect("a head");
        assert!(head.contains("server_loss,heldout_accuracy,server_accuracy,upload"), "{head}");
        assert!(summary.lines().next().expect("a head").contains("final_accuracy_half_95"));
        let [plot, page, metrics, summary] = write(&rows());
        assert_eq!(plot, None);
        for text in [page, metrics, summary] {
            assert!(!text.expect("there").to_lowercase().contains("accuracy"));
        }
    }

    #[test]
    fn every_file_is_written() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let dir = dir.path().join("new/folder");
        let report = Report {
            title: "a < b",
            baseline: "dense",
            paragraphs: &["x & y".into()],
            census: None,
            config: "name = \"<x>\"",
            command: Some("gossamer-sim compare 'a b'"),
            rates: &[],
        };
        write(&dir, &report, &rows()).expect("written");
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).expect(name);
        assert_eq!(read("metrics.csv").lines().count(), 1 + 10 * 3 * 61);
        assert_eq!(read("summary.csv").lines().count(), 11);
        let page = read("report.html");
        assert!(page.contains("gossamer-sim compare &#39;a b&#39;"), "{page}");
        assert!(page.contains("a &lt; b") && page.contains("name = &quot;&lt;x&gt;&quot;"));
        assert_eq!(page.matches("<svg").count(), 3);
        let summary: serde_json::Value = serde_json::from_str(&read("summary.json")).expect("JSON");
        assert_eq!(summary["methods"][0]["name"], "dense");
    }
}
