//! Tokens, enrolment, revocation, and whose key is whose.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{ClientId, RunId};
use gossamer_protocol::message::{Enrolled, Enrolment};
use ring::rand::SecureRandom as _;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Coordinator, CoordinatorError, Sighting};
use crate::attestation::{Asking, Verifier};
use crate::audit::{Actor, Event as Told};
use crate::certificate::Certificate;
use crate::clock::Timestamp;
use crate::project::ProjectName;
use crate::store::{ClientRow, Enrolling, Member, Part, TokenRow};

/// Whether a client may take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientState {
    /// It may.
    Enrolled,
    /// It may no more.
    Revoked,
}

/// A client as its operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ClientView {
    /// As stored.
    #[serde(flatten)]
    pub row: ClientRow,
    /// Whether it may take part.
    pub state: ClientState,
    /// What the serving process saw of it.
    #[serde(flatten)]
    pub sighting: Sighting,
    /// What it did in each run; where one client is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BTreeMap<String, Part>>")]
    pub runs: Option<BTreeMap<RunId, Part>>,
}

impl Coordinator {
    /// Makes an enrolment token: good once, for `ttl`. Its secret is kept only as a hash.
    ///
    /// # Errors
    /// [`CoordinatorError::Store`] where it cannot be kept.
    ///
    /// # Panics
    /// Where the system has no randomness: nothing signed would be safe then.
    pub async fn new_token(&self, ttl: Duration) -> Result<String, CoordinatorError> {
        Ok(self.new_tokens(1, 1, ttl).await?.remove(0))
    }

    /// Makes `count` enrolment tokens, each good for `quota` clients of this handle's project: all of them, or
    /// none.
    ///
    /// # Errors
    /// [`CoordinatorError::Store`] where they cannot be kept.
    ///
    /// # Panics
    /// As for [`new_token`](Self::new_token).
    pub async fn new_tokens(
        &self,
        count: usize,
        quota: u32,
        ttl: Duration,
    ) -> Result<Vec<String>, CoordinatorError> {
        let secrets: Vec<String> = (0..count).map(|_| secret()).collect();
        let hashes: Vec<Digest> = secrets.iter().map(|secret| token_hash(secret)).collect();
        let expires = self.0.clock.now().after(ttl);
        let project = self.home();
        let note = Told::TokensMade { count, quota, expires_ms: expires.0 };
        let note = self.note(note).of(&project);
        let add = |this: Self| async move {
            Ok(this.0.store.add_tokens(&hashes, &project, quota, expires, &note).await?)
        };
        self.apart(add).await?;
        self.changed();
        Ok(secrets)
    }

    /// Enrols a client. The same key with the same token again gets the same answer.
    ///
    /// # Errors
    /// [`CoordinatorError::BadToken`], [`CoordinatorError::BadProof`], [`CoordinatorError::Unattested`],
    /// [`CoordinatorError::Revoked`], and the store's.
    pub async fn enrol(&self, enrolment: &Enrolment) -> Result<Enrolled, CoordinatorError> {
        Ok(self.enrolling(enrolment, None).await?.0)
    }

    /// As [`enrol`](Self::enrol), with the TLS certificate that the client shows, which it is bound to; and whether
    /// the client is new.
    ///
    /// # Errors
    /// As for [`enrol`](Self::enrol).
    pub async fn enrolling(
        &self,
        enrolment: &Enrolment,
        shown: Option<Certificate>,
    ) -> Result<(Enrolled, bool), CoordinatorError> {
        let now = self.0.clock.now();
        let (token, key) = (token_hash(&enrolment.secret), enrolment.public_key);
        // Anybody may guess: a guess costs one read, neither a signature's check nor the writer.
        let project = self.0.store.token_project(token).await?;
        let project = project.ok_or(CoordinatorError::BadToken)?;
        enrolment.verify().map_err(|_| CoordinatorError::BadProof)?;
        let attestation = self.attested(enrolment, &project).await?;
        let (client, certificate) = (ClientId::of(&key.0), shown.map(|shown| shown.fingerprint));
        let note = self.acting(Actor::Client(client)).note(Told::Enrolled {
            client,
            certificate,
            attestation,
        });
        let note = note.of(&project);
        let enrol = move |this: Self| async move {
            Ok(this.0.store.enrol(token, &key, shown.as_ref(), now, &note).await?)
        };
        let came_to = self.apart(enrol).await?;
        match came_to {
            Enrolling::New | Enrolling::Again => {}
            Enrolling::Refused => return Err(CoordinatorError::BadToken),
            Enrolling::Revoked => return Err(CoordinatorError::Revoked(client)),
        }
        // Of who was there before, this process may know more than what was told now.
        if came_to == Enrolling::New || self.known_member(client).is_err() {
            let mut fleet = self.0.fleet.write().unwrap_or_else(PoisonError::into_inner);
            let certificate = certificate.filter(|_| came_to == Enrolling::New);
            fleet.insert(client, Member { key, project, certificate });
            drop(fleet);
            self.changed();
        }
        Ok((Enrolled { client }, came_to == Enrolling::New))
    }

