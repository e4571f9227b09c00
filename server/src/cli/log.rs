//! `log` and `verify-log`: the audit log.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::print;
use crate::audit::Head;
use crate::setup;

#[derive(Args)]
pub(super) struct Log {
    /// The server's directory.
    dir: PathBuf,
    /// How many entries, from the latest.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    last: u32,
}

#[derive(Args)]
pub(super) struct Verify {
    /// The server's directory.
    dir: PathBuf,
    /// An entry's number and hash that were kept elsewhere: it must still be there.
    #[arg(long, value_name = "SEQ:HASH", value_parser = head)]
    seen: Option<Head>,
}

pub(super) async fn log(Log { dir, last }: Log, json: bool) -> Result<()> {
    let entries = setup::store(&dir).await?.audit(&None, u64::MAX, last).await?;
    let mut lines = Vec::new();
    for entry in entries.iter().rev() {
        lines.push(if json { serde_json::to_string(entry)? } else { entry.entry.to_string() });
    }
    let value: Vec<Value> =
        lines.iter().map(|l| serde_json::from_str(l)).collect::<Result<_, _>>()?;
    print(json, &json!(value), &lines.join("\n"))
}

/// Fails where the log is not what it was.
pub(super) async fn verify(Verify { dir, seen }: Verify, json: bool) -> Result<()> {
    let store = setup::store(&dir).await?;
    let key = setup::signing_key(&dir)?.public();
    match store.verify_audit(&key, seen).await {
        Ok(Head { seq, hash }) => {
            let text = format!("{seq} entries, whole\nhead {seq}:{hash}");
            print(json, &json!({ "entries": seq, "head": format!("{seq}:{hash}") }), &text)
        }
        Err(fault) => bail!(fault),
    }
}

fn head(text: &str) -> Result<Head, String> {
    let bad = || "expected a number, a colon and 64 hexadecimal digits".to_owned();
    let (seq, hash) = text.split_once(':').ok_or_else(bad)?;
    Ok(Head { seq: seq.parse().map_err(|_| bad())?, hash: hash.parse().map_err(|_| bad())? })
}
