//! Quantity skew: shuffled documents are cut in proportions drawn from a Dirichlet over the clients.
//! Source: Li et al., arXiv:2102.02079. Nobody is left empty.

use gossamer_protocol::rng::Stream;

use super::PartitionError;
use super::dirichlet::{cut, fill_empty, proportions};

/// Deals documents `0..n` to `clients` clients.
pub(super) fn quantity(
    n: usize,
    clients: usize,
    alpha: f64,
    seed: u64,
) -> Result<Vec<Vec<usize>>, PartitionError> {
    if !(alpha > 0.0 && alpha.is_finite()) {
        return Err(PartitionError::Alpha(alpha));
    }
    if clients == 0 || n < clients {
        return Err(PartitionError::TooFew { documents: n, clients });
    }
    let mut rng = Stream::new(seed, "sim/partition/quantity", &[]);
    let shares = proportions(alpha, clients, &mut rng);
    let mut documents: Vec<usize> = (0..n).collect();
    rng.shuffle(&mut documents);
    let mut shards: Vec<Vec<usize>> =
        cut(n, &shares).map(|range| documents[range].to_vec()).collect();
    fill_empty(&mut shards);
    shards.iter_mut().for_each(|shard| shard.sort_unstable());
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A share's variance under a symmetric Dirichlet over m: (1/m)(1 - 1/m) / (m alpha + 1).
    #[test]
    fn sizes_vary_as_their_dirichlet() {
        let (n, m) = (100_000, 50);
        for alpha in [0.5, 5.0] {
            let mut square = 0.0;
            for seed in 0..40 {
                let shards = quantity(n, m, alpha, seed).expect("enough");
                let share = |shard: &Vec<usize>| shard.len() as f64 / n as f64 - 1.0 / m as f64;
                square += shards.iter().map(|shard| share(shard).powi(2)).sum::<f64>();
            }
            let (found, m) = (square / (40.0 * m as f64), m as f64);
            let expected = (1.0 / m) * (1.0 - 1.0 / m) / (m * alpha + 1.0);
            assert!((found / expected - 1.0).abs() < 0.1, "{alpha}: {found} of {expected}");
        }
    }
}
