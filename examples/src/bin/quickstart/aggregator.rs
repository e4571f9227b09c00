//! The aggregator of this process: its own keys and certificate authority, a free port, real HTTPS.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use gossamer_server::config::Config;
use gossamer_server::coordinator::Coordinator;
use gossamer_server::{serve, setup};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(super) struct Aggregator {
    pub(super) url: String,
    pub(super) coordinator: Coordinator,
    config: Config,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl Aggregator {
    /// Makes a new aggregator in `dir`, in place of one from an earlier quick start.
    pub(super) async fn start(dir: &Path) -> anyhow::Result<Self> {
        if dir.exists() {
            std::fs::remove_dir_all(dir)
                .with_context(|| format!("cannot empty {}", dir.display()))?;
        }
        let config = Config { dir: dir.to_owned(), ..Config::default() };
        setup::init(dir, &[], &config).await?;
        let coordinator = setup::coordinator(dir).await?;
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let url = format!("https://{}", listener.local_addr()?);
        let (stop, stopped) = oneshot::channel::<()>();
        let (served, settings) = (coordinator.clone(), config.clone());
        let serving = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            Ok(serve(served, &settings, listener, shutdown).await?)
        });
        Ok(Self { url, coordinator, config, stop, serving })
    }

    /// Lets requests under way end, and stops.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        let _ = self.stop.send(());
        self.serving.await.context("the aggregator's task failed")?
    }

    /// A token for one device.
    pub(super) async fn token(&self) -> anyhow::Result<String> {
        let secret = self.coordinator.new_token(Duration::from_secs(600)).await?;
        Ok(gossamer_server::join_token(&self.config, secret)?.encode())
    }
}
