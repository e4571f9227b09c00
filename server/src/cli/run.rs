//! `run create | list | show | rounds | pause | resume | abort | export | rollback |
//! manifest`: works on the store itself, beside a
//! server or without one.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use gossamer_protocol::ids::{RoundId, RunId};
use gossamer_protocol::peft::{self, Files};
use serde_json::json;

use super::{Place, print, show};
use crate::coordinator::{Coordinator, RunView};
use crate::http::admin::NewRun;
use crate::manifest_file;
use crate::status::Status;
use crate::tag::{Adapter, TagName};

/// What to do with runs.
#[derive(Subcommand)]
pub(super) enum Run {
    /// Start a run.
    Create {
        #[command(flatten)]
        place: Place,
        /// The run's terms, TOML.
        manifest: PathBuf,
        /// Start from this adapter: a PEFT folder, as `run export` and PEFT write it.
        #[arg(long, value_name = "ADAPTER")]
        from: Option<PathBuf>,
        /// Start from the latest adapter of that run: its id, the beginning of it, or its name.
        #[arg(long, value_name = "RUN", conflicts_with = "from")]
        from_run: Option<String>,
    },
    /// List all runs.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Show a run.
    Show(One),
    /// Ask nobody anew; what was asked for is still taken.
    Pause(One),
    /// Go on with a paused run.
    Resume(One),
    /// End a run for good.
    Abort(One),
    /// Print the manifest that a file stands for, as the admin API's `POST /v1/runs` takes it.
    Manifest {
        /// The run's terms, TOML.
        manifest: PathBuf,
    },
    /// List what came of each closed round.
    Rounds(One),
    /// Write the latest adapter for PEFT: a folder, or its tensors alone.
    Export {
        #[command(flatten)]
        place: Place,
        /// The run: its id, the beginning of it, or its name.
        run: String,
        /// A folder, made where it is not there, or a file ending in `.safetensors`.
        out: PathBuf,
        /// Not the latest one, but that which this round started from.
        #[arg(long)]
        round: Option<u64>,
        /// Not the latest one, but the best: of the lowest loss on what clients hold out, or in training.
        #[arg(long, conflicts_with = "round")]
        best: bool,
        /// Not the latest one, but that which this tag names.
        #[arg(long, conflicts_with_all = ["round", "best"])]
        tag: Option<TagName>,
    },
    /// Go back to the adapter that an earlier round started from. The run must be paused; its next round begins
    /// with it.
    Rollback {
        #[command(flatten)]
        place: Place,
        /// The run: its id, the beginning of it, or its name.
        run: String,
        /// The round.
        #[arg(long, required_unless_present = "best")]
        round: Option<u64>,
        /// The best one: of the lowest loss on what clients hold out, or in training.
        #[arg(long, conflicts_with = "round")]
        best: bool,
    },
}

#[derive(Args)]
pub(super) struct One {
    #[command(flatten)]
    place: Place,
    /// The run: its id, the beginning of it, or its name. Without, the only one.
    run: Option<String>,
}

pub(super) async fn run(command: Run, json: bool) -> Result<()> {
    match command {
        Run::Create { place, manifest, from, from_run } => {
            let files = match (from, from_run) {
                (Some(folder), _) => Some(peft_files(&folder)?),
                (None, Some(name)) => {
                    let (coordinator, view) = find(&place, Some(&name)).await?;
                    Some(coordinator.export(view.run).await?)
                }
                (None, None) => None,
            };
            create(&place, &manifest, files.as_ref(), json).await
        }
        Run::List { place } => {
            let views = place.coordinator().await?.runs().await?;
            print(json, &serde_json::to_value(&views)?, &show::table(&views))
        }
        Run::Show(one) => {
            let (_, view) = find(&one.place, one.run.as_deref()).await?;
            print(json, &serde_json::to_value(&view)?, &show::card(&view))
        }
        Run::Manifest { manifest } => terms(&manifest),
        Run::Rounds(one) => {
            let (coordinator, view) = find(&one.place, one.run.as_deref()).await?;
            let rows = coordinator.rounds(view.run, RoundId(0), u32::MAX).await?;
            print(json, &serde_json::to_value(&rows)?, &show::rounds(&rows))
        }
        Run::Pause(one) => set(one, Status::Paused, json).await,
        Run::Resume(one) => set(one, Status::Running, json).await,
        Run::Abort(one) => set(one, Status::Aborted, json).await,
        Run::Export { place, run, out, round, best, tag } => {
            let (coordinator, view) = find(&place, Some(&run)).await?;
            let round = match tag {
                None => which(&coordinator, &view, round, best).await?,
                Some(tag) => {
                    let seen = coordinator.within(Some(view.project.clone()));
                    let Adapter { run, round } = seen.tag(&tag).await?.adapter;
                    if run != view.run {
                        bail!("tag {tag} names an adapter of run {run}");
                    }
                    Some(round)
                }
            };
            write(&coordinator, &view, round, &out, json).await
        }
        Run::Rollback { place, run, round, best } => {
            let (coordinator, view) = find(&place, Some(&run)).await?;
            let Some(to) = which(&coordinator, &view, round, best).await? else {
                bail!("name a round, or --best");
            };
            let next = coordinator.roll_back(view.run, to).await?;
            let text =
                format!("run {}: round {next} begins with the adapter of round {to}", view.run);
            print(json, &json!({ "run": view.run, "to": to, "round": next }), &text)
        }
    }
}

