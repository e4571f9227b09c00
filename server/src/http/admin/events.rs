//! `GET /v1/events`: what changes, as server-sent events.
//!
//! | event | data |
//! |---|---|
//! | `runs` | every run as `/v1/runs` has it: first of all, and when one changed |
//! | `clients` | how many clients there are: the same |
//! | `audit` | one new entry of the audit log, with its number as the event's id |
//!
//! Changes within a moment are told at once. A stream that cannot keep up skips states, not entries.
//! It ends when its operator is revoked, or the server stops.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::auth::{Caller, acting};
use super::server::Clients;
use super::{Admin, auth};
use crate::http::problem::Refusal;
use crate::operator::Role;

/// Changes within so long are told together.
const MOMENT: Duration = Duration::from_millis(150);
/// Looks at least so often: what another process did is noticed too, and a revoked token.
const LOOK: Duration = Duration::from_secs(5);
/// Entries told in one go.
const ENTRIES: u32 = 200;

/// One open stream.
struct Stream {
    admin: Admin,
    headers: HeaderMap,
    changes: watch::Receiver<u64>,
    /// The last of each that was told.
    runs: Option<String>,
    clients: Option<Clients>,
    entry: u64,
    ready: std::vec::IntoIter<Event>,
    _place: OwnedSemaphorePermit,
}

pub(super) async fn events(
    State(admin): State<Admin>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let place = admin.streams.clone().try_acquire_owned();
    let place = place.map_err(|_| crate::http::busy())?;
    let last = acting(&admin, &caller).audit(u64::MAX, 1).await?;
    let stream = Stream {
        changes: admin.coordinator.changes(),
        admin,
        headers,
        runs: None,
        clients: None,
        entry: last.first().map_or(0, |entry| entry.seq),
        ready: Vec::new().into_iter(),
        _place: place,
    };
    let events = stream::unfold(stream, |mut stream| async move {
        let event = stream.next().await?;
        Some((Ok::<_, Infallible>(event), stream))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

impl Stream {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.next() {
                return Some(event);
            }
            let news = self.news().await?;
            if news.is_empty() {
                self.wait().await?;
            }
            self.ready = news.into_iter();
        }
    }

    /// Until something may have changed; none once the server stops.
    async fn wait(&mut self) -> Option<()> {
        let mut closing = self.admin.closing.clone();
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => return None,
            changed = self.changes.changed() => changed.ok()?,
            () = tokio::time::sleep(LOOK) => {}
        }
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => None,
            () = tokio::time::sleep(MOMENT) => Some(()),
        }
    }

    /// What was not told yet; none where it is not to be told any more.
    async fn news(&mut self) -> Option<Vec<Event>> {
        // A failure ends the stream, and the dashboard opens another.
        let operator = auth::operator(&self.admin, &self.headers, Role::Viewer).await.ok()?;
        let coordinator = acting(&self.admin, &operator);
        let mut news = Vec::new();
        let runs = coordinator.runs().await.ok()?;
        let runs = serde_json::to_string(&runs).expect("names and numbers are always JSON");
        if self.runs.as_ref() != Some(&runs) {
            news.push(Event::default().event("runs").data(&runs));
            self.runs = Some(runs);
        }
        let clients = Clients::of(&coordinator);
        if self.clients != Some(clients) {
            news.push(told("clients", &clients));
            self.clients = Some(clients);
        }
        for entry in coordinator.audit_after(self.entry, ENTRIES).await.ok()? {
            news.push(told("audit", &entry).id(entry.seq.to_string()));
            self.entry = entry.seq;
        }
        Some(news)
    }
}

fn told<T: Serialize>(name: &'static str, data: &T) -> Event {
    let data = serde_json::to_string(data).expect("names and numbers are always JSON");
    Event::default().event(name).data(data)
}
