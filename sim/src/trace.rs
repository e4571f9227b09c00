//! A fleet's trace: when each device can begin, and how fast it is then, as somebody measured it.
//!
//! ```text
//! client,from_s,to_s,available,flops,down_bits,up_bits
//! client-00,0,3600,1,2e9,,5e4
//! client-00,3600,86400,0,,,
//! ```
//!
//! A CSV file; the last three columns may be left out, and an empty cell is the tier's value. Each client's rows
//! follow each other from 0 without gap or overlap; behind its last one a client begins anew with its first.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Why a trace is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// A row, or the head.
    #[error("{path}, line {line}, field {field}: expected {expected}")]
    Row {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// The column.
        field: &'static str,
        /// What was expected, and what is there.
        expected: String,
    },
    /// A client of the fleet has no row.
    #[error("{path}, field client: expected a row of every client, {client:?} has none")]
    Missing {
        /// The file.
        path: PathBuf,
        /// The client.
        client: String,
    },
    /// The file cannot be read, or is no CSV.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: csv::Error,
    },
}

/// What holds of a device for some time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stretch {
    to_s: f64,
    /// Whether it can begin.
    pub(crate) available: bool,
    /// In place of the tier's.
    pub(crate) flops: Option<f64>,
    /// In place of the tier's.
    pub(crate) down_bits: Option<f64>,
    /// In place of the tier's.
    pub(crate) up_bits: Option<f64>,
}

/// All clients' stretches, by their place in the fleet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Trace(Vec<Vec<Stretch>>);

const COLUMNS: [&str; 7] =
    ["client", "from_s", "to_s", "available", "flops", "down_bits", "up_bits"];

impl Trace {
    /// Reads `path` for clients of these names.
    pub(crate) fn load(path: &Path, names: &[String]) -> Result<Self, TraceError> {
        let file = |source| TraceError::File { path: path.to_owned(), source };
        let off = |line, field, expected| TraceError::Row {
            path: path.to_owned(),
            line,
            field,
            expected,
        };
        let place: HashMap<&str, usize> =
            names.iter().enumerate().map(|(at, name)| (name.as_str(), at)).collect();
        let reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(path);
        let mut reader = reader.map_err(file)?;
        let head = reader.headers().map_err(file)?.clone();
        if let Some(unknown) = head.iter().find(|name| !COLUMNS.contains(name)) {
            return Err(off(1, "head", format!("{}, got {unknown:?}", COLUMNS.join(", "))));
        }
        let column = |field: &str| head.iter().position(|name| name == field);
        if let Some(missing) = COLUMNS[..4].iter().find(|field| column(field).is_none()) {
            return Err(off(1, missing, "the column".to_owned()));
        }
        let mut stretches: Vec<Vec<Stretch>> = vec![Vec::new(); names.len()];
        for row in reader.records() {
            let row = row.map_err(file)?;
            let line = row.position().map_or(0, csv::Position::line);
            let cell = |field| column(field).and_then(|at| row.get(at)).unwrap_or_default();
            let client = cell("client");
            let at = place.get(client);
            let at = *at
                .ok_or_else(|| off(line, "client", format!("one of the fleet, got {client:?}")))?;
            let number = |field| {
                let why = || off(line, field, format!("seconds, got {:?}", cell(field)));
                let number = cell(field).parse::<f64>().ok().filter(|number| number.is_finite());
                number.ok_or_else(why)
            };
            let (from_s, to_s) = (number("from_s")?, number("to_s")?);
            let before = stretches[at].last().map_or(0.0, |stretch| stretch.to_s);
            if from_s != before {
                let what = if from_s < before { "overlap" } else { "gap" };
                let why = format!("{before}, where {client:?} left off, got {from_s}: {what}");
                return Err(off(line, "from_s", why));
            }
            if to_s <= from_s {
                return Err(off(line, "to_s", format!("more than from_s, got {to_s}")));
            }
            let available = match cell("available") {
                "0" => false,
                "1" => true,
                other => return Err(off(line, "available", format!("0 or 1, got {other:?}"))),
            };
            let speed = |field| match cell(field) {
                "" => Ok(None),
                text => match text.parse::<f64>() {
                    Ok(speed) if speed.is_finite() && speed > 0.0 => Ok(Some(speed)),
                    _ => {
                        Err(off(line, field, format!("a number above 0, or nothing, got {text:?}")))
                    }
                },
            };
            let (flops, down_bits) = (speed("flops")?, speed("down_bits")?);
            let up_bits = speed("up_bits")?;
            stretches[at].push(Stretch { to_s, available, flops, down_bits, up_bits });
        }
        match stretches.iter().position(Vec::is_empty) {
            None => Ok(Self(stretches)),
            Some(at) => {
                Err(TraceError::Missing { path: path.to_owned(), client: names[at].clone() })
            }
        }
    }

    /// What holds of the client at `at`, `now_s` seconds after the beginning.
    pub(crate) fn at(&self, at: usize, now_s: f64) -> Option<&Stretch> {
        let stretches = self.0.get(at)?;
        let now_s = now_s % stretches.last()?.to_s;
        stretches.get(stretches.partition_point(|stretch| stretch.to_s <= now_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = "client,from_s,to_s,available,flops,up_bits\n\
                         a,0,10,1,2e9,\nb,0,5,1,,\na,10,24,0,,7\n";

    fn load(text: &str) -> Result<Trace, TraceError> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("trace.csv");
        std::fs::write(&path, text).expect("written");
        Trace::load(&path, &["a".to_owned(), "b".to_owned()])
    }

    #[test]
    fn what_holds_when() {
        let trace = load(SOUND).expect("sound");
        let of = |now_s| trace.at(0, now_s).map(|s| (s.available, s.flops, s.up_bits));
        for (now_s, is) in [
            (0.0, (true, Some(2e9), None)),
            (9.9, (true, Some(2e9), None)),
            (10.0, (false, None, Some(7.0))),
            (24.0, (true, Some(2e9), None)),
            (58.5, (false, None, Some(7.0))),
        ] {
            assert_eq!(of(now_s), Some(is), "{now_s}");
        }
        assert!(trace.at(1, 1e9).is_some_and(|stretch| stretch.available));
    }

    #[test]
    fn what_is_off_is_named_by_line_and_field() {
        for (from, to, expected) in [
            (
                "a,10,24",
                "a,11,24",
                "line 4, field from_s: expected 10, where \"a\" left off, got 11: gap",
            ),
            (
                "a,10,24",
                "a,9,24",
                "line 4, field from_s: expected 10, where \"a\" left off, got 9: overlap",
            ),
            ("b,0,5", "c,0,5", "line 3, field client: expected one of the fleet, got \"c\""),
            ("b,0,5", "b,0,0", "line 3, field to_s"),
            ("b,0,5", "b,0,x", "line 3, field to_s: expected seconds, got \"x\""),
            ("5,1,,", "5,yes,,", "line 3, field available: expected 0 or 1, got \"yes\""),
            ("2e9", "-2e9", "line 2, field flops: expected a number above 0"),
            ("b,0,5,1,,\n", "", "expected a row of every client, \"b\" has none"),
            (",flops", ",flop", "line 1, field head"),
            (",available", ",up_bits", "line 1, field available: expected the column"),
        ] {
            assert!(SOUND.contains(from), "{from}");
            let refused = load(&SOUND.replace(from, to)).expect_err(to).to_string();
            assert!(refused.contains(expected), "{refused}");
        }
    }
}
