//! What a thesis claims, held against rows: that sparse messages need so many times fewer bytes than dense LoRA, and
//! than sparse training, at equal quality; and which of two families of methods is better at equal bytes.
//!
//! Methods belong to families by their names. Quality is held-out accuracy, or minus the held-out loss; bytes are
//! those of all clients, both ways. Differences are paired by seed, so that what a seed does to both is not noise.

use serde::Serialize;

use super::repetitions::{Run, Seeds, runs};
use super::{Interval, RoundRow};

/// Shares of the dense baseline's gain, at which bytes are compared.
const SHARES: [f64; 6] = [0.5, 0.8, 0.9, 0.95, 0.99, 1.0];

/// Which methods are which.
#[derive(Clone, Copy, Debug)]
pub struct Families<'a> {
    /// Everything travels.
    pub dense: &'a str,
    /// Beginnings of the names of the baselines that train, or send, less.
    pub sparse: &'a [&'a str],
    /// Beginning of the names of the method that the claims are about.
    pub published: &'a str,
    /// Beginning of our methods' names.
    pub ours: &'a str,
}

/// What the rows say of the claims.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Claims {
    /// Seeds behind each number.
    pub seeds: usize,
    /// Each published and each of our methods against dense LoRA after the last round.
    pub against_dense: Vec<AgainstDense>,
    /// How many times fewer bytes than dense a family needs to reach a share of dense's gain.
    pub to_share: Vec<ToShare>,
    /// The published method against each sparse baseline, at what that baseline reached.
    pub against_sparse: Vec<AgainstSparse>,
    /// Ours against the published method, at the bytes of each of its settings.
    pub at_equal_bytes: Vec<AtEqualBytes>,
}

/// A method against dense LoRA after the last round.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AgainstDense {
    /// The method.
    pub method: String,
    /// Its quality less dense's, paired by seed: nats a token, or share of examples.
    pub difference: Interval,
    /// How many times fewer bytes than dense its whole run moved.
    pub fewer: f64,
    /// Whether the interval of the difference reaches 0: not shown to be worse. One seed shows nothing.
    pub as_good: bool,
}

/// Bytes to a share of dense's gain: dense's by those of the family's thriftiest method.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ToShare {
    /// The share.
    pub share: f64,
    /// The published family.
    pub published: Option<Thriftiest>,
    /// Ours.
    pub ours: Option<Thriftiest>,
}

/// The method of a family that needs the fewest bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Thriftiest {
    /// The method.
    pub method: String,
    /// How many times fewer bytes it needs.
    pub fewer: f64,
}

/// The published family against a sparse baseline.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AgainstSparse {
    /// The baseline.
    pub baseline: String,
    /// The best mean quality it reached.
    pub reached: f64,
    /// Bytes it had moved then.
    pub bytes: f64,
    /// Who reaches that with the fewest bytes; none where nobody does, or where the baseline never learned.
    pub published: Option<Thriftiest>,
    /// The same of ours.
    pub ours: Option<Thriftiest>,
}

/// The best of ours against one setting of the published method, at that one's bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AtEqualBytes {
    /// The published setting.
    pub published: String,
    /// Bytes of its whole run.
    pub bytes: f64,
    /// Ours with the best mean at so many bytes.
    pub ours: String,
    /// Its quality less the other's, paired by seed.
    pub difference: Interval,
}

impl AtEqualBytes {
    /// Whose interval lies on its side of 0; none where seeds cannot tell.
    #[must_use]
    pub fn winner(&self) -> Option<&str> {
        let half = self.difference.half.filter(|half| half.is_finite())?;
        match self.difference.mean {
            mean if mean - half > 0.0 => Some(&self.ours),
            mean if mean + half < 0.0 => Some(&self.published),
            _ => None,
        }
    }
}

