//! The training of one round: on threads of its own, saved, paused while a gate is closed, gone on with.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use gossamer_protocol::frame::Snapshot;
use gossamer_protocol::message::Assignment;
use tokio::sync::oneshot;

use super::encode::Made;
use super::round::Pending;
use super::shared::RunTerms;
use super::sitting::{Ended, Sitting};
use super::threads::Waiting;
use super::{Client, ClientError, Deadline};
use crate::data::TrainingTask;
use crate::model::BaseModel;
use crate::train::caught;
use crate::train::{Team, TeamError};

/// Says on its drop that nobody waits for the training any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Client {
    /// Trains, and makes the frame that travels.
    pub(super) async fn train(
        &self,
        assignment: &Assignment,
        terms: &Arc<RunTerms>,
        base: BaseModel,
        snapshot: Arc<Snapshot>,
        task: &Arc<dyn TrainingTask>,
        deadline: Deadline,
    ) -> Result<Pending, ClientError> {
        let run = assignment.run;
        let residual = match terms.manifest.method.upload.feedback {
            Some(_) => self.state.read(&format!("runs/{run}/residual"))?,
            None => None,
        };
        let control = match terms.manifest.method.scaffold {
            Some(_) => self.state.read(&format!("runs/{run}/control"))?,
            None => None,
        };
        let footprint = self.footprint(&base, &terms.manifest, task.as_ref())?;
        let stop = StopOnDrop(Arc::default());
        let sitting = Arc::new(Sitting {
            base,
            terms: terms.clone(),
            snapshot,
            origin: self.origin(assignment),
            task: task.clone(),
            app: self.app.clone(),
            state: self.state.clone(),
            saving: self.saving,
            footprint,
            residual,
            control,
            nobody_waits: stop.0.clone(),
        });
        let Made { frame, head, predicted, residual, control } = loop {
            match self.sit(&sitting).await? {
                Ended::Made(made) => break made,
                Ended::Paused(need, retry) => {
                    self.opened(assignment.round, deadline, Some((need, retry))).await?;
                }
            }
        };
        drop(stop);
        let (slot, frame) = (self.slot(assignment), Bytes::from(frame));
        if let Some(residual) = residual {
            self.state.write(&format!("runs/{run}/residual.next"), residual.to_bytes())?;
        }
        if let Some(control) = control {
            self.state.write(&format!("runs/{run}/control.next"), control)?;
        }
        self.state.write(&format!("runs/{run}/update"), frame.clone())?;
        self.state.remove(&sitting.name())?;
        let snapshot = assignment.snapshot;
        Ok(Pending { slot, snapshot, frame, head, predicted: Some(predicted) })
    }
}

impl Client {
    /// Trains on this client's threads. Clients who share a budget of threads and wait for it train together, as
    /// many as a pass has room for: whose thread is free first takes the others along.
    async fn sit(&self, sitting: &Arc<Sitting>) -> Result<Ended, ClientError> {
        let Some(threads) = self.threads.clone() else {
            let sitting = sitting.clone();
            return self.on_threads(move || sitting.sit()).await?;
        };
        let (told, mut ended) = oneshot::channel();
        threads.wait(Waiting { sitting: sitting.clone(), told });
        // Another's thread may have taken this one along, and is not done yet.
        self.on_threads(move || threads.train_next()).await?;
        let lost = |_| ClientError::Thread { message: "a training beside it panicked".to_owned() };
        (&mut ended).await.map_err(lost)?
    }

    /// Does `work` on as many threads as a training has, once they are free.
    pub(super) async fn on_threads<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ClientError> {
        let (turn, size) = match &self.threads {
            Some(threads) => (threads.share().await, threads.size()),
            None => (None, NonZeroUsize::MIN),
        };
        let work = move || {
            // Held until the threads are free, also where nobody waits for it any more.
            let _turn = turn;
            let refused = |e: TeamError| ClientError::Thread { message: e.to_string() };
            Ok(Team::new(size).map_err(refused)?.run(work))
        };
        let done = tokio::task::spawn_blocking(work).await;
        let thread = |message| ClientError::Thread { message };
        done.map_err(|e| match e.try_into_panic() {
            Ok(panic) => thread(caught::message(&*panic)),
            Err(cancelled) => thread(cancelled.to_string()),
        })?
    }
}
