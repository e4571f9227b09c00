//! What a device keeps of its enrolment: the seed of its key, and whom it is enrolled with.

use gossamer_protocol::hex;
use gossamer_protocol::ids::ClientId;
use gossamer_protocol::rotation::Trust;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::ClientError;
use crate::state::{State, StateError};

const IDENTITY: &str = "identity.key";
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
}

impl Server {
    /// As the state has it.
    pub(super) fn read(state: &State) -> Result<Option<Self>, StateError> {
        let Some(json) = state.read(SERVER)? else { return Ok(None) };
        serde_json::from_slice(&json).map(Some).map_err(|_| malformed(SERVER))
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
        let text = std::str::from_utf8(&text).map_err(|_| malformed(IDENTITY))?;
        return Ok(hex::decode_array(text.trim()).map_err(|_| malformed(IDENTITY))?);
    }
    let mut seed = [0; 32];
    SystemRandom::new().fill(&mut seed).map_err(|_| ClientError::Random)?;
    state.write(IDENTITY, hex::encode(&seed))?;
    Ok(seed)
}

fn malformed(name: &str) -> StateError {
    StateError::Malformed { name: name.to_owned() }
}
