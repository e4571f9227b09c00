//! `operator add | list | revoke`: who may use the admin API.

use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

use super::{Place, duration, print};
use crate::operator::{OperatorName, Role};

#[derive(Subcommand)]
pub(super) enum Operator {
    /// Make an operator, of one project or of all; prints its token, which is kept only as a hash.
    Add {
        #[command(flatten)]
        place: Place,
        /// What it is called; the audit log tells it.
        name: OperatorName,
        /// What it may do.
        #[arg(long, value_enum, default_value = "viewer")]
        role: Role,
        /// How long its token is good for: a number and s, m, h or d. Without, until it is revoked.
        #[arg(long, value_parser = duration)]
        ttl: Option<Duration>,
    },
    /// List operators by name.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Void an operator's token, at once.
    Revoke {
        #[command(flatten)]
        place: Place,
        /// Which.
        name: OperatorName,
    },
}

pub(super) async fn run(command: Operator, json: bool) -> Result<()> {
    match command {
        Operator::Add { place, name, role, ttl } => {
            let (made, token) = place.coordinator().await?.add_operator(name, role, ttl).await?;
            print(json, &json!({ "operator": made, "token": token }), &token)
        }
        Operator::List { place } => {
            let all = place.coordinator().await?.operators().await?;
            let mut lines = vec![format!("{:24}  {:8}  expires (Unix ms)", "operator", "role")];
            for one in &all {
                let expires =
                    one.expires_ms.map_or_else(|| "never".to_owned(), |at| at.to_string());
                lines.push(format!("{:24}  {:8}  {expires}", one.called(), one.role.name()));
            }
            print(json, &serde_json::to_value(&all)?, &lines.join("\n"))
        }
        Operator::Revoke { place, name } => {
            place.coordinator().await?.revoke_operator(&name).await?;
            print(json, &json!({ "operator": name }), &format!("operator {name} is revoked"))
        }
    }
}
