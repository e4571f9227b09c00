//! One connection: the handshake, then HTTP/2 or HTTP/1.1, with a limit to every wait.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::Watcher;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::callers::Callers;
use super::peer::Peer;
use super::rates::Source;
use super::stall::Impatient;
use crate::config::Config;
use crate::coordinator::Coordinator;

/// How long a connection lasts that is only told to come back.
const TURNED_AWAY: Duration = Duration::from_secs(5);
/// Bytes of bodies that a connection may hold unread, altogether and in one stream. Fixed: a window
/// that adapts grows to 16 MiB a connection.
const WINDOW: u32 = 1 << 18;
const STREAM_WINDOW: u32 = 1 << 17;

/// A permit, where there was one.
pub(super) type Place = Option<OwnedSemaphorePermit>;

/// What all connections share.
pub(super) struct Connections {
    tls: TlsAcceptor,
    builder: Builder<TokioExecutor>,
    router: Router,
    handshake_timeout: Duration,
    header_timeout: Duration,
    write_timeout: Duration,
    coordinator: Coordinator,
    listener: &'static str,
    /// Whether peers are asked for a certificate.
    certified: bool,
    /// How many each address has.
    sources: Callers<Source>,
}

impl Connections {
    pub(super) fn new(
        tls: Arc<ServerConfig>,
        router: Router,
        config: &Config,
        coordinator: Coordinator,
        listener: &'static str,
        certified: bool,
    ) -> Self {
        let seconds = |s: u32| Duration::from_secs(s.into());
        let header_timeout = seconds(config.header_timeout_s);
        Self {
            tls: TlsAcceptor::from(tls),
            builder: builder(header_timeout),
            router,
            handshake_timeout: seconds(config.handshake_timeout_s),
            header_timeout,
            write_timeout: seconds(config.body_timeout_s),
            coordinator,
            listener,
            certified,
            sources: Callers::new(config.limits.address_connections),
        }
    }

    /// Serves `socket`; without a place, it is only told to come back.
    pub(super) async fn handle(
        &self,
        socket: TcpStream,
        place: Place,
        _room: Place,
        watcher: Watcher,
    ) {
        // A socket that is gone already has no address.
        let Ok(address) = socket.peer_addr() else { return };
        let source = Source::from(address.ip());
        let Some(_counted) = self.sources.enter(source) else {
            // Without a word: a handshake costs more than whoever opens so many is worth.
            self.coordinator.metrics().turned_away(self.listener);
            return tracing::debug!(%address, "too many connections from one address");
        };
        let _open = self.coordinator.metrics().connected(self.listener);
        if place.is_none() {
            self.coordinator.metrics().turned_away(self.listener);
        }
        // Small answers should not wait for more.
        let _ = socket.set_nodelay(true);
        let handshake = tokio::time::timeout(self.handshake_timeout, self.tls.accept(socket)).await;
        let stream = match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => return tracing::debug!("TLS handshake timed out"),
        };
        let peer = Peer::of(&stream, self.certified);
        let stream = Impatient::new(stream, self.write_timeout);
        let served = place.is_some();
        let router = self.router.clone();
        let asked = Arc::new(AtomicBool::new(false));
        let asks = asked.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(source);
            request.extensions_mut().insert(peer);
            asks.store(true, Ordering::Relaxed);
            let router = router.clone();
            async move {
                if served {
                    router.oneshot(request.map(Body::new)).await
                } else {
                    Ok::<Response, Infallible>(super::busy().into_response())
                }
            }
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let connection = watcher.watch(connection);
        let last: Duration = if served { Duration::MAX } else { TURNED_AWAY };
        tokio::select! {
            ended = connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection failed");
                }
            }
            () = silence(&asked, self.header_timeout) => tracing::debug!("no request came"),
            // Long enough to be told; it must not keep the next one from being told.
            () = tokio::time::sleep(last) => {}
        }
    }
}

/// Ready where nothing was asked for in time. Hyper looks for HTTP/2's preface, and reads it, without
/// a timer.
async fn silence(asked: &AtomicBool, patience: Duration) {
    tokio::time::sleep(patience).await;
    if asked.load(Ordering::Relaxed) {
        std::future::pending().await
    }
}

fn builder(header_timeout: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // A timeout without a timer panics the connection's task.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(1 << 16);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .max_header_list_size(1 << 14)
        .max_concurrent_streams(32)
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_send_buf_size(1 << 17);
    builder
}
