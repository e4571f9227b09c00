//! One repetition's own files, written as its rounds end: `metrics.jsonl`, `metrics.csv`, and TensorBoard's
//! event file. `tensorboard --logdir out/NAME/runs` shows all repetitions side by side.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use gossamer_protocol::digest::Digest;

use super::{ReportError, RoundRow, csv, tensorboard};

/// The name by which TensorBoard knows an event file.
const EVENTS: &str = "events.out.tfevents.0.gossamer";

/// The files of one repetition.
#[derive(Debug)]
pub struct RunFiles {
    files: [(PathBuf, File); 3],
    /// Whether the lines of the table have accuracies; known from the first row.
    classified: Option<bool>,
    wall_s: f64,
}

impl RunFiles {
    /// Begins them in `dir`, in the place of an earlier run's.
    ///
    /// # Errors
    /// [`ReportError::File`] where one cannot be written.
    pub fn create(dir: &Path) -> Result<Self, ReportError> {
        let failed = |path: &Path, source| ReportError::File { path: path.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(|e| failed(dir, e))?;
        let create = |name: &str| {
            let path = dir.join(name);
            let file = File::create(&path).map_err(|e| failed(&path, e))?;
            Ok::<_, ReportError>((path, file))
        };
        let files = [create("metrics.jsonl")?, create("metrics.csv")?, create(EVENTS)?];
        let mut files = Self { files, classified: None, wall_s: 0.0 };
        files.write(2, &tensorboard::version())?;
        Ok(files)
    }

    /// Writes a row to each.
    ///
    /// # Errors
    /// [`ReportError`] where one cannot be written.
    pub fn row(&mut self, row: &RoundRow) -> Result<(), ReportError> {
        let mut json = serde_json::to_vec(row)?;
        json.push(b'\n');
        self.write(0, &json)?;
        let classified = match self.classified {
            Some(classified) => classified,
            None => {
                let classified = row.heldout_accuracy.is_some();
                self.classified = Some(classified);
                self.write(1, csv::line(&csv::metrics_head(classified)).as_bytes())?;
                classified
            }
        };
        self.write(1, csv::line(&csv::metrics_cells(row, classified)).as_bytes())?;
        self.wall_s += row.wall_s;
        self.write(2, &tensorboard::row(row, self.wall_s))
    }

    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<(), ReportError> {
        let (path, file) = &mut self.files[at];
        file.write_all(bytes).map_err(|source| ReportError::File { path: path.clone(), source })
    }
}

/// The folder's name for a repetition: method and seed. What no folder may be called is replaced, and a
/// digest put behind, so that two methods never share one.
#[must_use]
pub fn folder(method: &str, seed: u64) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    let name: String = method.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    if name == method {
        return format!("{name}-{seed}");
    }
    let digest = Digest::of(method.as_bytes()).to_string();
    format!("{name}-{}-{seed}", &digest[..6])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::read_rows;
    use crate::report::tests::{classified, rows};

    #[test]
    fn three_files_hold_every_row() {
        for rows in [rows(), classified()] {
            let rows: Vec<RoundRow> =
                rows.into_iter().filter(|row| row.method == "dense" && row.seed == 1).collect();
            let dir = tempfile::tempdir().expect("a temporary folder");
            let dir = dir.path().join("runs/dense-1");
            let mut files = RunFiles::create(&dir).expect("created");
            rows.iter().for_each(|row| files.row(row).expect("written"));
            let found = read_rows(&dir.join("metrics.jsonl")).expect("rows");
            assert_eq!(found.len(), 61);
            assert_eq!(found[1..], rows[1..], "round 0 has a NaN");
            let table = std::fs::read_to_string(dir.join("metrics.csv")).expect("a table");
            assert_eq!(table, csv::metrics(&rows));
            let events = std::fs::read(dir.join(EVENTS)).expect("events");
            // Each record announces its length: they end where the file does.
            let (mut at, mut records) = (0, 0);
            while at < events.len() {
                let length = events[at..at + 8].try_into().expect("8 bytes");
                at += 16 + u64::from_le_bytes(length) as usize;
                records += 1;
            }
            assert_eq!((at, records), (events.len(), 62));
        }
    }

    #[test]
    fn no_two_methods_share_a_folder() {
        assert_eq!(folder("dense", 3), "dense-3");
        assert_ne!(folder("a/b", 1), folder("a_b", 1));
        assert_ne!(folder("a/b", 1), folder("a:b", 1));
        assert!(!folder("../x", 1).contains(['/', '.']));
    }
}
