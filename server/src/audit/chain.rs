//! The chain of hashes, and how it shows where it was changed.

use gossamer_protocol::digest::{Digest, Hasher};
use gossamer_protocol::rotation::Trust;
use gossamer_protocol::sign::{Purpose, Signature};
use serde::{Deserialize, Serialize};

/// Where the log stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Head {
    /// The last entry's number; 0 where there is none.
    pub seq: u64,
    /// Its hash.
    pub hash: Digest,
}

/// Processes that share a log may differ by so much in what time it is.
const CLOCKS_MS: u64 = 3_600_000;

/// Before entry 1.
pub const START: Head = Head { seq: 0, hash: Digest([0; 32]) };

impl Head {
    /// Where it stands with `entry` behind it.
    #[must_use]
    pub fn then(&self, entry: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(b"gossamer/v1/audit\0");
        hasher.update(&self.hash.0);
        hasher.update(entry);
        Self { seq: self.seq + 1, hash: hasher.finish() }
    }

    /// What a checkpoint signs.
    pub(crate) fn signed_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names and numbers are always JSON")
    }
}

/// The first thing that is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// An entry is not there.
    #[error("entry {0} is missing")]
    Missing(u64),
    /// An entry is not what it was, or not where it was.
    #[error("entry {0} was changed, or does not belong there")]
    Changed(u64),
    /// The chain holds, but not through what the server signed.
    #[error("entry {0} is not the one that the server signed: the log was made anew")]
    Forged(u64),
    /// A checkpoint is not the server's.
    #[error("the checkpoint at entry {0} is not signed by this server's key")]
    BadCheckpoint(u64),
    /// A checkpoint is signed by a key of the server's at a time at which that was believed no more.
    #[error("the checkpoint at entry {seq} is signed by a key that was believed until {until_ms}")]
    Retired {
        /// The entry.
        seq: u64,
        /// Unix time in milliseconds.
        until_ms: u64,
    },
    /// A checkpoint, or a head kept elsewhere, lies behind the end.
    #[error("the log was cut: it ends at entry {end}, and there was an entry {seen}")]
    Cut {
        /// The last entry.
        end: u64,
        /// An entry that there was.
        seen: u64,
    },
}

/// Goes along a log, entry by entry.
#[derive(Debug)]
pub(crate) struct Check {
    head: Head,
    /// Signed places still ahead, in rising order, each with the time at which its key was believed no more.
    signed: std::iter::Peekable<std::vec::IntoIter<(Head, Option<u64>)>>,
}

impl Check {
    /// A check against what one of `keys` signed, and against `seen`, which was kept elsewhere.
    pub(crate) fn new(
        checkpoints: Vec<(Head, Signature)>,
        keys: &Trust,
        seen: Option<Head>,
    ) -> Result<Self, Fault> {
        let mut signed = Vec::with_capacity(checkpoints.len() + 1);
        for (head, signature) in checkpoints {
            // Its time is that of the entry, which comes later.
            let key = keys.signer(Purpose::Audit, &head.signed_bytes(), &signature, 0);
            let key = key.map_err(|_| Fault::BadCheckpoint(head.seq))?;
            let retired = keys.retired.iter().find(|retired| retired.key == key);
            signed.push((head, retired.map(|retired| retired.until_ms)));
        }
        signed.extend(seen.map(|seen| (seen, None)));
        signed.sort_by_key(|(head, _)| head.seq);
        Ok(Self { head: START, signed: signed.into_iter().peekable() })
    }

    /// The next row.
    pub(crate) fn step(&mut self, seq: u64, entry: &[u8], hash: Digest) -> Result<(), Fault> {
        let next = self.head.then(entry);
        if seq != next.seq {
            return Err(Fault::Missing(next.seq));
        }
        // The number is in the entry too, but the chain alone says where it belongs.
        if hash != next.hash {
            return Err(Fault::Changed(seq));
        }
        while let Some((signed, until_ms)) = self.signed.next_if(|(signed, _)| signed.seq <= seq) {
            if signed != next {
                return Err(Fault::Forged(seq));
            }
            if let Some(until_ms) = until_ms.filter(|until| at_ms(entry) >= until + CLOCKS_MS) {
                return Err(Fault::Retired { seq, until_ms });
            }
        }
        self.head = next;
        Ok(())
    }

    /// Where it stands after the last row.
    pub(crate) fn end(mut self) -> Result<Head, Fault> {
        match self.signed.next() {
            None => Ok(self.head),
            Some((seen, _)) => Err(Fault::Cut { end: self.head.seq, seen: seen.seq }),
        }
    }
}

