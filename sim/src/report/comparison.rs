//! Rows summed up, so that methods can be compared: at equal rounds, and at equal bytes.

use std::collections::BTreeMap;

use serde::Serialize;

use super::budget::{AtBudget, at_budget, budgets};
use super::repetitions::{Evaluation, Run, Seeds, runs};
use super::{Interval, Measure, RoundRow, TierSummary, Tuned, spread};

/// Share of the baseline's improvement that counts as reaching its quality.
const TARGET_SHARE: f64 = 0.9;

/// All methods, summed up.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The method others are measured by; none where no method has the name asked for.
    pub baseline: Option<String>,
    /// Cumulative bytes, both ways, from the thriftiest method's whole run to the costliest's.
    pub budgets: Vec<f64>,
    /// The loss at which the baseline has made 90 % of its improvement.
    pub target_loss: Option<f64>,
    /// Of a classification, in place of that: the accuracy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_accuracy: Option<f64>,
    /// Which is best after the last round, where seeds can tell.
    pub verdict: Option<Verdict>,
    /// In the order of their first rows.
    pub methods: Vec<MethodSummary>,
}

/// Which of several methods is best, by the 95 % intervals of their means over seeds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Its interval lies apart from all others'.
    Winner(String),
    /// The best mean first; the intervals of the others reach into its own.
    Tied(Vec<String>),
}

impl Verdict {
    /// Of names with what they reached. None of fewer than two, or where one has no interval; what is no
    /// number is left out, as it has lost.
    fn of(reached: &[(&str, Interval)], more_is_better: bool) -> Option<Self> {
        let mut sound: Vec<&(&str, Interval)> =
            reached.iter().filter(|(_, interval)| interval.mean.is_finite()).collect();
        let sign = if more_is_better { -1.0 } else { 1.0 };
        sound.sort_by(|(_, a), (_, b)| (sign * a.mean).total_cmp(&(sign * b.mean)));
        let half = |interval: &Interval| interval.half.filter(|half| half.is_finite());
        if reached.len() < 2 || sound.iter().any(|(_, interval)| half(interval).is_none()) {
            return None;
        }
        let (best, others) = sound.split_first()?;
        let near = |(_, other): &&&(&str, Interval)| {
            let apart = sign * (other.mean - best.1.mean);
            apart <= half(&best.1).unwrap_or(0.0) + half(other).unwrap_or(0.0)
        };
        let near: Vec<String> =
            others.iter().filter(near).map(|(name, _)| (*name).into()).collect();
        let best = best.0.to_owned();
        Some(if near.is_empty() {
            Self::Winner(best)
        } else {
            Self::Tied([vec![best], near].concat())
        })
    }
}

