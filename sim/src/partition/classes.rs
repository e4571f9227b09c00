//! Pathological label skew: each client has documents of exactly `k` classes.
//!
//! Each client in turn is given the `k` classes that still lack most owners, ties by lot, so that all
//! classes have as many owners but for one. Then each class's documents, shuffled, are dealt to its
//! owners in turn. After McMahan et al., arXiv:1602.05629, section 3, who reach much the same by shards.

use std::collections::BTreeMap;

use gossamer_protocol::rng::Stream;

use super::PartitionError;

/// Deals documents, `labels[i]` the class of document `i`, to `clients` clients of `k` classes each.
pub(super) fn classes(
    labels: &[u32],
    clients: usize,
    k: usize,
    seed: u64,
) -> Result<Vec<Vec<usize>>, PartitionError> {
    let mut by_class: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (at, &label) in labels.iter().enumerate() {
        by_class.entry(label).or_default().push(at);
    }
    let n_classes = by_class.len();
    if k == 0 || k > n_classes {
        return Err(PartitionError::Classes { asked: k, there: n_classes });
    }
    if clients.saturating_mul(k) < n_classes {
        return Err(PartitionError::NoOwner { clients, classes: k, there: n_classes });
    }

    let mut rng = Stream::new(seed, "sim/partition/classes", &[]);
    // Owners a class still lacks: an even share of all places, what is left over by lot.
    let places = clients * k;
    let mut lacking = vec![places / n_classes; n_classes];
    let mut order: Vec<usize> = (0..n_classes).collect();
    rng.shuffle(&mut order);
    order.iter().take(places % n_classes).for_each(|&class| lacking[class] += 1);
    let mut owners = vec![Vec::new(); n_classes];
    for client in 0..clients {
        rng.shuffle(&mut order);
        // Stable, so that ties keep their lot. Largest first never ends with one class for two places.
        order.sort_by_key(|&class| std::cmp::Reverse(lacking[class]));
        for &class in &order[..k] {
            lacking[class] = lacking[class].saturating_sub(1);
            owners[class].push(client);
        }
    }

    let mut shards = vec![Vec::new(); clients];
    for ((label, mut documents), owners) in by_class.into_iter().zip(owners) {
        if documents.len() < owners.len() {
            let (documents, owners) = (documents.len(), owners.len());
            return Err(PartitionError::RareClass { label, documents, owners });
        }
        rng.shuffle(&mut documents);
        for (turn, document) in documents.into_iter().enumerate() {
            shards[owners[turn % owners.len()]].push(document);
        }
    }
    shards.iter_mut().for_each(|shard| shard.sort_unstable());
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_client_has_just_so_many_classes_and_each_class_as_many_owners() {
        let labels: Vec<u32> = (0..600).map(|at| at % 10).collect();
        for k in [1, 2, 3, 7, 10] {
            let shards = classes(&labels, 25, k, 3).expect("possible");
            let of = |shard: &Vec<usize>| -> HashSet<u32> {
                shard.iter().map(|&at| labels[at]).collect()
            };
            assert!(shards.iter().all(|shard| of(shard).len() == k), "{k}");
            let owners = |class| shards.iter().filter(|shard| of(shard).contains(&class)).count();
            let owners: Vec<usize> = (0..10).map(owners).collect();
            let (low, high) = (25 * k / 10, (25 * k).div_ceil(10));
            assert!(owners.iter().all(|&n| (low..=high).contains(&n)), "{k}: {owners:?}");
        }
    }

    #[test]
    fn the_impossible_is_named() {
        let labels: Vec<u32> = (0..40).map(|at| at % 4).collect();
        let refused = |clients, k| classes(&labels, clients, k, 1).expect_err("impossible");
        assert_eq!(refused(8, 5), PartitionError::Classes { asked: 5, there: 4 });
        let none = PartitionError::NoOwner { clients: 3, classes: 1, there: 4 };
        assert_eq!(refused(3, 1), none);
        assert!(matches!(refused(50, 1), PartitionError::RareClass { documents: 10, .. }));
    }
}
