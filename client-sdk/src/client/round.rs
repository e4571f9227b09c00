//! One round of one client: verify, download, evaluate (`evaluation`), train (`training`), deliver.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Origin, Snapshot, Terms, Update, UpdateHead};
use gossamer_protocol::ids::{RoundId, RunId};
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::message::{Assignment, Signed};
use gossamer_protocol::problem::ProblemType;

use super::download::Wanted;
use super::shared::RunTerms;
use super::{Client, ClientError, Contribution, Deadline, Event};
use crate::data::TrainingTask;
use crate::model::BaseModel;
use crate::state::StateError;
use crate::train::Footprint;
use crate::train::caught::caught;
use crate::transport::{Slot, Transport, TransportError};
use crate::verify::{self, Believed, Seen, VerifyError};

/// An encoded update that has no receipt yet.
pub(super) struct Pending {
    pub(super) slot: Slot,
    pub(super) snapshot: Digest,
    pub(super) frame: Bytes,
    /// What the frame says before its entries.
    pub(super) head: UpdateHead,
    /// Bytes it was expected to take; unknown of one that was made by a process before.
    pub(super) predicted: Option<u64>,
}

impl Client {
    /// Does what `assignment` asks; tells where the round is given up.
    pub(super) async fn round(
        &self,
        assignment: &Assignment,
        task: &Arc<dyn TrainingTask>,
    ) -> Result<Contribution, ClientError> {
        let done = self.take_part(assignment, task).await;
        if let Err(reason) = &done
            && reason.abandons_round()
        {
            self.tell(&Event::Abandoned { round: assignment.round, reason })?;
        }
        done
    }

    async fn take_part(
        &self,
        assignment: &Assignment,
        task: &Arc<dyn TrainingTask>,
    ) -> Result<Contribution, ClientError> {
        let deadline = Deadline::after(assignment.deadline_ms);
        let terms = self.terms(assignment.run).await?;
        let base = self.base(&terms.manifest)?;
        self.tell(&Event::Assigned { round: assignment.round, manifest: &terms.manifest })?;
        self.footprint(&base, &terms.manifest, task.as_ref())?;
        let pending = match self.pending(assignment, &terms.manifest)? {
            Some(pending) => pending,
            None => {
                let snapshot = self.snapshot(assignment, &terms).await?;
                self.evaluate(assignment, &terms, &base, &snapshot, task).await?;
                self.train(assignment, &terms, base, snapshot, task, deadline).await?
            }
        };
        self.opened(assignment.round, deadline, None).await?;
        self.deliver(pending, assignment).await
    }

