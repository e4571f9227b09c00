//! The adapter that a device last received.

use std::path::Path;

use gossamer_protocol::frame::{Snapshot, Terms};
use gossamer_protocol::ids::{RoundId, RunId};
use gossamer_protocol::manifest::Manifest;

use super::{AdapterError, io};
use crate::state::{State, StateError};
use crate::verify::Seen;

/// The terms, the round and the values, shape `[n]`, of the snapshot in the state folder `dir`: of `run`,
/// or of the only one there is.
///
/// # Errors
/// [`AdapterError::State`] where another process uses the folder, [`AdapterError::Runs`] where no run or
/// several have a snapshot, and what is off with it.
pub fn received(
    dir: &Path,
    run: Option<RunId>,
) -> Result<(Manifest, RoundId, Vec<f32>), AdapterError> {
    let held = held(dir)?;
    let listed = |found: &str| AdapterError::Runs {
        dir: dir.to_owned(),
        found: found.to_owned(),
        expected: "a snapshot of the run, or of one run alone",
    };
    let run = match (run, &held[..]) {
        (Some(run), held) if held.contains(&run) => run,
        (None, &[run]) => run,
        (_, []) => return Err(listed("no snapshot")),
        (_, held) => {
            let runs: Vec<String> = held.iter().map(ToString::to_string).collect();
            return Err(listed(&format!("snapshots of {}", runs.join(", "))));
        }
    };
    let state = State::open(dir)?;
    let read = |file: &str| {
        let name = format!("runs/{run}/{file}");
        let bytes = state.read(&name)?;
        bytes.ok_or(StateError::Malformed { name })
    };
    // Verified against the server's key before it was kept; the folder is the device's own.
    let manifest = Manifest::from_bytes(&read("manifest")?);
    let manifest = manifest.map_err(|source| AdapterError::Manifest { run, source })?;
    let malformed = |_| StateError::Malformed { name: format!("runs/{run}/seen") };
    let Seen { round, .. } = serde_json::from_slice(&read("seen")?).map_err(malformed)?;
    let snapshot = Snapshot::decode(&read("snapshot")?, &Terms::new(&manifest, run, round));
    let snapshot = snapshot.map_err(|source| AdapterError::Snapshot { run, source })?;
    let theta = snapshot.theta(&manifest);
    Ok((manifest, round, theta))
}

/// The runs with a snapshot, by id.
fn held(dir: &Path) -> Result<Vec<RunId>, AdapterError> {
    let runs = dir.join("runs");
    let mut held = Vec::new();
    for entry in std::fs::read_dir(&runs).map_err(io("read", &runs))? {
        let entry = entry.map_err(io("read", &runs))?;
        let run: Option<RunId> = entry.file_name().to_str().and_then(|name| name.parse().ok());
        held.extend(run.filter(|_| entry.path().join("snapshot").is_file()));
    }
    held.sort_unstable_by_key(|run| run.0);
    Ok(held)
}
