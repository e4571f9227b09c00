//! One method from one seed, round by round.

use std::sync::atomic::Ordering;
use std::time::Instant;

use gossamer_client::client::chain;
use gossamer_client::train::Evaluation;
use gossamer_client::transport::metered::Traffic;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::Snapshot;
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::manifest::Manifest;
use gossamer_protocol::select::tier;

use super::checkpoint::Checkpoints;
use super::federation::{Run, Trained};
use super::product_error::product_error;
use super::tiers::Evaluated;
use super::{EngineError, Laboratory, OnRow};
use crate::ranks::RanksError;
use crate::report::RoundRow;
use crate::scenario::MethodSpec;

/// What one repetition came to.
#[derive(Clone, Debug)]
pub struct Repetition {
    /// One row for each round, and one for the start.
    pub rows: Vec<RoundRow>,
    /// The signed record of the last snapshot: equal records, equal adapters.
    pub last_record: Digest,
    /// Every byte that moved.
    pub traffic: Traffic,
    /// The server's own adapter at the end, shape `[n]`.
    pub theta: Vec<f32>,
    /// The run's terms.
    pub manifest: Manifest,
}

pub(super) async fn run(
    lab: &Laboratory,
    method: &MethodSpec,
    seed: u64,
    on_row: OnRow,
    mut keep: Option<Checkpoints>,
) -> Result<Repetition, EngineError> {
    let settings = lab.settings(method, seed)?;
    // Who is at work between two buffered rounds cannot be kept.
    keep = keep.filter(|_| lab.scenario.cohort(method).buffered.is_none());
    let ranks = &lab.ranks;
    let mut saved = match &keep {
        Some(keep) if ranks.rank() == 0 => keep.load(settings)?,
        _ => None,
    };
    if let (Some(keep), false) = (&keep, ranks.is_alone()) {
        // All go on from rank 0's.
        let there = ranks.lead(saved.is_some()).await?;
        if there && ranks.rank() > 0 {
            saved = keep.load(settings)?;
        }
        let seen = ranks.gather(&saved.as_ref().map(|saved| saved.rows.len())).await?;
        if let Some(rank) = seen.iter().position(|rows| *rows != seen[0]) {
            return Err(RanksError::Disagree { rank, field: "checkpoint".to_owned() }.into());
        }
    }
    let run = Run::open(lab, method, seed, saved.as_ref()).await?;
    let rounds = lab.scenario.rounds;
    let mut rows: Vec<RoundRow> = Vec::new();
    let push = |rows: &mut Vec<RoundRow>, row: RoundRow| {
        on_row(&row);
        rows.push(row);
    };
    match saved {
        Some(saved) => saved.rows.into_iter().for_each(|row| push(&mut rows, row)),
        None => {
            let start = run.start_row(method, seed).await?;
            push(&mut rows, start);
        }
    }
    let mut done = rows.len() as u64 - 1;
    while done < rounds {
        let row = match run.next_row(&rows, done).await {
            Ok(row) => row,
            Err(error) if error.is_divergence() => {
                tracing::warn!(method = method.name, seed, error = %chain(&error), "diverged");
                let end = run.diverged_row(&rows);
                push(&mut rows, end);
                break;
            }
            Err(error) => return Err(error),
        };
        done = row.round;
        push(&mut rows, row);
        let Some(keep) = keep.as_mut().filter(|_| done < rounds) else { continue };
        if ranks.lead(keep.is_due()).await? {
            let saved = run.save(settings, &rows, done).await?;
            if ranks.rank() == 0 {
                keep.save(&saved)?;
            }
        }
    }
    run.end_flight().await;
    let last = run.coordinator.record(run.id, RoundId(done)).await?;
    let theta = run.coordinator.theta(run.id, RoundId(done)).await?;
    Ok(Repetition {
        rows,
        last_record: Digest::of(&last.bytes),
        traffic: run.traffic().await?,
        theta,
        manifest: run.manifest.as_ref().clone(),
    })
}

