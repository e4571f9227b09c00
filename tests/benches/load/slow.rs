//! Clients that behave beside connections that dribble.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gossamer_client::transport::Transport as _;
use gossamer_client::transport::https::Https;
use gossamer_protocol::message::CheckIn;
use gossamer_tests::device::Device;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::fleet::Aggregator;
use super::{Outcome, Teller, quantile};

const GOOD: usize = 50;
const SLOW: usize = 1_000;
/// How long each of the two is watched.
const WATCHED: Duration = Duration::from_secs(20);
/// Between two requests of a client that behaves.
const PAUSE: Duration = Duration::from_millis(500);
/// Between two bytes of one that does not.
const DRIBBLE: Duration = Duration::from_secs(3);

pub(crate) async fn run(teller: Teller) -> Outcome {
    let aggregator = Aggregator::start(0).await?;
    let mut good = Vec::new();
    for n in 0..GOOD {
        good.push(Arc::new(aggregator.device(n).await?));
    }
    // The first requests make the connections.
    watch(&good, Duration::from_secs(2)).await?;
    let mut quiet = watch(&good, WATCHED).await?;
    let open = Arc::new(AtomicUsize::new(0));
    let mut slow = tokio::task::JoinSet::new();
    let tls = connector(&aggregator.ca()?)?;
    for n in 0..SLOW {
        let (tls, open, address) = (tls.clone(), open.clone(), aggregator.address);
        slow.spawn(async move {
            // They do not all come at one moment.
            tokio::time::sleep(Duration::from_millis(5 * n as u64)).await;
            loop {
                // Cut off, as it should be, it comes again.
                let _ = dribble(&tls, address, &open).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    let before = open.load(Ordering::Relaxed);
    let mut crowded = watch(&good, WATCHED).await?;
    let after = open.load(Ordering::Relaxed);
    slow.shutdown().await;
    let (p50, p99) = (quantile(&mut quiet, 0.5), quantile(&mut quiet, 0.99));
    let (p50s, p99s) = (quantile(&mut crowded, 0.5), quantile(&mut crowded, 0.99));
    let peak = aggregator.memory().1;
    let words = format!(
        "check-ins of {GOOD} clients: quiet p50 {p50:.1} ms, p99 {p99:.1} ms ({} of them); beside {before} to \
         {after} slow connections p50 {p50s:.1} ms, p99 {p99s:.1} ms ({} of them), {:.2}x at p99; {peak:.0} MiB",
        quiet.len(),
        crowded.len(),
        p99s / p99,
    );
    let numbers = json!({
        "part": "slow", "slow": before, "p50_ms": p50, "p99_ms": p99, "slow_p50_ms": p50s,
        "slow_p99_ms": p99s, "ratio": p99s / p99, "peak_mib": peak,
    });
    teller.tell(&words, &numbers);
    Ok(())
}

/// How long each check-in took.
async fn watch(devices: &[Arc<Device<Https>>], how_long: Duration) -> Outcome<Vec<Duration>> {
    let end = Instant::now() + how_long;
    let mut work = tokio::task::JoinSet::new();
    for (n, device) in devices.iter().cloned().enumerate() {
        work.spawn(async move {
            tokio::time::sleep(PAUSE.mul_f64(n as f64 / GOOD as f64)).await;
            let mut took = Vec::new();
            while Instant::now() < end {
                let asked = Instant::now();
                device.transport.check_in(&CheckIn { run: None }).await?;
                took.push(asked.elapsed());
                tokio::time::sleep(PAUSE).await;
            }
            Outcome::Ok(took)
        });
    }
    let mut all = Vec::new();
    while let Some(done) = work.join_next().await {
        all.extend(done??);
    }
    Ok(all)
}

fn connector(ca: &[u8]) -> Outcome<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        roots.add(certificate?)?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A head that comes byte by byte, from an address of its own so that it meets no limit of the others'.
async fn dribble(tls: &TlsConnector, to: SocketAddr, open: &AtomicUsize) -> Outcome {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(IpAddr::from([127, 0, 0, 2]), 0))?;
    let stream = socket.connect(to).await?;
    let mut stream = tls.connect(ServerName::try_from("localhost")?, stream).await?;
    open.fetch_add(1, Ordering::Relaxed);
    let mut head =
        b"POST /v1/check-in HTTP/1.1\r\nhost: localhost\r\nx: ".iter().chain(&[b'y'; 64]);
    let cut = async {
        for byte in &mut head {
            stream.write_all(&[*byte]).await?;
            stream.flush().await?;
            tokio::time::sleep(DRIBBLE).await;
        }
        Outcome::Ok(())
    };
    let cut = cut.await;
    open.fetch_sub(1, Ordering::Relaxed);
    cut
}
