//! The virtual clients: a key and a training set each.

use std::collections::HashMap;
use std::sync::Arc;

use gossamer_client::data::{LabelledDataset, TaskError, TextDataset, TrainingTask};
use gossamer_client::model::BaseModel;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::ClientId;
use gossamer_protocol::manifest::Head;
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
    /// Every client learns its text's next tokens, or with a head its texts' classes.
    pub(super) fn new(
        base: &BaseModel,
        clients: &[ClientText],
        head: Option<Head>,
    ) -> Result<Self, EngineError> {
        let mut members = Vec::with_capacity(clients.len());
        let mut by_id = HashMap::with_capacity(clients.len());
        for (at, client) in clients.iter().enumerate() {
            let task = task(base, client, head).map_err(|e| EngineError::data(client, e))?;
            let seed = identity(&client.name);
            by_id.insert(ClientId::of(&SigningKey::from_seed(&seed).public().0), at);
            members.push(Member { name: client.name.clone(), seed, task });
        }
        Ok(Self { members, by_id })
    }

    pub(super) fn place(&self, id: ClientId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }
}

fn task(
    base: &BaseModel,
    client: &ClientText,
    head: Option<Head>,
) -> Result<Arc<dyn TrainingTask>, TaskError> {
    Ok(match head {
        Some(head) => Arc::new(LabelledDataset::new(base, &client.examples(), head.classes)?),
        None => Arc::new(TextDataset::new(base, &client.documents)?),
    })
}

/// The key seed of the virtual client called `name`.
#[must_use]
pub fn identity(name: &str) -> [u8; 32] {
    Digest::of(format!("gossamer/v1/sim/client\0{name}").as_bytes()).0
}