impl Run<'_> {
    /// The state before training.
    async fn start_row(&self, method: &MethodSpec, seed: u64) -> Result<RoundRow, EngineError> {
        let Evaluated { received, own, clients } = self.evaluate(0).await?;
        Ok(RoundRow {
            method: method.name.clone(),
            seed,
            round: 0,
            train_loss: f64::NAN,
            heldout_loss: Some(received.mean()),
            server_loss: Some(own.mean()),
            heldout_accuracy: received.accuracy(),
            server_accuracy: own.accuracy(),
            upload_bytes: 0,
            download_bytes: 0,
            cumulative_bytes: 0,
            product_error: None,
            control_bytes: self.traffic().await?.control(),
            accepted: 0,
            virtual_s: self.timing.as_ref().map(|_| 0.0),
            joules: self.timing.as_ref().map(|_| 0.0),
            wall_s: 0.0,
            clients,
        })
    }

    /// Runs round `done`, counted from 0: the state after `done + 1` rounds.
    async fn next_row(&self, rows: &[RoundRow], done: u64) -> Result<RoundRow, EngineError> {
        let (began, before) = (Instant::now(), self.traffic().await?);
        let (round, rounds) = (done + 1, self.lab.scenario.rounds);
        let is_due = self.lab.scenario.eval.is_due(round, rounds);
        let values = self.manifest.layout.n() * self.manifest.cohort.goal as usize;
        // Of buffered rounds no two may start from the same adapter.
        let wanted = values <= Trained::VALUES_MAX && self.manifest.cohort.buffered.is_none();
        self.trained.wanted.store(is_due && wanted, Ordering::Relaxed);
        let received = match is_due && wanted {
            true => Some(self.snapshot(done).await?),
            false => None,
        };
        let (contributions, spent) = match &self.timing {
            None => (self.round(done).await?, None),
            Some(timing) => {
                let closed = match self.manifest.cohort.buffered {
                    None => self.timed_round(timing, &self.clock, done).await?,
                    Some(_) => self.buffered_round(timing, done).await?,
                };
                (closed.contributions, Some((closed.virtual_s, closed.joules)))
            }
        };
        let product_error = match received {
            Some(received) => self.product_error(received).await?,
            None => None,
        };
        let moved = self.traffic().await?.since(before);
        let wall_s = began.elapsed().as_secs_f64();
        let losses: f64 = contributions.iter().map(|c| f64::from(c.loss)).sum();
        let evaluated = match is_due {
            true => Some(self.evaluate(round).await?),
            false => None,
        };
        let (received, own, clients) = match evaluated {
            Some(Evaluated { received, own, clients }) => (Some(received), Some(own), clients),
            None => (None, None, Vec::new()),
        };
        let last = &rows[rows.len() - 1];
        Ok(RoundRow {
            round,
            train_loss: losses / contributions.len() as f64,
            heldout_loss: received.as_ref().map(Evaluation::mean),
            server_loss: own.as_ref().map(Evaluation::mean),
            heldout_accuracy: received.as_ref().and_then(Evaluation::accuracy),
            server_accuracy: own.as_ref().and_then(Evaluation::accuracy),
            upload_bytes: moved.updates,
            download_bytes: moved.snapshots,
            cumulative_bytes: last.cumulative_bytes + moved.updates + moved.snapshots,
            product_error,
            control_bytes: moved.control(),
            accepted: contributions.len() as u32,
            virtual_s: spent.map(|(virtual_s, _)| virtual_s),
            joules: spent.map(|(_, joules)| joules),
            wall_s,
            clients,
            ..last.clone()
        })
    }

    /// The round in which the method came to its end.
    fn diverged_row(&self, rows: &[RoundRow]) -> RoundRow {
        let last = &rows[rows.len() - 1];
        RoundRow {
            round: last.round + 1,
            train_loss: f64::NAN,
            heldout_loss: Some(f64::NAN),
            server_loss: None,
            heldout_accuracy: None,
            server_accuracy: None,
            upload_bytes: 0,
            download_bytes: 0,
            product_error: None,
            control_bytes: 0,
            accepted: 0,
            joules: None,
            wall_s: 0.0,
            clients: Vec::new(),
            ..last.clone()
        }
    }

    /// Of what the round's clients trained from their parts of `received`.
    async fn product_error(&self, received: Snapshot) -> Result<Option<f64>, EngineError> {
        let trained = self.all_trained().await?.into_iter();
        let trained: Vec<_> = trained.map(|(at, delta)| (self.id_of(at), delta)).collect();
        let manifest = self.manifest.clone();
        let work = move || {
            let rules = manifest.lora.rules().ok()?;
            let local = |(client, mut local): (ClientId, Vec<f32>)| {
                let theta = tier::part(&manifest, client, &received).ok()?.theta;
                local.iter_mut().zip(theta).for_each(|(value, received)| *value += received);
                Some(local)
            };
            let locals: Vec<Vec<f32>> = trained.into_iter().map(local).collect::<Option<_>>()?;
            product_error(&manifest.layout, &rules, &locals)
        };
        self.lab.on_a_thread(work).await
    }
}
