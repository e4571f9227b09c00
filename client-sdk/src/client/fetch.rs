//! The adapter that a tag names: what an app runs with, whether it takes part in training or not.

use std::path::Path;
use std::sync::Arc;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::Terms;
use gossamer_protocol::ids::{RoundId, RunId};
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::tag::TagName;

use super::download::Wanted;
use super::shared::RunTerms;
use super::{Client, ClientError};
use crate::model::BaseModel;
use crate::peft::{self, AdapterError};
use crate::transport::Transport as _;
use crate::verify::{self, Believed, VerifyError};

/// A published adapter, as a client holds it.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The run that it is of.
    pub run: RunId,
    /// The round that starts from it.
    pub round: RoundId,
    /// Its values, shape `[n]`, in the manifest's layout.
    pub theta: Vec<f32>,
    /// Bytes of its frame that travelled: none where it was here already.
    pub moved: u64,
    terms: Arc<RunTerms>,
}

impl Fetched {
    /// The terms of its run: base model, layout, scale.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.terms.manifest
    }

    /// Writes it into `dir`, made where it is not there, as PEFT keeps it.
    ///
    /// # Errors
    /// As for [`peft::export`].
    pub fn export(&self, dir: &Path, base: &BaseModel) -> Result<(), AdapterError> {
        peft::export(dir, self.manifest(), base, &self.theta)
    }
}

impl Client {
    /// The adapter that `tag` names for this client, verified: the aggregator's operator may have another one on
    /// trial with some of the clients. What is here already does not travel again.
    ///
    /// # Errors
    /// [`ClientError::Transport`] with `unknown-name` where there is no such tag; [`ClientError::Verify`] and
    /// [`ClientError::Snapshot`] where what comes is not what the aggregator signed.
    pub async fn adapter(&self, tag: &TagName) -> Result<Fetched, ClientError> {
        let signed = self.transport.tagged(tag).await?;
        let check = |by: Believed<'_>| verify::tagged(&signed, by, tag, self.id());
        let tagged = self.believing(check).await?;
        let (run, round) = (tagged.run, tagged.round);
        let terms = self.terms(run).await?;
        let record = self.transport.record(run, round).await?;
        let check = |by: Believed<'_>| verify::named(&record, by, terms.digest, &tagged);
        let record = self.believing(check).await?;
        let limits = Terms::new(&terms.manifest, run, round);
        let (digest, len) = (record.snapshot, record.snapshot_bytes);
        if len > limits.snapshot_len_max() as u64 {
            return Err(VerifyError::Snapshot.into());
        }
        let name = format!("tags/{tag}/snapshot");
        let mut kept = None;
        for place in [&name, &format!("runs/{run}/snapshot")] {
            let bytes = self.state.read(place)?;
            kept = kept.or(bytes.filter(|bytes| Digest::of(bytes) == digest));
        }
        let (bytes, moved) = match kept {
            Some(kept) => (kept, 0),
            None => {
                let part = format!("{name}.part");
                let wanted = Wanted { run, digest, len, part: &part };
                let bytes = self.download(&wanted).await?;
                self.state.write(&name, bytes.clone())?;
                self.state.remove(&part)?;
                (bytes, len)
            }
        };
        let snapshot = self.shared.snapshot(&bytes, digest, &limits);
        let snapshot = snapshot.map_err(ClientError::Snapshot)?;
        let theta = snapshot.theta(&terms.manifest);
        Ok(Fetched { run, round, theta, moved, terms })
    }
}
