//! What a device keeps of its enrolment: the seed of its key, and whom it is enrolled with.

use gossamer_protocol::hex;
use gossamer_protocol::ids::ClientId;
use gossamer_protocol::rotation::Trust;
use gossamer_protocol::sign::PublicKey;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::ClientError;
use crate::state::{State, StateError};

const IDENTITY: &str = "identity.key";
const NEXT: &str = "identity.next";
const SERVER: &str = "server.json";

/// Whom a device is enrolled with.
#[derive(Serialize, Deserialize)]
pub(super) struct Server {
    /// The aggregator's keys.
    #[serde(flatten)]
    pub(super) trust: Trust,
    pub(super) ca: Option<String>,
    /// Its own name.
    pub(super) client: ClientId,
    /// Its key, where that is no more the one that it enrolled with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) own: Option<PublicKey>,
}

impl Server {
    /// As the state has it.
    pub(super) fn read(state: &State) -> Result<Option<Self>, StateError> {
        let Some(json) = state.read(SERVER)? else { return Ok(None) };
        serde_json::from_slice(&json).map(Some).map_err(|_| malformed(SERVER))
    }

    /// Whether it is about whoever holds `key`.
    pub(super) fn is_of(&self, key: &PublicKey) -> bool {
        self.own.map_or_else(|| self.client == ClientId::of(&key.0), |own| own == *key)
    }

    pub(super) fn keep(&self, state: &State) -> Result<(), StateError> {
        let json = serde_json::to_vec_pretty(self).map_err(|_| malformed(SERVER))?;
        state.write(SERVER, json)
    }
}

/// Keeps whom the device believes from now on, where it keeps that at all.
pub(super) fn keep_trust(state: &State, trust: &Trust) -> Result<(), StateError> {
    match Server::read(state)? {
        Some(server) => Server { trust: trust.clone(), ..server }.keep(state),
        None => Ok(()),
    }
}

/// The app's seed, the folder's, or a new one, which is kept.
pub(super) fn identity(given: Option<[u8; 32]>, state: &State) -> Result<[u8; 32], ClientError> {
    if let Some(seed) = given {
        return Ok(seed);
    }
    if let Some(text) = state.read(IDENTITY)? {
        return Ok(parse(IDENTITY, &text)?);
    }
    draw(IDENTITY, state)
}

/// Whether a change of keys was begun: then the identity is the old one or the new one.
pub(super) fn is_changing(state: &State) -> Result<bool, StateError> {
    Ok(state.read(NEXT)?.is_some())
}

/// The seed of the key that is to follow: a new one, unless a change was begun.
pub(super) fn next(state: &State) -> Result<[u8; 32], ClientError> {
    match state.read(NEXT)? {
        Some(text) => Ok(parse(NEXT, &text)?),
        None => draw(NEXT, state),
    }
}

/// Keeps that the aggregator has the next key. What a kill leaves undone is done when the change is ended again.
pub(super) fn changed(state: &State, seed: &[u8; 32], key: &PublicKey) -> Result<(), StateError> {
    state.write(IDENTITY, hex::encode(seed))?;
    if let Some(server) = Server::read(state)? {
        Server { own: Some(*key), ..server }.keep(state)?;
    }
    state.remove(NEXT)
}

fn parse(name: &str, text: &[u8]) -> Result<[u8; 32], StateError> {
    let text = std::str::from_utf8(text).map_err(|_| malformed(name))?;
    hex::decode_array(text.trim()).map_err(|_| malformed(name))
}

/// A new seed, kept under `name`.
fn draw(name: &str, state: &State) -> Result<[u8; 32], ClientError> {
    let mut seed = [0; 32];
    SystemRandom::new().fill(&mut seed).map_err(|_| ClientError::Random)?;
    state.write(name, hex::encode(&seed))?;
    Ok(seed)
}

fn malformed(name: &str) -> StateError {
    StateError::Malformed { name: name.to_owned() }
}
