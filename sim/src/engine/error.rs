//! Why a simulation stopped, and whether that is a result.

use gossamer_client::client::ClientError;
use gossamer_client::data::TaskError;
use gossamer_client::model::ModelError;
use gossamer_client::train::TrainError;
use gossamer_protocol::codec::CodecError;
use gossamer_protocol::frame::FrameError;
use gossamer_protocol::layout::LayoutError;
use gossamer_protocol::select::SelectError;
use gossamer_server::coordinator::CoordinatorError;

use super::CheckpointError;
use crate::dataset::DatasetError;
use crate::partition::{ClientText, PartitionError};
use crate::report::ReportError;
use crate::scenario::ScenarioError;

/// Why a simulation stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The scenario asks for what the data cannot give.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// The text could not be read.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The text could not be dealt.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// The base model could not be loaded, or does not take the text.
    #[error("base model")]
    Model(#[from] ModelError),
    /// The adapter does not fit the base model.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A client's text could not be made into batches.
    #[error("client {client}")]
    Data {
        /// The client.
        client: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The held-out examples could not be made into batches.
    #[error("held-out examples")]
    Heldout(#[source] TaskError),
    /// The aggregator refused what the simulator did: a defect in one of them.
    #[error("the aggregator")]
    Aggregator(#[from] CoordinatorError),
    /// A client failed.
    #[error("client {client} in round {round}")]
    Client {
        /// The client.
        client: String,
        /// The round.
        round: u64,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The adapter could not be evaluated.
    #[error("evaluation")]
    Evaluation(#[from] TrainError),
    /// A signed document that does not say what it should: a defect.
    #[error("the aggregator's round {round}: {why}")]
    Round {
        /// The round.
        round: u64,
        /// What is off.
        why: String,
    },
    /// The aggregator ended the run: its adapter is no number any more, or too large to travel.
    #[error("the run diverged in round {round}: {why}")]
    Diverged {
        /// The round.
        round: u64,
        /// The aggregator's words.
        why: String,
    },
    /// A repetition could not be kept, or what was kept is damaged.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Changes could not be kept.
    #[error(transparent)]
    Deltas(#[from] crate::deltas::DeltaError),
    /// Rows could not be written.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A repetition failed; the rows of the others are kept, and reported.
    #[error("method {method:?}, seed {seed}")]
    Repetition {
        /// Its method.
        method: String,
        /// Its seed.
        seed: u64,
        /// Why.
        source: Box<EngineError>,
    },
    /// The fleet's trace is none.
    #[error(transparent)]
    Trace(#[from] crate::trace::TraceError),
    /// Several processes cannot go on together.
    #[error(transparent)]
    Ranks(#[from] crate::ranks::RanksError),
    /// A worker thread ended without a result.
    #[error("a worker thread failed")]
    Thread,
}

impl EngineError {
    pub(super) fn data(client: &ClientText, source: TaskError) -> Self {
        Self::Data { client: client.name.clone(), source: source.into() }
    }

    /// Whether a loss or an adapter was no number any more: the method's fault, and a result.
    #[must_use]
    pub fn is_divergence(&self) -> bool {
        if matches!(self, Self::Diverged { .. }) {
            return true;
        }
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            let trained = match error.downcast_ref::<ClientError>() {
                Some(ClientError::Train(trained)) => Some(trained),
                _ => error.downcast_ref::<TrainError>(),
            };
            // Too large to travel is as lost as no number.
            let sent = error.downcast_ref::<FrameError>();
            let too_large = matches!(sent, Some(FrameError::Entries(CodecError::Value { .. })));
            let lost = matches!(trained, Some(TrainError::NonFinite { .. }));
            if lost || too_large || error.is::<SelectError>() {
                return true;
            }
            next = error.source();
        }
        false
    }
}
