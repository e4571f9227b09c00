//! Three questions about methods on devices, after EdgeFlowerTune (arXiv:2605.08636): how good under a budget, how dear
//! to a target, and how much worse when devices drop out, straggle, or differ more.
//!
//! Quality is held-out accuracy, or the loss; bytes and joules are those of all devices, seconds are virtual. Between
//! two evaluations all are linear. Means are over seeds, with 95 % intervals.

use serde::Serialize;

use super::repetitions::{Evaluation, Run, Seeds, runs};
use super::table::{self, Table};
use super::{AtBudget, Interval, RoundRow};

/// What is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cost {
    /// Both ways, all devices.
    Bytes,
    /// Of all devices.
    Joules,
    /// Of virtual time.
    Seconds,
}

impl Cost {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Bytes, Self::Joules, Self::Seconds];

    fn of(self, at: &Evaluation) -> Option<f64> {
        match self {
            Self::Bytes => Some(at.bytes),
            Self::Joules => at.joules,
            Self::Seconds => at.virtual_s,
        }
    }

    /// As people read it.
    #[must_use]
    pub fn text(self, amount: f64) -> String {
        match self {
            Self::Bytes => table::bytes(amount),
            Self::Joules => table::joules(amount),
            Self::Seconds => table::duration(amount),
        }
    }
}

/// What is asked for; what is not said is found from the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Asked<'a> {
    /// The method whose gain the target is of.
    pub baseline: &'a str,
    /// Budgets, in the order of [`Cost::ALL`]; not said: what the thriftiest method's whole run takes.
    pub budgets: [Option<f64>; 3],
    /// The loss, or accuracy, to reach; not said: where the baseline has made 90 % of its gain.
    pub target: Option<f64>,
}

/// The answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Protocols {
    /// Whether quality is accuracy; else it is loss.
    pub accuracy: bool,
    /// What could be spent; none where it is not known.
    pub budgets: Vec<(Cost, f64)>,
    /// What was to be reached; none where the baseline gained nothing.
    pub target: Option<f64>,
    /// Each method's.
    pub methods: Vec<Answers>,
}

/// One method's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answers {
    /// Its name.
    pub method: String,
    /// Quality once each of [`Protocols::budgets`] is spent; none before its first evaluation, or where a seed
    /// diverged.
    pub under_budget: Vec<Option<AtBudget>>,
    /// What each of [`Protocols::budgets`]' costs was when every seed had reached the target; none where one did not.
    pub to_target: Vec<Option<Interval>>,
    /// Rounds until then.
    pub rounds_to_target: Option<Interval>,
    /// Under each perturbation.
    pub perturbed: Vec<Perturbed>,
}

/// What one perturbation does to a method.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Perturbed {
    /// Its name.
    pub by: String,
    /// Quality after the last round less the unperturbed one, paired by seed; none where a seed diverged.
    pub change: Option<Interval>,
    /// How many times as long its whole run takes.
    pub slower: Option<f64>,
}