/// The round that is meant; none: the latest.
pub(super) async fn which(
    coordinator: &Coordinator,
    view: &RunView,
    round: Option<u64>,
    best: bool,
) -> Result<Option<RoundId>> {
    if !best {
        return Ok(round.map(RoundId));
    }
    match coordinator.best_round(view.run).await? {
        Some((round, _)) => Ok(Some(round)),
        None => bail!("run {} has no round with a loss yet", view.run),
    }
}

/// The files of an adapter's folder.
fn peft_files(folder: &Path) -> Result<Files> {
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let origin = folder.join(peft::ORIGIN_FILE).is_file();
    let origin = origin.then(|| read(peft::ORIGIN_FILE)).transpose()?;
    Ok(Files { config: read(peft::CONFIG_FILE)?, weights: read(peft::WEIGHTS_FILE)?, origin })
}

async fn create(place: &Place, manifest: &Path, from: Option<&Files>, json: bool) -> Result<()> {
    let coordinator = place.coordinator().await?;
    let mut loaded = manifest_file::load(manifest)?;
    let start = from.map(|files| loaded.start_from(files)).transpose()?;
    let linears = Some(&loaded.linears[..]);
    let run = coordinator.create_run_from(&loaded.manifest, linears, start).await?;
    let stands = coordinator.run(run).await?.status;
    if stands.is_over() {
        bail!(
            "run {run} was made from the same manifest and is {}: give another seed",
            stands.name()
        );
    }
    let n = loaded.manifest.layout.n();
    let text =
        format!("run {run}\nan adapter of {n} parameters, {} rounds", loaded.manifest.rounds);
    print(json, &json!({ "run": run, "parameters": n }), &text)
}

/// What the admin API takes is JSON, with or without `--json`.
fn terms(file: &Path) -> Result<()> {
    let loaded = manifest_file::load(file)?;
    let new = NewRun::of(&loaded.manifest, &loaded.linears)?;
    print(true, &serde_json::to_value(&new)?, "")
}

async fn set(One { place, run }: One, to: Status, json: bool) -> Result<()> {
    let (coordinator, view) = find(&place, run.as_deref()).await?;
    let stands = coordinator.set_status(view.run, to).await?;
    if stands != to {
        bail!("run {} is {} and stays so", view.run, stands.name());
    }
    let text = format!("run {} is {}", view.run, stands.name());
    print(json, &json!({ "run": view.run, "status": stands }), &text)
}

async fn write(
    coordinator: &Coordinator,
    view: &RunView,
    round: Option<RoundId>,
    out: &Path,
    json: bool,
) -> Result<()> {
    let files = match round {
        Some(round) => coordinator.export_round(view.run, round).await?,
        None => coordinator.export(view.run).await?,
    };
    let round = round.unwrap_or(view.round);
    let write = |path: &Path, bytes: &[u8]| {
        std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    let file = if out.extension().is_some_and(|extension| extension == "safetensors") {
        write(out, &files.weights)?;
        out.to_owned()
    } else {
        std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
        for (name, bytes) in files.iter() {
            write(&out.join(name), bytes)?;
        }
        out.join(peft::WEIGHTS_FILE)
    };
    let text = format!("wrote {} after round {round}", file.display());
    print(json, &json!({ "file": file, "round": round, "bytes": files.weights.len() }), &text)
}

/// The run that is meant.
pub(super) async fn find(place: &Place, name: Option<&str>) -> Result<(Coordinator, RunView)> {
    let coordinator = place.coordinator().await?;
    let views = coordinator.runs().await?;
    let means = |run: RunId, called: &str, name: &str| {
        called == name || (!name.is_empty() && run.to_string().starts_with(name))
    };
    let mut found: Vec<RunView> = views
        .into_iter()
        .filter(|view| name.is_none_or(|name| means(view.run, &view.name, name)))
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(view), true) => Ok((coordinator, view)),
        (Some(_), false) => match name {
            Some(name) => bail!("several runs are called {name:?}: give more of the id"),
            None => bail!("there are several runs: name one (`run list` shows them)"),
        },
        (None, _) => match name {
            Some(name) => bail!("there is no run {name:?}"),
            None => bail!("there is no run"),
        },
    }
}
