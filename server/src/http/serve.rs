//! The accept loop: our own, because `axum::serve` sets no timer and no cap.
//!
//! A connection costs a permit until it ends. Past the cap some more are accepted only to be told to
//! come back (503), and past those the listener's queue holds the rest.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch};

use super::App;
use super::admin::{self, Admin};
use super::connection::{Connections, Place};
use crate::config::{self, Config};
use crate::coordinator::{Coordinator, Folding};
use crate::setup::{self, ServeLock, SetupError};
use crate::tls;

/// Connections past the cap that are told to come back.
const TURNED_AWAY_MAX: usize = 64;

/// Where a server is reached.
#[derive(Debug)]
pub struct Listeners {
    /// By clients.
    pub clients: TcpListener,
    /// By operators, where they are served.
    pub admin: Option<TcpListener>,
}

impl From<TcpListener> for Listeners {
    /// For clients alone.
    fn from(clients: TcpListener) -> Self {
        Self { clients, admin: None }
    }
}

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

/// Serves the directory of `config` on `listeners` until `shutdown` is ready.
///
/// # Errors
/// [`ServeError`] where something is missing or damaged, or another process serves the directory.
pub async fn run(
    config: Config,
    listeners: impl Into<Listeners>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let lock = ServeLock::take(&config.dir)?;
    let coordinator = setup::coordinator(&config.dir).await?;
    let store = coordinator.store().clone();
    let served = serve(coordinator, &config, listeners, shutdown).await;
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
    listeners: impl Into<Listeners>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let Listeners { clients, admin } = listeners.into();
    let certificate = config.path(&config.tls.certificate);
    let tls = |client_ca: &Option<PathBuf>| {
        let client_ca = client_ca.as_deref().map(|path| config.path(path));
        let tls =
            tls::server_config(&certificate, &config.path(&config.tls.key), client_ca.as_deref());
        Ok::<_, SetupError>((tls?, client_ca.is_some()))
    };
    let router = super::router(App::new(coordinator.clone(), config));
    let lead = |router, listener, (tls, certified)| {
        Connections::new(tls, router, config, coordinator.clone(), listener, certified)
    };
    let for_clients = lead(router, "clients", tls(&config.tls.client_ca)?);
    let clients = Door::new(clients, for_clients, config.connections_max);
    let admin_tls = tls(&config.admin.client_ca)?;
    let (close, closing) = watch::channel(false);
    let admin = admin.map(|listener| {
        let router = admin::router(Admin::new(coordinator.clone(), config, closing));
        Door::new(listener, lead(router, "admin", admin_tls), config.admin.connections_max)
    });
    let config::Store { fold_part: part, fold_lease_s: lease_s, fold_threads: threads, .. } =
        config.store;
    coordinator.set_folding(Folding { part, lease_s, threads });
    coordinator.set_retention(config.retention.rounds);
    coordinator.take_over().await.map_err(SetupError::from)?;
    let tick = Duration::from_millis(config.tick_ms.into());
    let (stop, stopped) = oneshot::channel();
    let mut ticking = tokio::spawn(tick_until(stopped, coordinator, tick));
    let address = |door: &Door| door.listener.local_addr().ok().map(tracing::field::display);
    let admin_address = admin.as_ref().and_then(address);
    tracing::info!(address = address(&clients), admin = admin_address, "serving");

    let graceful = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let (door, (socket, place, room)) = tokio::select! {
            () = &mut shutdown => break,
            // Only by a panic: without ticks no round ends, so serving on would deceive.
            ended = &mut ticking => return Ok(ended?),
            taken = clients.take() => (&clients, taken),
            Some(taken) = take(admin.as_ref()) => taken,
        };
        let (connections, watcher) = (door.connections.clone(), graceful.watcher());
        tokio::spawn(async move { connections.handle(socket, place, room, watcher).await });
    }
    drop((clients, admin));
    let _ = close.send(true);
    let patience = Duration::from_secs(config.shutdown_timeout_s.into());
    if tokio::time::timeout(patience, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests were cut off");
    }
    drop(stop);
    ticking.await?;
    tracing::info!("stopped");
    Ok(())
}

/// A listener, what it leads to, and how many may be in there.
struct Door {
    listener: TcpListener,
    connections: Arc<Connections>,
    places: Arc<Semaphore>,
    waiting_room: Arc<Semaphore>,
}

impl Door {
    fn new(listener: TcpListener, connections: Connections, connections_max: u32) -> Self {
        Self {
            listener,
            connections: Arc::new(connections),
            places: Arc::new(Semaphore::new(connections_max as usize)),
            waiting_room: Arc::new(Semaphore::new(TURNED_AWAY_MAX)),
        }
    }

    /// The next connection, with a place to be served in or else a place to be turned away in.
    async fn take(&self) -> (TcpStream, Place, Place) {
        loop {
            // Cancelled in here, a permit goes back by itself.
            let (place, room) = tokio::select! {
                biased;
                place = self.places.clone().acquire_owned() => (place.ok(), None),
                room = self.waiting_room.clone().acquire_owned() => (None, room.ok()),
            };
            match self.listener.accept().await {
                Ok((socket, _)) => {
                    // One may have become free meanwhile.
                    let place = place.or_else(|| self.places.clone().try_acquire_owned().ok());
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
}

/// The next connection at a door that there may be.
async fn take(door: Option<&Door>) -> Option<(&Door, (TcpStream, Place, Place))> {
    let door = door?;
    Some((door, door.take().await))
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
