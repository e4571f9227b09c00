//! Rows summed up, so that methods can be compared: at equal rounds, and at equal bytes.

use std::collections::BTreeMap;

use serde::Serialize;

use super::budget::{AtBudget, at_budget, budgets};
use super::repetitions::{Evaluation, Run, Seeds, runs};
use super::{Interval, RoundRow};

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
    /// Mean held-out loss.
    pub loss: f64,
    /// The lowest seed's.
    pub low: f64,
    /// The highest seed's.
    pub high: f64,
    /// Held-out accuracy, of a classification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Band>,
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
                method.bytes_to_target = target.and_then(|worth| bytes_to(&method.curve, worth));
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
        at_budget: Vec::new(),
        product_error: means(|run| run.product_error),
        wall_s: mean(|run| run.wall_s),
        curve: curve(seeds),
    }
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
        CurvePoint { round, bytes: band(|at| at.bytes).mean, loss, low, high, accuracy }
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

fn bytes_to(curve: &[CurvePoint], worth: f64) -> Option<f64> {
    let at = curve.iter().position(|point| point.worth() >= worth)?;
    let after = curve[at];
    let Some(before) = at.checked_sub(1).map(|at| curve[at]) else { return Some(after.bytes) };
    let share = (worth - before.worth()) / (after.worth() - before.worth());
    Some(before.bytes + share * (after.bytes - before.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three evaluations; each round moves `bytes` up and twice as many down, for two clients.
    fn run(method: &str, seed: u64, bytes: u64, losses: [f64; 3]) -> Vec<RoundRow> {
        let row = |(round, loss): (usize, f64)| RoundRow {
            method: method.to_owned(),
            seed,
            round: round as u64,
            train_loss: loss,
            heldout_loss: Some(loss),
            upload_bytes: if round == 0 { 0 } else { bytes },
            download_bytes: if round == 0 { 0 } else { 2 * bytes },
            server_loss: Some(loss - 0.5),
            heldout_accuracy: None,
            server_accuracy: None,
            cumulative_bytes: 0,
            product_error: None,
            control_bytes: 0,
            accepted: if round == 0 { 0 } else { 2 },
            wall_s: 1.0,
        };
        losses.into_iter().enumerate().map(row).collect()
    }

    fn two_methods() -> Vec<RoundRow> {
        [
            run("dense", 1, 1000, [4.0, 3.0, 2.0]),
            run("dense", 2, 1000, [4.0, 3.2, 2.4]),
            run("thin", 1, 100, [4.0, 3.5, 3.0]),
            run("thin", 2, 100, [4.0, 3.2, 2.4]),
        ]
        .concat()
    }

    #[test]
    fn sums_by_hand() {
        let comparison = Comparison::new(&two_methods(), "dense");
        let [dense, thin] = comparison.methods.as_slice() else { panic!("two methods") };
        assert_eq!((dense.seeds, dense.rounds), (2, 2));
        assert_eq!(dense.initial_loss.expect("measured").mean, 4.0);
        assert!((dense.final_loss.expect("measured").mean - 2.2).abs() < 1e-12);
        assert_eq!(dense.upload_bytes_a_client_round, 500.0);
        assert_eq!(dense.download_bytes_a_client_round, 1000.0);
        assert_eq!((dense.upload_bytes, dense.download_bytes), (2000.0, 4000.0));
        assert_eq!(dense.total_saving, Some(1.0));
        assert_eq!(thin.upload_saving, Some(10.0));
        assert_eq!(thin.wall_s, 3.0);
        // Seed 1 keeps 1.0 of 2.0, seed 2 all of 1.6.
        assert!((thin.improvement_kept.expect("paired").mean - 0.75).abs() < 1e-12);
        assert!((dense.improvement_kept.expect("paired").mean - 1.0).abs() < 1e-12);
    }

    /// Of a classification, what is kept, and what is a target, is of accuracy, whatever the losses do.
    #[test]
    fn a_classification_is_judged_by_accuracy() {
        let mut rows = two_methods();
        // dense: 0.05, 0.4, 0.85 from both seeds; thin: 0.05, 0.25, 0.45 and 0.05, 0.25, 0.65.
        let accuracies =
            [[0.05, 0.4, 0.85], [0.05, 0.4, 0.85], [0.05, 0.25, 0.45], [0.05, 0.25, 0.65]];
        for (row, accuracy) in rows.iter_mut().zip(accuracies.concat()) {
            row.heldout_accuracy = Some(accuracy);
            row.server_accuracy = Some(accuracy + 0.01);
        }
        let comparison = Comparison::new(&rows, "dense");
        assert!(comparison.of_classes());
        let [dense, thin] = comparison.methods.as_slice() else { panic!("two methods") };
        assert!((thin.final_accuracy.expect("measured").mean - 0.55).abs() < 1e-12);
        assert!((thin.final_server_accuracy.expect("measured").mean - 0.56).abs() < 1e-12);
        assert!((thin.initial_accuracy.expect("measured").mean - 0.05).abs() < 1e-12);
        // 0.4 and 0.6 of 0.8: half and three quarters.
        assert!((thin.improvement_kept.expect("paired").mean - 0.625).abs() < 1e-12);
        // Nine tenths of 0.8 above 0.05 is 0.77: 37/45 through the second round's 3000 bytes.
        assert!((comparison.target_accuracy.expect("improved") - 0.77).abs() < 1e-12);
        assert_eq!((comparison.target_loss, thin.bytes_to_target), (None, None));
        let spent = dense.bytes_to_target.expect("reached");
        assert!((spent - (3000.0 + 3000.0 * 37.0 / 45.0)).abs() < 1e-6, "{spent}");
        let curve = thin.curve[2].accuracy.expect("measured");
        assert_eq!((curve.low, curve.high), (0.45, 0.65));
        // After 600 of the first round's 3000 bytes: a fifth of the way from 0.05 to 0.4.
        let at = dense.at_budget[0].expect("inside").accuracy.expect("measured");
        assert!((at.mean - 0.12).abs() < 1e-12, "{at:?}");
    }

    #[test]
    fn losses_at_equal_bytes_are_interpolated() {
        let comparison = Comparison::new(&two_methods(), "dense");
        assert_eq!(comparison.budgets, [600.0, 1200.0, 2700.0, 6000.0]);
        let [dense, thin] = comparison.methods.as_slice() else { panic!("two methods") };
        // After 600 of its first round's 3000 bytes: a fifth of the way from 4 to 3 and to 3.2.
        let at = dense.at_budget[0].expect("inside");
        assert!((at.loss.mean - (3.8 + 3.84) / 2.0).abs() < 1e-12 && !at.ended);
        let at = thin.at_budget[0].expect("inside");
        assert!((at.loss.mean - 2.7).abs() < 1e-12 && !at.ended);
        let at = thin.at_budget[3].expect("its last");
        assert!((at.loss.mean - 2.7).abs() < 1e-12 && at.ended);
    }

    #[test]
    fn bytes_to_the_target() {
        let comparison = Comparison::new(&two_methods(), "dense");
        // The baseline's mean falls from 4 to 2.2; nine tenths of it is 2.38, which is 0.8 of the
        // way through its second round's 3000 bytes. The other ends at 2.7 and never gets there.
        assert!((comparison.target_loss.expect("improved") - 2.38).abs() < 1e-12);
        let to = |at: usize| comparison.methods[at].bytes_to_target;
        assert!((to(0).expect("reached") - 5400.0).abs() < 1e-6);
        assert_eq!(to(1), None);
    }

    #[test]
    fn a_later_row_replaces_an_earlier_one() {
        let mut rows = two_methods();
        let again = RoundRow { heldout_loss: Some(1.0), ..rows[2].clone() };
        rows.push(again);
        let comparison = Comparison::new(&rows, "dense");
        let dense = &comparison.methods[0];
        assert!((dense.final_loss.expect("measured").mean - 1.7).abs() < 1e-12);
        assert_eq!(dense.upload_bytes, 2000.0);
    }

    #[test]
    fn without_a_baseline_nothing_is_measured_by_it() {
        let comparison = Comparison::new(&two_methods(), "other");
        assert_eq!((comparison.baseline, comparison.target_loss), (None, None));
        assert!(comparison.methods.iter().all(|method| method.total_saving.is_none()));
        assert_eq!(Comparison::new(&[], "dense").methods, []);
    }

    #[test]
    fn a_diverged_seed_is_not_averaged_away() {
        let mut rows = two_methods();
        rows[5].heldout_loss = Some(f64::NAN);
        let comparison = Comparison::new(&rows, "dense");
        let text = comparison.methods[0].final_loss.expect("measured").to_string();
        assert_eq!(text, "diverged");
        assert_eq!(comparison.target_loss, None);
    }

    fn reached(mean: f64, half: Option<f64>) -> Interval {
        Interval { mean, half, n: 3 }
    }

    /// Apart by more than both half widths, or tied; of one seed nothing is said.
    #[test]
    fn a_winner_only_where_intervals_lie_apart() {
        let [a, b, c] =
            [reached(1.0, Some(0.1)), reached(1.25, Some(0.1)), reached(1.15, Some(0.1))];
        let apart = Verdict::of(&[("b", b), ("a", a)], false);
        assert_eq!(apart, Some(Verdict::Winner("a".into())));
        assert_eq!(Verdict::of(&[("b", b), ("a", a)], true), Some(Verdict::Winner("b".into())));
        let tied = Verdict::of(&[("b", b), ("c", c), ("a", a)], false);
        assert_eq!(tied, Some(Verdict::Tied(vec!["a".into(), "c".into()])));
        assert_eq!(Verdict::of(&[("a", a)], false), None);
        assert_eq!(Verdict::of(&[("a", a), ("b", reached(2.0, None))], false), None);
        let lost = Verdict::of(&[("a", a), ("b", reached(f64::NAN, None))], false);
        assert_eq!(lost, Some(Verdict::Winner("a".into())), "what diverged has lost");
    }

    #[test]
    fn a_run_that_diverged_is_counted_and_loses() {
        let mut rows = run("a", 1, 10, [3.0, 2.0, 1.0]);
        rows.extend(run("a", 2, 10, [3.0, 2.0, 1.1]));
        rows.extend(run("b", 1, 10, [3.0, 1.0, 0.5]));
        rows.extend(run("b", 2, 10, [3.0, 1.0, f64::NAN]));
        let comparison = Comparison::new(&rows, "a");
        assert_eq!(comparison.methods.iter().map(|m| m.diverged).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(comparison.verdict, Some(Verdict::Winner("a".into())));
    }
}
