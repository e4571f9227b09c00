//! `token new | list | revoke`: enrolment tokens.

use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use gossamer_protocol::digest::Digest;
use serde_json::json;

use super::{Place, duration, print};
use crate::config::Config;
use crate::setup;

#[derive(Subcommand)]
pub(super) enum Token {
    /// Make enrolment tokens.
    New {
        #[command(flatten)]
        place: Place,
        /// How many.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        count: u32,
        /// For how many clients each of them is good.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        quota: u32,
        /// How long they are good for: a number and s, m, h or d.
        #[arg(long, default_value = "24h", value_parser = duration)]
        ttl: Duration,
    },
    /// List enrolment tokens by the hashes of their secrets, the one that lasts longest first.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Void an enrolment token; who enrolled with it stays.
    Revoke {
        #[command(flatten)]
        place: Place,
        /// The hash of its secret, as `token list` shows it.
        token: Digest,
    },
}

pub(super) async fn run(command: Token, json: bool) -> Result<()> {
    match command {
        Token::New { place, count, quota, ttl } => {
            let config = Config::load(&place.dir)?;
            let coordinator = place.coordinator().await?;
            let key = coordinator.public_key();
            let mut tokens = Vec::new();
            for secret in coordinator.new_tokens(count as usize, quota, ttl).await? {
                tokens.push(setup::join_token_of(&config, secret, key)?.encode());
            }
            print(json, &json!(tokens), &tokens.join("\n"))
        }
        Token::List { place } => {
            let rows = place.coordinator().await?.tokens(100_000).await?;
            let mut lines = vec![format!("{:64}  {:>9}  expires (Unix ms)", "token", "used")];
            for row in &rows {
                let used = format!("{}/{}", row.used, row.quota);
                lines.push(format!("{}  {used:>9}  {}", row.token, row.expires_ms));
            }
            print(json, &serde_json::to_value(&rows)?, &lines.join("\n"))
        }
        Token::Revoke { place, token } => {
            place.coordinator().await?.revoke_token(token).await?;
            print(json, &json!({ "token": token }), &format!("token {token} is void"))
        }
    }
}
