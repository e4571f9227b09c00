//! Check-in and upload.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Origin, Terms, Update};
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::message::{Answer, Assignment, CheckIn, Receipt, Record, Signed};
use gossamer_protocol::rng::Stream;
use gossamer_protocol::sign::Purpose;
use gossamer_protocol::sparse::Support;

use super::steps::Act;
use super::{Coordinator, CoordinatorError, Open, Run};
use crate::advance;
use crate::clock::Timestamp;
use crate::round::{Effect, Idle, Phase, RoundError, Task};
use crate::status::Status;
use crate::store::{Kind, StoreError};

/// How long an idle client waits where no run says otherwise.
const NO_RUN_RETRY: Duration = Duration::from_secs(5);
/// A round closes in well under this, so nobody waits longer for it.
const CLOSING_RETRY: Duration = Duration::from_secs(1);
/// Frames up to this size are decoded where they are: handing them over costs more.
const DECODE_INLINE_MAX: usize = 1 << 15;

/// Where an update would go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: RoundId,
    /// The attempt at it.
    pub attempt: Attempt,
    /// Whose update it is.
    pub client: ClientId,
}

impl Coordinator {
    /// What `client` can do now. Asked again, it has the same task.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownClient`], [`CoordinatorError::UnknownRun`], and the store's.
    pub async fn check_in(
        &self,
        client: ClientId,
        check_in: &CheckIn,
    ) -> Result<Answer, CoordinatorError> {
        let only = check_in.run;
        self.as_client(client)
            .await?
            .apart(move |this| async move { this.answer(client, only).await })
            .await
    }

    async fn answer(
        &self,
        client: ClientId,
        only: Option<RunId>,
    ) -> Result<Answer, CoordinatorError> {
        let runs = match only {
            Some(run) => vec![self.find(run).await?],
            None => {
                // Before anybody is told that there is nothing to do: another process may have made a run.
                if self.0.store.is_shared() && self.all().iter().all(|run| run.is_over()) {
                    self.refresh().await?;
                }
                self.all()
            }
        };
        let mut over = None;
        let mut wait: Option<(Duration, String)> = None;
        for run in runs {
            match self.ask(&run, client).await? {
                Answer::Over { reason } => over = Some(reason),
                Answer::Wait { retry_ms, reason } => {
                    let retry = Duration::from_millis(retry_ms);
                    if wait.as_ref().is_none_or(|(shortest, _)| retry < *shortest) {
                        wait = Some((retry, reason));
                    }
                }
                task @ Answer::Train(_) => return Ok(task),
            }
        }
        Ok(match (wait, over) {
            (Some((retry, reason)), _) => Answer::Wait { retry_ms: millis(retry), reason },
            (None, Some(reason)) => Answer::Over { reason },
            (None, None) => {
                let reason = "there is no run yet".to_owned();
                Answer::Wait { retry_ms: millis(NO_RUN_RETRY), reason }
            }
        })
    }

    async fn ask(&self, run: &Arc<Run>, client: ClientId) -> Result<Answer, CoordinatorError> {
        let status = run.status();
        let now = self.now();
        let wait = |reason: &str, most: Duration| {
            let retry_ms = millis(retry(run, client, now).min(most));
            Answer::Wait { retry_ms, reason: reason.to_owned() }
        };
        match status.status {
            Status::Complete => {
                let reason = match &*status.note {
                    "" => "the run is complete".to_owned(),
                    why => format!("the run is complete: {why}"),
                };
                return Ok(Answer::Over { reason });
            }
            Status::Aborted => {
                let reason = format!("the run was aborted: {}", status.note);
                return Ok(Answer::Over { reason });
            }
            Status::Paused => return Ok(wait("the run is paused", Duration::MAX)),
            Status::Running => {}
        }
        let mut open = self.lock(run).await?;
        if open.round.phase() == Phase::Idle {
            self.step(run, &mut open, &Act::Tick, now).await?;
        }
        let effects = self.step(run, &mut open, &Act::CheckIn(client), now).await?;
        Ok(match (effects.as_slice(), open.round.phase()) {
            ([Effect::Assign { .. }], Phase::Open { deadline }) => {
                let Task { round, attempt } = open.round.asked_for(client);
                let (snapshot, snapshot_bytes) = self.start_of(run, &open, round).await?;
                let deadline_ms = millis(now.until(deadline));
                let run = run.id;
                Answer::Train(Assignment {
                    run,
                    round,
                    attempt,
                    snapshot,
                    snapshot_bytes,
                    deadline_ms,
                })
            }
            ([Effect::Wait(idle @ Idle::Closing)], _) => wait(idle.reason(), CLOSING_RETRY),
            ([Effect::Wait(idle)], _) => wait(idle.reason(), Duration::MAX),
            _ => wait("nothing to do", Duration::MAX),
        })
    }

