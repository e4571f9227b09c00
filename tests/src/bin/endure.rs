//! Many rounds of many clients, on servers that are killed and frozen at random:
//!
//! ```sh
//! cargo run --release -p gossamer-tests --bin endure -- --servers 2 --rounds 200 --clients 20
//! ```
//!
//! One server is embedded (SQLite and a folder); more share a PostgreSQL and an S3 server that it starts. Prints
//! what came of it, and fails where an acknowledged update was lost or counted twice, or the adapter differs.

use std::process::ExitCode;

use clap::Parser;
use gossamer_tests::endure::{Endured, Trial, endure};

#[derive(Parser)]
struct Args {
    /// How many servers.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=8))]
    servers: u16,
    /// How many rounds.
    #[arg(long, default_value_t = 200)]
    rounds: u64,
    /// How many clients, all of them in every round.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=128))]
    clients: u16,
    /// Longest pause between two disturbances, in milliseconds.
    #[arg(long, default_value_t = 2_000)]
    pause_ms: u64,
    /// Draws who is disturbed, when and how.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let trial = Trial {
        servers: args.servers.into(),
        rounds: args.rounds,
        clients: args.clients.into(),
        pause_ms: args.pause_ms,
        seed: args.seed,
    };
    let program = std::env::current_exe().expect("this program").with_file_name("aggregator");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let endured = runtime.block_on(endure(trial, &program));
    println!("{trial:?}");
    let Endured { acknowledged, lost, miscounted, kills, freezes, same, back, took } = endured;
    println!("acknowledged {acknowledged}, lost {lost}, miscounted {miscounted}");
    println!("kills {kills}, freezes {freezes}, as undisturbed: {same}");
    if let (Some(middle), Some(last)) = (back.get(back.len() / 2), back.last()) {
        println!(
            "serving again after {middle:?} in the median of {}, at most {last:?}",
            back.len()
        );
    }
    println!(
        "{acknowledged} of {} updates acknowledged, {:.1} rounds/s",
        trial.rounds * trial.clients as u64,
        trial.rounds as f64 / took.as_secs_f64()
    );
    let good = lost == 0 && miscounted == 0 && same;
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
