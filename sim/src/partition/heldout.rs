//! What no client trains on: whole clients, documents or the end of every other client's text, rows of
//! a test set.

use gossamer_client::data::Example;
use gossamer_protocol::rng::Stream;

use super::{ClientShard, PartitionError};
use crate::dataset::{Dataset, Document};
use crate::scenario::Heldout;

/// A client's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientText {
    /// The shard's name.
    pub name: String,
    /// In the order of the data; never empty.
    pub documents: Vec<String>,
    /// Each document's class; empty where the data have none.
    pub labels: Vec<u32>,
}

impl ClientText {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), documents: Vec::new(), labels: Vec::new() }
    }

    /// Puts a piece of `document` behind the others, unless it is blank.
    fn push(&mut self, document: &Document, text: &str) {
        if !text.trim().is_empty() {
            self.documents.push(text.to_owned());
            self.labels.extend(document.label);
        }
    }

    /// What a classifier learns from it.
    #[must_use]
    pub fn examples(&self) -> Vec<Example> {
        let example =
            |(text, label): (&String, &u32)| Example { text: text.clone(), label: *label };
        self.documents.iter().zip(&self.labels).map(example).collect()
    }
}

/// What is trained on, and what is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Clients that train, in the order of the shards.
    pub train: Vec<ClientText>,
    /// Text to evaluate on: clients held out whole, the tails of those that train, and behind them, as
    /// one, the dataset's held-out rows.
    pub heldout: Vec<ClientText>,
}

/// Holds out `heldout.clients` of the shards, drawn by `seed`; of every other one `heldout.examples` of
/// its documents, and of the rest the last `heldout.tail` of the characters, cut at a space where there
/// is one.
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
        let (kept, drawn) = match is_out {
            true => (shard.documents.clone(), Vec::new()),
            false => draw(shard, heldout, seed),
        };
        let of = |at: Vec<usize>| at.into_iter().map(|at| &dataset.documents[at]);
        let documents: Vec<&Document> = of(kept).collect();
        let tail = if is_out { 1.0 } else { heldout.tail };
        let (head, mut tail) = cut(&shard.name, &documents, tail);
        of(drawn).for_each(|document| tail.push(document, &document.text));
        split.train.extend(Some(head).filter(|text| !text.documents.is_empty()));
        split.heldout.extend(Some(tail).filter(|text| !text.documents.is_empty()));
    }
    if !dataset.heldout.is_empty() {
        let mut rows = ClientText::new("heldout.only");
        dataset.heldout.iter().for_each(|document| rows.push(document, &document.text));
        split.heldout.push(rows);
    }
    if split.train.is_empty() || split.heldout.is_empty() {
        return Err(PartitionError::NothingLeft(shards.len()));
    }
    Ok(split)
}

/// Share of each client's text that learning rates are judged on.
const TUNING_SHARE: f64 = 0.1;
/// Fewest characters that are worth it; of a shorter client all is trained on.
const TUNING_CHARS: usize = 32;

impl Split {
    /// Of the text that is trained on, all but the last tenth of each client to train on, and that tenth to choose
    /// by: whole documents where they have classes. What is held out is in neither.
    ///
    /// # Errors
    /// [`PartitionError::NothingLeft`] where all clients have too little.
    pub fn for_tuning(&self, whole: bool) -> Result<Self, PartitionError> {
        let mut tuning = Self { train: Vec::new(), heldout: Vec::new() };
        for client in &self.train {
            let label = |at: usize| client.labels.get(at).copied();
            let document = |(at, text): (usize, &String)| Document {
                client: None,
                label: label(at),
                text: text.clone(),
            };
            let documents: Vec<Document> =
                client.documents.iter().enumerate().map(document).collect();
            let documents: Vec<&Document> = documents.iter().collect();
            let n = documents.len();
            let whole_documents = |documents: &[&Document]| cut(&client.name, documents, 0.0).0;
            let (head, tail) = if whole {
                let out = ((n as f64 * TUNING_SHARE).round() as usize).max(1).min(n - 1);
                (whole_documents(&documents[..n - out]), whole_documents(&documents[n - out..]))
            } else {
                cut(&client.name, &documents, TUNING_SHARE)
            };
            let chars: usize = tail.documents.iter().map(|text| text.chars().count()).sum();
            let enough = !tail.documents.is_empty() && (whole || chars >= TUNING_CHARS);
            if enough && !head.documents.is_empty() {
                tuning.train.push(head);
                tuning.heldout.push(tail);
            } else {
                tuning.train.push(client.clone());
            }
        }
        if tuning.heldout.is_empty() {
            return Err(PartitionError::NothingLeft(self.train.len()));
        }
        Ok(tuning)
    }
}

