//! What a federation is taken up again from: out of it, and into a new one.

use std::collections::{BTreeMap, HashMap};
use std::sync::PoisonError;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::RoundId;
use serde::{Deserialize, Serialize};

use super::EngineError;
use super::checkpoint::Saved;
use super::federation::Run;
use crate::report::RoundRow;

impl Run<'_> {
    /// Gives this rank's clients back what they knew, and the meter what it had counted.
    pub(super) fn remember(&self, saved: &Saved) -> Result<(), EngineError> {
        let ranks = &self.lab.ranks;
        for at in (0..self.lab.fleet.len()).filter(|at| ranks.has(*at)) {
            let name = self.lab.fleet.name(at);
            let Some(entries) = saved.clients.get(&name) else { continue };
            let memory = self.memory(at);
            for (entry, bytes) in entries {
                memory.write(entry, bytes.clone()).map_err(|e| EngineError::Client {
                    client: name.clone(),
                    round: 0,
                    source: e.into(),
                })?;
            }
        }
        if ranks.rank() == 0 {
            self.meter.set(saved.traffic);
        }
        Ok(())
    }

    /// What to go on from behind round `done`.
    pub(super) async fn save(
        &self,
        settings: Digest,
        rows: &[RoundRow],
        done: u64,
    ) -> Result<Saved, EngineError> {
        let mut published = Vec::with_capacity(rows.len());
        for round in 0..=done {
            published.push(self.coordinator.published(self.id, RoundId(round)).await?);
        }
        let traffic = self.traffic().await?;
        let clients = self.all_memories().await?;
        Ok(Saved {
            settings,
            rows: rows.to_vec(),
            traffic,
            published,
            state: self.coordinator.state_bytes(self.id, RoundId(done)).await?,
            clients,
        })
    }

    /// What all ranks' clients remember of the run, by their names.
    async fn all_memories(&self) -> Result<Memories, EngineError> {
        let folder = format!("runs/{}", self.id);
        let mut clients = Memories::new();
        let memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (at, memory) in memories {
            let mut entries = memory.entries();
            // Each has the same; see `Run::client`.
            entries.remove(&format!("{folder}/manifest"));
            entries.remove(&format!("{folder}/manifest.sig"));
            entries.retain(|name, _| name.starts_with(&folder));
            if !entries.is_empty() {
                clients.insert(self.lab.fleet.name(at), entries);
            }
        }
        if self.lab.ranks.is_alone() {
            return Ok(clients);
        }
        let mut all = Memories::new();
        for parcel in self.lab.ranks.gather(&Parcel::of(&clients)).await? {
            all.extend(parcel.open().ok_or(EngineError::Thread)?);
        }
        Ok(all)
    }
}

type Memories = BTreeMap<String, BTreeMap<String, Bytes>>;

/// What one rank's clients remember, equal bytes once.
#[derive(Serialize, Deserialize)]
struct Parcel {
    /// In base64.
    bytes: Vec<String>,
    /// By client and entry: which of them.
    clients: BTreeMap<String, BTreeMap<String, usize>>,
}

impl Parcel {
    fn of(memories: &Memories) -> Self {
        let (mut bytes, mut known) = (Vec::new(), HashMap::new());
        let mut place = |of: &Bytes| {
            *known.entry(of.clone()).or_insert_with(|| {
                bytes.push(BASE64_STANDARD.encode(of));
                bytes.len() - 1
            })
        };
        let clients = memories.iter().map(|(client, entries)| {
            let entries = entries.iter().map(|(name, bytes)| (name.clone(), place(bytes)));
            (client.clone(), entries.collect())
        });
        let clients = clients.collect();
        Self { bytes, clients }
    }

    fn open(self) -> Option<Memories> {
        let bytes =
            self.bytes.iter().map(|text| BASE64_STANDARD.decode(text).ok().map(Bytes::from));
        let bytes: Vec<Bytes> = bytes.collect::<Option<_>>()?;
        let clients = self.clients.into_iter().map(|(client, entries)| {
            let entries =
                entries.into_iter().map(|(name, at)| Some((name, bytes.get(at)?.clone())));
            Some((client, entries.collect::<Option<_>>()?))
        });
        clients.collect()
    }
}
