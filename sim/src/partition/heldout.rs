//! What no client trains on: whole clients, the end of every other client's text, or both.

use gossamer_protocol::rng::Stream;

use super::{ClientShard, PartitionError};
use crate::dataset::Dataset;
use crate::scenario::Heldout;

/// A client's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientText {
    /// The shard's name.
    pub name: String,
    /// In the order of the data; never empty.
    pub documents: Vec<String>,
}

/// What is trained on, and what is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Clients that train, in the order of the shards.
    pub train: Vec<ClientText>,
    /// Text to evaluate on: clients held out whole, and the tails of those that train.
    pub heldout: Vec<ClientText>,
}

/// Holds out `heldout.clients` of the shards, drawn by `seed`, and the last `heldout.tail` of the
/// characters of every other one, cut at a space where there is one.
///
/// # Errors
/// [`PartitionError::NothingLeft`] where either side would be empty.
pub fn hold_out(
    dataset: &Dataset,
    shards: &[ClientShard],
    heldout: &Heldout,
    seed: u64,
) -> Result<Split, PartitionError> {
    let mut order: Vec<usize> = (0..shards.len()).collect();
    Stream::new(seed, "sim/heldout", &[]).shuffle(&mut order);
    let mut is_out = vec![false; shards.len()];
    order.iter().take(heldout.count(shards.len())).for_each(|&at| is_out[at] = true);

    let mut split = Split { train: Vec::new(), heldout: Vec::new() };
    for (shard, is_out) in shards.iter().zip(is_out) {
        let texts = shard.documents.iter().map(|&at| dataset.documents[at].text.as_str());
        let texts: Vec<&str> = texts.collect();
        let tail = if is_out { 1.0 } else { heldout.tail };
        let (head, tail) = cut(&texts, tail);
        let text = |documents| ClientText { name: shard.name.clone(), documents };
        if !head.is_empty() {
            split.train.push(text(head));
        }
        if !tail.is_empty() {
            split.heldout.push(text(tail));
        }
    }
    if split.train.is_empty() || split.heldout.is_empty() {
        return Err(PartitionError::NothingLeft(shards.len()));
    }
    Ok(split)
}

/// The first `1 - share` of the characters of `texts`, and the rest.
fn cut(texts: &[&str], share: f64) -> (Vec<String>, Vec<String>) {
    let total: usize = texts.iter().map(|text| text.chars().count()).sum();
    let mut left = total - (share * total as f64).round() as usize;
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    for text in texts {
        let chars = text.chars().count();
        let at = if left >= chars { text.len() } else { word_start(text, left) };
        left = left.saturating_sub(chars);
        let (first, second) = text.split_at(at);
        head.extend(Some(first).filter(|text| !text.trim().is_empty()).map(str::to_owned));
        tail.extend(Some(second).filter(|text| !text.trim().is_empty()).map(str::to_owned));
    }
    (head, tail)
}

/// The byte behind the last white space among the first `chars` characters, or else `chars` itself.
fn word_start(text: &str, chars: usize) -> usize {
    let end = text.char_indices().nth(chars).map_or(text.len(), |(at, _)| at);
    let space = text[..end].char_indices().rev().find(|(_, c)| c.is_whitespace());
    space.map_or(end, |(at, c)| at + c.len_utf8())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dataset::Document;
    use crate::partition::natural::natural;

    fn fleet(texts: &[(&str, &str)]) -> (Dataset, Vec<ClientShard>) {
        let document = |(client, text): &(&str, &str)| Document {
            client: Some((*client).to_owned()),
            label: None,
            text: (*text).to_owned(),
        };
        let dataset = Dataset::from_documents(texts.iter().map(document).collect()).expect("some");
        let clients: Vec<&str> = texts.iter().map(|(client, _)| *client).collect();
        (dataset, natural(&clients))
    }

    #[test]
    fn whole_clients() {
        let texts: Vec<(String, &str)> = (0..20).map(|at| (format!("c{at:02}"), "t")).collect();
        let texts: Vec<(&str, &str)> = texts.iter().map(|(c, t)| (c.as_str(), *t)).collect();
        let (dataset, shards) = fleet(&texts);
        let heldout = Heldout { clients: 0.25, tail: 0.0 };
        let split = hold_out(&dataset, &shards, &heldout, 1).expect("enough");
        assert_eq!((split.train.len(), split.heldout.len()), (15, 5));
        assert!(split.heldout.iter().all(|out| split.train.iter().all(|c| c.name != out.name)));
        assert_eq!(hold_out(&dataset, &shards, &heldout, 1), Ok(split.clone()));
        assert_ne!(hold_out(&dataset, &shards, &heldout, 2), Ok(split));
    }

    #[test]
    fn tails_are_cut_between_words() {
        let (dataset, shards) = fleet(&[("a", "one two"), ("a", "three four"), ("b", "xyz")]);
        let heldout = Heldout { clients: 0.0, tail: 0.25 };
        let split = hold_out(&dataset, &shards, &heldout, 1).expect("enough");
        assert_eq!(split.train[0].documents, ["one two", "three "]);
        assert_eq!(split.heldout[0].documents, ["four"]);
        assert_eq!(split.train[1].documents, ["xy"]);
        assert_eq!(split.heldout[1].documents, ["z"]);
    }

    #[test]
    fn one_client_cannot_be_held_out_whole() {
        let (dataset, shards) = fleet(&[("a", "one two")]);
        let heldout = Heldout { clients: 0.5, tail: 0.0 };
        let refused = hold_out(&dataset, &shards, &heldout, 1);
        assert_eq!(refused, Err(PartitionError::NothingLeft(1)));
    }

    proptest! {
        /// Head and tail make the text again (but for lone white space), and neither overlaps.
        #[test]
        fn a_cut_loses_nothing(texts in prop::collection::vec("[a-zäß ]{0,12}", 1..5), share in 0.0..1.0) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let (head, tail) = cut(&texts, share);
            let squeeze = |parts: Vec<String>| parts.concat().replace(' ', "");
            let again = squeeze(head) + &squeeze(tail);
            prop_assert_eq!(again, texts.concat().replace(' ', ""));
        }
    }
}
