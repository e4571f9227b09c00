//! Sweeps: the same comparison at every point of a grid over fields of the scenario.
//!
//! A field is named by its path in the file: `training.optimizer.lr`, `partition.alpha`, `lora.rank`, and
//! for a method by its name behind `method`: `method.flasc-1/4.upload.density` means the field
//! `upload.density` of that `[[method]]`'s own `method` table where it has one, else of the `[[method]]`
//! itself; `method.*.optimizer.lr` means it for all. Each point is a scenario of its own, checked before
//! any is run, in a folder of its own, and gone on with by its own checkpoints.

use std::path::{Path, PathBuf};

use serde::Serialize;
use toml::{Table, Value};

use crate::report::table::{self, bytes};
use crate::report::{Comparison, Interval, MethodSummary};
use crate::scenario::{Scenario, ScenarioError};

/// A field, and what it shall be in turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// Its path.
    pub path: String,
    /// Its values, as TOML has them; what is no TOML value is a string.
    pub values: Vec<Value>,
}

/// Why there is no sweep.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// Not `PATH=V1,V2`.
    #[error("--over {0:?}: expected PATH=VALUE,VALUE,...")]
    Axis(String),
    /// A path that leads nowhere in this file.
    #[error("--over {path}: {why}")]
    Path {
        /// The path.
        path: String,
        /// Where it ends, and what would go on.
        why: String,
    },
    /// The file is no TOML.
    #[error("the scenario: {0}")]
    Syntax(String),
    /// A point that is no scenario.
    #[error("at {point}")]
    Point {
        /// The point.
        point: String,
        /// Why.
        source: ScenarioError,
    },
}

/// One point of the grid.
#[derive(Clone, Debug)]
pub struct Point {
    /// `path=value` of each axis.
    pub settings: Vec<(String, String)>,
    /// The scenario there.
    pub scenario: Scenario,
}

impl Point {
    /// `path=value, path=value`.
    #[must_use]
    pub fn name(&self) -> String {
        let settings: Vec<String> =
            self.settings.iter().map(|(path, value)| format!("{path}={value}")).collect();
        settings.join(", ")
    }

    /// The folder for what it gives, within the sweep's.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._=-".contains(c) { c } else { '_' };
        self.name().replace(", ", "--").chars().map(plain).collect::<String>().into()
    }
}

impl std::str::FromStr for Axis {
    type Err = SweepError;

    /// `PATH=V1,V2`: commas within brackets, braces and quotes belong to a value.
    fn from_str(text: &str) -> Result<Self, SweepError> {
        let malformed = || SweepError::Axis(text.to_owned());
        let (path, values) = text.split_once('=').ok_or_else(malformed)?;
        let values: Vec<&str> = split(values);
        if path.trim().is_empty() || values.iter().any(|value| value.trim().is_empty()) {
            return Err(malformed());
        }
        let value = |text: &str| {
            let parsed: Option<Table> = format!("v = {text}").parse().ok();
            parsed.and_then(|mut table| table.remove("v")).unwrap_or_else(|| text.trim().into())
        };
        Ok(Self { path: path.trim().to_owned(), values: values.into_iter().map(value).collect() })
    }
}

fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut quoted, mut start) = (0_usize, false, 0);
    let mut parts = Vec::new();
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '[' | '{' if !quoted => depth += 1,
            ']' | '}' if !quoted => depth = depth.saturating_sub(1),
            ',' if !quoted && depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Every point of the grid over `axes`, the last axis fastest. Paths in the scenario are relative to `dir`.
