//! What methods had reached when they had spent equally many bytes.

use serde::Serialize;

use super::Interval;
use super::comparison::MethodSummary;
use super::repetitions::{Evaluation, Seeds};

/// Byte budgets at which losses are compared.
const BUDGETS: usize = 4;

/// What a method had reached when it had spent a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AtBudget {
    /// Held-out loss, linear in bytes between evaluations.
    pub loss: Interval,
    /// Held-out accuracy, likewise, of a classification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Interval>,
    /// Its run ended before the bytes were spent; the loss is its last.
    pub ended: bool,
}

/// Evenly spaced in ratio, rounded down to two digits so that a run that ends at one has spent it.
pub(super) fn budgets(methods: &[MethodSummary]) -> Vec<f64> {
    let totals = || methods.iter().map(MethodSummary::total_bytes).filter(|&total| total > 0.0);
    let low = totals().fold(f64::INFINITY, f64::min);
    let high = totals().fold(0.0, f64::max);
    if high == 0.0 {
        return Vec::new();
    }
    let at = |step: usize| low * (high / low).powf(step as f64 / (BUDGETS - 1) as f64);
    let mut budgets: Vec<f64> = (0..BUDGETS).map(|step| two_digits(at(step))).collect();
    budgets.dedup();
    budgets
}

fn two_digits(bytes: f64) -> f64 {
    let unit = 10_f64.powi(bytes.log10().floor() as i32 - 1).max(1.0);
    // A ratio a hair below a whole number is that number.
    (bytes / unit + 1e-9).floor() * unit
}

pub(super) fn at_budget(seeds: &Seeds, budget: f64) -> Option<AtBudget> {
    let found: Option<Vec<_>> = seeds.values().map(|run| run.at(budget)).collect();
    over(&found?)
}

/// Over seeds.
pub(super) fn over(found: &[(Evaluation, bool)]) -> Option<AtBudget> {
    let losses: Vec<f64> = found.iter().map(|(at, _)| at.loss).collect();
    let accuracies: Option<Vec<f64>> = found.iter().map(|(at, _)| at.accuracy).collect();
    let accuracy = accuracies.and_then(|values| Interval::of(&values));
    let ended = found.iter().any(|(_, ended)| *ended);
    Some(AtBudget { loss: Interval::of(&losses)?, accuracy, ended })
}
