//! `rotate-key`: a device gets another key and stays the client that it was.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::certificate::Certificate;
use super::runtime;
use crate::client::Client;

#[derive(Args)]
pub(super) struct RotateKey {
    /// The aggregator's address, https://HOST:PORT.
    url: String,
    /// Where the device's key and its progress are kept.
    #[arg(long, default_value = "gossamer-state")]
    state: PathBuf,
    #[command(flatten)]
    certificate: Certificate,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

impl RotateKey {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let builder = Client::builder(self.url).state_dir(self.state);
        let builder = self.certificate.with(builder)?;
        runtime()?.block_on(async {
            let client = builder.connect().await?;
            let (id, key) = (client.id(), client.rotate_key().await?);
            if self.json {
                println!("{}", json!({ "client": id, "key": key }));
            } else {
                println!("client {id} signs with {key} from now on");
            }
            Ok(())
        })
    }
}
