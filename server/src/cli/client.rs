//! `client list | show | revoke | free-certificate`.

use anyhow::Result;
use clap::Subcommand;
use gossamer_protocol::ids::ClientId;
use serde_json::json;

use super::{Place, print};
use crate::coordinator::{ClientState, ClientView};

#[derive(Subcommand)]
pub(super) enum Client {
    /// List clients by id.
    List {
        #[command(flatten)]
        place: Place,
        /// Only those behind this one.
        #[arg(long)]
        after: Option<ClientId>,
        /// How many at most.
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Show a client, and what it did in each run.
    Show {
        #[command(flatten)]
        place: Place,
        /// The client.
        client: ClientId,
    },
    /// Revoke a client, for good: what it signs is refused, also by a server that is running.
    Revoke {
        #[command(flatten)]
        place: Place,
        /// The client.
        client: ClientId,
        /// Why; the audit log tells it.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Free a client of its TLS certificate: the next one that it shows, signed by it, is its own.
    FreeCertificate {
        #[command(flatten)]
        place: Place,
        /// The client.
        client: ClientId,
    },
}

pub(super) async fn run(command: Client, json: bool) -> Result<()> {
    match command {
        Client::List { place, after, limit } => {
            let views = place.coordinator().await?.clients(after, limit).await?;
            let mut lines = vec![format!("{:32}  {:8}  enrolled (Unix ms)", "client", "state")];
            lines.extend(views.iter().map(line));
            print(json, &serde_json::to_value(&views)?, &lines.join("\n"))
        }
        Client::Show { place, client } => {
            let view = place.coordinator().await?.client(client).await?;
            let mut lines = vec![line(&view)];
            lines.extend(view.row.certificate.iter().map(|of| format!("shows certificate {of}")));
            lines.extend(view.row.reason.iter().map(|reason| format!("revoked: {reason}")));
            for (run, part) in view.runs.iter().flatten() {
                lines.push(format!(
                    "run {run}: {} updates, last in round {}",
                    part.updates, part.last
                ));
            }
            print(json, &serde_json::to_value(&view)?, &lines.join("\n"))
        }
        Client::Revoke { place, client, reason } => {
            place.coordinator().await?.revoke(client, &reason).await?;
            print(json, &json!({ "client": client }), &format!("client {client} is revoked"))
        }
        Client::FreeCertificate { place, client } => {
            place.coordinator().await?.free_certificate(client).await?;
            let text = format!("client {client} may show another certificate");
            print(json, &json!({ "client": client }), &text)
        }
    }
}

fn line(view: &ClientView) -> String {
    let state = match view.state {
        ClientState::Enrolled => "enrolled",
        ClientState::Revoked => "revoked",
    };
    let enrolled = view.row.enrolled_ms.map_or_else(|| "-".to_owned(), |at| at.to_string());
    format!("{}  {state:8}  {enrolled}", view.row.client)
}