impl Claims {
    /// Of rows of one study. None without dense LoRA, or without a method of the published family.
    #[must_use]
    pub fn of(rows: &[RoundRow], families: &Families<'_>) -> Option<Self> {
        let runs = runs(rows);
        let sound = |(_, seeds): &&(&str, Seeds)| {
            seeds.values().all(|run| !run.diverged && run.evaluations.len() > 1)
        };
        let curves: Vec<Curve<'_>> =
            runs.iter().filter(sound).map(|(name, seeds)| Curve { name, seeds }).collect();
        let family = |beginning: &str| -> Vec<Curve<'_>> {
            curves.iter().filter(|curve| curve.name.starts_with(beginning)).copied().collect()
        };
        let dense = *curves.iter().find(|curve| curve.name == families.dense)?;
        let (published, ours) = (family(families.published), family(families.ours));
        if published.is_empty() {
            return None;
        }
        let (first, last) = (dense.first()?, dense.last()?);
        let to_share = SHARES.map(|share| {
            let worth = first + share * (last - first);
            let by = dense.cost_to(worth);
            let fewest = |family: &[Curve<'_>]| thriftiest(family, worth, by?);
            ToShare { share, published: fewest(&published), ours: fewest(&ours) }
        });
        let sparse = families.sparse.iter().flat_map(|beginning| family(beginning));
        let against_sparse = sparse.filter_map(|curve| {
            let (reached, bytes) = curve.best()?;
            let learned = reached > curve.first()?;
            let fewest =
                |family: &[Curve<'_>]| thriftiest(family, reached, bytes).filter(|_| learned);
            let (published, ours) = (fewest(&published), fewest(&ours));
            Some(AgainstSparse { baseline: curve.name.into(), reached, bytes, published, ours })
        });
        let at_equal_bytes = published.iter().filter_map(|theirs| {
            let bytes = theirs.total();
            let better = |a: &&Curve<'_>, b: &&Curve<'_>| {
                let mean = |curve: &Curve<'_>| curve.mean_at(bytes).unwrap_or(f64::NEG_INFINITY);
                mean(a).total_cmp(&mean(b))
            };
            let best = ours.iter().max_by(better)?;
            let worth = |run: &Run| run.at(bytes).map(|(at, _)| at.worth());
            let difference = best.paired(theirs, worth)?;
            let (published, ours) = (theirs.name.into(), best.name.into());
            Some(AtEqualBytes { published, bytes, ours, difference })
        });
        let against_dense = published.iter().chain(&ours).filter_map(|curve| {
            let difference = curve.paired(&dense, |run| run.last().map(|last| last.worth()))?;
            let as_good = difference.half.is_some_and(|half| difference.mean + half >= 0.0);
            let fewer = dense.total() / curve.total();
            Some(AgainstDense { method: curve.name.into(), difference, fewer, as_good })
        });
        Some(Self {
            seeds: dense.seeds.len(),
            against_dense: against_dense.collect(),
            to_share: to_share.into(),
            against_sparse: against_sparse.collect(),
            at_equal_bytes: at_equal_bytes.collect(),
        })
    }
}

/// Who of `family` reaches `worth` with the fewest bytes, against one that needs `bytes`.
fn thriftiest(family: &[Curve<'_>], worth: f64, bytes: f64) -> Option<Thriftiest> {
    let costs = family.iter().filter_map(|curve| Some((curve.name, curve.cost_to(worth)?)));
    let (method, cost) = costs.min_by(|(_, a), (_, b)| a.total_cmp(b))?;
    Some(Thriftiest { method: method.to_owned(), fewer: bytes / cost })
}

/// A method's seeds.
#[derive(Clone, Copy)]
struct Curve<'a> {
    name: &'a str,
    seeds: &'a Seeds,
}

impl Curve<'_> {
    fn mean(&self, of: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
        let values: Option<Vec<f64>> = self.seeds.values().map(of).collect();
        values.map(|values| values.iter().sum::<f64>() / values.len() as f64)
    }

    fn first(&self) -> Option<f64> {
        self.mean(|run| run.first().map(|at| at.worth()))
    }

