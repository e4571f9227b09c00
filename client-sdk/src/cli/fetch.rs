//! `fetch`: the adapter that a tag names, as PEFT keeps it.

use std::path::PathBuf;

use clap::Args;
use gossamer_protocol::tag::TagName;
use serde_json::json;

use super::runtime;
use crate::client::Client;
use crate::model::BaseModel;

#[derive(Args)]
pub(super) struct Fetch {
    /// The aggregator's address, https://HOST:PORT.
    url: String,
    /// What the operator calls the adapter, such as "stable".
    #[arg(long)]
    tag: TagName,
    /// The enrolment token; needed the first time.
    #[arg(long)]
    token: Option<String>,
    /// The adapter's base model.
    #[arg(long)]
    base: PathBuf,
    /// Where the device's key and what it received are kept.
    #[arg(long, default_value = "gossamer-state")]
    state: PathBuf,
    /// The folder to write, made where it is not there.
    #[arg(long)]
    out: PathBuf,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

impl Fetch {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let base = BaseModel::load(&self.base)?;
        let mut builder = Client::builder(self.url).state_dir(self.state);
        if let Some(token) = self.token {
            builder = builder.token(token);
        }
        let adapter = runtime()?.block_on(async {
            let client = builder.connect().await?;
            client.adapter(&self.tag).await
        })?;
        adapter.export(&self.out, &base)?;
        let (run, round, moved) = (adapter.run, adapter.round, adapter.moved);
        if self.json {
            let told = json!({
                "tag": self.tag, "run": run, "round": round, "moved": moved, "out": self.out,
            });
            println!("{told}");
        } else {
            let out = self.out.display();
            println!("wrote {out}: round {round} of run {run}; {moved} bytes of it travelled");
        }
        Ok(())
    }
}