    /// The run's manifest: from memory, from the state, or from the aggregator, always verified.
    pub(super) async fn terms(&self, run: RunId) -> Result<Arc<RunTerms>, ClientError> {
        let lock = || self.terms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(terms) = lock().get(&run) {
            return Ok(terms.clone());
        }
        let (bytes, signature) =
            (format!("runs/{run}/manifest"), format!("runs/{run}/manifest.sig"));
        let kept = match (self.state.read(&bytes)?, self.state.read(&signature)?) {
            (Some(bytes), Some(signature)) => std::str::from_utf8(&signature)
                .ok()
                .and_then(|text| text.parse().ok())
                .map(|signature| Signed { bytes: bytes.into(), signature }),
            _ => None,
        };
        let kept =
            kept.and_then(|signed| self.check(|by| self.shared.verified(&signed, by, run)).ok());
        let terms = match kept {
            Some(kept) => kept,
            None => {
                let signed = self.transport.manifest(run).await?;
                let terms = self.believing(|by| self.shared.verified(&signed, by, run)).await?;
                // In memory it would only lie beside `terms`.
                if self.state.outlives_process() {
                    self.state.write(&bytes, signed.bytes)?;
                    self.state.write(&signature, signed.signature.to_string())?;
                }
                terms
            }
        };
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

    /// How the training, beside all base models that are held, keeps to the app's cap.
    pub(super) fn footprint(
        &self,
        base: &BaseModel,
        manifest: &Manifest,
        task: &dyn TrainingTask,
    ) -> Result<Footprint, ClientError> {
        let Some(most) = self.memory_max else { return Ok(self.footprint) };
        let panicked = |message| ClientError::Panicked { what: "the task", message };
        let has_loss = caught(|| task.has_loss()).map_err(panicked)?;
        let held: u64 = self.bases.iter().map(|base| base.n_bytes() as u64).sum();
        let left = most.saturating_sub(held);
        let within = self.footprint.within(left, base, manifest, has_loss);
        within.map_err(|needs| ClientError::Memory { needs: held.saturating_add(needs), most })
    }

    /// The verified snapshot of the assignment.
    async fn snapshot(
        &self,
        assignment: &Assignment,
        terms: &RunTerms,
    ) -> Result<Arc<Snapshot>, ClientError> {
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
        let record = |by: Believed<'_>| verify::record(&signed, by, terms.digest, assignment, seen);
        let now = self.believing(record).await?;

        let limits = Terms::new(&terms.manifest, run, round);
        if snapshot_bytes > limits.snapshot_len_max() as u64 {
            return Err(VerifyError::Snapshot.into());
        }
        let kept = self.state.read(&name)?.map(|kept| (self.shared.digest(&kept), kept));
        let (bytes, moved) = match kept {
            Some((found, kept)) if found == digest => (kept, 0),
            kept => {
                let held = seen.zip(kept).map(|(Seen { round, .. }, kept)| (round, kept));
                let (bytes, moved) = match self.difference(assignment, &limits, held).await? {
                    Some(made) => made,
                    None => {
                        let part = format!("{name}.part");
                        let wanted = Wanted { run, digest, len: snapshot_bytes, part: &part };
                        (self.download(&wanted).await?, snapshot_bytes)
                    }
                };
                self.state.write(&name, bytes.clone())?;
                self.state.remove(&format!("{name}.part"))?;
                (bytes, moved)
            }
        };
        let snapshot = self.shared.snapshot(&bytes, digest, &limits);
        let snapshot = snapshot.map_err(ClientError::Snapshot)?;
        let json = serde_json::to_vec(&now);
        let json = json.map_err(|_| StateError::Malformed { name: seen_name.clone() })?;
        self.state.write(&seen_name, json)?;
        self.tell(&Event::Downloaded { round, bytes: moved })?;
        Ok(snapshot)
    }

    /// The snapshot's frame by what changed since the one that is `held`, and the bytes that took; `None`
    /// where that cannot be had, or does not make the frame that was signed.
    async fn difference(
        &self,
        assignment: &Assignment,
        terms: &Terms<'_>,
        held: Option<(RoundId, (Digest, Bytes))>,
    ) -> Result<Option<(Bytes, u64)>, ClientError> {
        let Assignment { run, round, snapshot: digest, snapshot_bytes: most, .. } = *assignment;
        let Some((since, (held, frame))) = held else { return Ok(None) };
        if !terms.has_differences() || since >= round {
            return Ok(None);
        }
        let before = Terms::new(terms.manifest(), run, since);
        let Ok(held) = self.shared.snapshot(&frame, held, &before) else { return Ok(None) };
        let bytes = match self.transport.difference(run, round, since, most).await {
            Ok(bytes) => bytes,
            Err(TransportError::Refused(_) | TransportError::Malformed(_)) => return Ok(None),
            Err(unreachable) => return Err(unreachable.into()),
        };
        let made = self.shared.later(&frame, &held, &bytes, terms).ok();
        let made = made.filter(|made| Digest::of(made) == digest);
        if made.is_none() {
            tracing::warn!(%run, %round, "a difference that does not fit; fetching the snapshot itself");
        }
        Ok(made.map(|made| (made, bytes.len() as u64)))
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
        let terms = Terms::new(manifest, assignment.run, assignment.round);
        // A torn one, or one for something else, does not match its own trailer.
        let Ok(head) = Update::peek(&frame, &terms, &self.origin(assignment)) else {
            return Ok(None);
        };
        let snapshot = assignment.snapshot;
        Ok(Some(Pending { slot, snapshot, frame, head, predicted: None }))
    }

    async fn deliver(
        &self,
        pending: Pending,
        assignment: &Assignment,
    ) -> Result<Contribution, ClientError> {
        let Pending { slot, snapshot, frame, head, predicted } = pending;
        debug_assert_eq!(snapshot, assignment.snapshot);
        let update_bytes = frame.len() as u64;
        self.tell(&Event::Uploading { bytes: update_bytes, predicted })?;
        let signed = self.transport.upload(&slot, &frame).await;
        let name = format!("runs/{}/update", slot.run);
        if signed.as_ref().is_err_and(is_final) {
            self.state.remove(&name)?;
        }
        let signed = signed?;
        let digest = Digest::of(&frame);
        let receipt = |by: Believed<'_>| verify::receipt(&signed, by, &slot, digest);
        let receipt = self.believing(receipt).await?;
        self.keep_receipt(&signed)?;
        // What it left out counts from now on; not sooner, since what is not delivered is not sent.
        for kept in ["residual", "control"].map(|name| format!("runs/{}/{name}", slot.run)) {
            let next = format!("{kept}.next");
            if let Some(bytes) = self.state.read(&next)? {
                self.state.write(&kept, bytes)?;
                self.state.remove(&next)?;
            }
        }
        self.state.remove(&name)?;
        let contribution = Contribution {
            receipt,
            examples: head.examples,
            loss: head.loss,
            entries: head.entries,
            update_bytes,
            predicted_bytes: predicted,
        };
        self.tell(&Event::Delivered(&contribution))?;
        Ok(contribution)
    }

    pub(super) fn origin(&self, assignment: &Assignment) -> Origin {
        let Assignment { run, round, attempt, snapshot, .. } = *assignment;
        Origin { run, round, attempt, client: self.id(), snapshot }
    }

    pub(super) fn slot(&self, assignment: &Assignment) -> Slot {
        let Assignment { run, round, attempt, .. } = *assignment;
        Slot { run, round, attempt, client: self.id() }
    }
}

/// Whether this update will not be taken another time either. Not so where the aggregator was busy, or
/// did not get as far as the update.
fn is_final(error: &TransportError) -> bool {
    use ProblemType as P;
    const FINAL: [ProblemType; 13] = [
        P::StaleRound,
        P::RunOver,
        P::UnknownRun,
        P::UnknownRound,
        P::NotInCohort,
        P::NotYours,
        P::Conflict,
        P::TooLarge,
        P::WrongBase,
        P::BadFrame,
        P::BadEntries,
        P::BadValue,
        P::BadLayout,
    ];
    error.problem().is_some_and(|problem| FINAL.contains(&problem))
}
