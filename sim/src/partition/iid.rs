//! Shuffled, then dealt in turn: sizes differ by one at most.

use gossamer_protocol::rng::Stream;

use super::PartitionError;

/// Deals documents `0..n` to `clients` clients.
pub(super) fn iid(n: usize, clients: usize, seed: u64) -> Result<Vec<Vec<usize>>, PartitionError> {
    if clients == 0 || n < clients {
        return Err(PartitionError::TooFew { documents: n, clients });
    }
    let mut order: Vec<usize> = (0..n).collect();
    Stream::new(seed, "sim/partition/iid", &[]).shuffle(&mut order);
    let mut shards = vec![Vec::new(); clients];
    for (turn, document) in order.into_iter().enumerate() {
        shards[turn % clients].push(document);
    }
    shards.iter_mut().for_each(|shard| shard.sort_unstable());
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_differ_by_one_at_most() {
        let shards = iid(23, 5, 1).expect("enough");
        let mut sizes: Vec<_> = shards.iter().map(Vec::len).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [4, 4, 5, 5, 5]);
    }
}
