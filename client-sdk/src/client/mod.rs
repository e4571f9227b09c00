//! The client: enrol once, then check in, train and deliver until the run is over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gossamer_protocol::ids::{ClientId, RoundId, RunId};
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::message::{Answer, CheckIn, Receipt};
use gossamer_protocol::rotation::Trust;

use crate::data::TrainingTask;
use crate::model::BaseModel;
use crate::state::State;
use crate::train::caught::caught;
use crate::train::{Control, Footprint, Progress};
use crate::transport::Transport;
use crate::transport::metered::{Meter, Traffic};
use crate::transport::retry::Retrying;
use crate::transport::signer::Signer;
use crate::verify::VerifyError;

mod app;
mod attester;
mod builder;
mod download;
mod encode;
mod enrolled;
mod error;
mod evaluation;
mod fetch;
pub mod gate;
#[cfg(test)]
mod gate_tests;
mod inclusion;
mod rekey;
mod round;
mod saving;
mod scaffold;
mod shared;
mod sitting;
#[cfg(test)]
mod tests;
mod threads;
mod training;
mod trust;

use app::{App, Deadline};
pub use attester::Attester;
pub use builder::Builder;
pub use error::{ClientError, chain};
pub use fetch::Fetched;
use gate::Need;
pub use saving::Saving;
pub use shared::Shared;
pub use threads::Threads;

/// Rounds abandoned one after another, other than by being late, after which [`Client::run`] gives up.
const ABANDONED_MAX: u32 = 3;
/// The shortest pause between two check-ins, whatever the aggregator asks for: no busy loop.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest one: the most that a manifest can ask for.
const PAUSE_MAX: Duration = Duration::from_secs(86_400);
/// The pause after a lost round where the aggregator asked for none.
const PAUSE_LOST: Duration = Duration::from_secs(1);

/// What is told while a client works.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// There is nothing to do for now.
    Waiting {
        /// When the client asks again.
        retry: Duration,
        /// The aggregator's reason.
        reason: &'a str,
    },
    /// A round begins.
    Assigned {
        /// The round.
        round: RoundId,
        /// Its run's terms.
        manifest: &'a Manifest,
    },
    /// A snapshot is here and verified.
    Downloaded {
        /// The round it starts.
        round: RoundId,
        /// Bytes that travelled for it: its frame's length, fewer where a difference did, or none.
        bytes: u64,
    },
    /// The snapshot was tried on examples that are held out, since the run asks for it: this is told.
    Evaluated {
        /// The round.
        round: RoundId,
        /// Targets predicted: tokens, or with a head sequences.
        targets: u64,
        /// The sum of their losses, in nats.
        nats: f64,
    },
    /// A local step is done.
    Training(Progress),
    /// The gate is closed, so nothing is done; told each time it was asked. A training's memory is given
    /// back; an app that wants the base model's too stops the client here and drops it, since the training
    /// is saved.
    Paused {
        /// The round that waits; `None`: none is begun.
        round: Option<RoundId>,
        /// What is lacking.
        need: &'a Need,
        /// When the gate is asked again.
        retry: Duration,
    },
    /// A training goes on from where it was saved: before it paused, or before the process was killed.
    Resumed {
        /// The round.
        round: RoundId,
        /// Steps done already.
        step: u32,
    },
    /// Training is done; nothing is selected or rounded yet.
    Trained {
        /// The round.
        round: RoundId,
        /// Local minus received, shape `[n]`.
        delta: &'a [f32],
    },
    /// The update is encoded and about to travel.
    Uploading {
        /// Its frame's length.
        bytes: u64,
        /// The length that was expected, if places were uniform; unknown after a restart.
        predicted: Option<u64>,
    },
    /// The aggregator has the update for good.
    Delivered(&'a Contribution),
    /// The aggregator proved that the update that it gave a receipt for is counted.
    Included {
        /// The round.
        round: RoundId,
        /// How many updates were.
        updates: u64,
    },
    /// The round was given up; this client's work in it does not count.
    Abandoned {
        /// The round.
        round: RoundId,
        /// Why.
        reason: &'a ClientError,
    },
}

/// Hears every [`Event`]; [`Control::Stop`] ends the work at the next safe place.
pub type Watch = Arc<dyn Fn(&Event<'_>) -> Control + Send + Sync>;

/// What one client gave to one round.
#[derive(Clone, Debug, PartialEq)]
pub struct Contribution {
    /// The server's word that it counts.
    pub receipt: Receipt,
    /// Sequences trained on.
    pub examples: u32,
    /// Mean training loss, nats a token.
    pub loss: f32,
    /// Entries sent.
    pub entries: usize,
    /// The frame's length.
    pub update_bytes: u64,
    /// The length that was expected, if places were uniform; unknown after a restart.
    pub predicted_bytes: Option<u64>,
}

/// What a check-in led to.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// An update was delivered.
    Delivered(Contribution),
    /// Nothing to do; ask again later.
    Wait {
        /// After so long.
        retry: Duration,
        /// The aggregator's reason.
        reason: String,
    },
    /// The gate is closed: the aggregator was not asked.
    Closed {
        /// What is lacking.
        need: Need,
        /// When the gate may be asked again.
        retry: Duration,
    },
    /// Nothing to do ever again.
    Over {
        /// The aggregator's reason.
        reason: String,
    },
}

