//! Label skew: each class is dealt to the clients in proportions drawn from a Dirichlet.
//!
//! For every class, `p ~ Dir(alpha, ..., alpha)` over the clients, and client `i` gets the documents
//! between `floor(n p_1..i-1)` and `floor(n p_1..i)` of the class, shuffled. `alpha -> 0` gives each
//! class to one client, `alpha -> inf` to all alike. Source: Li et al., arXiv:2102.02079.
//!
//! Small `alpha` leaves clients empty, who could not train. Repair, after the deal: each empty
//! client, in order, takes the last document of whoever then has most (the first such client). It
//! moves as few documents as can be, and the richest miss one least.

use std::collections::BTreeMap;
use std::ops::Range;

use gossamer_protocol::rng::Stream;

use super::PartitionError;

/// Deals documents, `labels[i]` the class of document `i`, to `clients` clients.
///
/// # Errors
/// [`PartitionError`] where `alpha` is not positive, or clients outnumber documents.
pub fn dirichlet(
    labels: &[u32],
    clients: usize,
    alpha: f64,
    seed: u64,
) -> Result<Vec<Vec<usize>>, PartitionError> {
    if !(alpha > 0.0 && alpha.is_finite()) {
        return Err(PartitionError::Alpha(alpha));
    }
    if clients == 0 || labels.len() < clients {
        return Err(PartitionError::TooFew { documents: labels.len(), clients });
    }
    let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (at, &label) in labels.iter().enumerate() {
        classes.entry(label).or_default().push(at);
    }

    let mut shards = vec![Vec::new(); clients];
    for (label, mut documents) in classes {
        // A stream for each class, so that one more document in one does not re-deal the others.
        let mut rng = Stream::new(seed, "sim/partition/dirichlet", &[&label.to_le_bytes()]);
        let shares = proportions(alpha, clients, &mut rng);
        rng.shuffle(&mut documents);
        for (shard, range) in shards.iter_mut().zip(cut(documents.len(), &shares)) {
            shard.extend_from_slice(&documents[range]);
        }
    }
    fill_empty(&mut shards);
    shards.iter_mut().for_each(|shard| shard.sort_unstable());
    Ok(shards)
}

/// `0..n` in pieces of the given shares, `floor` of their running sum; the last ends at `n`.
pub(super) fn cut(n: usize, shares: &[f64]) -> impl Iterator<Item = Range<usize>> {
    let (mut start, mut sum) = (0, 0.0);
    shares.iter().enumerate().map(move |(at, share)| {
        sum += share;
        let end = if at + 1 == shares.len() { n } else { ((sum * n as f64) as usize).min(n) };
        std::mem::replace(&mut start, end)..end
    })
}

/// Gives each empty client the last document of whoever then has most.
pub(super) fn fill_empty(shards: &mut [Vec<usize>]) {
    for empty in 0..shards.len() {
        if !shards[empty].is_empty() {
            continue;
        }
        let richest = (0..shards.len())
            .max_by_key(|&at| (shards[at].len(), std::cmp::Reverse(at)))
            .expect("the empty client is one");
        let document = shards[richest].pop().expect("as many documents as clients: one has two");
        shards[empty].push(document);
    }
}