fn at_ms(entry: &[u8]) -> u64 {
    #[derive(Deserialize)]
    struct At {
        at_ms: u64,
    }
    serde_json::from_slice(entry).map_or(0, |At { at_ms }| at_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gossamer_protocol::rotation::Rotation;
    use gossamer_protocol::sign::SigningKey;

    /// As `printf` and `sha256sum` have it:
    /// `(printf 'gossamer/v1/audit\0'; head -c 32 /dev/zero; printf a) | sha256sum`, and so on.
    #[test]
    fn the_chain_is_the_one_described() {
        let first = START.then(b"a");
        assert_eq!(first.seq, 1);
        assert_eq!(first.hash.to_string(), FIRST);
        assert_eq!(first.then(b"b").hash.to_string(), SECOND);
    }

    const FIRST: &str = "ff122991147668d8d312e138e1a5295d1eb6884f5a7b7b552bcfd9aba6d87e73";
    const SECOND: &str = "6d17d375591b6ace26c893db689b1de5c5a3c1040fb8f75e27a07653a107a530";

    type Row = (u64, Vec<u8>, Digest);

    fn log(n: u64) -> Vec<Row> {
        let mut head = START;
        let mut next = |i: u64| {
            let entry = format!("entry {i}").into_bytes();
            head = head.then(&entry);
            (head.seq, entry, head.hash)
        };
        (1..=n).map(&mut next).collect()
    }

    fn check(rows: &[Row], signed: &[&Row], seen: Option<Head>) -> Result<Head, Fault> {
        let key = SigningKey::from_seed(&[1; 32]);
        let sign = |row: &&Row| {
            let head = Head { seq: row.0, hash: row.2 };
            (head, key.sign(Purpose::Audit, &head.signed_bytes()))
        };
        let signed = signed.iter().map(sign).collect();
        let mut check = Check::new(signed, &Trust::pinned(key.public()), seen)?;
        for (seq, entry, hash) in rows {
            check.step(*seq, entry, *hash)?;
        }
        check.end()
    }

    #[test]
    fn every_change_is_told_where_it_begins() {
        let good = log(1_000);
        let end = Head { seq: 1_000, hash: good[999].2 };
        assert_eq!(check(&good, &[&good[499]], Some(end)), Ok(end));
        for at in [0, 1, 499, 998, 999] {
            let named = at as u64 + 1;
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at].1[0] ^= 1 << bit;
                assert_eq!(check(&bad, &[], None), Err(Fault::Changed(named)));
            }
            let mut bad = good.clone();
            bad[at].2.0[31] ^= 1;
            assert_eq!(check(&bad, &[], None), Err(Fault::Changed(named)));
            let mut bad = good.clone();
            bad.remove(at);
            let told = check(&bad, &[], Some(end));
            let cut = Fault::Cut { end: 999, seen: 1_000 };
            assert_eq!(told, Err(if at == 999 { cut } else { Fault::Missing(named) }));
            if at < 999 {
                let mut bad = good.clone();
                let (a, b) = (bad[at].clone(), bad[at + 1].clone());
                (bad[at], bad[at + 1]) = ((a.0, b.1, b.2), (b.0, a.1, a.2));
                assert_eq!(check(&bad, &[], None), Err(Fault::Changed(named)));
            }
        }
    }

    #[test]
    fn a_log_made_anew_is_not_the_signed_one() {
        let good = log(10);
        let mut head = Head { seq: 4, hash: good[3].2 };
        let mut bad = good.clone();
        for row in &mut bad[4..] {
            row.1.push(b'!');
            head = head.then(&row.1);
            row.2 = head.hash;
        }
        assert!(check(&bad, &[], None).is_ok(), "the chain alone cannot tell");
        assert_eq!(check(&bad, &[&good[2], &good[6]], None), Err(Fault::Forged(7)));
        let cut = Fault::Cut { end: 6, seen: 7 };
        assert_eq!(check(&good[..6], &[&good[6]], None), Err(cut));
        let other = SigningKey::from_seed(&[2; 32]);
        let seven = Head { seq: 7, hash: good[6].2 };
        let signature = other.sign(Purpose::Audit, &seven.signed_bytes());
        let key = SigningKey::from_seed(&[1; 32]).public();
        let told = Check::new(vec![(seven, signature)], &Trust::pinned(key), None);
        assert_eq!(told.expect_err("another key"), Fault::BadCheckpoint(7));
    }

    #[test]
    fn what_an_old_key_signed_holds_unless_its_time_was_over() {
        let [old, new, stranger] = [1, 2, 3].map(|b| SigningKey::from_seed(&[b; 32]));
        let mut keys = Trust::pinned(old.public());
        assert!(keys.follow(&[Rotation::sign(&old, &new, 500, 1_000)]));
        let check = |key: &SigningKey, at_ms: u64| {
            let entry = format!("{{\"at_ms\":{at_ms}}}").into_bytes();
            let head = START.then(&entry);
            let signed = vec![(head, key.sign(Purpose::Audit, &head.signed_bytes()))];
            let mut check = Check::new(signed, &keys, None)?;
            check.step(1, &entry, head.hash)?;
            check.end()
        };
        for at_ms in [0, 999, 1_000 + CLOCKS_MS - 1, 1_000 + CLOCKS_MS] {
            assert!(check(&new, at_ms).is_ok());
            let late = Fault::Retired { seq: 1, until_ms: 1_000 };
            let told = check(&old, at_ms).err();
            assert_eq!(told, (at_ms >= 1_000 + CLOCKS_MS).then_some(late));
            assert_eq!(check(&stranger, at_ms), Err(Fault::BadCheckpoint(1)));
        }
    }
}
