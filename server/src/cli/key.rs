//! `key list | rotate`: the server's signing keys.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

use super::{duration, print};
use crate::coordinator::CoordinatorError;
use crate::setup;

#[derive(Subcommand)]
pub(super) enum Key {
    /// List the server's keys in the order in which they followed one another.
    List {
        /// The server's directory.
        dir: PathBuf,
    },
    /// Make a new key that follows the newest one. Clients follow by themselves.
    Rotate {
        /// The server's directory.
        dir: PathBuf,
        /// When the new key begins to sign: a number and s, m, h or d. Until then its secret must be with every
        /// server that shares the store. Without, at once.
        #[arg(long = "in", value_name = "TIME", value_parser = duration)]
        wait: Option<Duration>,
        /// How long from then on what the old one signed is believed.
        #[arg(long, value_name = "TIME", default_value = "30d", value_parser = duration)]
        overlap: Duration,
    },
}

pub(super) async fn run(command: Key, json: bool) -> Result<()> {
    match command {
        Key::List { dir } => {
            let coordinator = setup::coordinator(&dir).await?;
            let (chain, signs) = (coordinator.rotations(), coordinator.public_key());
            let first = chain.first().map_or(signs, |next| next.from);
            let has = |key| setup::has_key(&dir, &key);
            let secret = |key| if has(key) { "" } else { ", its secret is not here" };
            let mut lines = vec![format!("{first}  the first{}", secret(first))];
            lines.extend(chain.iter().map(|next| {
                let (to, at, until) = (next.to, next.at_ms, next.until_ms);
                let secret = secret(to);
                format!("{to}  from {at} on, the one before until {until} (Unix ms){secret}")
            }));
            lines.push(format!("this directory signs with {signs}"));
            let here = std::iter::once(first).chain(chain.iter().map(|next| next.to));
            let here: Vec<_> = here.filter(|key| has(*key)).collect();
            let value = json!({ "first": first, "signs": signs, "here": here, "rotations": chain });
            print(json, &value, &lines.join("\n"))
        }
        Key::Rotate { dir, wait, overlap } => {
            let coordinator = setup::coordinator(&dir).await?;
            // First, so that no statement names a key whose secret was not kept.
            let (key, file) = setup::new_key(&dir)?;
            let wait = wait.unwrap_or(Duration::ZERO);
            let made = match coordinator.rotate_key(&key, wait, overlap).await {
                Ok(made) => made,
                Err(error @ (CoordinatorError::NoSecret(_) | CoordinatorError::RotatedBefore)) => {
                    let _ = std::fs::remove_file(&file);
                    return Err(error.into());
                }
                // The statement may be in the store, whatever was answered: the secret stays.
                Err(error) => return Err(error.into()),
            };
            let text = format!(
                "{} follows {} from {} on (Unix ms)\nits secret is {}: copy it to every server of \
                 this store, and into the backup",
                made.to,
                made.from,
                made.at_ms,
                file.display()
            );
            print(json, &json!({ "rotation": made, "file": file }), &text)
        }
    }
}
