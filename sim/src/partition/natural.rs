//! As the data say: a document belongs to the client named in its row.

use std::collections::BTreeMap;

use super::ClientShard;

/// One shard a client, in the order of names. `clients[i]` owns document `i`.
pub(super) fn natural(clients: &[&str]) -> Vec<ClientShard> {
    let mut shards: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, client) in clients.iter().enumerate() {
        shards.entry(client).or_default().push(at);
    }
    shards
        .into_iter()
        .map(|(name, documents)| ClientShard { name: name.to_owned(), documents })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_stay_with_their_client_in_order() {
        let shards = natural(&["b", "a", "b"]);
        let found: Vec<_> =
            shards.iter().map(|s| (s.name.as_str(), s.documents.as_slice())).collect();
        assert_eq!(found, [("a", &[1][..]), ("b", &[0, 2][..])]);
    }
}