    /// Whom to ask whether a device may enrol, from now on; before, each that has a token may.
    pub fn set_verifier(&self, verifier: Arc<dyn Verifier>) {
        *self.0.verifier.write().unwrap_or_else(PoisonError::into_inner) = Some(verifier);
    }

    /// The kind of the statement that the verifier took; none where nobody is asked.
    async fn attested(
        &self,
        enrolment: &Enrolment,
        project: &ProjectName,
    ) -> Result<Option<String>, CoordinatorError> {
        let verifier = self.0.verifier.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(verifier) = verifier else { return Ok(None) };
        let attestation = enrolment.attestation.as_ref();
        let asking = Asking { project, challenge: enrolment.challenge(), attestation };
        verifier.verify(&asking).await?;
        Ok(attestation.map(|attestation| attestation.kind.clone()))
    }

    /// Enrolment tokens, the one that lasts longest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn tokens(&self, limit: u32) -> Result<Vec<TokenRow>, CoordinatorError> {
        Ok(self.0.store.tokens(&self.2, limit).await?)
    }

    /// Voids an enrolment token, by the hash of its secret; who enrolled with it stays.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownToken`], and the store's.
    pub async fn revoke_token(&self, token: Digest) -> Result<(), CoordinatorError> {
        let project = self.0.store.token_project(token).await?;
        let project = project.filter(|project| self.sees(project));
        let project = project.ok_or(CoordinatorError::UnknownToken(token))?;
        let note = self.note(Told::TokenRevoked { token }).of(&project);
        let drop =
            move |this: Self| async move { Ok(this.0.store.drop_token(token, &note).await?) };
        if self.apart(drop).await? {
            self.changed();
            Ok(())
        } else {
            Err(CoordinatorError::UnknownToken(token))
        }
    }

    /// Revokes a client, for good: it is asked no more, and what it signs is refused. What was
    /// accepted of it stays, since its receipt says that it will be counted.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownClient`], and the store's.
    pub async fn revoke(&self, client: ClientId, reason: &str) -> Result<(), CoordinatorError> {
        let project = self.client(client).await?.row.project;
        let reason = reason.to_owned();
        let note = self.note(Told::ClientRevoked { client, reason: reason.clone() }).of(&project);
        let revoke =
            move |this: Self| async move { Ok(this.0.store.revoke(client, &reason, &note).await?) };
        self.apart(revoke).await?;
        let mut fleet = self.0.fleet.write().unwrap_or_else(PoisonError::into_inner);
        fleet.revoke(client);
        drop(fleet);
        self.changed();
        Ok(())
    }

    /// Notices whom another process enrolled or revoked.
    pub(super) async fn refresh_fleet(&self) -> Result<(), CoordinatorError> {
        let (after, enrolment) = {
            let fleet = self.0.fleet.read().unwrap_or_else(PoisonError::into_inner);
            (fleet.revocation, fleet.enrolment)
        };
        let enrolled = self.0.store.enrolled(Some(enrolment)).await?;
        if !enrolled.is_empty() {
            let mut fleet = self.0.fleet.write().unwrap_or_else(PoisonError::into_inner);
            for (entry, client, member) in enrolled {
                fleet.insert(client, member);
                fleet.enrolment = fleet.enrolment.max(entry);
            }
            drop(fleet);
            self.changed();
        }
        let revoked = self.0.store.revoked(after).await?;
        if !revoked.is_empty() {
            let mut fleet = self.0.fleet.write().unwrap_or_else(PoisonError::into_inner);
            for (seq, client) in revoked {
                fleet.revoke(client);
                fleet.revocation = seq;
            }
            drop(fleet);
            self.changed();
        }
        Ok(())
    }

    /// `limit` clients behind `after`, by id.
    ///
    /// # Errors
    /// The store's.
    pub async fn clients(
        &self,
        after: Option<ClientId>,
        limit: u32,
    ) -> Result<Vec<ClientView>, CoordinatorError> {
        let rows = self.0.store.client_rows(&self.2, after, limit).await?;
        Ok(rows.into_iter().map(|row| self.client_view(row, None)).collect())
    }

    /// One client, and what it did in each run.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownClient`], and the store's.
    pub async fn client(&self, client: ClientId) -> Result<ClientView, CoordinatorError> {
        let found = self.0.store.client_row(&self.2, client).await?;
        let (row, parts) = found.ok_or(CoordinatorError::UnknownClient(client))?;
        Ok(self.client_view(row, Some(parts)))
    }

    fn client_view(&self, row: ClientRow, runs: Option<BTreeMap<RunId, Part>>) -> ClientView {
        let state =
            if row.revoked_ms.is_some() { ClientState::Revoked } else { ClientState::Enrolled };
        let sighting = self.sighting(row.client);
        ClientView { row, state, sighting, runs }
    }

    /// How many clients were revoked.
    #[must_use]
    pub fn revoked_len(&self) -> usize {
        let fleet = self.0.fleet.read().unwrap_or_else(PoisonError::into_inner);
        match &self.2 {
            None => fleet.revoked.len(),
            scope => fleet.revoked.values().filter(|project| *project == scope).count(),
        }
    }

    /// How many clients are enrolled.
    #[must_use]
    pub fn fleet_len(&self) -> usize {
        let fleet = self.0.fleet.read().unwrap_or_else(PoisonError::into_inner);
        match &self.2 {
            None => fleet.ids.values().map(Vec::len).sum(),
            Some(project) => fleet.of(project).len(),
        }
    }

    /// An enrolled client; where it is not known, another process may have enrolled it.
    pub(crate) async fn member(&self, client: ClientId) -> Result<Member, CoordinatorError> {
        match self.known_member(client) {
            Err(CoordinatorError::UnknownClient(_)) if self.0.store.is_shared() => {
                self.refresh_fleet().await?;
                self.known_member(client)
            }
            known => known,
        }
    }

    fn known_member(&self, client: ClientId) -> Result<Member, CoordinatorError> {
        let fleet = self.0.fleet.read().unwrap_or_else(PoisonError::into_inner);
        match fleet.members.get(&client) {
            Some(member) => Ok(member.clone()),
            None if fleet.revoked.contains_key(&client) => Err(CoordinatorError::Revoked(client)),
            None => Err(CoordinatorError::UnknownClient(client)),
        }
    }

    /// Notes a nonce; false where it was noted before, by this process or one before it.
    pub(crate) async fn use_nonce(
        &self,
        client: ClientId,
        nonce: &[u8; 16],
        expires: Timestamp,
    ) -> Result<bool, CoordinatorError> {
        let nonce = *nonce;
        let note = move |this: Self| async move {
            Ok(this.0.store.use_nonce(client, &nonce, expires).await?)
        };
        self.apart(note).await
    }

    /// The clock's time.
    pub(crate) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }
}

/// 192 random bits, as text.
pub(super) fn secret() -> String {
    let mut secret = [0; 24];
    ring::rand::SystemRandom::new().fill(&mut secret).expect("the system has randomness");
    BASE64.encode(secret)
}

/// Secrets have 192 random bits, so a plain hash cannot be searched.
fn token_hash(secret: &str) -> Digest {
    Digest::of(format!("gossamer/v1/token\0{secret}").as_bytes())
}
