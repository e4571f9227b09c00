//! A training between two steps, as bytes: what a killed process goes on from.
//!
//! ```text
//! "GSTR" | version u8 = 1 | of [32] | step u32 | tokens u64 | total f64 | last f32
//!        | powers 2 x f64 | n u32 | moments u8 | values n x f32 | moments x (n x f32)
//!        | SHA-256 of all before [32]
//! ```
//!
//! All little-endian. `of` names what is trained (who, in which round, from which snapshot, by which
//! manifest); `values` are the trained entries, `moments` the optimiser's. A step's batch and draws follow
//! from its number alone ([`Plan`](crate::data::Plan)), so no generator's position is kept.

use gossamer_protocol::digest::Digest;

const MAGIC: &[u8; 4] = b"GSTR";
const VERSION: u8 = 1;
/// The bytes beside the vectors.
#[cfg(test)]
pub(super) const AROUND: usize = 4 + 1 + 32 + 4 + 8 + 8 + 4 + 16 + 4 + 1 + 32;

/// Why saved bytes are not gone on from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SavedError {
    /// Cut off, changed, or never such bytes.
    #[error("the saved training is torn or no saved training")]
    Torn,
    /// By another version of this library.
    #[error("the saved training is of version {found}, this library reads {expected}")]
    Version {
        /// The bytes'.
        found: u8,
        /// This library's.
        expected: u8,
    },
    /// Of another round, snapshot, manifest, client or task.
    #[error("the saved training is of {found}, not of {expected}")]
    Other {
        /// What it is of.
        found: Digest,
        /// What is trained now.
        expected: Digest,
    },
    /// Of another number of entries or another optimiser.
    #[error("the saved training has {found:?} vectors and entries, this one {expected:?}")]
    Shape {
        /// The bytes'.
        found: [usize; 2],
        /// This training's.
        expected: [usize; 2],
    },
    /// More steps done than there are.
    #[error("the saved training has done {found} steps of {expected}")]
    Steps {
        /// The bytes'.
        found: u32,
        /// This training's.
        expected: u32,
    },
}

/// What the bytes say beside their vectors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Head {
    pub(super) step: u32,
    pub(super) tokens: u64,
    pub(super) total: f64,
    pub(super) last: f32,
    pub(super) powers: [f64; 2],
}

/// The bytes of a training of `of`; `vectors`: the values, then the moments, all of one length.
pub(super) fn write(of: Digest, head: &Head, vectors: &[&[f32]]) -> Vec<u8> {
    let n = vectors.first().map_or(0, |values| values.len());
    let mut bytes = Vec::with_capacity(128 + 4 * n * vectors.len());
    bytes.extend(MAGIC);
    bytes.push(VERSION);
    bytes.extend(of.0);
    bytes.extend(head.step.to_le_bytes());
    bytes.extend(head.tokens.to_le_bytes());
    bytes.extend(head.total.to_le_bytes());
    bytes.extend(head.last.to_le_bytes());
    bytes.extend(head.powers.iter().flat_map(|power| power.to_le_bytes()));
    bytes.extend((n as u32).to_le_bytes());
    bytes.push(vectors.len() as u8 - 1);
    for vector in vectors {
        bytes.extend(vector.iter().flat_map(|value| value.to_le_bytes()));
    }
    let digest = Digest::of(&bytes);
    bytes.extend(digest.0);
    bytes
}

