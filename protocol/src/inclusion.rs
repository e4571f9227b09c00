//! That an update was counted: a Merkle tree over a round's receipts (RFC 6962, section 2.1), whose root the
//! server signs together with the record that names the accepted set.

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hasher};
use crate::ids::{RoundId, RunId};
use crate::sign::{BadSignature, PublicKey, Purpose, Signature, SigningKey};

/// The hash of a leaf: SHA-256 over a zero byte and its bytes.
#[must_use]
pub fn leaf(bytes: &[u8]) -> Digest {
    hash(&[&[0], bytes])
}

fn node(left: Digest, right: Digest) -> Digest {
    hash(&[&[1], &left.0, &right.0])
}

fn hash(parts: &[&[u8]]) -> Digest {
    let mut hasher = Hasher::default();
    for part in parts {
        hasher.update(part);
    }
    hasher.finish()
}

/// A tree with all its nodes.
#[derive(Clone, Debug)]
pub struct Tree {
    /// From the leaves' hashes up to the root; a node without a sibling goes up as it is.
    levels: Vec<Vec<Digest>>,
}

impl Tree {
    /// The tree over these leaves' hashes.
    #[must_use]
    pub fn new(leaves: Vec<Digest>) -> Self {
        let mut levels = vec![leaves];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            let up = below.chunks(2).map(|pair| match *pair {
                [left, right] => node(left, right),
                _ => pair[0],
            });
            levels.push(up.collect());
        }
        Self { levels }
    }

    /// The root; of no leaves, the SHA-256 of nothing.
    #[must_use]
    pub fn root(&self) -> Digest {
        let top = self.levels.last().and_then(|level| level.first());
        top.copied().unwrap_or_else(|| Digest::of(b""))
    }

    /// How many leaves there are.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.levels.first().map_or(0, |leaves| leaves.len() as u64)
    }

    /// The siblings on the way from leaf `index` up; none where there is no such leaf.
    #[must_use]
    pub fn path(&self, index: u64) -> Option<Vec<Digest>> {
        let mut at = usize::try_from(index).ok().filter(|_| index < self.size())?;
        let mut path = Vec::new();
        for level in &self.levels {
            path.extend(level.get(at ^ 1));
            at /= 2;
        }
        Some(path)
    }
}

/// The root that leaf `index` of `size` and its `path` lead to (RFC 9162, section 2.1.3.2); none where the path
/// has another length than such a leaf's.
#[must_use]
pub fn root(leaf: Digest, index: u64, size: u64, path: &[Digest]) -> Option<Digest> {
    if index >= size {
        return None;
    }
    let (mut at, mut last) = (index, size - 1);
    let mut root = leaf;
    for &sibling in path {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            root = node(sibling, root);
            // Levels where it went up alone.
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            root = node(root, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(root)
}

/// What the server signs of a closed round: the tree over the receipts of all that it accepted, in rising order of
/// clients, and the record that came of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeHead {
    /// The run.
    pub run: RunId,
    /// The round that closed.
    pub round: RoundId,
    /// Digest of the record of the round after it.
    pub record: Digest,
    /// How many updates were accepted.
    pub size: u64,
    /// The root over their receipts' bytes.
    pub root: Digest,
}

impl TreeHead {
    /// What is signed.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        let Self { run, round, record, size, root } = self;
        format!("{run}\n{round}\n{record}\n{size}\n{root}\n").into_bytes()
    }

    /// The server's signature over it.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Signature {
        key.sign(Purpose::TreeHead, &self.text())
    }
}

/// That a receipt is one of those that a record counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inclusion {
    /// The tree it is in.
    #[serde(flatten)]
    pub head: TreeHead,
    /// The server's signature over the tree's head.
    pub signature: Signature,
    /// Which leaf it is, from 0.
    pub index: u64,
    /// The siblings on its way up, from the leaves on.
    pub path: Vec<Digest>,
}

/// Why an inclusion is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotIncluded {
    /// Not the server's.
    #[error("the tree's head is not signed by the server")]
    Signature(#[from] BadSignature),
    /// The path leads elsewhere.
    #[error("the path does not lead from the receipt to the signed root")]
    Path,
}

