//! From a rule's deal towards equal clients: the last share `p` of each client's documents is pooled,
//! shuffled, and dealt again, so many to each as it gave. 0 leaves the deal, 1 makes clients alike but for
//! their sizes. Source: FLASC's Reddit split, arXiv:2406.05233.

use gossamer_protocol::rng::Stream;

use super::ClientShard;

/// Mixes the shards in place.
pub(super) fn mix(shards: &mut [ClientShard], p: f64, seed: u64) {
    let given = |n: usize| ((p * n as f64).round() as usize).min(n);
    let mut pool = Vec::new();
    let mut gave = Vec::with_capacity(shards.len());
    for shard in shards.iter_mut() {
        let kept = shard.documents.len() - given(shard.documents.len());
        gave.push(shard.documents.len() - kept);
        pool.extend(shard.documents.drain(kept..));
    }
    Stream::new(seed, "sim/partition/mix", &[]).shuffle(&mut pool);
    let mut pool = pool.into_iter();
    for (shard, n) in shards.iter_mut().zip(gave) {
        shard.documents.extend(pool.by_ref().take(n));
        shard.documents.sort_unstable();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards() -> Vec<ClientShard> {
        let shard = |client: usize| ClientShard {
            name: format!("{client}"),
            documents: (100 * client..100 * client + 10 * (client + 1)).collect(),
        };
        (0..10).map(shard).collect()
    }

    #[test]
    fn sizes_stay_and_just_the_share_moves() {
        let before = shards();
        for p in [0.0, 0.3, 1.0] {
            let mut after = shards();
            mix(&mut after, p, 7);
            let mut all = Vec::new();
            let mut foreign = 0;
            for (before, after) in before.iter().zip(&after) {
                assert_eq!(before.documents.len(), after.documents.len());
                foreign +=
                    after.documents.iter().filter(|&at| !before.documents.contains(at)).count();
                all.extend_from_slice(&after.documents);
            }
            all.sort_unstable();
            let expected: Vec<usize> = before.iter().flat_map(|s| s.documents.clone()).collect();
            assert_eq!(all, expected);
            // Of 550 documents the share p is pooled; of those a client gets few of its own back.
            let share = foreign as f64 / 550.0;
            assert!(share <= p && share >= 0.75 * p, "{p}: {share}");
        }
    }
}