/// Reads a training of `of` into `vectors`, which are changed only where all of it fits.
pub(super) fn read(
    bytes: &[u8],
    of: Digest,
    steps: u32,
    vectors: &mut [&mut [f32]],
) -> Result<Head, SavedError> {
    let mut rest = bytes;
    if take::<4>(&mut rest)? != *MAGIC {
        return Err(SavedError::Torn);
    }
    // Before the digest, which another version may compute otherwise.
    let [found] = take(&mut rest)?;
    if found != VERSION {
        return Err(SavedError::Version { found, expected: VERSION });
    }
    let (body, digest) = bytes.split_last_chunk::<32>().ok_or(SavedError::Torn)?;
    if Digest::of(body).0 != *digest {
        return Err(SavedError::Torn);
    }
    let found = Digest(take(&mut rest)?);
    if found != of {
        return Err(SavedError::Other { found, expected: of });
    }
    let head = Head {
        step: u32::from_le_bytes(take(&mut rest)?),
        tokens: u64::from_le_bytes(take(&mut rest)?),
        total: f64::from_le_bytes(take(&mut rest)?),
        last: f32::from_le_bytes(take(&mut rest)?),
        powers: [f64::from_le_bytes(take(&mut rest)?), f64::from_le_bytes(take(&mut rest)?)],
    };
    let n = u32::from_le_bytes(take(&mut rest)?) as usize;
    let [moments] = take(&mut rest)?;
    let (found, expected) = (
        [usize::from(moments) + 1, n],
        [vectors.len(), vectors.first().map_or(0, |values| values.len())],
    );
    if found != expected {
        return Err(SavedError::Shape { found, expected });
    }
    if head.step > steps {
        return Err(SavedError::Steps { found: head.step, expected: steps });
    }
    let (words, odd) = rest[..rest.len().saturating_sub(32)].as_chunks::<4>();
    if !odd.is_empty() || words.len() != n * vectors.len() {
        return Err(SavedError::Torn);
    }
    let mut words = words.iter();
    for value in vectors.iter_mut().flat_map(|vector| vector.iter_mut()) {
        *value = words.next().map_or(0.0, |word| f32::from_le_bytes(*word));
    }
    Ok(head)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], SavedError> {
    let (first, others) = rest.split_first_chunk().ok_or(SavedError::Torn)?;
    *rest = others;
    Ok(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Head = Head { step: 3, tokens: 99, total: 2.5, last: 0.5, powers: [0.729, 0.997] };

    fn of(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    fn back(bytes: &[u8], name: &str, n: usize) -> Result<(Head, [Vec<f32>; 3]), SavedError> {
        let mut vectors = [vec![9.0; n], vec![9.0; n], vec![9.0; n]];
        let [a, b, c] = &mut vectors;
        let head = read(bytes, of(name), 5, &mut [a, b, c])?;
        Ok((head, vectors))
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = write(of("this"), &HEAD, &[&[1.0, -0.0], &[2.0, 3.0], &[4.0, f32::MIN]]);
        assert_eq!(bytes.len(), AROUND + 3 * 2 * 4);
        let (head, vectors) = back(&bytes, "this", 2).expect("its own");
        assert_eq!(head, HEAD);
        assert_eq!(vectors, [vec![1.0, -0.0], vec![2.0, 3.0], vec![4.0, f32::MIN]]);
        assert!(vectors[0][1].is_sign_negative());
        // By hand: the step stands behind magic, version and name, the first value behind the head.
        assert_eq!(bytes[37..41], [3, 0, 0, 0]);
        assert_eq!(bytes[82..86], [0, 0, 0x80, 0x3f]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let bytes = write(of("this"), &HEAD, &[&[1.0], &[2.0], &[4.0]]);
        let other = SavedError::Other { found: of("this"), expected: of("that") };
        assert_eq!(back(&bytes, "that", 1), Err(other));
        let shape = SavedError::Shape { found: [3, 1], expected: [3, 2] };
        assert_eq!(back(&bytes, "this", 2), Err(shape));
        let late = write(of("this"), &Head { step: 6, ..HEAD }, &[&[1.0], &[2.0], &[4.0]]);
        assert_eq!(back(&late, "this", 1), Err(SavedError::Steps { found: 6, expected: 5 }));
        let mut newer = bytes.clone();
        newer[4] = 2;
        assert_eq!(back(&newer, "this", 1), Err(SavedError::Version { found: 2, expected: 1 }));
    }

    /// Every cut and every changed byte is found, before anything is taken over.
    #[test]
    fn what_is_torn_is_named() {
        let bytes = write(of("this"), &HEAD, &[&[1.0], &[2.0], &[4.0]]);
        for cut in 0..bytes.len() {
            assert_eq!(back(&bytes[..cut], "this", 1), Err(SavedError::Torn), "{cut}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(back(&changed, "this", 1).is_err(), "{at}");
        }
    }
}
