//! The command line; a binary only calls [`main`].
//!
//! Results go to stdout, everything else to stderr; an error is one line there and exit code 1 (2 for
//! a command line that cannot be parsed).

mod client;
mod doctor;
mod key;
mod log;
mod operator;
mod project;
mod run;
mod show;
mod snapshot;
mod token;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::config::{self, Admin, Config};
use crate::coordinator::Coordinator;
use crate::http::serve::Listeners;
use crate::problem::told;
use crate::project::ProjectName;
use crate::setup::{self, ServeLock};
use crate::telemetry;

/// The Gossamer aggregator.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Log as JSON lines. RUST_LOG chooses what is logged.
    #[arg(long, global = true)]
    log_json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Make a server's directory: keys, a development CA, a configuration, an empty store.
    Init(Init),
    /// Serve a directory until interrupted.
    Serve(Serve),
    /// Projects: whose runs, clients, tokens and operators are.
    #[command(subcommand)]
    Project(project::Project),
    /// Enrolment tokens.
    #[command(subcommand)]
    Token(token::Token),
    /// Clients.
    #[command(subcommand)]
    Client(client::Client),
    /// The server's signing keys.
    #[command(subcommand)]
    Key(key::Key),
    /// Operators: who may use the admin API.
    #[command(subcommand)]
    Operator(operator::Operator),
    /// Runs.
    #[command(subcommand)]
    Run(run::Run),
    /// Names for adapters, which apps ask for, and canaries.
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    /// Look at a server's directory: what is wrong, and what to do.
    Doctor(doctor::Doctor),
    /// Show the latest entries of the audit log.
    Log(log::Log),
    /// Check that the audit log is what it was; tells the first entry that is not.
    VerifyLog(log::Verify),
}

#[derive(Args)]
struct Init {
    /// The directory.
    dir: PathBuf,
    /// A further DNS name or IP address that clients reach the server by.
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Address of the admin API and the dashboard. Without, the port after on the loopback address.
    #[arg(long)]
    admin: Option<SocketAddr>,
    /// The Postgres database for the rows, which other servers may share: postgres://USER@HOST/NAME. Its
    /// password is read from PGPASSWORD or ~/.pgpass.
    #[arg(long, value_name = "URL", requires = "objects")]
    database: Option<String>,
    /// The S3-compatible store for the objects: s3://BUCKET/PREFIX. Its keys are read from
    /// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, its region from AWS_REGION.
    #[arg(long, value_name = "URL")]
    objects: Option<String>,
    /// Where the bucket is spoken to, where that is not AWS.
    #[arg(long, value_name = "URL", requires = "objects")]
    endpoint: Option<String>,
}

#[derive(Args)]
struct Serve {
    /// The server's directory.
    dir: PathBuf,
    /// Address to listen on, instead of the configuration's.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Send traces to the collector at this address, instead of the configuration's: OTLP over HTTP, such as
    /// http://localhost:4318.
    #[arg(long, value_name = "URL")]
    otlp: Option<String>,
}

/// What a command works on.
#[derive(Args)]
struct Place {
    /// The server's directory.
    dir: PathBuf,
    /// Only what is this project's; what is made is its. Without: all there is, and the project "default".
    #[arg(long, value_name = "NAME")]
    project: Option<ProjectName>,
}

impl Place {
    async fn coordinator(&self) -> Result<Coordinator> {
        Ok(setup::coordinator(&self.dir).await?.narrowed(self.project.clone()).await?)
    }
}

/// Parses, runs, and tells an error in one line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("gossamer-server: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let started = {
        let _within = runtime.enter();
        telemetry::start(cli.log_json, &traces(&cli.command))
    };
    let telemetry = match started {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("gossamer-server: {}", told(&error));
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(dispatch(cli.command, cli.json));
    // What is left is sent while there is a runtime.
    drop(telemetry);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error: &(dyn std::error::Error + 'static) = error.as_ref();
            eprintln!("gossamer-server: {}", told(error));
            ExitCode::FAILURE
        }
    }
}

