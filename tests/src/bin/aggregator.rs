//! The aggregator as a process of its own, so that a test can kill it: `aggregator DIR ADDRESS`.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use gossamer_server::config::Config;
use tokio::net::TcpListener;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args_os().skip(1);
    let dir = PathBuf::from(args.next().context("DIR")?);
    let address = args.next().and_then(|a| a.into_string().ok()).context("ADDRESS")?;
    let address: SocketAddr = address.parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let config = Config { tick_ms: 20, ..Config::load(&dir)? };
        let listener = TcpListener::bind(address).await?;
        Ok(gossamer_server::run(config, listener, std::future::pending()).await?)
    })
}
