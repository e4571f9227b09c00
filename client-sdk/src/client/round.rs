//! One round of one client: verify, download, train, select, encode, deliver.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Snapshot, Terms, Update};
use gossamer_protocol::ids::RunId;
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::message::{Assignment, Signed};
use gossamer_protocol::sparse::{Sparse, Support};
use gossamer_protocol::sparsify::top_k;

use super::{Client, ClientError, Contribution, Event};
use crate::data::TrainingTask;
use crate::model::BaseModel;
use crate::state::StateError;
use crate::train::{self, Job, Trained};
use crate::transport::{Slot, Transport, TransportError};
use crate::verify::{self, Seen, VerifyError};

/// Bytes of a snapshot asked for at once.
const PIECE: u64 = 4 << 20;

/// A run's verified manifest.
#[derive(Debug)]
pub(super) struct RunTerms {
    manifest: Manifest,
    digest: Digest,
}

/// An encoded update that has no receipt yet.
struct Pending {
    slot: Slot,
    snapshot: Digest,
    frame: Bytes,
}

impl Client {
    /// Does what `assignment` asks.
    pub(super) async fn round(
        &self,
        assignment: &Assignment,
        task: &Arc<dyn TrainingTask>,
    ) -> Result<Contribution, ClientError> {
        let terms = self.terms(assignment.run).await?;
        let base = self.base(&terms.manifest)?;
        self.tell(&Event::Assigned { round: assignment.round, manifest: &terms.manifest })?;
        let pending = match self.pending(assignment, &terms.manifest)? {
            Some(pending) => pending,
            None => {
                let snapshot = self.snapshot(assignment, &terms).await?;
                let made = self.train(assignment, &terms, base, snapshot, task).await;
                match made {
                    Ok(pending) => pending,
                    Err(reason) => {
                        let round = assignment.round;
                        let told = self.tell(&Event::Abandoned { round, reason: &reason });
                        return Err(told.err().unwrap_or(reason));
                    }
                }
            }
        };
        self.deliver(pending, &terms.manifest, assignment).await
    }

    /// The run's manifest: from memory, from the state, or from the aggregator, always verified.
    async fn terms(&self, run: RunId) -> Result<Arc<RunTerms>, ClientError> {
        let lock = || self.terms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(terms) = lock().get(&run) {
            return Ok(terms.clone());
        }
        let (bytes, signature) = (format!("runs/{run}/manifest"), format!("runs/{run}/manifest.sig"));
        let kept = match (self.state.read(&bytes)?, self.state.read(&signature)?) {
            (Some(bytes), Some(signature)) => String::from_utf8(signature)
                .ok()
                .and_then(|text| text.parse().ok())
                .map(|signature| Signed { bytes, signature }),
            _ => None,
        };
        let kept = kept.and_then(|signed| verify::manifest(&signed, &self.server, run).ok());
        let (manifest, digest) = match kept {
            Some(kept) => kept,
            None => {
                let signed = self.transport.manifest(run).await?;
                let verified = verify::manifest(&signed, &self.server, run)?;
                self.state.write(&bytes, &signed.bytes)?;
                self.state.write(&signature, signed.signature.to_string().as_bytes())?;
                verified
            }
        };
        let terms = Arc::new(RunTerms { manifest, digest });
        lock().insert(run, terms.clone());
        Ok(terms)
    }

    fn base(&self, manifest: &Manifest) -> Result<BaseModel, ClientError> {
        let wanted = manifest.base.digest;
        let found = self.bases.iter().find(|base| base.digest() == wanted).cloned();
        found.ok_or_else(|| {
            let have: Vec<String> = self.bases.iter().map(|b| b.digest().to_string()).collect();
            let have = if have.is_empty() { "none".to_owned() } else { have.join(", ") };
            ClientError::WrongBase { name: manifest.base.name.clone(), wanted, have }
        })
    }