/// One method over all its seeds. "Mean" is over seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MethodSummary {
    /// Its name.
    pub name: String,
    /// Repetitions.
    pub seeds: usize,
    /// Repetitions that ended early since a loss, or the adapter, was no number any more.
    pub diverged: usize,
    /// Rounds of the longest repetition.
    pub rounds: u64,
    /// Held-out loss of the earliest evaluation, round 0 where there is one.
    pub initial_loss: Option<Interval>,
    /// Held-out loss of the last evaluation.
    pub final_loss: Option<Interval>,
    /// The last evaluation of the aggregator's own dense copy.
    pub final_server_loss: Option<Interval>,
    /// Held-out accuracy of the earliest evaluation, of a classification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_accuracy: Option<Interval>,
    /// Held-out accuracy of the last evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_accuracy: Option<Interval>,
    /// The last accuracy of the aggregator's own dense copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_server_accuracy: Option<Interval>,
    /// Mean upload of one accepted update.
    pub upload_bytes_a_client_round: f64,
    /// Mean download behind one accepted update.
    pub download_bytes_a_client_round: f64,
    /// Mean upload of a whole run, all clients.
    pub upload_bytes: f64,
    /// Mean download of a whole run, all clients.
    pub download_bytes: f64,
    /// How many times fewer bytes than the baseline go up, for each client and round.
    pub upload_saving: Option<f64>,
    /// How many times fewer bytes than the baseline go down, for each client and round.
    pub download_saving: Option<f64>,
    /// How many times fewer bytes than the baseline go both ways, for each client and round.
    pub total_saving: Option<f64>,
    /// Its improvement over the baseline's, paired by seed; 1 is all of it. Of a classification, accuracy's.
    pub improvement_kept: Option<Interval>,
    /// Cumulative bytes, both ways, at which its mean first reaches the target, [`Comparison::target_loss`]
    /// or [`Comparison::target_accuracy`].
    pub bytes_to_target: Option<f64>,
    /// Held-out loss at each of [`Comparison::budgets`].
    pub at_budget: Vec<Option<AtBudget>>,
    /// The last round's product error; see [`RoundRow::product_error`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_error: Option<Interval>,
    /// Seconds of virtual time at which its mean first reaches the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_to_target: Option<f64>,
    /// Mean virtual time of a whole run, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_s: Option<f64>,
    /// Mean energy of a whole run, all devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joules: Option<f64>,
    /// Its learning rates, where they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rates: Option<Tuned>,
    /// How its last evaluation is spread over clients, where they were told apart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tiers: Vec<TierSummary>,
    /// Mean duration of a run.
    pub wall_s: f64,
    /// The evaluations, in order.
    pub curve: Vec<CurvePoint>,
}

impl MethodSummary {
    /// Mean bytes of a whole run, both ways, all clients.
    #[must_use]
    pub fn total_bytes(&self) -> f64 {
        self.upload_bytes + self.download_bytes
    }
}

/// The seeds' evaluations after one round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CurvePoint {
    /// Rounds done.
    pub round: u64,
    /// Mean cumulative bytes, both ways.
    pub bytes: f64,
    /// Mean seconds of virtual time, where a fleet's time is simulated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_s: Option<f64>,
    /// Mean held-out loss.
    pub loss: f64,
    /// The lowest seed's.
    pub low: f64,
    /// The highest seed's.
    pub high: f64,
    /// Held-out accuracy, of a classification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Band>,
    /// Mean of the worst tenth of clients, where they were told apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst_tenth: Option<Band>,
}

/// A mean over seeds and the two seeds farthest from it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Band {
    /// The mean.
    pub mean: f64,
    /// The lowest seed's.
    pub low: f64,
    /// The highest seed's.
    pub high: f64,
}

