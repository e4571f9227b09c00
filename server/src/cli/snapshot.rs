//! `snapshot list | tag | untag | canary | promote | withdraw | prune`: names for adapters, which apps ask for, and
//! what is kept.

use std::num::NonZeroU32;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;

use super::run::{find, which};
use super::{Place, print};
use crate::coordinator::Pruned;
use crate::tag::{Adapter, Canary, Permille, Tag, TagName};

#[derive(Subcommand)]
pub(super) enum Snapshot {
    /// List tags.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Make a tag, or move it: without a round, to the run's latest adapter. A canary goes on.
    Tag {
        #[command(flatten)]
        place: Place,
        /// The run: its id, the beginning of it, or its name.
        run: String,
        /// The tag.
        tag: TagName,
        #[command(flatten)]
        which: Which,
    },
    /// Drop a tag and its canary; the adapter stays.
    Untag(One),
    /// Give a share of the clients that ask for a tag another adapter. With the share alone, change that.
    Canary {
        #[command(flatten)]
        place: Place,
        /// The tag.
        tag: TagName,
        /// The share, in thousandths: 1 to 1000.
        #[arg(long)]
        permille: Permille,
        /// The adapter's run; without a round, its latest.
        #[arg(long)]
        run: Option<String>,
        #[command(flatten)]
        which: Which,
    },
    /// Have a tag name what is its canary, for all clients.
    Promote(One),
    /// Remove snapshots, and the states behind them, that nobody needs: older than so many last rounds, neither
    /// tagged nor the best, nor such as late or returning clients need. Records and receipts stay.
    Prune {
        #[command(flatten)]
        place: Place,
        /// The run: its id, the beginning of it, or its name. Without, each.
        run: Option<String>,
        /// How many of the last rounds to keep.
        #[arg(long, value_name = "ROUNDS")]
        keep: NonZeroU32,
        /// Only tell what would go.
        #[arg(long)]
        dry_run: bool,
    },
    /// Take a tag's canary back: all clients are given what the tag names.
    Withdraw(One),
}

/// Which adapter of a run; none: the latest.
#[derive(Args)]
pub(super) struct Which {
    /// That which this round starts from.
    #[arg(long)]
    round: Option<u64>,
    /// The best: of the lowest loss on what clients hold out, or in training.
    #[arg(long, conflicts_with = "round")]
    best: bool,
}

#[derive(Args)]
pub(super) struct One {
    #[command(flatten)]
    place: Place,
    /// The tag.
    tag: TagName,
}

pub(super) async fn run(command: Snapshot, json: bool) -> Result<()> {
    match command {
        Snapshot::List { place } => {
            let tags = place.coordinator().await?.tags().await?;
            print(json, &serde_json::to_value(&tags)?, &table(&tags))
        }
        Snapshot::Tag { place, run, tag, which } => {
            let (coordinator, adapter) = adapter(&place, &run, &which).await?;
            show(&coordinator.set_tag(&tag, adapter).await?, json)
        }
        Snapshot::Untag(One { place, tag }) => {
            place.coordinator().await?.remove_tag(&tag).await?;
            print(json, &json!({ "tag": tag }), &format!("tag {tag} is dropped"))
        }
        Snapshot::Canary { place, tag, permille, run, which } => {
            let (coordinator, canary) = match run {
                Some(run) => {
                    let (coordinator, canary) = adapter(&place, &run, &which).await?;
                    (coordinator, Some(canary))
                }
                None if which.round.is_some() || which.best => {
                    anyhow::bail!("--round and --best are of a run: give --run too")
                }
                None => (place.coordinator().await?, None),
            };
            show(&coordinator.set_canary(&tag, canary, permille).await?, json)
        }
        Snapshot::Promote(One { place, tag }) => {
            let coordinator = place.coordinator().await?;
            coordinator.end_canary(&tag, true).await?;
            show(&coordinator.tag(&tag).await?, json)
        }
        Snapshot::Prune { place, run, keep, dry_run } => {
            let (coordinator, views) = match run {
                Some(run) => {
                    let (coordinator, view) = find(&place, Some(&run)).await?;
                    (coordinator, vec![view])
                }
                None => {
                    let coordinator = place.coordinator().await?;
                    let views = coordinator.runs().await?;
                    (coordinator, views)
                }
            };
            let (mut told, mut lines) = (Vec::new(), Vec::new());
            for view in views {
                let pruned = coordinator.prune(view.run, keep, dry_run).await?;
                let Pruned { snapshots, states, bytes } = &pruned;
                let verb = if dry_run { "would remove" } else { "removed" };
                lines.push(format!(
                    "run {}: {verb} {} snapshots and {} states, {bytes} bytes",
                    view.run,
                    snapshots.len(),
                    states.len()
                ));
                told.push(json!({ "run": view.run, "dry_run": dry_run, "pruned": pruned }));
            }
            print(json, &json!(told), &lines.join("\n"))
        }
        Snapshot::Withdraw(One { place, tag }) => {
            let coordinator = place.coordinator().await?;
            coordinator.end_canary(&tag, false).await?;
            show(&coordinator.tag(&tag).await?, json)
        }
    }
}

async fn adapter(
    place: &Place,
    run: &str,
    Which { round, best }: &Which,
) -> Result<(crate::coordinator::Coordinator, Adapter)> {
    let (coordinator, view) = find(place, Some(run)).await?;
    let round = which(&coordinator, &view, *round, *best).await?.unwrap_or(view.round);
    Ok((coordinator, Adapter { run: view.run, round }))
}

fn show(tag: &Tag, json: bool) -> Result<()> {
    print(json, &serde_json::to_value(tag)?, &line(tag))
}

fn table(tags: &[Tag]) -> String {
    if tags.is_empty() {
        return "no tags".to_owned();
    }
    tags.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn line(Tag { project, tag, adapter: Adapter { run, round }, canary, .. }: &Tag) -> String {
    let mut line = format!("{project}/{tag}  run {run} round {round}");
    if let Some(Canary { adapter: Adapter { run, round }, permille, .. }) = canary {
        let permille = u16::from(*permille);
        line.push_str(&format!("  canary, for {permille} in 1000: run {run} round {round}"));
    }
    line
}
