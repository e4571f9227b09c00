//! One round of a drawn cohort in virtual time: who begins, when each update arrives, and what becomes of it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use gossamer_client::client::{ClientError, Contribution, Outcome};
use gossamer_client::train::{Footprint, Memory};
use gossamer_protocol::ids::RoundId;
use gossamer_protocol::manifest::Manifest;
use gossamer_server::clock::{Clock, ManualClock, Timestamp};
use gossamer_server::status::Status;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::JoinSet;

use super::buffered::Flight;
use super::devices::Devices;
use super::federation::Run;
use super::timed::{Permit, Timed, Waiting};
use super::{EngineError, Laboratory};
use crate::scenario::FleetSpec;
use crate::transport::InProcess;

/// Attempts at one round before it is given up.
pub(super) const ATTEMPTS_MAX: u32 = 10_000;

/// What a run in virtual time has besides.
pub(super) struct Timing {
    pub(super) devices: Devices,
    pub(super) seed: u64,
    queue: mpsc::UnboundedSender<Waiting>,
    waiting: AsyncMutex<mpsc::UnboundedReceiver<Waiting>>,
    /// Who is at work, where rounds are buffered.
    pub(super) flight: AsyncMutex<Flight>,
}

/// What a round in virtual time came to.
pub(super) struct Closed {
    pub(super) contributions: Vec<Contribution>,
    /// Seconds since the run began.
    pub(super) virtual_s: f64,
    /// Energy of all devices in this round.
    pub(super) joules: f64,
}

/// How a client's part ended.
pub(super) type Ended = (usize, Result<Outcome, ClientError>);

impl Timing {
    pub(super) fn new(lab: &Laboratory, spec: &FleetSpec, manifest: &Manifest, seed: u64) -> Self {
        let clients = lab.fleet.len();
        let recipe = &manifest.training;
        let tokens = [recipe.steps, recipe.batch, recipe.context].map(f64::from);
        let (base, adapter) = (lab.base.n_weights() as f64, manifest.layout.n() as f64);
        let work = (4.0 * base + 6.0 * adapter) * tokens.iter().product::<f64>();
        let memory = Memory::of(&lab.base, manifest, false, Footprint::default()).total();
        let (queue, waiting) = mpsc::unbounded_channel();
        Self {
            devices: Devices::new(spec, clients, work, memory).traced(lab.trace.clone()),
            seed,
            queue,
            waiting: AsyncMutex::new(waiting),
            flight: AsyncMutex::default(),
        }
    }

    /// The tier of the client at `at`.
    pub(super) fn tier_name(&self, at: usize) -> &str {
        self.devices.tier_name(at)
    }

    /// The way of the client at `at`.
    pub(super) fn transport(&self, inner: InProcess, at: usize, permit: Permit) -> Timed {
        Timed::new(inner, at, permit, self.queue.clone())
    }
}

/// Seconds since the run began.
pub(super) fn seconds(now: Timestamp) -> f64 {
    now.0 as f64 / 1000.0
}

