//! Who asks: the signed header, in two steps, so that a body is read only for somebody known.

use std::sync::{Arc, OnceLock};

use super::App;
use super::peer::Peer;
use super::problem::Refusal;
use crate::clock::Timestamp;
use crate::coordinator::{Coordinator, CoordinatorError};
use crate::store::Member;
use axum::http::header;
use axum::http::request::Parts;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::ClientId;
use gossamer_protocol::problem::ProblemType;
use gossamer_protocol::request::{Authorization, LIFETIME_MS, Request};
use gossamer_protocol::sign::PublicKey;

/// How far ahead an expiry may lie: a lifetime, and as much again for a clock that runs ahead.
const AHEAD_MAX_MS: u64 = 2 * LIFETIME_MS;

/// Whom a request names, for who counts its refusal: the slot goes with the request, and outlives it.
#[derive(Clone, Default)]
pub(crate) struct Who(Arc<OnceLock<ClientId>>, Arc<OnceLock<()>>);

impl Who {
    /// The enrolled client it names, where it names one, and whether that is proven.
    pub(crate) fn told(&self) -> (Option<ClientId>, bool) {
        (self.0.get().copied(), self.1.get().is_some())
    }
}

/// A header that names an enrolled client and the present time, not proven yet.
pub(crate) struct Claim {
    authorization: Authorization,
    member: Member,
}

/// A client that signed.
pub(crate) struct Caller {
    pub(crate) client: ClientId,
    /// What it signed with.
    pub(crate) key: PublicKey,
    /// What it sees: its project.
    pub(crate) coordinator: Coordinator,
}

impl Claim {
    /// Reads the header.
    pub(crate) async fn read(app: &App, parts: &Parts) -> Result<Self, Refusal> {
        let unsigned = |detail: &str| Refusal::new(ProblemType::Unsigned, detail);
        let header = parts.headers.get(header::AUTHORIZATION);
        let header = header.ok_or_else(|| unsigned("there is no Authorization header"))?;
        let text = header.to_str().map_err(|_| unsigned("the header is not text"))?;
        let authorization: Authorization = text.parse().map_err(|e| unsigned(&format!("{e}")))?;
        let member = app.coordinator.member(authorization.client).await?;
        if let Some(who) = parts.extensions.get::<Who>() {
            let _ = who.0.set(authorization.client);
        }
        let (now, expires) = (app.coordinator.now().0, authorization.expires_ms);
        if expires <= now || expires > now.saturating_add(AHEAD_MAX_MS) {
            let detail = format!("it expires at {expires}, and it is {now} here (Unix ms)");
            return Err(Refusal::new(ProblemType::Expired, detail));
        }
        Ok(Self { authorization, member })
    }

    /// The client it names.
    pub(crate) fn client(&self) -> ClientId {
        self.authorization.client
    }

    /// Checks that the client signed this request, and never before, over a connection that shows its certificate,
    /// where the server asks for one.
    pub(crate) async fn prove(
        self,
        app: &App,
        parts: &Parts,
        body: &[u8],
    ) -> Result<Caller, Refusal> {
        let shown = Peer::behind(&parts.extensions).shown()?;
        let (caller, member) = self.prove_key(app, parts, body).await?;
        if let Some(shown) = shown {
            caller.coordinator.must_show(caller.client, &member, shown).await?;
        }
        Ok(caller)
    }

    /// The same, whatever certificate is shown.
    ///
    /// Nonces are stored until they expire, so a replay is known after a restart too.
    pub(crate) async fn prove_key(
        mut self,
        app: &App,
        parts: &Parts,
        body: &[u8],
    ) -> Result<(Caller, Member), Refusal> {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request { method: parts.method.as_str(), path, body: Digest::of(body) };
        let Authorization { client, nonce, expires_ms, .. } = self.authorization;
        if let Err(unproven) = self.authorization.verify(&self.member.key, &request) {
            self.member = app.coordinator.member_anew(client).await?;
            let by = |key: &PublicKey| self.authorization.verify(key, &request).is_ok();
            let present = self.member.key;
            if !by(&present) {
                // By a name of its own: the client may be one that lost the answer to a change of keys.
                return Err(if app.coordinator.is_replaced(client, &present, by).await? {
                    CoordinatorError::ReplacedKey(client).into()
                } else {
                    Refusal::new(ProblemType::BadSignature, unproven.to_string())
                });
            }
        }
        if let Some(who) = parts.extensions.get::<Who>() {
            let _ = who.1.set(());
        }
        // Not before: a stranger must not use up somebody's tokens.
        app.client_rates.take(client, "client")?;
        let Member { key, project, .. } = self.member.clone();
        app.project_rates.take(project.clone(), "project")?;
        // Last: a nonce that a stranger made up is not worth a row.
        if !app.coordinator.use_nonce(client, &nonce, Timestamp(expires_ms)).await? {
            return Err(Refusal::new(ProblemType::Replayed, "sign each request anew"));
        }
        app.coordinator.saw(client);
        let coordinator = app.coordinator.within(Some(project));
        Ok((Caller { client, key, coordinator }, self.member))
    }
}

/// Both steps for a request without a body.
pub(crate) async fn caller(app: &App, parts: &Parts) -> Result<Caller, Refusal> {
    Claim::read(app, parts).await?.prove(app, parts, b"").await
}
