//! The command line; a binary only calls [`main`].
//!
//! Results go to stdout, everything else to stderr; an error is one line there and exit code 1 (2 for
//! a command line that cannot be parsed).

mod log;
mod run;
mod show;

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::config::Config;
use crate::problem::told;
use crate::setup::{self, ServeLock};

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
    /// Enrolment tokens.
    #[command(subcommand)]
    Token(Token),
    /// Runs.
    #[command(subcommand)]
    Run(run::Run),
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
}

#[derive(Args)]
struct Serve {
    /// The server's directory.
    dir: PathBuf,
    /// Address to listen on, instead of the configuration's.
    #[arg(long)]
    listen: Option<SocketAddr>,
}

#[derive(Subcommand)]
enum Token {
    /// Make enrolment tokens: each good once.
    New {
        /// The server's directory.
        dir: PathBuf,
        /// How many.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        count: u32,
        /// How long they are good for: a number and s, m, h or d.
        #[arg(long, default_value = "24h", value_parser = duration)]
        ttl: Duration,
    },
}

/// Parses, runs, and tells an error in one line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(cli.log_json);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("gossamer-server: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(dispatch(cli.command, cli.json)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error: &(dyn std::error::Error + 'static) = error.as_ref();
            eprintln!("gossamer-server: {}", told(error));
            ExitCode::FAILURE
        }
    }
}

fn log_to_stderr(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "warn,gossamer_server=info".into());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    if json { builder.json().init() } else { builder.init() }
}

async fn dispatch(command: Command, json: bool) -> Result<()> {
    match command {
        Command::Init(args) => init(args, json).await,
        Command::Serve(args) => serve(args, json).await,
        Command::Token(Token::New { dir, count, ttl }) => tokens(dir, count, ttl, json).await,
        Command::Run(run) => run::run(run, json).await,
        Command::Log(args) => log::log(args, json).await,
        Command::VerifyLog(args) => log::verify(args, json).await,
    }
}

async fn init(Init { dir, names, listen }: Init, json: bool) -> Result<()> {
    let config = Config { listen, ..Config::default() };
    setup::init(&dir, &names, &config).await?;
    let key = setup::signing_key(&dir)?.public();
    let text = format!("made {}\nserver key {key}\nnext: gossamer-server serve {0}", dir.display());
    print(json, &json!({ "dir": dir, "server_key": key, "listen": listen }), &text)
}

async fn serve(Serve { dir, listen }: Serve, json: bool) -> Result<()> {
    let config = Config::load(&dir)?;
    let address = listen.unwrap_or(config.listen);
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    // As `run` does, but what cannot be served is known before anybody is told of an address.
    let _lock = ServeLock::take(&dir)?;
    let coordinator = setup::coordinator(&dir).await?;
    let store = coordinator.store().clone();
    // For whoever started it on port 0.
    print(json, &json!({ "listening": address }), &format!("listening on https://{address}"))?;
    crate::serve(coordinator, &config, listener, stopped()).await?;
    store.close().await;
    Ok(())
}

/// Ready at Ctrl-C or SIGTERM.
async fn stopped() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = interrupt.await;
}

async fn tokens(dir: PathBuf, count: u32, ttl: Duration, json: bool) -> Result<()> {
    let config = Config::load(&dir)?;
    let coordinator = setup::coordinator(&dir).await?;
    let mut tokens = Vec::new();
    for secret in coordinator.new_tokens(count as usize, ttl).await? {
        tokens.push(setup::join_token(&config, secret)?.encode());
    }
    print(json, &json!(tokens), &tokens.join("\n"))
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
