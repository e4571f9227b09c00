//! Buffered rounds in virtual time (FedBuff, arXiv:2106.06639): so many clients are always at work, each arrives
//! when it is done, and a round ends with every `goal`-th of them.
//!
//! ```text
//! fill: while there are places, the next idle client that can begin trains, from the snapshot that is current
//! then:  the earliest of those at work arrives, or is lost; the clock is at its time; fill again
//! ```
//!
//! Who comes next is drawn, the same for every number of threads. Clients who begin at the same time train side by
//! side. Who is lost keeps its place until its task is too old, or it is drawn again, as in a deployment. Bytes and
//! energy count in the round in which a client begins.

use std::collections::{BTreeMap, HashSet};

use gossamer_client::client::{ClientError, Contribution, Outcome};
use gossamer_protocol::ids::RoundId;
use gossamer_protocol::problem::ProblemType;
use gossamer_protocol::rng::Stream;
use gossamer_server::clock::{Clock, Timestamp};
use gossamer_server::status::Status;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::EngineError;
use super::federation::Run;
use super::timed::Waiting;
use super::timed_round::{ATTEMPTS_MAX, Closed, Ended, Timing, lasting, seconds};

/// Who is at work, from one round to the next.
#[derive(Default)]
pub(super) struct Flight {
    work: JoinSet<Ended>,
    /// By the time at which each arrives, and its place in the fleet.
    due: BTreeMap<(Timestamp, usize), Due>,
    /// Times that idle clients were put in order.
    turns: u64,
    /// Updates accepted of the round that is on.
    done: Vec<(usize, Contribution)>,
}

struct Due {
    go: oneshot::Sender<bool>,
    /// It trained, and does not deliver.
    drops: bool,
}

impl Run<'_> {
    /// Lets clients come and go until `round` closes.
    pub(super) async fn buffered_round(
        &self,
        timing: &Timing,
        round: u64,
    ) -> Result<Closed, EngineError> {
        let off = |why: String| EngineError::Round { round, why };
        let mut flight = timing.flight.lock().await;
        let mut joules = 0.0;
        for _ in 0..ATTEMPTS_MAX {
            self.coordinator.tick().await?;
            let view = self.coordinator.run(self.id).await?;
            if view.status == Status::Aborted {
                return Err(EngineError::Diverged { round, why: view.note });
            }
            if view.round == RoundId(round + 1) {
                let mut done = std::mem::take(&mut flight.done);
                done.sort_by_key(|(at, _)| *at);
                let contributions = done.into_iter().map(|(_, done)| done).collect();
                return Ok(Closed { contributions, virtual_s: seconds(self.clock.now()), joules });
            }
            joules += self.fill(timing, &mut flight, round).await?;
            let deadline = view.deadline_ms.map(Timestamp);
            let next = flight.due.keys().next().copied();
            match (next, deadline) {
                (Some((arrives, _)), deadline) if deadline.is_none_or(|end| arrives < end) => {
                    self.arrive(&mut flight, round).await?;
                }
                (_, Some(deadline)) => self.clock.set(deadline),
                (None, None) => {
                    return Err(off("no attempt is open, and nobody is at work".into()));
                }
                (Some(_), None) => {}
            }
        }
        Err(off(format!("it did not close in {ATTEMPTS_MAX} steps")))
    }

    /// Lets idle clients begin while there are places; what energy they will take.
    async fn fill(
        &self,
        timing: &Timing,
        flight: &mut Flight,
        round: u64,
    ) -> Result<f64, EngineError> {
        let now = self.clock.now();
        let asked: HashSet<usize> = self
            .coordinator
            .cohort(self.id)
            .await?
            .into_iter()
            .filter_map(|id| self.lab.fleet.place(id))
            .collect();
        let sent: HashSet<usize> = flight.done.iter().map(|(at, _)| *at).collect();
        let mut places = (self.manifest.cohort.ask as usize)
            .saturating_sub(asked.iter().filter(|at| !sent.contains(at)).count());
        if places == 0 {
            return Ok(0.0);
        }
        let busy: HashSet<usize> = flight.due.keys().map(|(_, at)| *at).collect();
        let mut idle: Vec<usize> = (0..self.lab.fleet.len()).collect();
        let turn = [timing.seed, flight.turns].map(u64::to_le_bytes);
        let spec = timing.devices.seed();
        Stream::new(spec, "sim/fleet/turns", &[&turn[0], &turn[1]]).shuffle(&mut idle);
        flight.turns += 1;
        let mut candidates = idle.into_iter().filter(|at| {
            let free = !busy.contains(at) && !sent.contains(at);
            free && timing.devices.can_begin(*at, seconds(now))
        });
        let mut joules = 0.0;
        // Until there is no place, or nobody: who is told to wait leaves its place to the next.
        loop {
            let mut begun = 0;
            while places > 0
                && let Some(at) = candidates.next()
            {
                // Who was lost has its place still.
                places -= usize::from(!asked.contains(&at));
                self.start(&mut flight.work, at, round).await?;
                begun += 1;
            }
            if begun == 0 {
                return Ok(joules);
            }
            let (waiting, ended) = self.collect(timing, &mut flight.work, begun).await?;
            for (at, outcome) in ended {
                match outcome {
                    Ok(Outcome::Wait { .. }) => places += usize::from(!asked.contains(&at)),
                    outcome => return Err(self.failed(at, round, outcome)),
                }
            }
            for Waiting { at, down, up, go } in waiting {
                let luck = timing.devices.luck(at, timing.seed, flight.turns, 0);
                let spent = timing.devices.spent(at, seconds(now), luck, [down, up]);
                joules += spent.before_joules + spent.upload_joules;
                let arrives = now.after(lasting(spent.before_s + spent.upload_s));
                flight.due.insert((arrives, at), Due { go, drops: luck.drops });
            }
        }
    }

    /// The next of those at work delivers, or is lost.
    async fn arrive(&self, flight: &mut Flight, round: u64) -> Result<(), EngineError> {
        let Some(((arrives, at), due)) = flight.due.pop_first() else { return Ok(()) };
        self.clock.set(arrives.max(self.clock.now()));
        let late = Some(ProblemType::StaleRound);
        // It waits for just this.
        let _ = due.go.send(!due.drops);
        while let Some(ended) = flight.work.join_next().await {
            let (ended, outcome) = ended.map_err(|_| EngineError::Thread)?;
            match outcome {
                Ok(Outcome::Delivered(contribution)) => flight.done.push((ended, contribution)),
                // Lost, or its task is too old.
                Err(ClientError::Transport(error)) if error.problem() == late => {}
                outcome => return Err(self.failed(ended, round, outcome)),
            }
            if ended == at {
                break;
            }
        }
        Ok(())
    }

    /// Sends everybody home: the run is over.
    pub(super) async fn end_flight(&self) {
        let Some(timing) = &self.timing else { return };
        let mut flight = timing.flight.lock().await;
        flight.due.clear();
        // A call that is cut off in the middle takes the store in memory with it.
        while flight.work.join_next().await.is_some() {}
    }
}