impl Inclusion {
    /// Checks that `key` signed a tree in which `receipt` is; what the head says else is the caller's to check.
    ///
    /// # Errors
    /// [`NotIncluded`] where it did not.
    pub fn verify(&self, key: &PublicKey, receipt: &[u8]) -> Result<(), NotIncluded> {
        key.verify(Purpose::TreeHead, &self.head.text(), &self.signature)?;
        let led = root(leaf(receipt), self.index, self.head.size, &self.path);
        if led == Some(self.head.root) { Ok(()) } else { Err(NotIncluded::Path) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6962's own words, section 2.1: split at the largest power of two below n.
    fn by_definition(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => Digest::of(b""),
            [one] => *one,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node(by_definition(left), by_definition(right))
            }
        }
    }

    #[test]
    fn every_leaf_of_every_size_leads_to_the_root_and_nothing_else_does() {
        for size in 0..70_u64 {
            let leaves: Vec<Digest> = (0..size).map(|i| leaf(&i.to_le_bytes())).collect();
            let tree = Tree::new(leaves.clone());
            assert_eq!((tree.root(), tree.size()), (by_definition(&leaves), size));
            assert_eq!(tree.path(size), None);
            for index in 0..size {
                let path = tree.path(index).expect("there");
                let (one, top) = (leaves[index as usize], Some(tree.root()));
                assert_eq!(root(one, index, size, &path), top, "{index} of {size}");
                let elsewhere = (index + 1) % size;
                assert!(size == 1 || root(one, elsewhere, size, &path) != top, "{index} of {size}");
                assert_ne!(root(leaf(b"other"), index, size, &path), top);
                assert_ne!(root(one, index, size, &[&path[..], &[one]].concat()), top);
                if let Some((_, less)) = path.split_last() {
                    assert_ne!(root(one, index, size, less), top);
                }
            }
        }
    }

    #[test]
    fn the_root_and_the_paths_are_those_of_the_script() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../tests/vectors/inclusion.json")).expect("JSON");
        let trees = vectors["trees"].as_array().expect("trees");
        assert!(trees.len() >= 8);
        for tree in trees {
            let leaves: Vec<String> =
                serde_json::from_value(tree["leaves"].clone()).expect("texts");
            let made = Tree::new(leaves.iter().map(|text| leaf(text.as_bytes())).collect());
            assert_eq!(made.root().to_string(), tree["root"].as_str().expect("hex"));
            for (index, path) in tree["paths"].as_array().expect("paths").iter().enumerate() {
                let path: Vec<Digest> = serde_json::from_value(path.clone()).expect("digests");
                assert_eq!(made.path(index as u64), Some(path));
            }
        }
    }

    #[test]
    fn a_proof_is_one_receipts_and_one_servers() {
        let key = SigningKey::from_seed(&[1; 32]);
        let receipts: Vec<Vec<u8>> = (0..5).map(|i| format!("receipt {i}").into_bytes()).collect();
        let tree = Tree::new(receipts.iter().map(|receipt| leaf(receipt)).collect());
        let head = TreeHead {
            run: RunId([1; 16]),
            round: RoundId(3),
            record: Digest::of(b"record"),
            size: tree.size(),
            root: tree.root(),
        };
        let path = tree.path(4).expect("there");
        let signature = head.sign(&key);
        let good = Inclusion { head, signature, index: 4, path };
        assert_eq!(good.verify(&key.public(), &receipts[4]), Ok(()));
        assert_eq!(good.verify(&key.public(), &receipts[3]), Err(NotIncluded::Path));
        let stranger = SigningKey::from_seed(&[2; 32]).public();
        assert!(matches!(good.verify(&stranger, &receipts[4]), Err(NotIncluded::Signature(_))));
        let mut other = good.clone();
        other.head.round = RoundId(4);
        assert!(matches!(
            other.verify(&key.public(), &receipts[4]),
            Err(NotIncluded::Signature(_))
        ));
        let text = serde_json::to_string(&good).expect("JSON");
        assert_eq!(serde_json::from_str::<Inclusion>(&text).expect("the same"), good);
    }
}
