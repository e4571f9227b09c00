//! Rows gathered by method and seed: what comparisons are made from.

use std::collections::BTreeMap;

use super::{ClientLoss, RoundRow, Spread};

/// One repetition.
#[derive(Default)]
pub(super) struct Run {
    pub(super) rounds: u64,
    pub(super) upload_bytes: f64,
    pub(super) download_bytes: f64,
    pub(super) accepted: u64,
    pub(super) wall_s: f64,
    /// Since the run began.
    pub(super) virtual_s: Option<f64>,
    pub(super) joules: Option<f64>,
    pub(super) diverged: bool,
    pub(super) product_error: Option<f64>,
    /// Of the last evaluation.
    pub(super) server_loss: Option<f64>,
    pub(super) server_accuracy: Option<f64>,
    pub(super) evaluations: Vec<Evaluation>,
    /// Of the last evaluation that told clients apart.
    pub(super) clients: Vec<ClientLoss>,
}

#[derive(Clone, Copy)]
pub(super) struct Evaluation {
    pub(super) round: u64,
    /// Cumulative, both ways.
    pub(super) bytes: f64,
    pub(super) virtual_s: Option<f64>,
    /// Since the run began.
    pub(super) joules: Option<f64>,
    pub(super) loss: f64,
    pub(super) accuracy: Option<f64>,
    /// Of clients; see [`Spread::worst_tenth`].
    pub(super) worst_tenth: Option<f64>,
}

impl Evaluation {
    /// See [`CurvePoint::worth`](super::comparison::CurvePoint::worth).
    pub(super) fn worth(&self) -> f64 {
        self.accuracy.unwrap_or(-self.loss)
    }
}

impl Run {
    pub(super) fn first(&self) -> Option<&Evaluation> {
        self.evaluations.first()
    }

    pub(super) fn last(&self) -> Option<&Evaluation> {
        self.evaluations.last()
    }

    pub(super) fn improvement(&self) -> Option<f64> {
        Some(self.last()?.worth() - self.first()?.worth())
    }

    /// The evaluation after `bytes`, and whether the run ended before.
    pub(super) fn at(&self, bytes: f64) -> Option<(Evaluation, bool)> {
        self.at_cost(bytes, |at| Some(at.bytes))
    }

    /// The evaluation once so much is `spent`, and whether the run ended before; none where the cost is not known.
    pub(super) fn at_cost(
        &self,
        spent: f64,
        cost: impl Fn(&Evaluation) -> Option<f64>,
    ) -> Option<(Evaluation, bool)> {
        let costs: Option<Vec<f64>> = self.evaluations.iter().map(cost).collect();
        let costs = costs?;
        let next = costs.iter().position(|&cost| cost >= spent);
        let Some(next) = next else { return self.last().map(|last| (*last, true)) };
        let after = self.evaluations[next];
        if costs[next] == spent {
            return Some((after, false));
        }
        let (before, below) = (self.evaluations[next.checked_sub(1)?], costs[next - 1]);
        let share = (spent - below) / (costs[next] - below);
        let between = |before: f64, after: f64| before + share * (after - before);
        let accuracy = before.accuracy.zip(after.accuracy);
        let at = Evaluation {
            round: before.round,
            bytes: between(before.bytes, after.bytes),
            virtual_s: before.virtual_s,
            joules: before.joules,
            loss: between(before.loss, after.loss),
            accuracy: accuracy.map(|(before, after)| between(before, after)),
            worst_tenth: None,
        };
        Some((at, false))
    }
}

pub(super) type Seeds = BTreeMap<u64, Run>;

/// Rows by seed and round.
type Rows<'a> = BTreeMap<(u64, u64), &'a RoundRow>;

/// Every method's repetitions, methods in the order of their first rows.
pub(super) fn runs(rows: &[RoundRow]) -> Vec<(&str, Seeds)> {
    let mut latest: Vec<(&str, Rows<'_>)> = Vec::new();
    for row in rows {
        let at = latest.iter().position(|(name, _)| *name == row.method).unwrap_or_else(|| {
            latest.push((&row.method, BTreeMap::new()));
            latest.len() - 1
        });
        latest[at].1.insert((row.seed, row.round), row);
    }
    let gather = |(name, rows): (_, Rows<'_>)| {
        let mut seeds = Seeds::new();
        for ((seed, round), row) in rows {
            let run = seeds.entry(seed).or_default();
            run.rounds = round;
            run.upload_bytes += row.upload_bytes as f64;
            run.download_bytes += row.download_bytes as f64;
            run.accepted += u64::from(row.accepted);
            run.wall_s += row.wall_s;
            run.virtual_s = row.virtual_s.or(run.virtual_s);
            let joules = row.joules.map(|joules| run.joules.unwrap_or(0.0) + joules);
            run.joules = joules.or(run.joules);
            run.diverged |= row.diverged();
            run.product_error = row.product_error.or(run.product_error);
            run.server_loss = row.server_loss.or(run.server_loss);
            let bytes = run.upload_bytes + run.download_bytes;
            run.server_accuracy = row.server_accuracy.or(run.server_accuracy);
            let accuracy = row.heldout_accuracy;
            let virtual_s = row.virtual_s;
            if !row.clients.is_empty() {
                run.clients.clone_from(&row.clients);
            }
            let worst_tenth = worst_tenth(row);
            let joules = run.joules;
            let evaluation =
                |loss| Evaluation { round, bytes, virtual_s, joules, loss, accuracy, worst_tenth };
            run.evaluations.extend(row.heldout_loss.map(evaluation));
        }
        (name, seeds)
    };
    latest.into_iter().map(gather).collect()
}

fn worst_tenth(row: &RoundRow) -> Option<f64> {
    let measure = row.measure();
    let values: Option<Vec<f64>> = row.clients.iter().map(|client| client.value(measure)).collect();
    Some(Spread::of(&values?, measure)?.worst_tenth)
}
