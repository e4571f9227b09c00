//! The accept loop: our own, because `axum::serve` sets no timer and no cap.
//!
//! A connection costs a permit until it ends. Past the cap some more are accepted only to be told to
//! come back (503), and past those the listener's queue holds the rest.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::App;
use crate::config::Config;
use crate::coordinator::Coordinator;
use crate::setup::{self, ServeLock, SetupError};
use crate::tls;

/// Connections past the cap that are told to come back.
const TURNED_AWAY_MAX: usize = 64;
/// How long such a connection lasts.
const TURNED_AWAY: Duration = Duration::from_secs(5);

/// Why the server cannot serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Its directory.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// A server task ended by itself, which is a bug.
    #[error("a server task failed")]
    Task(#[from] tokio::task::JoinError),
}

/// Serves the directory of `config` on `listener` until `shutdown` is ready.
///
/// # Errors
/// [`ServeError`] where something is missing or damaged, or another process serves the directory.
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let lock = ServeLock::take(&config.dir)?;
    let coordinator = setup::coordinator(&config.dir).await?;
    let store = coordinator.store().clone();
    let served = serve(coordinator, &config, listener, shutdown).await;
    store.close().await;
    drop(lock);
    served
}

/// As [`run`], for a coordinator that the caller also holds.
///
/// # Errors
/// [`ServeError`] where the certificate cannot be used.
pub async fn serve(
    coordinator: Coordinator,
    config: &Config,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let certificate = config.path(&config.tls.certificate);
    let tls = tls::server_config(&certificate, &config.path(&config.tls.key));
    let tls = tls.map_err(SetupError::from)?;
    let seconds = |s: u32| Duration::from_secs(s.into());
    let app = App {
        coordinator: coordinator.clone(),
        requests: Arc::new(Semaphore::new(config.requests_max as usize)),
        body_timeout: seconds(config.body_timeout_s),
    };
    let connections = Arc::new(Connections {
        tls: TlsAcceptor::from(tls),
        builder: builder(seconds(config.header_timeout_s)),
        router: super::router(app),
        handshake_timeout: seconds(config.handshake_timeout_s),
    });
    let tick = Duration::from_millis(config.tick_ms.into());
    let (stop, stopped) = oneshot::channel();
    let ticking = tokio::spawn(tick_until(stopped, coordinator, tick));
    let address = listener.local_addr().ok();
    tracing::info!(address = address.map(tracing::field::display), "serving");

    let places = Arc::new(Semaphore::new(config.connections_max as usize));
    let waiting_room = Arc::new(Semaphore::new(TURNED_AWAY_MAX));
    let graceful = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let (socket, place, room) = tokio::select! {
            () = &mut shutdown => break,
            taken = take(&listener, &places, &waiting_room) => taken,
        };
        let (connections, watcher) = (connections.clone(), graceful.watcher());
        tokio::spawn(async move { connections.handle(socket, place, room, watcher).await });
    }
    drop(listener);
    let patience = seconds(config.shutdown_timeout_s);
    if tokio::time::timeout(patience, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests were cut off");
    }
    drop(stop);
    ticking.await?;
    tracing::info!("stopped");
    Ok(())
}

type Place = Option<OwnedSemaphorePermit>;

/// The next connection, with a place to be served in or else a place to be turned away in.
async fn take(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    waiting_room: &Arc<Semaphore>,
) -> (TcpStream, Place, Place) {
    loop {
        // Cancelled in here, a permit goes back by itself.
        let (place, room) = tokio::select! {
            biased;
            place = places.clone().acquire_owned() => (place.ok(), None),
            room = waiting_room.clone().acquire_owned() => (None, room.ok()),
        };
        match listener.accept().await {
            Ok((socket, _)) => {
                // One may have become free meanwhile.
                let place = place.or_else(|| places.clone().try_acquire_owned().ok());
                return (socket, place, room);
            }
            Err(error) => {
                // Out of file descriptors, mostly: accepting again at once would spin.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
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
        .max_concurrent_streams(64)
        .adaptive_window(true);
    builder
}

struct Connections {
    tls: TlsAcceptor,
    builder: Builder<TokioExecutor>,
    router: Router,
    handshake_timeout: Duration,
}

impl Connections {
    async fn handle(&self, socket: TcpStream, place: Place, _room: Place, watcher: Watcher) {
        // Small answers should not wait for more.
        let _ = socket.set_nodelay(true);
        let handshake = tokio::time::timeout(self.handshake_timeout, self.tls.accept(socket)).await;
        let stream = match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => return tracing::debug!("TLS handshake timed out"),
        };
        let served = place.is_some();
        let router = self.router.clone();
        let service = service_fn(move |request: Request<Incoming>| {
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
        let ended = if served {
            connection.await
        } else {
            // Long enough to be told; it must not keep the next one from being told.
            tokio::time::timeout(TURNED_AWAY, connection).await.unwrap_or(Ok(()))
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection failed");
        }
    }
}

/// Ticks at its pace, and at once when something is due, until `stopped`; a tick is ended first.
async fn tick_until(mut stopped: oneshot::Receiver<()>, coordinator: Coordinator, pace: Duration) {
    loop {
        // Logged where it failed; it is tried again at the next tick.
        let failed = coordinator.tick().await.is_err();
        let pace = if failed { pace.max(Duration::from_secs(1)) } else { pace };
        tokio::select! {
            _ = &mut stopped => return,
            () = tokio::time::sleep(pace) => {}
            () = coordinator.due(), if !failed => {}
        }
    }
}