    /// The verified snapshot of the assignment.
    async fn snapshot(
        &self,
        assignment: &Assignment,
        terms: &RunTerms,
    ) -> Result<Snapshot, ClientError> {
        let Assignment { run, round, snapshot: digest, snapshot_bytes, .. } = *assignment;
        let signed = self.transport.record(run, round).await?;
        let (seen_name, name) = (format!("runs/{run}/seen"), format!("runs/{run}/snapshot"));
        let seen: Option<Seen> = match self.state.read(&seen_name)? {
            None => None,
            Some(json) => {
                let malformed = |_| StateError::Malformed { name: seen_name.clone() };
                Some(serde_json::from_slice(&json).map_err(malformed)?)
            }
        };
        let now = verify::record(&signed, &self.server, terms.digest, assignment, seen)?;

        let limits = Terms::new(&terms.manifest, round);
        if snapshot_bytes > limits.snapshot_len_max() as u64 {
            return Err(VerifyError::Snapshot.into());
        }
        let kept = self.state.read(&name)?.filter(|bytes| Digest::of(bytes) == digest);
        let bytes = match kept {
            Some(bytes) => bytes,
            None => {
                let bytes = self.download(assignment).await?;
                self.state.write(&name, &bytes)?;
                self.state.remove(&format!("{name}.part"))?;
                bytes
            }
        };
        let snapshot = Snapshot::decode(&bytes, &limits).map_err(ClientError::Snapshot)?;
        let json = serde_json::to_vec(&now);
        let json = json.map_err(|_| StateError::Malformed { name: seen_name.clone() })?;
        self.state.write(&seen_name, &json)?;
        self.tell(&Event::Downloaded { round, bytes: snapshot_bytes })?;
        Ok(snapshot)
    }

    /// Fetches a snapshot piece by piece; what a kill or a broken line cut off is resumed.
    ///
    /// The part's first 32 bytes say of which snapshot it is.
    async fn download(&self, assignment: &Assignment) -> Result<Vec<u8>, ClientError> {
        let Assignment { run, snapshot: digest, snapshot_bytes, .. } = *assignment;
        let part = format!("runs/{run}/snapshot.part");
        let kept = self.state.read(&part)?.and_then(|kept| {
            let rest = kept.strip_prefix(&digest.0)?;
            (rest.len() as u64 <= snapshot_bytes).then(|| rest.to_vec())
        });
        let mut bytes = match kept {
            Some(bytes) => bytes,
            None => {
                self.state.write(&part, &digest.0)?;
                Vec::new()
            }
        };
        while (bytes.len() as u64) < snapshot_bytes {
            let offset = bytes.len() as u64;
            let end = snapshot_bytes.min(offset + PIECE);
            let piece = self.transport.object(run, digest, offset..end).await?;
            if piece.len() as u64 != end - offset {
                return Err(VerifyError::Snapshot.into());
            }
            bytes.extend_from_slice(&piece);
            // A snapshot of one piece is kept whole anyway, in a moment.
            if end < snapshot_bytes {
                self.state.append(&part, &piece)?;
            }
        }
        if Digest::of(&bytes) == digest {
            return Ok(bytes);
        }
        self.state.remove(&part)?;
        Err(VerifyError::Snapshot.into())
    }