/// `n` shares that sum to 1, from the symmetric Dirichlet: Gamma draws over their sum.
///
/// In logarithms, since for `alpha` below about 0.001 every draw would round to 0.
pub(super) fn proportions(alpha: f64, n: usize, rng: &mut Stream) -> Vec<f64> {
    let draws: Vec<f64> = (0..n).map(|_| ln_gamma_draw(alpha, rng)).collect();
    let top = draws.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = draws.iter().map(|draw| (draw - top).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// The logarithm of a draw from Gamma(`shape`, scale 1).
///
/// `shape` of 1 or more: with `d = shape - 1/3`, `c = 1 / sqrt(9 d)`, normal `x` and `v = (1 + c x)^3`,
/// `d v` is kept with probability `min(1, exp(x^2 / 2 + d - d v + d ln v))`. Below 1: a draw of
/// `shape + 1` times `u^(1 / shape)`. Source: Marsaglia and Tsang, ACM TOMS 26(3), 2000.
pub fn ln_gamma_draw(shape: f64, rng: &mut Stream) -> f64 {
    // Uniform on (0, 1]: its logarithm is finite.
    let ln_unit = |rng: &mut Stream| (1.0 - rng.unit_f64()).ln();
    if shape < 1.0 {
        return ln_gamma_draw(shape + 1.0, rng) + ln_unit(rng) / shape;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = rng.normal();
        let root = 1.0 + c * x;
        if root <= 0.0 {
            continue;
        }
        let v = root * root * root;
        if ln_unit(rng) < 0.5 * x * x + d - d * v + d * v.ln() {
            return d.ln() + v.ln();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gamma(k, 1) has mean k and variance k; its fourth central moment is 3 k^2 + 6 k.
    #[test]
    fn gamma_moments() {
        let n = 40_000;
        for shape in [0.05, 0.3, 0.9, 1.0, 1.5, 4.0, 50.0_f64] {
            let mut rng = Stream::new(1, "gamma", &[&shape.to_le_bytes()]);
            let draws: Vec<f64> = (0..n).map(|_| ln_gamma_draw(shape, &mut rng).exp()).collect();
            let mean = draws.iter().sum::<f64>() / f64::from(n);
            let square = |x: &f64| (x - shape).powi(2);
            let variance = draws.iter().map(square).sum::<f64>() / f64::from(n);
            let root_n = f64::from(n).sqrt();
            // Five standard errors.
            let mean_error = 5.0 * shape.sqrt() / root_n;
            let fourth = 3.0 * shape * shape + 6.0 * shape;
            let variance_error = 5.0 * (fourth - shape * shape).sqrt() / root_n;
            assert!((mean - shape).abs() < mean_error, "shape {shape}: mean {mean}");
            assert!((variance - shape).abs() < variance_error, "shape {shape}: {variance}");
        }
    }

    /// E ln X = digamma(k): exact at k = 1 (-0.5772...) and k = 1/2 (-gamma - 2 ln 2). It sees the
    /// small draws, which the plain moments do not.
    #[test]
    fn gamma_logarithms() {
        let n = 40_000;
        let euler = 0.577_215_664_901_532_9_f64;
        let pi_squared = std::f64::consts::PI.powi(2);
        for (shape, digamma, trigamma) in [
            (1.0, -euler, pi_squared / 6.0),
            (0.5, -euler - 2.0 * std::f64::consts::LN_2, pi_squared / 2.0),
        ] {
            let mut rng = Stream::new(2, "ln-gamma", &[]);
            let sum: f64 = (0..n).map(|_| ln_gamma_draw(shape, &mut rng)).sum();
            let mean = sum / f64::from(n);
            let error = 5.0 * (trigamma / f64::from(n)).sqrt();
            assert!((mean - digamma).abs() < error, "shape {shape}: {mean}, not {digamma}");
        }
    }

    /// A share of the symmetric Dirichlet has mean 1/n and variance (n - 1) / (n^2 (n alpha + 1)).
    #[test]
    fn share_moments() {
        let n = 8.0_f64;
        for alpha in [0.1, 1.0, 10.0] {
            let mut rng = Stream::new(3, "shares", &[]);
            let draws = 20_000;
            let (mut sum, mut square) = (0.0, 0.0);
            for _ in 0..draws {
                let share = proportions(alpha, 8, &mut rng)[0];
                sum += share;
                square += (share - 1.0 / n).powi(2);
            }
            let variance = (n - 1.0) / (n * n * (n * alpha + 1.0));
            let error = 5.0 * (variance / f64::from(draws)).sqrt();
            assert!((sum / f64::from(draws) - 1.0 / n).abs() < error, "alpha {alpha}");
            let ratio = square / f64::from(draws) / variance;
            assert!((ratio - 1.0).abs() < 0.1, "alpha {alpha}: variance off by {ratio}");
        }
    }

    fn labels(n: usize, classes: u32) -> Vec<u32> {
        (0..n).map(|at| at as u32 % classes).collect()
    }

    /// The share of a client's documents that are of its commonest class, averaged over clients.
    fn purity(labels: &[u32], shards: &[Vec<usize>]) -> f64 {
        let of = |shard: &Vec<usize>| {
            let mut counts = BTreeMap::new();
            shard.iter().for_each(|&at| *counts.entry(labels[at]).or_insert(0) += 1);
            f64::from(counts.values().copied().max().unwrap_or(0)) / shard.len() as f64
        };
        shards.iter().map(of).sum::<f64>() / shards.len() as f64
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Large alpha: every client has nearly the same share of every class.
        #[test]
        fn large_alpha_is_even(seed: u64) {
            let labels = labels(8_000, 4);
            let shards = dirichlet(&labels, 10, 1e5, seed).expect("enough");
            for shard in &shards {
                // A class has 2,000: a tenth, within five sd (0.1 * 0.003 * 5) and rounding.
                for class in 0..4 {
                    let count = shard.iter().filter(|&&at| labels[at] == class).count();
                    prop_assert!((195..=205).contains(&count), "{count}");
                }
            }
        }

        /// Small alpha: nearly every document of a class is with one client. The two largest shares
        /// differ by a factor `exp(E / alpha)`, `E` exponential of rate 9: below 9 once in 5 million.
        #[test]
        fn small_alpha_is_concentrated(seed: u64) {
            let labels = labels(8_000, 4);
            let shards = dirichlet(&labels, 10, 1e-8, seed).expect("enough");
            for class in 0..4 {
                let share = |shard: &Vec<usize>| {
                    shard.iter().filter(|&&at| labels[at] == class).count() as f64 / 2_000.0
                };
                let top = shards.iter().map(share).fold(0.0, f64::max);
                prop_assert!(top > 0.9, "class {class}: {top}");
            }
        }
    }

    #[test]
    fn skew_falls_as_alpha_rises() {
        let labels = labels(4_000, 10);
        let at = |alpha| purity(&labels, &dirichlet(&labels, 20, alpha, 5).expect("enough"));
        let (low, middle, high) = (at(0.05), at(0.5), at(50.0));
        assert!(low > middle + 0.1 && middle > high + 0.1, "{low} {middle} {high}");
    }

    #[test]
    fn the_repair_takes_from_the_richest() {
        let mut shards = vec![vec![], vec![1, 2], vec![3, 4, 5], vec![]];
        fill_empty(&mut shards);
        assert_eq!(shards, [vec![5], vec![1], vec![3, 4], vec![2]]);
    }

    #[test]
    fn alpha_must_be_positive() {
        for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let refused = dirichlet(&[0, 1], 1, alpha, 0);
            assert!(matches!(refused, Err(PartitionError::Alpha(_))), "{alpha}: {refused:?}");
        }
    }
}
