//! What a federation is taken up again from: out of it, and into a new one.

use std::collections::BTreeMap;

use bytes::Bytes;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::RoundId;

use super::EngineError;
use super::checkpoint::Saved;
use super::federation::Run;
use crate::report::RoundRow;

impl Run<'_> {
    /// Gives clients back what they knew, and the meter what it had counted.
    pub(super) async fn remember(&self, saved: &Saved) -> Result<(), EngineError> {
        let manifest = self.coordinator.manifest(self.id).await?;
        let bytes = Bytes::from(manifest.bytes);
        let signature = Bytes::from(manifest.signature.to_string());
        let folder = format!("runs/{}", self.id);
        for (member, memory) in self.lab.fleet.members.iter().zip(&self.memories) {
            let Some(entries) = saved.clients.get(&member.name) else { continue };
            let write = |name: &str, bytes: &Bytes| {
                memory.write(name, bytes.clone()).map_err(|e| EngineError::Client {
                    client: member.name.clone(),
                    round: 0,
                    source: e.into(),
                })
            };
            for (name, bytes) in entries {
                write(name, bytes)?;
            }
            // Who took part has the manifest, which a client in memory keeps parsed alone.
            if entries.contains_key(&format!("{folder}/seen")) {
                write(&format!("{folder}/manifest"), &bytes)?;
                write(&format!("{folder}/manifest.sig"), &signature)?;
            }
        }
        self.meter.set(saved.traffic);
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
        let folder = format!("runs/{}", self.id);
        let mut clients = BTreeMap::new();
        for (member, memory) in self.lab.fleet.members.iter().zip(&self.memories) {
            let mut entries = memory.entries();
            // Each has the same; see `remember`.
            entries.remove(&format!("{folder}/manifest"));
            entries.remove(&format!("{folder}/manifest.sig"));
            entries.retain(|name, _| name.starts_with(&folder));
            if !entries.is_empty() {
                clients.insert(member.name.clone(), entries);
            }
        }
        Ok(Saved {
            settings,
            rows: rows.to_vec(),
            traffic: self.meter.traffic(),
            published,
            state: self.coordinator.state_bytes(self.id, RoundId(done)).await?,
            clients,
        })
    }
}