    /// Digest and length of the snapshot that clients asked in `round` start from.
    async fn start_of(
        &self,
        run: &Run,
        open: &Open,
        round: RoundId,
    ) -> Result<(Digest, u64), CoordinatorError> {
        if round == open.round.id() {
            return Ok((open.snapshot, open.snapshot_bytes.len() as u64));
        }
        let snapshot = self.stored_record(run, round).await?.snapshot;
        Ok((snapshot, self.0.store.objects().len(Kind::Snapshot, snapshot).await?))
    }

    /// Checks everything about an upload that its address tells, before its bytes are read; gives
    /// the most bytes it may have.
    ///
    /// # Errors
    /// As for [`submit`](Self::submit).
    pub async fn admit(&self, caller: ClientId, to: &Admission) -> Result<usize, CoordinatorError> {
        let run = self.as_client(caller).await?.find(to.run).await?;
        if caller != to.client {
            return Err(CoordinatorError::NotYours { caller, owner: to.client });
        }
        let limit = Terms::new(&run.manifest, run.id, to.round).update_len_max();
        // A client that lost its receipt may ask for it whenever it likes.
        let now = self.now();
        let open = self.lock(&run).await?;
        if let Err(source) = open.round.admits(to.round, to.attempt, to.client, now) {
            drop(open);
            if self.stored_receipt(&run, to).await?.is_none() {
                return Err(CoordinatorError::Round { source, retry: retry(&run, caller, now) });
            }
        } else if run.is_over() && !open.round.accepted().contains_key(&to.client) {
            return Err(over(&run));
        }
        Ok(limit)
    }

    /// Takes an update. On `Ok` it is durable and will be counted once; the receipt says so.
    ///
    /// The same bytes again get the same receipt, whenever they come.
    ///
    /// # Errors
    /// [`CoordinatorError`], named for what is off; nothing changed.
    pub async fn submit(
        &self,
        caller: ClientId,
        run: RunId,
        round: RoundId,
        attempt: Attempt,
        client: ClientId,
        frame: Bytes,
    ) -> Result<Signed, CoordinatorError> {
        let to = Admission { run, round, attempt, client };
        self.apart(move |this| async move { this.take(caller, to, frame).await }).await
    }

    async fn take(
        &self,
        caller: ClientId,
        to: Admission,
        frame: Bytes,
    ) -> Result<Signed, CoordinatorError> {
        let Admission { run, client, .. } = to;
        let limit = self.admit(caller, &to).await?;
        if frame.len() > limit {
            let (got, limit) = (frame.len() as u64, limit as u64);
            return Err(CoordinatorError::TooLarge { got, limit });
        }
        let digest = Digest::of(&frame);
        let run = self.find(run).await?;
        if let Some((stands, receipt)) = self.stored_receipt(&run, &to).await? {
            let retry = Duration::ZERO;
            let source = RoundError::Conflict(client);
            let same = stands == digest;
            return if same { Ok(receipt) } else { Err(CoordinatorError::Round { source, retry }) };
        }
        self.check_frame(&run, &to, &frame).await?;
        self.0.store.objects().put_named(Kind::Update, digest, frame).await?;
        self.accept(&run, &to, digest).await
    }

