//! The virtual clients: a key and a training set each.

use std::sync::Arc;

use gossamer_client::data::{LabelledDataset, TaskError, TextDataset, TrainingTask};
use gossamer_client::model::BaseModel;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::ClientId;
use gossamer_protocol::manifest::Head;
use gossamer_protocol::sign::SigningKey;
use rayon::prelude::*;

use super::EngineError;
use crate::partition::ClientText;

/// One whose text was dealt.
struct Member {
    /// The shard's name.
    name: String,
    /// What it trains on.
    task: Arc<dyn TrainingTask>,
}

/// All virtual clients. Those beyond the dealt ones are the same over and over, by name and text; each has a key and
/// a memory of its own, and takes 20 bytes while it is idle.
pub(super) struct Fleet {
    /// In the order of the shards.
    members: Vec<Member>,
    /// By id, each with its place.
    by_id: Vec<(ClientId, u32)>,
}

impl Fleet {
    /// `registered` clients, of which each learns its text's next tokens, or with a head its texts' classes.
    pub(super) fn new(
        base: &BaseModel,
        clients: &[ClientText],
        head: Option<Head>,
        registered: usize,
    ) -> Result<Self, EngineError> {
        let mut members = Vec::with_capacity(clients.len());
        for client in clients {
            let task = task(base, client, head).map_err(|e| EngineError::data(client, e))?;
            members.push(Member { name: client.name.clone(), task });
        }
        let mut fleet = Self { members, by_id: Vec::new() };
        let id = |at: u32| {
            let key = SigningKey::from_seed(&fleet.seed(at as usize)).public();
            (ClientId::of(&key.0), at)
        };
        let mut by_id: Vec<(ClientId, u32)> =
            (0..registered as u32).into_par_iter().map(id).collect();
        by_id.par_sort_unstable();
        fleet.by_id = by_id;
        Ok(fleet)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// A client's name: its shard's, with a number where that has several.
    pub(super) fn name(&self, at: usize) -> String {
        let name = &self.members[at % self.members.len()].name;
        match at / self.members.len() {
            0 => name.clone(),
            more => format!("{name}+{more}"),
        }
    }

    /// The seed of a client's key: of its name alone, so that every method and seed has the same fleet.
    pub(super) fn seed(&self, at: usize) -> [u8; 32] {
        identity(&self.name(at))
    }

    /// What a client trains on.
    pub(super) fn task(&self, at: usize) -> Arc<dyn TrainingTask> {
        self.members[at % self.members.len()].task.clone()
    }

    pub(super) fn place(&self, id: ClientId) -> Option<usize> {
        let found = self.by_id.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(self.by_id[found].1 as usize)
    }

    /// All of them, in rising order.
    pub(super) fn ids(&self) -> impl Iterator<Item = ClientId> {
        self.by_id.iter().map(|(id, _)| *id)
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