    fn last(&self) -> Option<f64> {
        self.mean(|run| run.last().map(|at| at.worth()))
    }

    fn total(&self) -> f64 {
        self.mean(|run| Some(run.upload_bytes + run.download_bytes)).unwrap_or(f64::NAN)
    }

    fn mean_at(&self, bytes: f64) -> Option<f64> {
        self.mean(|run| run.at(bytes).map(|(at, _)| at.worth()))
    }

    /// Mean quality and mean bytes of each evaluation that all seeds have.
    fn points(&self) -> Vec<(f64, f64)> {
        let many = self.seeds.values().map(|run| run.evaluations.len()).min().unwrap_or(0);
        let point = |at: usize| {
            let worth = self.mean(|run| run.evaluations.get(at).map(|at| at.worth()))?;
            Some((worth, self.mean(|run| run.evaluations.get(at).map(|at| at.bytes))?))
        };
        (0..many).filter_map(point).collect()
    }

    /// Its best mean quality, and the bytes moved then.
    fn best(&self) -> Option<(f64, f64)> {
        self.points().into_iter().max_by(|(a, _), (b, _)| a.total_cmp(b))
    }

    /// Mean bytes when the mean first comes to `worth`, linear between evaluations.
    fn cost_to(&self, worth: f64) -> Option<f64> {
        let points = self.points();
        // A mean of means can be a hair off itself.
        let reached = |worth_here: f64| worth_here >= worth - 1e-12;
        let at = points.iter().position(|(here, _)| reached(*here))?;
        let (above, bytes) = points[at];
        let Some(&(below, before)) = at.checked_sub(1).map(|at| &points[at]) else {
            return Some(bytes);
        };
        Some(before + ((worth - below) / (above - below)).min(1.0) * (bytes - before))
    }