/// A client's documents that stay, and those that are held out whole: drawn for each client apart.
fn draw(shard: &ClientShard, heldout: &Heldout, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let mut order = shard.documents.clone();
    let n = heldout.count_examples(order.len());
    if n > 0 {
        let mut rng = Stream::new(seed, "sim/heldout/documents", &[shard.name.as_bytes()]);
        rng.shuffle(&mut order);
    }
    let mut drawn = order.split_off(order.len() - n);
    order.sort_unstable();
    drawn.sort_unstable();
    (order, drawn)
}

/// The first `1 - share` of the characters of a client's `documents`, and the rest.
fn cut(name: &str, documents: &[&Document], share: f64) -> (ClientText, ClientText) {
    let total: usize = documents.iter().map(|document| document.text.chars().count()).sum();
    let mut left = total - (share * total as f64).round() as usize;
    let (mut head, mut tail) = (ClientText::new(name), ClientText::new(name));
    for document in documents {
        let text = document.text.as_str();
        let chars = text.chars().count();
        let at = if left >= chars { text.len() } else { word_start(text, left) };
        left = left.saturating_sub(chars);
        let (first, second) = text.split_at(at);
        head.push(document, first);
        tail.push(document, second);
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
        let heldout = Heldout { clients: 0.25, ..Heldout::default() };
        let split = hold_out(&dataset, &shards, &heldout, 1).expect("enough");
        assert_eq!((split.train.len(), split.heldout.len()), (15, 5));
        assert!(split.heldout.iter().all(|out| split.train.iter().all(|c| c.name != out.name)));
        assert_eq!(hold_out(&dataset, &shards, &heldout, 1), Ok(split.clone()));
        assert_ne!(hold_out(&dataset, &shards, &heldout, 2), Ok(split));
    }

    #[test]
    fn tails_are_cut_between_words() {
        let (dataset, shards) = fleet(&[("a", "one two"), ("a", "three four"), ("b", "xyz")]);
        let heldout = Heldout { tail: 0.25, ..Heldout::default() };
        let split = hold_out(&dataset, &shards, &heldout, 1).expect("enough");
        assert_eq!(split.train[0].documents, ["one two", "three "]);
        assert_eq!(split.heldout[0].documents, ["four"]);
        assert_eq!(split.train[1].documents, ["xy"]);
        assert_eq!(split.heldout[1].documents, ["z"]);
    }

    #[test]
    fn documents_are_drawn_from_each_client() {
        let texts: Vec<(String, String)> =
            (0..30).map(|at| (format!("c{}", at % 3), format!("t{at}"))).collect();
        let mut texts: Vec<(&str, &str)> = texts.iter().map(|(c, t)| (&**c, &**t)).collect();
        texts.push(("lone", "t"));
        let (dataset, shards) = fleet(&texts);
        let heldout = Heldout { examples: 0.2, ..Heldout::default() };
        let split = hold_out(&dataset, &shards, &heldout, 1).expect("enough");
        let sizes = |clients: &[ClientText]| -> Vec<usize> {
            clients.iter().map(|client| client.documents.len()).collect()
        };
        assert_eq!(sizes(&split.train), [8, 8, 8, 1], "one text alone is trained on");
        assert_eq!(sizes(&split.heldout), [2, 2, 2]);
        for (train, out) in split.train.iter().zip(&split.heldout) {
            assert!(out.documents.iter().all(|text| !train.documents.contains(text)));
        }
        assert_ne!(hold_out(&dataset, &shards, &heldout, 2), Ok(split));
    }

    #[test]
    fn rates_are_judged_on_text_that_is_neither_trained_on_nor_reported() {
        let long = "0123456 ".repeat(50);
        let (dataset, shards) = fleet(&[("a", &long), ("b", "short")]);
        let heldout = Heldout { tail: 0.2, ..Heldout::default() };
        let split = hold_out(&dataset, &shards, &heldout, 1).expect("enough");
        let tuning = split.for_tuning(false).expect("enough");
        // 400 characters: 80 are reported, of the other 320 are 32 tuned on.
        let chars = |text: &ClientText| text.documents.concat().len();
        assert_eq!((chars(&tuning.train[0]), chars(&tuning.heldout[0])), (288, 32));
        let again = tuning.train[0].documents.concat() + &tuning.heldout[0].documents.concat();
        assert_eq!(again, split.train[0].documents.concat());
        assert_eq!((&tuning.train[1], tuning.heldout.len()), (&split.train[1], 1));

        let texts: Vec<String> = (0..20).map(|at| format!("t{at}")).collect();
        let texts: Vec<(&str, &str)> = texts.iter().map(|text| ("a", &**text)).collect();
        let (dataset, shards) = fleet(&[&texts[..], &[("b", "alone")]].concat());
        let heldout = Heldout { examples: 0.25, ..Heldout::default() };
        let split = hold_out(&dataset, &shards, &heldout, 1).expect("enough");
        let tuning = split.for_tuning(true).expect("enough");
        // Five of twenty are reported; of fifteen a tenth is two.
        assert_eq!(tuning.train[0].documents, split.train[0].documents[..13]);
        assert_eq!(tuning.heldout[0].documents, split.train[0].documents[13..]);
        assert_eq!((tuning.train.len(), tuning.heldout.len()), (2, 1), "one alone is trained on");
    }

    #[test]
    fn one_client_cannot_be_held_out_whole() {
        let (dataset, shards) = fleet(&[("a", "one two")]);
        let heldout = Heldout { clients: 0.5, ..Heldout::default() };
        let refused = hold_out(&dataset, &shards, &heldout, 1);
        assert_eq!(refused, Err(PartitionError::NothingLeft(1)));
    }

    #[test]
    fn labels_stay_with_their_texts_and_held_out_rows_come_last() {
        let document = |client: &str, label, text: &str| Document {
            client: Some(client.into()),
            label: Some(label),
            text: text.into(),
        };
        let documents = vec![document("a", 3, "x"), document("b", 1, "y"), document("a", 2, "z")];
        let mut dataset = Dataset::from_documents(documents).expect("some");
        dataset.heldout = vec![document("a", 5, "w")];
        let clients = ["a", "b", "a"];
        let split = hold_out(&dataset, &natural(&clients), &Heldout::default(), 1).expect("some");
        assert_eq!(split.train[0].labels, [3, 2]);
        let example = |text: &str, label| Example { text: text.into(), label };
        assert_eq!(split.train[0].examples(), [example("x", 3), example("z", 2)]);
        assert_eq!((split.train.len(), split.heldout.len()), (2, 1));
        assert_eq!(split.heldout[0].examples(), [example("w", 5)]);
    }

    proptest! {
        /// Head and tail make the text again (but for lone white space), and neither overlaps.
        #[test]
        fn a_cut_loses_nothing(texts in prop::collection::vec("[a-zäß ]{0,12}", 1..5), share in 0.0..1.0) {
            let document = |text: &String| Document { client: None, label: None, text: text.clone() };
            let documents: Vec<Document> = texts.iter().map(document).collect();
            let (head, tail) = cut("c", &documents.iter().collect::<Vec<_>>(), share);
            let squeeze = |text: ClientText| text.documents.concat().replace(' ', "");
            let again = squeeze(head) + &squeeze(tail);
            prop_assert_eq!(again, texts.concat().replace(' ', ""));
        }
    }
}