impl Band {
    fn of(values: &[f64]) -> Self {
        Self {
            mean: values.iter().sum::<f64>() / values.len() as f64,
            low: values.iter().copied().fold(f64::INFINITY, f64::min),
            high: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

impl CurvePoint {
    /// What a method is judged by: more is better. Accuracy where there is one, else minus the loss.
    fn worth(&self) -> f64 {
        self.accuracy.map_or(-self.loss, |accuracy| accuracy.mean)
    }
}

impl Comparison {
    /// Sums up `rows`, in any order; of two rows for one round, the later counts (a resumed run).
    #[must_use]
    pub fn new(rows: &[RoundRow], baseline: &str) -> Self {
        let runs = runs(rows);
        let mut methods: Vec<MethodSummary> =
            runs.iter().map(|(name, seeds)| summary(name, seeds)).collect();
        let budgets = budgets(&methods);
        for (method, (_, seeds)) in methods.iter_mut().zip(&runs) {
            method.at_budget = budgets.iter().map(|&budget| at_budget(seeds, budget)).collect();
        }

        let base = runs.iter().position(|(name, _)| *name == baseline);
        let (mut target_loss, mut target_accuracy) = (None, None);
        if let Some(base) = base {
            let against = methods[base].clone();
            let target = target(&against);
            match against.final_accuracy {
                Some(_) => target_accuracy = target,
                None => target_loss = target.map(|worth| -worth),
            }
            for (method, (_, seeds)) in methods.iter_mut().zip(&runs) {
                method.measure_by(&against);
                method.improvement_kept = improvement_kept(seeds, &runs[base].1);
                let to = |cost: fn(&CurvePoint) -> Option<f64>| {
                    target.and_then(|worth| cost_to(&method.curve, worth, cost))
                };
                (method.bytes_to_target, method.seconds_to_target) =
                    (to(|point| Some(point.bytes)), to(|point| point.virtual_s));
            }
        }
        let baseline = base.map(|_| baseline.to_owned());
        let classes = methods.iter().any(|method| method.final_accuracy.is_some());
        let reached = |method: &MethodSummary| match classes {
            true => method.final_accuracy,
            false => method.final_loss,
        };
        let reached: Vec<_> =
            methods.iter().filter_map(|m| Some((m.name.as_str(), m.judged(reached(m))?))).collect();
        let verdict = Verdict::of(&reached, classes);
        Self { baseline, budgets, target_loss, target_accuracy, verdict, methods }
    }

    /// Which is best once all have moved [`Self::budgets`]`[at]` bytes, where seeds can tell.
    #[must_use]
    pub fn verdict_at(&self, at: usize) -> Option<Verdict> {
        let classes = self.of_classes();
        let reached = |method: &MethodSummary| {
            let at = method.at_budget.get(at).copied().flatten()?;
            method.judged(if classes { at.accuracy? } else { at.loss }.into())
        };
        let reached: Vec<_> =
            self.methods.iter().filter_map(|m| Some((m.name.as_str(), reached(m)?))).collect();
        Verdict::of(&reached, classes)
    }

    /// Whether accuracies were measured: the task is a classification.
    #[must_use]
    pub fn of_classes(&self) -> bool {
        self.methods.iter().any(|method| method.final_accuracy.is_some())
    }
}

impl MethodSummary {
    /// A method of which a seed diverged has lost, whatever its last accuracy was.
    fn judged(&self, reached: Option<Interval>) -> Option<Interval> {
        let lost = Interval { mean: f64::NAN, half: None, n: self.seeds };
        if self.diverged > 0 { Some(lost) } else { reached }
    }

    fn measure_by(&mut self, base: &Self) {
        let saving = |base: f64, own: f64| (own > 0.0 && base > 0.0).then(|| base / own);
        let (up, down) = (self.upload_bytes_a_client_round, self.download_bytes_a_client_round);
        let base_up = base.upload_bytes_a_client_round;
        let base_down = base.download_bytes_a_client_round;
        self.upload_saving = saving(base_up, up);
        self.download_saving = saving(base_down, down);
        self.total_saving = saving(base_up + base_down, up + down);
    }
}

fn summary(name: &str, seeds: &Seeds) -> MethodSummary {
    let runs = || seeds.values();
    let mean = |of: fn(&Run) -> f64| runs().map(of).sum::<f64>() / seeds.len() as f64;
    let means =
        |of: fn(&Run) -> Option<f64>| Interval::of(&runs().filter_map(of).collect::<Vec<_>>());
    // Rounds without an accepted update still cost bytes; they weigh on the others.
    let accepted = runs().map(|run| run.accepted).sum::<u64>().max(1) as f64;
    MethodSummary {
        name: name.to_owned(),
        seeds: seeds.len(),
        diverged: runs().filter(|run| run.diverged).count(),
        rounds: runs().map(|run| run.rounds).max().unwrap_or(0),
        initial_loss: means(|run| Some(run.first()?.loss)),
        final_loss: means(|run| Some(run.last()?.loss)),
        final_server_loss: means(|run| run.server_loss),
        initial_accuracy: means(|run| run.first()?.accuracy),
        final_accuracy: means(|run| run.last()?.accuracy),
        final_server_accuracy: means(|run| run.server_accuracy),
        upload_bytes_a_client_round: runs().map(|run| run.upload_bytes).sum::<f64>() / accepted,
        download_bytes_a_client_round: runs().map(|run| run.download_bytes).sum::<f64>() / accepted,
        upload_bytes: mean(|run| run.upload_bytes),
        download_bytes: mean(|run| run.download_bytes),
        upload_saving: None,
        download_saving: None,
        total_saving: None,
        improvement_kept: None,
        bytes_to_target: None,
        seconds_to_target: None,
        at_budget: Vec::new(),
        product_error: means(|run| run.product_error),
        virtual_s: means(|run| run.virtual_s).map(|at| at.mean),
        joules: means(|run| run.joules).map(|at| at.mean),
        rates: None,
        tiers: tiers(seeds),
        wall_s: mean(|run| run.wall_s),
        curve: curve(seeds),
    }
}

fn tiers(seeds: &Seeds) -> Vec<TierSummary> {
    let last: Vec<_> = seeds.values().map(|run| &run.clients[..]).collect();
    let classes = seeds.values().any(|run| run.last().is_some_and(|at| at.accuracy.is_some()));
    spread::summaries(&last, if classes { Measure::Accuracy } else { Measure::Loss })
}

/// Rounds that every seed evaluated, so that a mean never jumps because a seed is missing.
fn curve(seeds: &Seeds) -> Vec<CurvePoint> {
    let mut rounds: BTreeMap<u64, Vec<Evaluation>> = BTreeMap::new();
    for at in seeds.values().flat_map(|run| &run.evaluations) {
        rounds.entry(at.round).or_default().push(*at);
    }
    let point = |(round, at): (u64, Vec<Evaluation>)| {
        let band = |of: fn(&Evaluation) -> f64| Band::of(&at.iter().map(of).collect::<Vec<_>>());
        let Band { mean: loss, low, high } = band(|at| at.loss);
        let accuracies: Option<Vec<f64>> = at.iter().map(|at| at.accuracy).collect();
        let accuracy = accuracies.map(|values| Band::of(&values));
        let times: Option<Vec<f64>> = at.iter().map(|at| at.virtual_s).collect();
        let virtual_s = times.map(|values| Band::of(&values).mean);
        let bytes = band(|at| at.bytes).mean;
        let worst: Option<Vec<f64>> = at.iter().map(|at| at.worst_tenth).collect();
        let worst_tenth = worst.map(|values| Band::of(&values));
        CurvePoint { round, bytes, virtual_s, loss, low, high, accuracy, worst_tenth }
    };
    rounds.into_iter().filter(|(_, at)| at.len() == seeds.len()).map(point).collect()
}

fn improvement_kept(seeds: &Seeds, base: &Seeds) -> Option<Interval> {
    let ratio = |(seed, run): (&u64, &Run)| {
        let base = base.get(seed)?.improvement().filter(|&base| base > 0.0)?;
        Some(run.improvement()? / base)
    };
    let ratios: Option<Vec<f64>> = seeds.iter().map(ratio).collect();
    Interval::of(&ratios?)
}

/// What the baseline is worth when it has made its share of the improvement.
fn target(base: &MethodSummary) -> Option<f64> {
    let (first, last) = (base.curve.first()?.worth(), base.curve.last()?.worth());
    (last > first).then_some(first + TARGET_SHARE * (last - first))
}

/// What `cost` was when the curve first came to `worth`.
fn cost_to(
    curve: &[CurvePoint],
    worth: f64,
    cost: impl Fn(&CurvePoint) -> Option<f64>,
) -> Option<f64> {
    let at = curve.iter().position(|point| point.worth() >= worth)?;
    let after = curve[at];
    let Some(before) = at.checked_sub(1).map(|at| curve[at]) else { return cost(&after) };
    let share = (worth - before.worth()) / (after.worth() - before.worth());
    Some(cost(&before)? + share * (cost(&after)? - cost(&before)?))
}

#[cfg(test)]
mod tests;
