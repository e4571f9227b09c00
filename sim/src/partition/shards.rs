//! Label skew by shards: documents sorted by class are cut into equal shards, and each client is dealt
//! some. Source: McMahan et al., arXiv:1602.05629, section 3 (200 shards, 2 for each of 100 clients).

use gossamer_protocol::rng::Stream;

use super::PartitionError;

/// Deals documents, `labels[i]` the class of document `i`, to `clients` clients, `each` shards a client.
/// Shards differ by one document at most.
pub(super) fn shards(
    labels: &[u32],
    clients: usize,
    each: usize,
    seed: u64,
) -> Result<Vec<Vec<usize>>, PartitionError> {
    let n = clients.saturating_mul(each);
    if n == 0 || labels.len() < n {
        return Err(PartitionError::Shards { documents: labels.len(), shards: n });
    }
    let mut rng = Stream::new(seed, "sim/partition/shards", &[]);
    let mut documents: Vec<usize> = (0..labels.len()).collect();
    rng.shuffle(&mut documents);
    // Stable: within a class the shuffled order stands.
    documents.sort_by_key(|&at| labels[at]);
    let mut order: Vec<usize> = (0..n).collect();
    rng.shuffle(&mut order);
    let cut = |shard: usize| shard * documents.len() / n;
    let mut dealt = vec![Vec::new(); clients];
    for (place, shard) in order.into_iter().enumerate() {
        dealt[place / each].extend_from_slice(&documents[cut(shard)..cut(shard + 1)]);
    }
    dealt.iter_mut().for_each(|shard| shard.sort_unstable());
    Ok(dealt)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The paper's own: 600 documents a client of 2 shards, so of 2 classes but where a shard has two.
    #[test]
    fn as_many_shards_each() {
        let labels: Vec<u32> = (0..6_000).map(|at| at % 10).collect();
        let dealt = shards(&labels, 10, 2, 1).expect("enough");
        assert!(dealt.iter().all(|shard| shard.len() == 600));
        let of = |shard: &Vec<usize>| shard.iter().map(|&at| labels[at]).collect::<HashSet<_>>();
        assert!(dealt.iter().all(|shard| of(shard).len() <= 2));
        let refused = shards(&labels, 100, 61, 1).expect_err("more shards than documents");
        assert_eq!(refused, PartitionError::Shards { documents: 6_000, shards: 6_100 });
    }
}
