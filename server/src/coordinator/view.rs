//! A run as its operator sees it.

use std::sync::PoisonError;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Coordinator, CoordinatorError, Run};
use crate::project::ProjectName;
use crate::round::{Lacks, Phase};
use crate::status::Status;

/// A run at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RunView {
    /// Its id.
    #[schemars(with = "String")]
    pub run: RunId,
    /// Whose it is.
    #[schemars(with = "String")]
    pub project: ProjectName,
    /// What people call it.
    pub name: String,
    /// Whether it goes on.
    pub status: Status,
    /// Why it ended, where somebody or something ended it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Rounds it has altogether.
    pub rounds: u64,
    /// The round that is on; equal to `rounds` once complete.
    #[schemars(with = "u64")]
    pub round: RoundId,
    /// The attempt at it.
    #[schemars(with = "u32")]
    pub attempt: Attempt,
    /// Unix time in milliseconds at which the attempt ends, where one is open.
    pub deadline_ms: Option<u64>,
    /// Clients asked in this attempt.
    pub asked: usize,
    /// Updates accepted in this round.
    pub accepted: usize,
    /// Updates that end it.
    pub goal: u32,
    /// Who is lacking for the round to begin, where it waits for somebody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lacks: Option<Lacks>,
    /// Digest of the latest record.
    #[schemars(with = "String")]
    pub record: Digest,
    /// Digest of the latest snapshot.
    #[schemars(with = "String")]
    pub snapshot: Digest,
    /// Its length in bytes.
    pub snapshot_bytes: u64,
    /// Digest of the server's state behind it.
    #[schemars(with = "String")]
    pub state: Digest,
}

impl Coordinator {
    /// Every run, oldest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn runs(&self) -> Result<Vec<RunView>, CoordinatorError> {
        let mut views = Vec::new();
        for run in self.all() {
            views.push(self.view(&run).await?);
        }
        Ok(views)
    }

    /// One run.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownRun`], and the store's.
    pub async fn run(&self, run: RunId) -> Result<RunView, CoordinatorError> {
        self.view(&*self.find(run).await?).await
    }

    /// The clients asked in a run's open round, in rising order.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownRun`], and the store's.
    pub async fn cohort(&self, run: RunId) -> Result<Vec<ClientId>, CoordinatorError> {
        let run = self.find(run).await?;
        let open = self.lock(&run).await?;
        Ok(open.round.asked().keys().copied().collect())
    }

    async fn view(&self, run: &Run) -> Result<RunView, CoordinatorError> {
        let open = self.lock(run).await?;
        let status = run.status();
        let waits = status.status == Status::Running && open.round.phase() == Phase::Idle;
        let lacks = {
            let fleet = self.0.fleet.read().unwrap_or_else(PoisonError::into_inner);
            open.round.lacks(fleet.of(&run.project)).filter(|_| waits)
        };
        Ok(RunView {
            run: run.id,
            project: run.project.clone(),
            name: run.manifest.name.clone(),
            status: status.status,
            note: status.note,
            rounds: run.manifest.rounds,
            round: open.round.id(),
            attempt: open.round.attempt(),
            deadline_ms: match open.round.phase() {
                Phase::Open { deadline } => Some(deadline.0),
                Phase::Idle | Phase::Frozen => None,
            },
            asked: open.round.asked().len(),
            accepted: open.round.accepted().len(),
            goal: run.manifest.cohort.goal,
            lacks,
            record: open.record,
            snapshot: open.snapshot,
            snapshot_bytes: open.snapshot_bytes.len() as u64,
            state: open.state,
        })
    }
}