///
/// # Errors
/// [`SweepError`] at the first axis or point that is off; nothing was run.
pub fn points(text: &str, dir: &Path, axes: &[Axis]) -> Result<Vec<Point>, SweepError> {
    let table: Table =
        text.parse().map_err(|e: toml::de::Error| SweepError::Syntax(e.to_string()))?;
    let mut points = vec![(Vec::new(), table)];
    for Axis { path, values } in axes {
        let mut next = Vec::with_capacity(points.len() * values.len());
        for (settings, table) in &points {
            for value in values {
                let (mut settings, mut table): (Vec<_>, Table) = (settings.clone(), table.clone());
                set(&mut table, path, value)?;
                settings.push((path.clone(), shown(value)));
                next.push((settings, table));
            }
        }
        points = next;
    }
    let point = |(settings, table): (Vec<(String, String)>, Table)| {
        let name = |settings: &[(String, String)]| {
            let settings: Vec<String> = settings.iter().map(|(p, v)| format!("{p}={v}")).collect();
            settings.join(", ")
        };
        let text = toml::to_string(&table).map_err(|e| SweepError::Syntax(e.to_string()))?;
        let scenario = Scenario::parse(&text, dir);
        let scenario = scenario.and_then(|scenario| scenario.check_paths().map(|()| scenario));
        let point = name(&settings);
        let scenario = scenario.map_err(|source| SweepError::Point { point, source })?;
        Ok(Point { settings, scenario })
    };
    points.into_iter().map(point).collect()
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn set(table: &mut Table, path: &str, value: &Value) -> Result<(), SweepError> {
    let Some(rest) = path.strip_prefix("method.") else {
        return put(table, path, path, value);
    };
    let off = |why: String| SweepError::Path { path: path.to_owned(), why };
    let methods = table.get_mut("method").and_then(Value::as_array_mut);
    let methods = methods.ok_or_else(|| off("the scenario has no [[method]]".into()))?;
    let named = |method: &Value| method.get("name").and_then(Value::as_str).map(str::to_owned);
    let known: Vec<String> = methods.iter().filter_map(named).collect();
    // The longest name that fits: names may hold dots.
    let fits =
        |name: &&String| rest.strip_prefix(name.as_str()).is_some_and(|r| r.starts_with('.'));
    let longest = known.iter().filter(fits).max_by_key(|name| name.len()).cloned();
    let (name, field) = match (rest.strip_prefix("*."), &longest) {
        (Some(field), _) => (None, field),
        (None, Some(name)) => (Some(name), &rest[name.len() + 1..]),
        (None, None) => {
            return Err(off(format!("no such method; there are {}, and *", known.join(", "))));
        }
    };
    for method in methods {
        if name.is_some() && named(method).as_ref() != name {
            continue;
        }
        let Some(method) = method.as_table_mut() else { continue };
        let first = field.split('.').next().unwrap_or(field);
        let own =
            ["name", "method", "lora", "training", "cohort", "decay", "optimizer"].contains(&first);
        match method.get_mut("method").and_then(Value::as_table_mut) {
            Some(inner) if !own => put(inner, path, field, value)?,
            _ => put(method, path, field, value)?,
        }
    }
    Ok(())
}

/// Sets the field at `rest` below `table`; tables on the way are made, other values are not entered.
fn put(table: &mut Table, path: &str, rest: &str, value: &Value) -> Result<(), SweepError> {
    match rest.split_once('.') {
        None => drop(table.insert(rest.to_owned(), value.clone())),
        Some((head, rest)) => {
            let below = table.entry(head).or_insert_with(|| Value::Table(Table::new()));
            let Some(below) = below.as_table_mut() else {
                let why = format!("{head} is a value, not a table");
                return Err(SweepError::Path { path: path.to_owned(), why });
            };
            put(below, path, rest, value)?;
        }
    }
    Ok(())
}

/// What one method came to at one point.
#[derive(Clone, Debug, Serialize)]
pub struct Swept {
    /// `path=value` of each axis.
    pub settings: Vec<(String, String)>,
    /// The method.
    pub method: String,
    /// Held-out loss after the last round.
    pub loss: Option<Interval>,
    /// Held-out accuracy after the last round, of a classification.
    pub accuracy: Option<Interval>,
    /// Seeds that diverged.
    pub diverged: usize,
    /// Bytes of a whole run, both ways, all clients.
    pub bytes: f64,
}

impl Swept {
    /// Each method's line at a point.
    #[must_use]
    pub fn of(point: &Point, comparison: &Comparison) -> Vec<Self> {
        let swept = |method: &MethodSummary| Self {
            settings: point.settings.clone(),
            method: method.name.clone(),
            loss: method.final_loss,
            accuracy: method.final_accuracy,
            diverged: method.diverged,
            bytes: method.total_bytes(),
        };
        comparison.methods.iter().map(swept).collect()
    }
}

/// One line for each point and method.
#[must_use]
pub fn table(swept: &[Swept]) -> table::Table {
    let classes = swept.iter().any(|line| line.accuracy.is_some());
    let mut head = vec!["method".to_owned()];
    head.extend(swept.iter().flat_map(|line| &line.settings).map(|(path, _)| path.clone()));
    head.dedup();
    let axes = swept.first().map_or(0, |line| line.settings.len());
    head.truncate(1 + axes);
    if classes {
        head.push("accuracy".to_owned());
    }
    head.extend(["held-out loss", "total"].map(str::to_owned));
    let row = |line: &Swept| {
        let mut row = vec![line.method.clone()];
        row.extend(line.settings.iter().map(|(_, value)| value.clone()));
        let text = |interval: Option<Interval>| match (interval, line.diverged) {
            (_, 1..) => "diverged".to_owned(),
            (Some(interval), _) => interval.to_string(),
            (None, _) => "–".to_owned(),
        };
        if classes {
            row.push(text(line.accuracy));
        }
        row.extend([text(line.loss), bytes(line.bytes)]);
        row
    };
    table::Table { head, rows: swept.iter().map(row).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMOKE: &str = include_str!("../scenarios/smoke.toml");

    fn axis(text: &str) -> Axis {
        text.parse().expect("an axis")
    }

    fn sweep(axes: &[&str]) -> Result<Vec<Point>, SweepError> {
        let axes: Vec<Axis> = axes.iter().map(|text| axis(text)).collect();
        points(SMOKE, Path::new(""), &axes)
    }

    #[test]
    fn values_are_toml_or_words() {
        let values = axis("a.b=1, 0.5,x,\"y,z\",[1,2],{ kind = \"sgd\", lr = 1.0 }").values;
        assert_eq!(values.len(), 6, "{values:?}");
        assert_eq!((values[0].as_integer(), values[1].as_float()), (Some(1), Some(0.5)));
        assert_eq!((values[2].as_str(), values[3].as_str()), (Some("x"), Some("y,z")));
        assert!(values[4].is_array() && values[5].is_table());
        for wrong in ["a", "=1", "a=", "a=1,,2"] {
            assert!(matches!(wrong.parse::<Axis>(), Err(SweepError::Axis(_))), "{wrong}");
        }
    }

    #[test]
    fn a_grid_has_every_point_and_the_last_axis_runs_fastest() {
        let points = sweep(&["lora.rank=2,4", "training.optimizer.lr=0.1,0.2,0.3"]).expect("sound");
        let names: Vec<String> = points.iter().map(Point::name).collect();
        assert_eq!(names.len(), 6);
        assert_eq!(names[1], "lora.rank=2, training.optimizer.lr=0.2");
        assert_eq!(points[3].scenario.lora.rank, 4);
        let folders: std::collections::HashSet<_> = points.iter().map(Point::folder).collect();
        assert_eq!(folders.len(), 6);
    }

    #[test]
    fn methods_go_by_name() {
        let upload =
            |point: &Point, at: usize| f64::from(point.scenario.methods[at].method.upload.density);
        let points = sweep(&["method.gossamer-1/4.upload.density=0.5"]).expect("sound");
        assert_eq!((upload(&points[0], 0), upload(&points[0], 1)), (1.0, 0.5));
        let all = sweep(&["method.*.upload.density=0.5"]).expect("sound");
        assert_eq!((upload(&all[0], 0), upload(&all[0], 1)), (0.5, 0.5));
        let lora = sweep(&["method.dense.lora.rank=7"]).expect("sound");
        assert_eq!(lora[0].scenario.methods[0].lora.rank, Some(7));
    }

    /// Nothing is run where one point is off.
    #[test]
    fn what_is_off_is_named() {
        for (axis, expected) in [
            ("method.x.upload.density=0.5", "no such method; there are dense, gossamer-1/4, and *"),
            ("rounds.x=1", "rounds is a value, not a table"),
            ("lora.rank=4,0", "at lora.rank=0: scenario: field lora.rank"),
            ("lora.rang=4", "unknown field `rang`"),
        ] {
            let refused = gossamer_client::client::chain(&sweep(&[axis]).expect_err(axis));
            assert!(refused.contains(expected), "{axis} gave: {refused}");
        }
    }
}
