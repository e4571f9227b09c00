//! How a measure is spread over clients, and over those of each tier: a mean hides whom a method fails.
//!
//! Quantiles are linear between the two nearest of the sorted values (numpy's default, Python's `inclusive`). The worst tenth is the mean
//! of the `ceil(n / 10)` clients worst off, as fair federated learning reports it (q-FFL, arXiv:1905.10497).

use serde::{Deserialize, Serialize};

use super::{Interval, Measure, jsonl};

/// What one client's held-out text came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientLoss {
    /// The client's name.
    pub client: String,
    /// Its tier of devices, of the method, or both; none where there are none, or it does not train.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Tokens, or examples, predicted.
    pub targets: u64,
    /// Mean loss, nats a token (or an example), with the adapter that this client receives.
    #[serde(with = "jsonl::number")]
    pub loss: f64,
    /// Share of examples whose class was found; only of a classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
}

impl ClientLoss {
    pub(super) fn value(&self, measure: Measure) -> Option<f64> {
        match measure {
            Measure::Loss => Some(self.loss),
            Measure::Accuracy => self.accuracy,
        }
    }
}

/// Clients' values, summed up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// How many.
    pub clients: usize,
    /// Their mean, each counted once.
    pub mean: f64,
    /// The lowest.
    pub low: f64,
    /// A tenth lies below.
    pub p10: f64,
    /// A quarter lies below.
    pub p25: f64,
    /// Half lies below.
    pub median: f64,
    /// Three quarters lie below.
    pub p75: f64,
    /// Nine tenths lie below.
    pub p90: f64,
    /// The highest.
    pub high: f64,
    /// Mean of the worst tenth: of the highest losses, or the lowest accuracies.
    pub worst_tenth: f64,
}

impl Spread {
    /// Of values that are all finite; none of none.
    #[must_use]
    pub fn of(values: &[f64], measure: Measure) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let quantile = |share: f64| {
            let place = share * (n - 1) as f64;
            let (below, above) =
                (sorted[place as usize], sorted[(place.ceil() as usize).min(n - 1)]);
            below + (above - below) * place.fract()
        };
        let worst = match measure {
            Measure::Loss => &sorted[n - n.div_ceil(10)..],
            Measure::Accuracy => &sorted[..n.div_ceil(10)],
        };
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        Some(Self {
            clients: n,
            mean: mean(&sorted),
            low,
            p10: quantile(0.1),
            p25: quantile(0.25),
            median: quantile(0.5),
            p75: quantile(0.75),
            p90: quantile(0.9),
            high,
            worst_tenth: mean(worst),
        })
    }

    /// The names of what [`values`](Self::values) gives.
    pub(super) const NAMES: [&str; 9] =
        ["mean", "low", "p10", "p25", "median", "p75", "p90", "high", "worst_tenth"];

    /// All but the number of clients.
    pub(super) fn values(&self) -> [f64; 9] {
        let Self { mean, low, p10, p25, median, p75, p90, high, worst_tenth, .. } = *self;
        [mean, low, p10, p25, median, p75, p90, high, worst_tenth]
    }
}

/// What all clients, those without a tier and those of several together, are called.
pub(super) const ALL: &str = "all clients";
/// What those are called that are in no tier, where others are in one.
const OTHERS: &str = "not trained on";

/// Values by tier, in the order of the tiers' names; where there are several, all together come first.
#[must_use]
pub(super) fn by_tier(clients: &[ClientLoss], measure: Measure) -> Vec<(String, Vec<f64>)> {
    let of = |tier: Option<&str>| -> Vec<f64> {
        let of_tier = clients.iter().filter(|client| client.tier.as_deref() == tier);
        of_tier.filter_map(|client| client.value(measure)).collect()
    };
    let mut tiers: Vec<&str> = clients.iter().filter_map(|client| client.tier.as_deref()).collect();
    tiers.sort_unstable();
    tiers.dedup();
    let all: Vec<f64> = clients.iter().filter_map(|client| client.value(measure)).collect();
    let others = of(None);
    let several = tiers.len() + usize::from(!others.is_empty()) > 1;
    let mut groups = Vec::new();
    if several || tiers.is_empty() {
        groups.push((ALL.to_owned(), all));
    }
    groups.extend(tiers.iter().map(|tier| ((*tier).to_owned(), of(Some(tier)))));
    if several {
        groups.push((OTHERS.to_owned(), others));
    }
    groups.retain(|(_, values)| !values.is_empty());
    groups
}

/// One tier's clients under one method, at its last evaluation. "Mean" is over seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TierSummary {
    /// Its name, or `all clients`.
    pub tier: String,
    /// The clients' mean.
    pub mean: Interval,
    /// The worst tenth's.
    pub worst_tenth: Interval,
    /// Of all seeds' clients together.
    pub spread: Spread,
    /// Those, for a plot.
    #[serde(skip)]
    pub values: Vec<f64>,
}