/// One enrolled device.
pub struct Client {
    id: ClientId,
    /// Who signs, where the key is this client's to change.
    signer: Option<Signer>,
    /// The aggregator's keys.
    trust: Mutex<Trust>,
    transport: Retrying,
    meter: Arc<Meter>,
    /// Shared with the training thread.
    state: Arc<State>,
    bases: Vec<BaseModel>,
    run: Option<RunId>,
    app: App,
    saving: Saving,
    footprint: Footprint,
    memory_max: Option<u64>,
    threads: Option<Threads>,
    /// Whether what was delivered is to be proven to be counted.
    prove: bool,
    /// Manifests this client has fetched and verified.
    terms: Mutex<HashMap<RunId, Arc<shared::RunTerms>>>,
    shared: Arc<Shared>,
}

impl Client {
    /// Begins to describe a client of the aggregator at `url`.
    #[must_use]
    pub fn builder(url: impl Into<String>) -> Builder {
        Builder::new(url.into())
    }

    /// This client's name.
    #[must_use]
    pub fn id(&self) -> ClientId {
        self.id
    }

    /// Bytes moved by this client's meter.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.meter.traffic()
    }

    /// Checks in once, unless the gate is closed, and does what is asked.
    ///
    /// # Errors
    /// [`ClientError`]; where a round was lost, the next call may go well.
    pub async fn step(&self, task: &Arc<dyn TrainingTask>) -> Result<Outcome, ClientError> {
        let panicked = |message| ClientError::Panicked { what: "the task", message };
        if caught(|| task.examples()).map_err(panicked)? == 0 {
            return Err(ClientError::NoExamples);
        }
        if let Some((need, retry)) = self.app.closed()? {
            return Ok(Outcome::Closed { need, retry });
        }
        match self.transport.check_in(&CheckIn { run: self.run }).await? {
            Answer::Train(assignment) if self.run.is_some_and(|run| run != assignment.run) => {
                Err(VerifyError::Other { what: "assignment", field: "run" }.into())
            }
            Answer::Train(assignment) => {
                self.prove_kept().await?;
                self.round(&assignment, task).await.map(Outcome::Delivered)
            }
            Answer::Wait { retry_ms, reason } => {
                self.prove_kept().await?;
                Ok(Outcome::Wait { retry: Duration::from_millis(retry_ms), reason })
            }
            Answer::Over { reason } => {
                self.prove_kept().await?;
                Ok(Outcome::Over { reason })
            }
        }
    }

    /// Takes part until the run is over; gives the number of updates delivered.
    ///
    /// A round that is lost (too late, a loss that is not a number) is told as
    /// [`Event::Abandoned`] and the next one is tried. Between two check-ins lie at least 50 ms and at
    /// most a day. While the [gate](Builder::gate) is closed it waits. Dropped, it leaves nothing running: a
    /// training ends after its step, and is saved. Until then the state folder is in use.
    ///
    /// # Errors
    /// [`ClientError`] where going on makes no sense: among others where the aggregator stays away for
    /// all tries of the back-off, or three rounds in a row were lost otherwise than by being late.
    pub async fn run(&self, task: &Arc<dyn TrainingTask>) -> Result<u64, ClientError> {
        let (mut delivered, mut abandoned) = (0, 0);
        loop {
            match self.step(task).await {
                Ok(Outcome::Delivered(_)) => {
                    delivered += 1;
                    abandoned = 0;
                }
                Ok(Outcome::Wait { retry, reason }) => {
                    self.tell(&Event::Waiting { retry, reason: &reason })?;
                    pause(retry).await;
                }
                Ok(Outcome::Closed { need, retry }) => {
                    self.tell(&Event::Paused { round: None, need: &need, retry })?;
                    pause(retry).await;
                }
                Ok(Outcome::Over { .. }) => return Ok(delivered),
                Err(error) if error.abandons_round() => {
                    abandoned += u32::from(!error.is_late());
                    if abandoned == ABANDONED_MAX {
                        return Err(error);
                    }
                    tracing::warn!(error = %chain(&error), "round abandoned");
                    let asked = match &error {
                        ClientError::Transport(error) => error.retry_after(),
                        _ => None,
                    };
                    pause(asked.unwrap_or(PAUSE_LOST)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until the gate is open, in `round`; `closed`: what it said just now.
    async fn opened(
        &self,
        round: RoundId,
        deadline: Deadline,
        closed: Option<(Need, Duration)>,
    ) -> Result<(), ClientError> {
        let mut closed = match closed {
            Some(closed) => Some(closed),
            None => self.app.closed()?,
        };
        while let Some((need, retry)) = closed {
            let Some(left) = deadline.left() else {
                return Err(ClientError::Closed { round, need });
            };
            let retry = retry.min(left);
            self.tell(&Event::Paused { round: Some(round), need: &need, retry })?;
            pause(retry).await;
            closed = self.app.closed()?;
        }
        Ok(())
    }

    fn tell(&self, event: &Event<'_>) -> Result<(), ClientError> {
        match self.app.hear(event)? {
            Control::Continue => Ok(()),
            Control::Stop => Err(ClientError::Stopped),
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.id())
    }
}

/// Waits as long as the aggregator asked for, within reason.
async fn pause(asked: Duration) {
    tokio::time::sleep(asked.clamp(PAUSE_MIN, PAUSE_MAX)).await;
}
