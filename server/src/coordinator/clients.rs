//! Tokens, enrolment, and whose key is whose.

use std::sync::PoisonError;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::ClientId;
use gossamer_protocol::message::{Enrolled, Enrolment};
use gossamer_protocol::sign::PublicKey;
use ring::rand::SecureRandom as _;

use super::{Coordinator, CoordinatorError};
use crate::audit::{Actor, Event as Told};
use crate::clock::Timestamp;
use crate::store::Enrolling;

impl Coordinator {
    /// Makes an enrolment token: good once, for `ttl`. Its secret is kept only as a hash.
    ///
    /// # Errors
    /// [`CoordinatorError::Store`] where it cannot be kept.
    ///
    /// # Panics
    /// Where the system has no randomness: nothing signed would be safe then.
    pub async fn new_token(&self, ttl: Duration) -> Result<String, CoordinatorError> {
        Ok(self.new_tokens(1, ttl).await?.remove(0))
    }

    /// Makes `count` enrolment tokens: all of them, or none.
    ///
    /// # Errors
    /// [`CoordinatorError::Store`] where they cannot be kept.
    ///
    /// # Panics
    /// As for [`new_token`](Self::new_token).
    pub async fn new_tokens(
        &self,
        count: usize,
        ttl: Duration,
    ) -> Result<Vec<String>, CoordinatorError> {
        let random = ring::rand::SystemRandom::new();
        let secret = |_| {
            let mut secret = [0; 24];
            random.fill(&mut secret).expect("the system has randomness");
            BASE64.encode(secret)
        };
        let secrets: Vec<String> = (0..count).map(secret).collect();
        let hashes: Vec<Digest> = secrets.iter().map(|secret| token_hash(secret)).collect();
        let expires = self.0.clock.now().after(ttl);
        let note = self.note(Told::TokensMade { count, expires_ms: expires.0 });
        let add =
            |this: Self| async move { Ok(this.0.store.add_tokens(&hashes, expires, &note).await?) };
        self.apart(add).await?;
        Ok(secrets)
    }

    /// Enrols a client. The same key with the same token again gets the same answer.
    ///
    /// # Errors
    /// [`CoordinatorError::BadToken`], [`CoordinatorError::BadProof`], and the store's.
    pub async fn enrol(&self, enrolment: &Enrolment) -> Result<Enrolled, CoordinatorError> {
        Ok(self.enrolling(enrolment).await?.0)
    }

    /// As [`enrol`](Self::enrol), and whether the client is new.
    pub(crate) async fn enrolling(
        &self,
        enrolment: &Enrolment,
    ) -> Result<(Enrolled, bool), CoordinatorError> {
        let now = self.0.clock.now();
        let (token, key) = (token_hash(&enrolment.secret), enrolment.public_key);
        // Anybody may guess: a guess costs one read, neither a signature's check nor the writer.
        if !self.0.store.has_token(token).await? {
            return Err(CoordinatorError::BadToken);
        }
        enrolment.verify().map_err(|_| CoordinatorError::BadProof)?;
        let client = ClientId::of(&key.0);
        let note = self.acting(Actor::Client(client)).note(Told::Enrolled { client });
        let enrol =
            |this: Self| async move { Ok(this.0.store.enrol(token, &key, now, &note).await?) };
        let came_to = self.apart(enrol).await?;
        if came_to == Enrolling::Refused {
            return Err(CoordinatorError::BadToken);
        }
        let mut fleet = self.0.fleet.write().unwrap_or_else(PoisonError::into_inner);
        fleet.insert(client, enrolment.public_key);
        Ok((Enrolled { client }, came_to == Enrolling::New))
    }

    /// How many clients are enrolled.
    #[must_use]
    pub fn fleet_len(&self) -> usize {
        self.0.fleet.read().unwrap_or_else(PoisonError::into_inner).ids.len()
    }

    /// The key of an enrolled client.
    pub(crate) fn key_of(&self, client: ClientId) -> Result<PublicKey, CoordinatorError> {
        let fleet = self.0.fleet.read().unwrap_or_else(PoisonError::into_inner);
        fleet.keys.get(&client).copied().ok_or(CoordinatorError::UnknownClient(client))
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

/// Secrets have 192 random bits, so a plain hash cannot be searched.
fn token_hash(secret: &str) -> Digest {
    Digest::of(format!("gossamer/v1/token\0{secret}").as_bytes())
}
