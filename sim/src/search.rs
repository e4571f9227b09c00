//! FLASC-Search: which rank and which density, under a byte budget. Source: FLASC's later version (openreview
//! N3Aav8S7k1), which compares pairs of settings and raises one of the two.
//!
//! ```text
//! from (r, d): try (2 r, d) and (r, 2 d), which take about as many bytes; go to the better one while it fits
//! the budget and gains at least so much
//! ```
//!
//! How the paper stops and counts bytes we could not read; here bytes are those that travel, both ways, over a
//! whole run of all clients.

use serde::Serialize;

/// A point of the search.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Setting {
    /// LoRA's rank.
    pub rank: usize,
    /// Share of entries sent, both ways.
    pub density: f64,
}

/// How far it goes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest rank.
    pub rank_max: usize,
    /// Most bytes of a whole run.
    pub bytes_max: f64,
    /// Least that a step must lower the loss by.
    pub gain_min: f64,
}

/// What a setting came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// The setting.
    pub setting: Setting,
    /// Held-out loss after the last round; no number where it diverged.
    pub loss: f64,
    /// Bytes of a whole run.
    pub bytes: f64,
    /// Whether the search went there.
    pub taken: bool,
}

impl Setting {
    /// The next ones, the larger rank first.
    fn next(self, limits: &Limits) -> Vec<Self> {
        let Self { rank, density } = self;
        let larger = (2 * rank <= limits.rank_max).then_some(Self { rank: 2 * rank, density });
        let denser = (density < 1.0).then_some(Self { rank, density: (2.0 * density).min(1.0) });
        larger.into_iter().chain(denser).collect()
    }
}

/// Searches from `start`; `run` tells a setting's loss and bytes. All trials, in the order they were run; the
/// last one taken is the outcome. None is taken where `start` itself is over the budget or diverges.
///
/// # Errors
/// Those of `run`.
pub fn search<E>(
    start: Setting,
    limits: &Limits,
    mut run: impl FnMut(Setting) -> Result<(f64, f64), E>,
) -> Result<Vec<Trial>, E> {
    let mut trial =
        |setting| run(setting).map(|(loss, bytes)| Trial { setting, loss, bytes, taken: false });
    // No number fails the comparison too.
    let fits = |trial: &Trial| trial.bytes <= limits.bytes_max && trial.loss.is_finite();
    let mut trials = vec![trial(start)?];
    let mut at = 0;
    while fits(&trials[at]) {
        trials[at].taken = true;
        let Trial { setting, loss, .. } = trials[at];
        let first = trials.len();
        for next in setting.next(limits) {
            trials.push(trial(next)?);
        }
        let fitting = (first..trials.len()).filter(|&i| fits(&trials[i]));
        let best = fitting.min_by(|&i, &j| {
            let [a, b] = [trials[i], trials[j]];
            a.loss.total_cmp(&b.loss).then(a.bytes.total_cmp(&b.bytes))
        });
        match best {
            Some(best) if loss - trials[best].loss >= limits.gain_min => at = best,
            _ => break,
        }
    }
    Ok(trials)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `loss = 1 / rank + 0.1 / density`, `bytes = 1000 rank density`. By hand, from (1, 1/8), loss 1.8 and
    /// 125 bytes: (2, 1/8) 1.3, (1, 1/4) 1.4; (4, 1/8) 1.05, (2, 1/4) 0.9; (4, 1/4) 0.65, (2, 1/2) 0.7;
    /// (8, 1/4) 0.525, (4, 1/2) 0.45, of 2,000 bytes each.
    fn model(Setting { rank, density }: Setting) -> Result<(f64, f64), ()> {
        Ok((1.0 / rank as f64 + 0.1 / density, 1000.0 * rank as f64 * density))
    }

    fn path(rank_max: usize, bytes_max: f64, gain_min: f64) -> Vec<(usize, f64)> {
        let start = Setting { rank: 1, density: 0.125 };
        let limits = Limits { rank_max, bytes_max, gain_min };
        let trials = search(start, &limits, model).expect("no failure");
        let taken = trials.iter().filter(|trial| trial.taken);
        taken.map(|trial| (trial.setting.rank, trial.setting.density)).collect()
    }

    #[test]
    fn the_better_of_two_equally_dear_ones() {
        let whole = [(1, 0.125), (2, 0.125), (2, 0.25), (4, 0.25), (4, 0.5)];
        assert_eq!(path(64, 2_000.0, 0.0), whole);
        assert_eq!(path(64, 1_999.0, 0.0), whole[..4], "the budget ends it");
        assert_eq!(path(64, 2_000.0, 0.3), whole[..3], "too little gain");
        assert_eq!(path(2, 2_000.0, 0.0), [(1, 0.125), (2, 0.125), (2, 0.25), (2, 0.5), (2, 1.0)]);
        assert_eq!(path(64, 100.0, 0.0), []);
    }

    #[test]
    fn what_diverges_is_not_gone_to() {
        let start = Setting { rank: 1, density: 0.5 };
        let limits = Limits { rank_max: 4, bytes_max: f64::INFINITY, gain_min: 0.0 };
        let larger_diverge = |setting: Setting| match setting.rank {
            1 => model(setting),
            _ => Ok((f64::NAN, 1.0)),
        };
        let trials = search(start, &limits, larger_diverge).expect("no failure");
        let taken: Vec<usize> =
            trials.iter().filter(|trial| trial.taken).map(|trial| trial.setting.rank).collect();
        assert_eq!((trials.len(), taken), (4, vec![1, 1]));
    }
}
