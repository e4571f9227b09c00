//! What a client tells of a snapshot: how well it predicts examples that the client never trains on.

use std::sync::Arc;

use gossamer_protocol::frame::Snapshot;
use gossamer_protocol::message::{Assignment, Measured};

use super::shared::RunTerms;
use super::{Client, ClientError, Event};
use crate::data::TrainingTask;
use crate::model::BaseModel;
use crate::train::caught::caught;
use crate::train::{Evaluation, evaluate};
use crate::transport::Transport as _;

impl Client {
    /// Evaluates the round's snapshot where the run asks this client to and the app holds something out. A
    /// refusal costs the evaluation, not the round.
    pub(super) async fn evaluate(
        &self,
        assignment: &Assignment,
        terms: &Arc<RunTerms>,
        base: &BaseModel,
        snapshot: &Arc<Snapshot>,
        task: &Arc<dyn TrainingTask>,
    ) -> Result<(), ClientError> {
        let Assignment { run, round, .. } = *assignment;
        let manifest = &terms.manifest;
        if !manifest.evaluation.is_some_and(|asked| asked.asks(manifest.seed, self.id())) {
            return Ok(());
        }
        // A round that is gone on with was told before, unless the answer was lost.
        let (name, told) = (format!("runs/{run}/evaluated"), round.0.to_le_bytes());
        if self.state.read(&name)?.is_some_and(|kept| kept[..] == told) {
            return Ok(());
        }
        let (terms, base) = (terms.clone(), base.clone());
        let (snapshot, task) = (snapshot.clone(), task.clone());
        let work = move || {
            let (manifest, training) = (&terms.manifest, &terms.manifest.training);
            let (rows, cols) = (training.batch as usize, training.context as usize);
            let batches = caught(|| task.held_out(rows, cols));
            let batches =
                batches.map_err(|message| ClientError::Panicked { what: "the task", message })?;
            if batches.is_empty() {
                return Ok(Evaluation::default());
            }
            let done = evaluate(&base, manifest, &snapshot.theta(manifest), &batches);
            done.map_err(ClientError::Train)
        };
        let Evaluation { nats, tokens, .. } = self.on_threads(work).await??;
        let Some(measured) = Measured::new(tokens, nats) else { return Ok(()) };
        self.tell(&Event::Evaluated { round, targets: tokens, nats })?;
        match self.transport.measured(&self.slot(assignment), &measured).await {
            Ok(()) => self.state.write(&name, told.to_vec())?,
            Err(refused) => tracing::warn!(%run, %round, %refused, "the evaluation is not taken"),
        }
        Ok(())
    }
}
