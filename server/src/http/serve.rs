//! The accept loop: our own, because `axum::serve` sets no timer and no cap.
//!
//! A connection costs a permit until it ends. Past the cap some more are accepted only to be told to
//! come back (503), and past those the listener's queue holds the rest.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};

use super::App;
use super::connection::{Connections, Place};
use crate::config::Config;
use crate::coordinator::Coordinator;
use crate::setup::{self, ServeLock, SetupError};
use crate::tls;

/// Connections past the cap that are told to come back.
const TURNED_AWAY_MAX: usize = 64;

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
    let router = super::router(App::new(coordinator.clone(), config));
    let connections = Arc::new(Connections::new(tls, router, config));
    coordinator.take_over().await.map_err(SetupError::from)?;
    let tick = Duration::from_millis(config.tick_ms.into());
    let (stop, stopped) = oneshot::channel();
    let mut ticking = tokio::spawn(tick_until(stopped, coordinator, tick));
    let address = listener.local_addr().ok();
    tracing::info!(address = address.map(tracing::field::display), "serving");

    let places = Arc::new(Semaphore::new(config.connections_max as usize));
    let waiting_room = Arc::new(Semaphore::new(TURNED_AWAY_MAX));
    let graceful = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let (socket, place, room) = tokio::select! {
            () = &mut shutdown => break,
            // Only by a panic: without ticks no round ends, so serving on would deceive.
            ended = &mut ticking => return Ok(ended?),
            taken = take(&listener, &places, &waiting_room) => taken,
        };
        let (connections, watcher) = (connections.clone(), graceful.watcher());
        tokio::spawn(async move { connections.handle(socket, place, room, watcher).await });
    }
    drop(listener);
    let patience = Duration::from_secs(config.shutdown_timeout_s.into());
    if tokio::time::timeout(patience, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests were cut off");
    }
    drop(stop);
    ticking.await?;
    tracing::info!("stopped");
    Ok(())
}

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