/// So many seconds; as long as can be where that is too much.
pub(super) fn lasting(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

impl Run<'_> {
    /// Lets the cohort of `round` do its work in virtual time, in as many attempts as that takes.
    pub(super) async fn timed_round(
        &self,
        timing: &Timing,
        clock: &ManualClock,
        round: u64,
    ) -> Result<Closed, EngineError> {
        let off = |why: String| EngineError::Round { round, why };
        let (mut done, mut joules): (Vec<(usize, Contribution)>, _) = (Vec::new(), 0.0);
        let goal = self.manifest.cohort.goal as usize;
        for attempt in 0..ATTEMPTS_MAX {
            self.coordinator.tick().await?;
            let view = self.coordinator.run(self.id).await?;
            if view.status == Status::Aborted {
                return Err(EngineError::Diverged { round, why: view.note });
            }
            if view.round == RoundId(round + 1) {
                done.sort_by_key(|(at, _)| *at);
                let contributions = done.into_iter().map(|(_, done)| done).collect();
                return Ok(Closed { contributions, virtual_s: seconds(clock.now()), joules });
            }
            let began = clock.now();
            let deadline = began.after(Duration::from_secs(self.manifest.cohort.deadline_s.into()));
            let mut work = self.begin(timing, seconds(began), round).await?;
            let n = work.len();
            let (waiting, ended) = self.collect(timing, &mut work, n).await?;
            let first = ended.into_iter().next();
            let failure = first.map(|(at, outcome)| (at, self.failed(at, round, outcome)));
            let mut mine = HashMap::new();
            let mut ready = Vec::with_capacity(waiting.len());
            for Waiting { at, down, up, go } in waiting {
                ready.push((at, down, up));
                mine.insert(at, go);
            }
            let failed = failure.is_some();
            let ready = self.lab.ranks.gather(&(ready, failed)).await?;
            if ready.iter().any(|(_, failed)| *failed) {
                mine.clear();
                while work.join_next().await.is_some() {}
                self.all_done(round, Vec::new(), failure).await?;
                return Err(off("a client failed, and nobody says why".to_owned()));
            }

            let mut order = Vec::new();
            let mut ready: Vec<_> = ready.into_iter().flat_map(|(ready, _)| ready).collect();
            // One order of the sum of energies, however many ranks there are.
            ready.sort_unstable();
            for (at, down, up) in ready {
                let luck = timing.devices.luck(at, timing.seed, round, attempt);
                let spent = timing.devices.spent(at, seconds(began), luck, [down, up]);
                joules += spent.before_joules + spent.upload_joules;
                let arrives = began.after(lasting(spent.before_s + spent.upload_s));
                order.push((arrives, at, luck.drops));
            }
            order.sort_unstable();
            let (mut taken, mut sent) = (done.len(), Vec::new());
            for (arrives, at, drops) in order {
                if drops || arrives >= deadline || taken >= goal {
                    continue;
                }
                taken += 1;
                clock.set(arrives);
                let Some(go) = mine.remove(&at) else { continue };
                // It waits for just this.
                let _ = go.send(true);
                while let Some(ended) = work.join_next().await {
                    let (ended, outcome) = ended.map_err(|_| EngineError::Thread)?;
                    match outcome {
                        Ok(Outcome::Delivered(contribution)) => sent.push((ended, contribution)),
                        // Told that it was late, as it was let go.
                        Err(_) if ended != at => {}
                        outcome => return Err(self.failed(ended, round, outcome)),
                    }
                    if ended == at {
                        break;
                    }
                }
            }
            // All come to their end before the next attempt.
            mine.clear();
            while work.join_next().await.is_some() {}
            done.extend(self.all_done(round, sent, None).await?);
            if done.len() < goal {
                clock.set(deadline);
            }
        }
        Err(off(format!("{} updates in {ATTEMPTS_MAX} attempts", done.len())))
    }

    /// Starts all of the cohort that can begin now.
    async fn begin(
        &self,
        timing: &Timing,
        now_s: f64,
        round: u64,
    ) -> Result<JoinSet<Ended>, EngineError> {
        let mut work = JoinSet::new();
        for id in self.coordinator.cohort(self.id).await? {
            let why = || EngineError::Round { round, why: format!("{id} is no member") };
            let at = self.lab.fleet.place(id).ok_or_else(why)?;
            if !timing.devices.can_begin(at, now_s) || !self.lab.ranks.has(at) {
                continue;
            }
            self.start(&mut work, at, round).await?;
        }
        Ok(work)
    }

    /// Lets one client begin.
    pub(super) async fn start(
        &self,
        work: &mut JoinSet<Ended>,
        at: usize,
        round: u64,
    ) -> Result<(), EngineError> {
        let permit: Permit = Arc::default();
        let client = self.client(at, round, Some(&permit)).await?;
        let task = self.lab.fleet.task(at);
        let room = self.lab.room(&self.manifest);
        work.spawn(async move {
            let held = room.await;
            *permit.lock().unwrap_or_else(PoisonError::into_inner) = held;
            let outcome = client.step(&task).await;
            drop(permit.lock().unwrap_or_else(PoisonError::into_inner).take());
            (at, outcome)
        });
        Ok(())
    }

    /// Of `n` of this rank who began, those who trained, once all have, and those who ended before; both in the
    /// order of the fleet.
    pub(super) async fn collect(
        &self,
        timing: &Timing,
        work: &mut JoinSet<Ended>,
        n: usize,
    ) -> Result<(Vec<Waiting>, Vec<Ended>), EngineError> {
        let mut queue = timing.waiting.lock().await;
        let (mut waiting, mut ended): (Vec<Waiting>, Vec<Ended>) = (Vec::new(), Vec::new());
        while waiting.len() + ended.len() < n {
            tokio::select! {
                Some(one) = queue.recv() => waiting.push(one),
                Some(one) = work.join_next() => {
                    ended.push(one.map_err(|_| EngineError::Thread)?);
                }
            }
        }
        waiting.sort_by_key(|one| one.at);
        ended.sort_by_key(|(at, _)| *at);
        Ok((waiting, ended))
    }

    pub(super) fn failed(
        &self,
        at: usize,
        round: u64,
        outcome: Result<Outcome, ClientError>,
    ) -> EngineError {
        match outcome {
            Ok(other) => {
                let why = format!("a client of the cohort was told {other:?}");
                EngineError::Round { round, why }
            }
            Err(error) => {
                EngineError::Client { client: self.lab.fleet.name(at), round, source: error.into() }
            }
        }
    }
}