/// Each tier over seeds, of which each gives its last evaluation's clients.
pub(super) fn summaries(seeds: &[&[ClientLoss]], measure: Measure) -> Vec<TierSummary> {
    let mut tiers: Vec<(String, Vec<Vec<f64>>)> = Vec::new();
    for clients in seeds {
        for (tier, values) in by_tier(clients, measure) {
            match tiers.iter_mut().find(|(name, _)| *name == tier) {
                Some((_, seeds)) => seeds.push(values),
                None => tiers.push((tier, vec![values])),
            }
        }
    }
    let summary = |(tier, seeds): (String, Vec<Vec<f64>>)| {
        let spreads: Vec<Spread> =
            seeds.iter().filter_map(|values| Spread::of(values, measure)).collect();
        let over =
            |of: fn(&Spread) -> f64| Interval::of(&spreads.iter().map(of).collect::<Vec<_>>());
        let values = seeds.concat();
        Some(TierSummary {
            tier,
            mean: over(|spread| spread.mean)?,
            worst_tenth: over(|spread| spread.worst_tenth)?,
            spread: Spread::of(&values, measure)?,
            values,
        })
    };
    tiers.into_iter().filter_map(summary).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str, tier: Option<&str>, loss: f64) -> ClientLoss {
        let (client, tier) = (name.to_owned(), tier.map(str::to_owned));
        ClientLoss { client, tier, targets: 1, loss, accuracy: Some(1.0 - loss) }
    }

    /// Python's `statistics.quantiles(values, n=20, method="inclusive")`; of eleven the worst tenth is two.
    #[test]
    fn quantiles_are_those_of_python() {
        let values = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6, 5.0, 3.5, 8.0, 9.7, 7.0];
        let spread = Spread::of(&values, Measure::Loss).expect("eleven");
        let expected = [4.936363636363637, 1.0, 1.5, 2.8, 4.0, 7.5, 9.0, 9.7, 9.35];
        for ((name, found), expected) in Spread::NAMES.iter().zip(spread.values()).zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{name}: {found}, not {expected}");
        }
        let worst = Spread::of(&values, Measure::Accuracy).expect("eleven").worst_tenth;
        assert_eq!(worst, 1.25);
        let alone = Spread::of(&[2.0], Measure::Loss).expect("one");
        assert!(alone.values().iter().all(|value| *value == 2.0));
        let four = Spread::of(&[8.0, 1.0, 4.0, 2.0], Measure::Loss).expect("four");
        let found = [four.p10, four.p25, four.median, four.p75, four.p90];
        let expected = [1.3, 1.75, 3.0, 5.0, 6.8];
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}");
        assert_eq!(Spread::of(&[], Measure::Loss), None);
    }

    #[test]
    fn tiers_stand_apart_and_all_come_first() {
        let [a, b] = [client("a", Some("phone"), 0.5), client("b", Some("board"), 0.25)];
        let names = |clients: &[ClientLoss]| -> Vec<(String, usize)> {
            let groups = by_tier(clients, Measure::Loss).into_iter();
            groups.map(|(name, values)| (name, values.len())).collect()
        };
        let named = |names: &[(&str, usize)]| -> Vec<(String, usize)> {
            names.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect()
        };
        let both = named(&[("all clients", 2), ("board", 1), ("phone", 1)]);
        assert_eq!(names(&[a.clone(), b.clone()]), both);
        assert_eq!(names(std::slice::from_ref(&a)), named(&[("phone", 1)]));
        let plain = client("c", None, 1.0);
        assert_eq!(names(std::slice::from_ref(&plain)), named(&[("all clients", 1)]));
        let mixed = named(&[("all clients", 2), ("phone", 1), ("not trained on", 1)]);
        assert_eq!(names(&[a, plain]), mixed);
    }

    /// Seeds 1 and 2: means 2 and 4, so 3 +- 12.7062 * sqrt(2) / sqrt(2).
    #[test]
    fn seeds_make_an_interval() {
        let seeds = [
            [client("a", None, 1.0), client("b", None, 3.0)],
            [client("a", None, 3.0), client("b", None, 5.0)],
        ];
        let seeds: Vec<&[ClientLoss]> = seeds.iter().map(|seed| &seed[..]).collect();
        let [all] = &summaries(&seeds, Measure::Loss)[..] else { panic!("one tier") };
        assert_eq!((all.mean.mean, all.worst_tenth.mean, all.spread.clients), (3.0, 4.0, 4));
        let half = all.mean.half.expect("two seeds");
        assert!((half - 12.7062).abs() < 1e-3, "{half}");
    }
}