/// Where traces of `command` go. A configuration that cannot be read is told of by the command itself.
fn traces(command: &Command) -> config::Otlp {
    let Command::Serve(Serve { dir, otlp, .. }) = command else { return config::Otlp::default() };
    let mut traces = Config::load(dir).map(|config| config.otlp).unwrap_or_default();
    traces.endpoint = otlp.clone().or(traces.endpoint);
    traces
}

async fn dispatch(command: Command, json: bool) -> Result<()> {
    match command {
        Command::Init(args) => init(args, json).await,
        Command::Serve(args) => serve(args, json).await,
        Command::Project(project) => project::run(project, json).await,
        Command::Token(token) => token::run(token, json).await,
        Command::Client(client) => client::run(client, json).await,
        Command::Key(key) => key::run(key, json).await,
        Command::Operator(operator) => operator::run(operator, json).await,
        Command::Run(run) => run::run(run, json).await,
        Command::Snapshot(snapshot) => snapshot::run(snapshot, json).await,
        Command::Doctor(args) => doctor::run(args, json).await,
        Command::Log(args) => log::log(args, json).await,
        Command::VerifyLog(args) => log::verify(args, json).await,
    }
}

async fn init(args: Init, json: bool) -> Result<()> {
    let Init { dir, names, listen, admin, database, objects, endpoint } = args;
    let store = config::Store { database, objects, endpoint, ..config::Store::default() };
    // Port 0 is any, and so is the one after.
    let next = if listen.port() == 0 { 0 } else { listen.port().checked_add(1).unwrap_or(8444) };
    let admin = admin.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], next)));
    let admin = Admin { listen: Some(admin), ..Admin::default() };
    let config = Config { listen, admin, store, ..Config::default() };
    setup::init(&dir, &names, &config).await?;
    let key = setup::signing_key(&dir)?.public();
    let text = format!("made {}\nserver key {key}\nnext: gossamer-server serve {0}", dir.display());
    print(json, &json!({ "dir": dir, "server_key": key, "listen": listen }), &text)
}

async fn serve(Serve { dir, listen, .. }: Serve, json: bool) -> Result<()> {
    let config = Config::load(&dir)?;
    let clients = bind(listen.unwrap_or(config.listen)).await?;
    let admin = match config.admin.listen {
        Some(address) => Some(bind(address).await.context("the admin API cannot be served")?),
        None => None,
    };
    let address = clients.local_addr()?;
    let admin_address = admin.as_ref().map(TcpListener::local_addr).transpose()?;
    // As `run` does, but what cannot be served is known before anybody is told of an address.
    let _lock = ServeLock::take(&dir)?;
    let coordinator = setup::coordinator(&dir).await?;
    let store = coordinator.store().clone();
    let stopped = stopped()?;
    // For whoever started it on port 0.
    let mut text = format!("listening on https://{address}");
    if let Some(admin) = admin_address {
        text.push_str(&format!("\nadmin API and dashboard on https://{admin}"));
    }
    print(json, &json!({ "listening": address, "admin": admin_address }), &text)?;
    crate::serve(coordinator, &config, Listeners { clients, admin }, stopped).await?;
    store.close().await;
    Ok(())
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Ready at Ctrl-C or SIGTERM, from now on: whoever was told of the address may send one.
fn stopped() -> Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        Ok(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        })
    }
    #[cfg(not(unix))]
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
    })
}

/// A result, as JSON or in words. A reader that went away is no failure.
fn print(json: bool, value: &Value, text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let done = if json { writeln!(out, "{value}") } else { writeln!(out, "{text}") };
    match done.and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let bad = || "expected a positive number and s, m, h or d, as in 24h".to_owned();
    let unit = text.chars().next_back().ok_or_else(bad)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(bad()),
    };
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| bad())?;
    let total = number.checked_mul(seconds).filter(|&total| total > 0);
    total.map(Duration::from_secs).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2d"), Ok(Duration::from_secs(172_800)));
        for bad in ["", "5", "h", "0s", "-1h", "1w", "99999999999999999999d", "5ss"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
