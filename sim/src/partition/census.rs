//! Who got what: documents, characters and classes of every client of a split.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{ClientText, Split};

/// All clients of a split.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Census {
    /// Classes that train, rising; empty where the data have none.
    pub classes: Vec<u32>,
    /// Mean over the clients that train of the total variation distance between their classes' shares and
    /// those of all: 0 where all are alike, near 1 where each has a class of its own.
    pub skew: Option<f64>,
    /// Clients that train.
    pub train: Vec<Holding>,
    /// What is held out, by whose it was.
    pub heldout: Vec<Holding>,
}

/// What one client has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holding {
    /// The client's name.
    pub client: String,
    /// Its documents.
    pub documents: usize,
    /// Their characters.
    pub chars: usize,
    /// Documents of each class it has.
    pub classes: BTreeMap<u32, usize>,
}

impl Holding {
    fn of(client: &ClientText) -> Self {
        let mut classes = BTreeMap::new();
        client.labels.iter().for_each(|&label| *classes.entry(label).or_default() += 1);
        Self {
            client: client.name.clone(),
            documents: client.documents.len(),
            chars: client.documents.iter().map(|text| text.chars().count()).sum(),
            classes,
        }
    }
}

impl Census {
    /// Counts `split`.
    #[must_use]
    pub fn of(split: &Split) -> Self {
        let train: Vec<Holding> = split.train.iter().map(Holding::of).collect();
        let heldout = split.heldout.iter().map(Holding::of).collect();
        let classes: BTreeSet<u32> =
            train.iter().flat_map(|holding| holding.classes.keys().copied()).collect();
        let skew = (!classes.is_empty()).then(|| skew(&train));
        Self { classes: classes.into_iter().collect(), skew, train, heldout }
    }
}

fn skew(train: &[Holding]) -> f64 {
    let mut all: BTreeMap<u32, usize> = BTreeMap::new();
    for (&class, count) in train.iter().flat_map(|holding| &holding.classes) {
        *all.entry(class).or_default() += count;
    }
    let total: usize = all.values().sum();
    let distance = |holding: &Holding| {
        let own: usize = holding.classes.values().sum();
        let share = |count: usize, of: usize| count as f64 / of.max(1) as f64;
        let between = |(class, &count): (&u32, &usize)| {
            let own = share(holding.classes.get(class).copied().unwrap_or(0), own);
            (own - share(count, total)).abs()
        };
        0.5 * all.iter().map(between).sum::<f64>()
    };
    train.iter().map(distance).sum::<f64>() / train.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str, labels: &[u32]) -> ClientText {
        let documents = labels.iter().map(|label| format!("ä{label}")).collect();
        ClientText { name: name.into(), documents, labels: labels.to_vec() }
    }

    /// By hand: of 3 and 1 documents of two classes, a has (1, 0) and b (1/3, 2/3); all are (1/2, 1/2).
    #[test]
    fn counts_and_skew() {
        let split = Split {
            train: vec![client("a", &[7]), client("b", &[7, 9, 9])],
            heldout: vec![client("c", &[8])],
        };
        let census = Census::of(&split);
        assert_eq!(census.classes, [7, 9], "held-out classes do not train");
        assert_eq!(census.train[1].classes, BTreeMap::from([(7, 1), (9, 2)]));
        assert_eq!((census.train[1].documents, census.train[1].chars), (3, 6));
        let skew = census.skew.expect("labelled");
        assert!((skew - (0.5 + 1.0 / 6.0) / 2.0).abs() < 1e-12, "{skew}");
        let alike = Split { train: vec![client("a", &[1, 2]), client("b", &[2, 1])], ..split };
        assert_eq!(Census::of(&alike).skew, Some(0.0));
    }
}