impl Protocols {
    /// From the rows of the scenario, and of it under each perturbation.
    #[must_use]
    pub fn of(asked: &Asked<'_>, rows: &[RoundRow], perturbed: &[(String, Vec<RoundRow>)]) -> Self {
        let clean = runs(rows);
        let accuracy = clean
            .iter()
            .flat_map(|(_, seeds)| seeds.values())
            .any(|run| run.last().is_some_and(|at| at.accuracy.is_some()));
        let budgets = Cost::ALL.iter().zip(asked.budgets);
        let budgets: Vec<(Cost, f64)> = budgets
            .filter_map(|(&cost, said)| Some((cost, said.or_else(|| thriftiest(&clean, cost))?)))
            .collect();
        let base = clean.iter().find(|(name, _)| *name == asked.baseline).map(|(_, seeds)| seeds);
        let worth = asked.target.map(|target| if accuracy { target } else { -target });
        let worth = worth.or_else(|| target(base?));
        let perturbed: Vec<(&str, Vec<(&str, Seeds)>)> =
            perturbed.iter().map(|(by, rows)| (by.as_str(), runs(rows))).collect();
        let methods = clean.iter().map(|(name, seeds)| Answers {
            method: (*name).to_owned(),
            under_budget: budgets.iter().map(|(cost, most)| under(seeds, *cost, *most)).collect(),
            to_target: budgets
                .iter()
                .map(|(cost, _)| to(seeds, worth?, |at| cost.of(at)))
                .collect(),
            rounds_to_target: worth.and_then(|worth| to(seeds, worth, |at| Some(at.round as f64))),
            perturbed: perturbed
                .iter()
                .filter_map(|(by, runs)| {
                    let (_, under) = runs.iter().find(|(other, _)| other == name)?;
                    Some(change(by, seeds, under))
                })
                .collect(),
        });
        let methods = methods.collect();
        let target = worth.map(|worth| if accuracy { worth } else { -worth });
        Self { accuracy, budgets, target, methods }
    }

    fn quality(&self, of: Interval) -> String {
        if self.accuracy { table::accuracy(of) } else { of.to_string() }
    }

    /// One line a method: quality under each budget, what the target took, and what each perturbation changes.
    #[must_use]
    pub fn table(&self) -> Table {
        let none = || "–".to_owned();
        let mut head = vec!["method".to_owned()];
        head.extend(self.budgets.iter().map(|(cost, most)| format!("at {}", cost.text(*most))));
        head.extend(self.budgets.iter().map(|(cost, _)| match cost {
            Cost::Bytes => "bytes to target".to_owned(),
            Cost::Joules => "energy to target".to_owned(),
            Cost::Seconds => "time to target".to_owned(),
        }));
        head.push("rounds to target".to_owned());
        let by = self.methods.iter().map(|method| &method.perturbed).max_by_key(|by| by.len());
        head.extend(by.into_iter().flatten().map(|by| by.by.clone()));
        let row = |answers: &Answers| {
            let mut row = vec![answers.method.clone()];
            row.extend(answers.under_budget.iter().map(|at| {
                at.map_or_else(none, |at| {
                    let quality = self.quality(at.accuracy.unwrap_or(at.loss));
                    format!("{quality}{}", if at.ended { " *" } else { "" })
                })
            }));
            let costs = self.budgets.iter().zip(&answers.to_target);
            row.extend(
                costs.map(|((cost, _), spent)| spent.map_or_else(none, |s| cost.text(s.mean))),
            );
            row.push(
                answers.rounds_to_target.map_or_else(none, |rounds| format!("{:.1}", rounds.mean)),
            );
            row.extend(answers.perturbed.iter().map(|by| {
                let change = by.change.map_or_else(
                    || "diverged".to_owned(),
                    |change| {
                        let (share, digits, unit) =
                            if self.accuracy { (100.0, 1, " %") } else { (1.0, 4, "") };
                        format!("{:+.digits$}{unit}", share * change.mean)
                    },
                );
                let slower = by.slower.map(|ratio| format!(", {}", table::times(ratio)));
                change + &slower.unwrap_or_default()
            }));
            row.resize(head.len(), none());
            row
        };
        let rows = self.methods.iter().map(row).collect();
        Table { head, rows }
    }

    /// What its columns mean.
    #[must_use]
    pub fn caption(&self) -> String {
        let measure = if self.accuracy { "accuracy" } else { "loss" };
        let target = self.target.map_or_else(
            || "There is no target: the baseline gained nothing.".to_owned(),
            |target| match self.accuracy {
                true => format!("The target is {:.1} %.", 100.0 * target),
                false => format!("The target is a loss of {target:.4}."),
            },
        );
        format!(
            "at: held-out {measure} once so much is spent, *: the run ended before. to target: what was spent when every \
             seed had reached it. {target} Then, of runs with {}: the change of the last {measure}, paired by seed, and \
             how many times as long a run takes.",
            self.methods.first().map_or_else(String::new, |method| {
                let by: Vec<&str> = method.perturbed.iter().map(|by| by.by.as_str()).collect();
                by.join(", ")
            })
        )
    }
}