    /// `of` here less `of` there, over the seeds that both have.
    fn paired(&self, other: &Self, of: impl Fn(&Run) -> Option<f64>) -> Option<Interval> {
        let pairs = self.seeds.iter().filter_map(|(seed, run)| {
            let other = other.seeds.get(seed)?;
            Some(of(run)? - of(other)?)
        });
        Interval::of(&pairs.collect::<Vec<f64>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAMILIES: Families<'_> =
        Families { dense: "dense", sparse: &["ffa", "stuck"], published: "flasc", ours: "own" };

    /// Four rounds of a loss that falls from 4 by `fall` a round, three seeds, `bytes` a round each way.
    fn method(name: &str, fall: [f64; 3], bytes: u64) -> Vec<RoundRow> {
        let row = |seed: u64, round: u64| RoundRow {
            method: name.into(),
            seed,
            round,
            train_loss: 1.0,
            heldout_loss: Some(4.0 - fall[seed as usize - 1] * round as f64),
            server_loss: None,
            heldout_accuracy: None,
            server_accuracy: None,
            upload_bytes: if round > 0 { bytes } else { 0 },
            download_bytes: if round > 0 { bytes } else { 0 },
            cumulative_bytes: 2 * bytes * round,
            product_error: None,
            control_bytes: 0,
            accepted: 1,
            virtual_s: None,
            joules: None,
            wall_s: 0.0,
            clients: Vec::new(),
        };
        (1..=3).flat_map(|seed| (0..=4).map(move |round| row(seed, round))).collect()
    }

    fn rows() -> Vec<RoundRow> {
        [
            method("dense", [0.5; 3], 1_000), // 2.0 at the end, 8,000 bytes
            method("ffa", [0.25; 3], 500),    // 3.0, 4,000 bytes
            method("stuck", [0.0; 3], 500),
            method("flasc-1/4", [0.5; 3], 50),  // 2.0, 400 bytes
            method("flasc-1/16", [0.3; 3], 10), // 2.8, 80 bytes
            method("own", [0.5475, 0.55, 0.5525], 20), // 1.81, 1.80, 1.79, 160 bytes
        ]
        .concat()
    }

    /// All by hand: 8,000 / 400 = 20; ffa's 3.0 is flasc-1/16's after 1 / 0.3 rounds of 20 bytes, 4,000 / 66.7 = 60;
    /// ours at 400 bytes is 0.19, 0.20, 0.21 better, so 0.2 +- 4.3027 * 0.01 / sqrt(3).
    #[test]
    fn numbers_by_hand() {
        let claims = Claims::of(&rows(), &FAMILIES).expect("claims");
        let dense = &claims.against_dense;
        let names: Vec<&str> = dense.iter().map(|of| of.method.as_str()).collect();
        assert_eq!(names, ["flasc-1/4", "flasc-1/16", "own"]);
        assert_eq!((dense[0].fewer, dense[0].as_good), (20.0, true));
        assert!((dense[1].difference.mean + 0.8).abs() < 1e-9 && !dense[1].as_good);

        // Half of dense's gain, to 3.0: dense after 4,000 bytes, flasc-1/16 after 66.7, own after 1 / 0.55 rounds of 40.
        let half = &claims.to_share[0];
        let near = |of: &Option<Thriftiest>, name: &str, fewer: f64| {
            let of = of.as_ref().expect("reached");
            assert_eq!(of.method, name);
            assert!((of.fewer - fewer).abs() < 1e-6, "{} is not {fewer}", of.fewer);
        };
        near(&half.published, "flasc-1/16", 60.0);
        near(&half.ours, "own", 55.0);
        let whole = claims.to_share.last().expect("all of it");
        near(&whole.published, "flasc-1/4", 20.0);

        let [ffa, stuck] = &claims.against_sparse[..] else {
            panic!("{:?}", claims.against_sparse)
        };
        assert_eq!((ffa.baseline.as_str(), ffa.reached, ffa.bytes), ("ffa", -3.0, 4_000.0));
        near(&ffa.published, "flasc-1/16", 60.0);
        assert_eq!(
            (&stuck.published, &stuck.ours),
            (&None, &None),
            "what learned nothing is no mark"
        );

        let at = &claims.at_equal_bytes[0];
        assert_eq!((at.bytes, at.ours.as_str()), (400.0, "own"));
        assert!((at.difference.mean - 0.2).abs() < 1e-9);
        assert!((at.difference.half.expect("three") - 0.024_841).abs() < 1e-5);
        assert_eq!(at.winner(), Some("own"));
    }

    /// At 80 bytes ours has done two rounds and stands at 2.9, flasc-1/16 at 2.8.
    #[test]
    fn a_winner_is_whose_interval_lies_apart() {
        let claims = Claims::of(&rows(), &FAMILIES).expect("claims");
        let at = &claims.at_equal_bytes[1];
        assert!((at.difference.mean + 0.1).abs() < 1e-9, "{at:?}");
        assert_eq!(at.winner(), Some("flasc-1/16"));
        let mut noisy = at.clone();
        noisy.difference.half = Some(0.11);
        assert_eq!(noisy.winner(), None);
        noisy.difference.half = None;
        assert_eq!(noisy.winner(), None, "one seed has no interval");
    }

    #[test]
    fn without_dense_or_the_published_there_are_none() {
        let without = |name: &str| -> Vec<RoundRow> {
            rows().into_iter().filter(|row| !row.method.starts_with(name)).collect()
        };
        assert_eq!(Claims::of(&without("dense"), &FAMILIES), None);
        assert_eq!(Claims::of(&without("flasc"), &FAMILIES), None);
        let one: Vec<RoundRow> = rows().into_iter().filter(|row| row.seed == 1).collect();
        let one = Claims::of(&one, &FAMILIES).expect("claims");
        assert!(one.against_dense.iter().all(|of| !of.as_good), "one seed shows nothing");
        let ours = Claims::of(&without("own"), &FAMILIES).expect("claims");
        assert!(ours.at_equal_bytes.is_empty() && ours.to_share[0].ours.is_none());
    }
}
