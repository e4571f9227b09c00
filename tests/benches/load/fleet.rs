//! An aggregator in a process of its own, and its devices.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use gossamer_client::transport::https::Https;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{ClientId, RoundId, RunId};
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::message::{Enrolment, JoinToken};
use gossamer_protocol::rng::Stream;
use gossamer_protocol::sign::SigningKey;
use gossamer_server::config::Config;
use gossamer_server::setup;
use gossamer_tests::device::{self, Device};
use gossamer_tests::{Process, unlimited};
use tempfile::TempDir;

use super::Outcome;

/// An aggregator that serves a folder of its own.
pub(crate) struct Aggregator {
    dir: TempDir,
    pub(crate) address: SocketAddr,
    process: Process,
    token: JoinToken,
}

impl Aggregator {
    /// Makes one with `enrolled` clients that never ask, and a token for any number of others.
    pub(crate) async fn start(enrolled: usize) -> Outcome<Self> {
        let dir = tempfile::tempdir()?;
        let limits = unlimited();
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config {
            dir: dir.path().to_owned(),
            listen,
            limits,
            tick_ms: 20,
            connections_max: 4_096,
            ..Config::default()
        };
        setup::init(dir.path(), &[], &config).await?;
        let coordinator = setup::coordinator(dir.path()).await?;
        let secret =
            coordinator.new_tokens(1, 1 << 20, Duration::from_secs(1 << 20)).await?.remove(0);
        for n in 0..enrolled {
            let key = SigningKey::from_seed(&Digest::of(format!("idle {n}").as_bytes()).0);
            coordinator.enrol(&Enrolment::new(&secret, &key)).await?;
        }
        let token = gossamer_server::join_token(&config, secret)?;
        coordinator.store().close().await;
        drop(coordinator);
        let mut child = Command::new(env!("CARGO_BIN_EXE_server-cli"))
            .args(["serve", &dir.path().display().to_string(), "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no output")?;
        let process = Process(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let told: serde_json::Value = serde_json::from_str(&line)?;
        let address = told["listening"].as_str().ok_or("it does not say where")?.parse()?;
        Ok(Self { dir, address, process, token })
    }

    /// A run, made beside the serving process, as the command line does.
    pub(crate) async fn run(&self, manifest: &Manifest) -> Outcome<RunId> {
        let coordinator = setup::coordinator(self.dir.path()).await?;
        let run = coordinator.create_run(manifest).await?;
        coordinator.store().close().await;
        Ok(run)
    }

    /// Enrols device `n`.
    pub(crate) async fn device(&self, n: usize) -> Outcome<Device<Https>> {
        let (key, url) = (device::key(n), format!("https://{}", self.address));
        let transport = Https::new(&url, self.token.ca.as_deref(), key.clone())?;
        Ok(Device::enrol(transport, &self.token.secret, &key).await?)
    }

    /// The certificate authority to trust, PEM.
    pub(crate) fn ca(&self) -> Outcome<Vec<u8>> {
        Ok(std::fs::read(self.dir.path().join(Config::default().tls.ca))?)
    }

    /// Processor seconds it has used.
    pub(crate) fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.0.id()));
        let stat = stat.unwrap_or_default();
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let ticks: Vec<f64> =
            after.split_whitespace().skip(11).take(2).filter_map(|w| w.parse().ok()).collect();
        // Linux counts in hundredths of a second, whatever its own clock.
        ticks.iter().sum::<f64>() / 100.0
    }

    /// MiB resident now, and at most.
    pub(crate) fn memory(&self) -> (f64, f64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.0.id()));
        let status = status.unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            kib.unwrap_or(f64::NAN) / 1024.0
        };
        (field("VmRSS:"), field("VmHWM:"))
    }
}

/// Drawn values, another lot for each client and round.
pub(crate) fn drawn(n: usize, client: ClientId, round: RoundId) -> Vec<f32> {
    let mut rng = Stream::new(1, "load", &[&client.0, &round.0.to_le_bytes()]);
    (0..n).map(|_| (rng.unit_f64() * 0.02 - 0.01) as f32).collect()
}