    /// Whether the bytes are what the address says and this round wants.
    async fn check_frame(
        &self,
        run: &Arc<Run>,
        to: &Admission,
        frame: &Bytes,
    ) -> Result<(), CoordinatorError> {
        let Admission { round, attempt, client, .. } = *to;
        let here = {
            let open = self.lock(run).await?;
            (open.round.id() == round).then(|| (open.snapshot, open.shared.clone()))
        };
        let (snapshot, shared) = match here {
            Some(here) => here,
            None => self.base(run, round).await?,
        };
        let origin = Origin { run: run.id, round, attempt, client, snapshot };
        let check = {
            let (run, frame) = (run.clone(), frame.clone());
            move || {
                let terms = Terms::new(&run.manifest, run.id, round);
                Update::check(&frame, &terms, &origin, shared.as_deref())
            }
        };
        if frame.len() <= DECODE_INLINE_MAX {
            check()?;
        } else {
            tokio::task::spawn_blocking(check).await.map_err(|_| CoordinatorError::Stopping)??;
        }
        Ok(())
    }

    pub(super) async fn accept(
        &self,
        run: &Arc<Run>,
        to: &Admission,
        update: Digest,
    ) -> Result<Signed, CoordinatorError> {
        let mut open = self.lock(run).await?;
        let effects = self.step(run, &mut open, &Act::Submit(*to, update), self.now()).await?;
        if let [Effect::Repeat(_)] = effects.as_slice() {
            let stored = self.stored_receipt(run, to).await?;
            let (_, receipt) = stored.ok_or(StoreError::Row("an accepted update has no row"))?;
            return Ok(receipt);
        }
        // The same text and key give the same signature as the one just stored.
        let Admission { round, attempt, client, .. } = *to;
        Ok(self.receipt(run, Task { round, attempt }, client, update))
    }

    /// What a round's updates are read with, where it need not be the one that is on: the digest of its
    /// snapshot, and the support that clients share.
    pub(super) async fn base(
        &self,
        run: &Run,
        round: RoundId,
    ) -> Result<(Digest, Option<Arc<Support>>), CoordinatorError> {
        let snapshot = self.stored_record(run, round).await?.snapshot;
        let terms = Terms::new(&run.manifest, run.id, round);
        if !terms.needs_support() {
            return Ok((snapshot, None));
        }
        let frame = self.snapshot_of(run, round).await?;
        Ok((snapshot, advance::shared_support(&frame, &terms)?.map(Arc::new)))
    }

    async fn stored_receipt(
        &self,
        run: &Run,
        to: &Admission,
    ) -> Result<Option<(Digest, Signed)>, CoordinatorError> {
        let late = run.manifest.cohort.staleness_max();
        let stored = self.0.store.receipt(run.id, to.round, to.client, late).await?;
        Ok(stored.map(|(update, receipt)| (update, self.anew(Purpose::Receipt, receipt))))
    }

    pub(super) fn receipt(
        &self,
        run: &Run,
        Task { round, attempt }: Task,
        client: ClientId,
        update: Digest,
    ) -> Signed {
        let receipt = Receipt { run: run.id, round, attempt, client, update };
        Signed::new(&self.key(), Purpose::Receipt, json(&receipt))
    }

    pub(super) fn sign_record(&self, record: &Record) -> Signed {
        Signed::new(&self.key(), Purpose::Record, json(record))
    }

    /// A retry window where no one client is meant.
    pub(super) fn retry_any(&self, run: &Run, now: Timestamp) -> Duration {
        retry(run, ClientId(run.id.0), now)
    }
}

pub(super) fn over(run: &Run) -> CoordinatorError {
    let status = run.status();
    let why = if status.note.is_empty() { status.status.name() } else { &status.note };
    CoordinatorError::RunOver { run: run.id, why: why.to_owned() }
}

/// The run's retry window, times something uniform on `[0.5, 1.5)`: a fleet that was turned away at
/// one moment does not come back at one moment.
fn retry(run: &Run, client: ClientId, now: Timestamp) -> Duration {
    let parts: [&[u8]; 2] = [&client.0, &now.0.to_le_bytes()];
    let jitter = 0.5 + Stream::new(run.manifest.seed, "retry", &parts).unit_f64();
    Duration::from_secs_f64(run.manifest.cohort.retry_s * jitter)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn json<T: serde::Serialize>(message: &T) -> Vec<u8> {
    serde_json::to_vec(message).expect("ids and numbers are always JSON")
}