/// What the whole run of the method takes that takes least; none where one does not know.
fn thriftiest(methods: &[(&str, Seeds)], cost: Cost) -> Option<f64> {
    let whole = |seeds: &Seeds| -> Option<f64> {
        let all: Option<Vec<f64>> = seeds.values().map(|run| cost.of(run.last()?)).collect();
        Interval::of(&all?).map(|all| all.mean)
    };
    let all: Option<Vec<f64>> = methods.iter().map(|(_, seeds)| whole(seeds)).collect();
    all?.into_iter().filter(|&spent| spent > 0.0).min_by(f64::total_cmp)
}

/// What the baseline is worth where it has made nine tenths of its gain.
fn target(base: &Seeds) -> Option<f64> {
    let over = |of: fn(&Run) -> Option<&Evaluation>| -> Option<f64> {
        let all: Option<Vec<f64>> = base.values().map(|run| Some(of(run)?.worth())).collect();
        Interval::of(&all?).map(|all| all.mean)
    };
    let (first, last) = (over(Run::first)?, over(Run::last)?);
    (last > first).then_some(first + 0.9 * (last - first))
}

fn under(seeds: &Seeds, cost: Cost, most: f64) -> Option<AtBudget> {
    if seeds.values().any(|run| run.diverged) {
        return None;
    }
    let found: Option<Vec<(Evaluation, bool)>> =
        seeds.values().map(|run| run.at_cost(most, |at| cost.of(at))).collect();
    super::budget::over(&found?)
}

/// The cost at which each seed first came to `worth`.
fn to(seeds: &Seeds, worth: f64, cost: impl Fn(&Evaluation) -> Option<f64>) -> Option<Interval> {
    let one = |run: &Run| -> Option<f64> {
        let at = run.evaluations.iter().position(|at| at.worth() >= worth)?;
        let after = &run.evaluations[at];
        let Some(before) = at.checked_sub(1).map(|at| &run.evaluations[at]) else {
            return cost(after);
        };
        let share = (worth - before.worth()) / (after.worth() - before.worth());
        Some(cost(before)? + share * (cost(after)? - cost(before)?))
    };
    let all: Option<Vec<f64>> = seeds.values().map(one).collect();
    Interval::of(&all?)
}

