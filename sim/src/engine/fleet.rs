//! The virtual clients: a key and a training set each.

use std::collections::HashMap;
use std::sync::Arc;

use gossamer_client::data::{TextDataset, TrainingTask};
use gossamer_client::model::BaseModel;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::ClientId;
use gossamer_protocol::sign::SigningKey;

use super::EngineError;
use crate::partition::ClientText;

/// One virtual client.
pub(super) struct Member {
    /// The shard's name.
    pub(super) name: String,
    /// The seed of its key: of its name alone, so that every method and seed has the same fleet.
    pub(super) seed: [u8; 32],
    /// What it trains on.
    pub(super) task: Arc<dyn TrainingTask>,
}

/// All virtual clients.
pub(super) struct Fleet {
    /// In the order of the shards.
    pub(super) members: Vec<Member>,
    by_id: HashMap<ClientId, usize>,
}

impl Fleet {
    pub(super) fn new(base: &BaseModel, clients: &[ClientText]) -> Result<Self, EngineError> {
        let mut members = Vec::with_capacity(clients.len());
        let mut by_id = HashMap::with_capacity(clients.len());
        for (at, client) in clients.iter().enumerate() {
            let failed = |source| EngineError::Data { client: client.name.clone(), source };
            let task = TextDataset::new(base, &client.documents).map_err(|e| failed(e.into()))?;
            let seed = identity(&client.name);
            by_id.insert(ClientId::of(&SigningKey::from_seed(&seed).public().0), at);
            members.push(Member { name: client.name.clone(), seed, task: Arc::new(task) });
        }
        Ok(Self { members, by_id })
    }

    pub(super) fn place(&self, id: ClientId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }
}

/// The key seed of the virtual client called `name`.
#[must_use]
pub fn identity(name: &str) -> [u8; 32] {
    Digest::of(format!("gossamer/v1/sim/client\0{name}").as_bytes()).0
}