    async fn train(
        &self,
        assignment: &Assignment,
        terms: &Arc<RunTerms>,
        base: BaseModel,
        snapshot: Snapshot,
        task: &Arc<dyn TrainingTask>,
    ) -> Result<Pending, ClientError> {
        let (client, round) = (self.id(), assignment.round);
        let (run_terms, task, watch) = (terms.clone(), task.clone(), self.watch.clone());
        let shared = Terms::new(&terms.manifest, round).shares_support();
        let work = move || {
            let manifest = &run_terms.manifest;
            let theta = snapshot.theta(manifest);
            let support = shared.then(|| snapshot.values.support().clone());
            let job =
                Job { base: &base, manifest, theta: &theta, support: support.as_ref(), client, round };
            let trained = train::train(&job, task.as_ref(), &mut |progress| {
                watch(&Event::Training(progress))
            })?;
            let delta = select(manifest, &Terms::new(manifest, round), &trained, support)?;
            Ok::<_, ClientError>((trained, delta))
        };
        let done = tokio::task::spawn_blocking(work).await.map_err(|_| ClientError::Thread)?;
        let (trained, delta) = match done {
            Err(ClientError::Train(train::TrainError::Stopped { .. })) => Err(ClientError::Stopped),
            other => other,
        }?;
        let update = Update {
            run: assignment.run,
            round,
            attempt: assignment.attempt,
            client,
            snapshot: assignment.snapshot,
            examples: trained.examples,
            loss: trained.loss,
            delta,
        };
        let frame = update.encode(&Terms::new(&terms.manifest, round));
        let frame = Bytes::from(frame.map_err(|e| ClientError::Update(e.into()))?);
        let slot = self.slot(assignment);
        let name = format!("runs/{}/update", slot.run);
        self.state.write(&name, &frame)?;
        Ok(Pending { slot, snapshot: assignment.snapshot, frame })
    }

    /// An update for just this assignment, made before the process was killed.
    fn pending(
        &self,
        assignment: &Assignment,
        manifest: &Manifest,
    ) -> Result<Option<Pending>, ClientError> {
        let slot = self.slot(assignment);
        let Some(frame) = self.state.read(&format!("runs/{}/update", slot.run))? else {
            return Ok(None);
        };
        let terms = Terms::new(manifest, assignment.round);
        // Whom and what it is for stands in the frame; a torn or older one is not used.
        let fits = Update::peek(&frame, &terms).is_ok_and(|head| {
            head.run == slot.run
                && head.round == slot.round
                && head.attempt == slot.attempt
                && head.client == slot.client
                && head.snapshot == assignment.snapshot
        });
        Ok(fits.then(|| Pending { slot, snapshot: assignment.snapshot, frame: frame.into() }))
    }

    async fn deliver(
        &self,
        pending: Pending,
        manifest: &Manifest,
        assignment: &Assignment,
    ) -> Result<Contribution, ClientError> {
        let Pending { slot, snapshot, frame } = pending;
        debug_assert_eq!(snapshot, assignment.snapshot);
        let update_bytes = frame.len() as u64;
        self.tell(&Event::Uploading { bytes: update_bytes })?;
        let signed = self.transport.upload(&slot, &frame).await;
        let name = format!("runs/{}/update", slot.run);
        if let Err(TransportError::Refused(_)) = &signed {
            // It will not be taken another time either.
            self.state.remove(&name)?;
        }
        let receipt = verify::receipt(&signed?, &self.server, &slot, Digest::of(&frame))?;
        self.state.remove(&name)?;
        let head = Update::peek(&frame, &Terms::new(manifest, slot.round));
        let head = head.map_err(|e| ClientError::Update(e.into()))?;
        let contribution = Contribution {
            receipt,
            examples: head.examples,
            loss: head.loss,
            entries: head.entries,
            update_bytes,
        };
        self.tell(&Event::Delivered(&contribution))?;
        Ok(contribution)
    }

    fn slot(&self, assignment: &Assignment) -> Slot {
        let Assignment { run, round, attempt, .. } = *assignment;
        Slot { run, round, attempt, client: self.id() }
    }
}

/// The entries of a trained change that travel.
fn select(
    manifest: &Manifest,
    terms: &Terms<'_>,
    trained: &Trained,
    shared: Option<Support>,
) -> Result<Sparse, ClientError> {
    let boxed = |e: Box<dyn std::error::Error + Send + Sync>| ClientError::Update(e);
    let support = match shared {
        Some(support) => support,
        None if terms.is_dense_round() => Support::All,
        None => top_k(&trained.delta, manifest.method.upload.density)
            .map_err(|e| boxed(e.into()))?,
    };
    Sparse::gather(&trained.delta, support).map_err(|e| boxed(e.into()))
}