fn change(by: &str, clean: &Seeds, under: &Seeds) -> Perturbed {
    let quality = |run: &Run| -> Option<f64> {
        let last = run.last().filter(|_| !run.diverged)?;
        Some(last.accuracy.unwrap_or(last.loss))
    };
    let pairs = clean.iter().map(|(seed, run)| Some((run, under.get(seed)?)));
    let pairs: Option<Vec<(&Run, &Run)>> = pairs.collect();
    let pairs = pairs.unwrap_or_default();
    let changes: Option<Vec<f64>> =
        pairs.iter().map(|(clean, under)| Some(quality(under)? - quality(clean)?)).collect();
    let time = |run: fn(&(&Run, &Run)) -> Option<f64>| pairs.iter().map(run).sum::<Option<f64>>();
    let slower = time(|(_, under)| under.virtual_s)
        .zip(time(|(clean, _)| clean.virtual_s))
        .and_then(|(under, clean)| (clean > 0.0).then_some(under / clean));
    let change = changes.and_then(|changes| Interval::of(&changes));
    Perturbed { by: by.to_owned(), change, slower }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Losses 3, 2, 1 after 0, 1 and 2 rounds, of 100 bytes, 10 joules and `round_s` seconds each.
    fn rows(name: &str, losses: [f64; 3], bytes: u64, round_s: f64) -> Vec<RoundRow> {
        let template = crate::report::tests::rows().remove(0);
        let row = |(round, loss): (usize, f64)| RoundRow {
            method: name.to_owned(),
            seed: 1,
            round: round as u64,
            heldout_loss: Some(loss),
            upload_bytes: if round == 0 { 0 } else { bytes },
            download_bytes: 0,
            virtual_s: Some(round as f64 * round_s),
            joules: Some(if round == 0 { 0.0 } else { 10.0 }),
            ..template.clone()
        };
        losses.into_iter().enumerate().map(row).collect()
    }

    /// By hand: the baseline goes 3, 2, 1 for 100 bytes a round, the other 3, 1.5, 1.4 for 20. Budgets are 40 bytes, 20
    /// joules and 10 s: of the other's whole run 40 bytes, of the baseline 0.4 rounds, a loss of 2.6. The target is
    /// `3 - 0.9 * 2 = 1.2`, which the baseline reaches after 1.8 rounds, 180 bytes and 9 s, the other never.
    #[test]
    fn the_three_answers_by_hand() {
        let mut clean = rows("dense", [3.0, 2.0, 1.0], 100, 5.0);
        clean.extend(rows("thin", [3.0, 1.5, 1.4], 20, 10.0));
        let mut lost = rows("dense", [3.0, 2.0, 1.25], 100, 10.0);
        lost.extend(rows("thin", [3.0, 1.5, f64::NAN], 20, 10.0));
        let asked = Asked { baseline: "dense", ..Asked::default() };
        let found = Protocols::of(&asked, &clean, &[("dropouts".to_owned(), lost)]);
        let expected = [(Cost::Bytes, 40.0), (Cost::Joules, 20.0), (Cost::Seconds, 10.0)];
        assert_eq!(found.budgets, expected);
        assert!((found.target.expect("a gain") - 1.2).abs() < 1e-12);
        let [dense, thin] = &found.methods[..] else { panic!("two methods") };
        let loss =
            |answers: &Answers, at: usize| answers.under_budget[at].expect("spent").loss.mean;
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found}");
        near(loss(dense, 0), 2.6);
        near(loss(dense, 1), 1.0);
        near(loss(dense, 2), 1.0);
        near(loss(thin, 0), 1.4);
        near(loss(thin, 2), 1.5);
        let spent = |at: usize| dense.to_target[at].expect("reached").mean;
        near(spent(0), 180.0);
        near(spent(1), 18.0);
        near(spent(2), 9.0);
        near(dense.rounds_to_target.expect("reached").mean, 1.8);
        assert!(thin.to_target.iter().all(Option::is_none) && thin.rounds_to_target.is_none());
        near(dense.perturbed[0].change.expect("sound").mean, 0.25);
        near(dense.perturbed[0].slower.expect("timed"), 2.0);
        assert_eq!(thin.perturbed[0].change, None);

        let table = found.table();
        let cells = [
            "dense",
            "2.6000",
            "1.0000",
            "1.0000",
            "180 B",
            "18 J",
            "9.00 s",
            "1.8",
            "+0.2500, 2.00×",
        ];
        assert_eq!(table.rows[0], cells);
        assert_eq!(table.rows[1][8], "diverged, 1.00×");
        assert_eq!(table.head[1..4], ["at 40 B", "at 20 J", "at 10.0 s"]);
    }

    #[test]
    fn what_is_said_is_taken() {
        let rows = rows("dense", [3.0, 2.0, 1.0], 100, 5.0);
        let budgets = [Some(50.0), None, Some(100.0)];
        let asked = Asked { baseline: "dense", budgets, target: Some(2.5) };
        let found = Protocols::of(&asked, &rows, &[]);
        assert_eq!((found.budgets[0], found.target), ((Cost::Bytes, 50.0), Some(2.5)));
        let dense = &found.methods[0];
        assert_eq!(dense.under_budget[0].expect("spent").loss.mean, 2.5);
        assert!(dense.under_budget[2].expect("spent").ended, "10 s are all");
        assert_eq!(dense.rounds_to_target.expect("reached").mean, 0.5);
    }
}
