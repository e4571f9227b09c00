//! The k largest of a vector, in linear time.

use super::SelectError;
use crate::sparse::Support;

/// Buckets of the histogram: a magnitude's exponent and its four leading mantissa bits.
const BUCKETS: usize = 1 << 12;
/// Bits of a magnitude below its bucket.
const BELOW: u32 = 31 - 12;
/// Infinities and NaNs are all and only those from here.
const NOT_FINITE: u32 = 0x7F80_0000;
/// Entries looked at to guess the threshold.
const SAMPLE: usize = 1 << 14;
/// Entries whose comparisons make one word.
const WORD: usize = 64;

/// Keeps the `k` entries of largest magnitude; all where there are no more.
///
/// `dense`: shape `[n]`. Ties keep the lower index, so equal inputs give equal supports. O(n) time and no
/// sort: a sample gives a bound that a few more than `k` entries reach, one pass collects those, and a
/// histogram of them finds the k-th. Where the sample misled, all entries are collected; the result is
/// the same. Memory: 9 bytes for each of `k`, and 8 for each of `n` where it misled.
///
/// # Errors
/// [`SelectError::NonFinite`] at the first NaN or infinity.
pub fn top_k(dense: &[f32], k: usize) -> Result<Support, SelectError> {
    let all = k >= dense.len();
    let (bound, room) = if all { (NOT_FINITE, 0) } else { (guess(dense, k), k + k / 8) };
    let mut found = Found::reaching(dense, bound, room);
    // What is not finite reaches every bound.
    if let Some(at) = found.keys.iter().position(|&key| key >= NOT_FINITE) {
        let index = found.indices[at] as usize;
        return Err(SelectError::NonFinite { index, value: dense[index] });
    }
    if all {
        return Ok(Support::All);
    }
    if found.keys.len() < k {
        found = Found::reaching(dense, 0, dense.len());
    }
    Ok(Support::Indices(found.largest(k)))
}

/// A magnitude's bits that probably at least `k` entries reach, and few more.
fn guess(dense: &[f32], k: usize) -> u32 {
    if dense.len() < 4 * SAMPLE {
        return 0;
    }
    // An odd step meets all columns of a matrix whose width is a power of two.
    let step = (dense.len() / SAMPLE) | 1;
    let mut sample: Vec<u32> = dense.iter().step_by(step).map(|&value| magnitude(value)).collect();
    let expected = sample.len() as f64 * k as f64 / dense.len() as f64;
    // Four standard deviations to the safe side.
    let rank = (expected + 4.0 * expected.sqrt() + 4.0) as usize;
    if rank >= sample.len() {
        return 0;
    }
    let (_, &mut bound, _) = sample.select_nth_unstable_by(rank, |a, b| b.cmp(a));
    bound.min(NOT_FINITE)
}

/// Entries in rising order.
struct Found {
    indices: Vec<u32>,
    /// Bits of their magnitudes.
    keys: Vec<u32>,
}

impl Found {
    /// Those whose magnitude has at least the bits `bound`; `room` for so many is made at once.
    fn reaching(dense: &[f32], bound: u32, room: usize) -> Self {
        let (mut indices, mut keys) = (Vec::with_capacity(room), Vec::with_capacity(room));
        let mut keep = |index: usize| {
            indices.push(index as u32);
            keys.push(magnitude(dense[index]));
        };
        let (words, rest) = dense.as_chunks();
        for (at, word) in words.iter().enumerate() {
            let mut bits = reach(word, bound);
            while bits != 0 {
                keep(WORD * at + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
        for (index, &value) in (WORD * words.len()..).zip(rest) {
            if magnitude(value) >= bound {
                keep(index);
            }
        }
        Self { indices, keys }
    }

    /// The `k` largest of them, which are at least `k`; of equal ones the first.
    fn largest(self, k: usize) -> Vec<u32> {
        let Self { mut indices, keys } = self;
        if k == 0 {
            return Vec::new();
        }
        let (threshold, mut ties) = kth(&keys, k);
        let mut kept = 0;
        for (at, &key) in keys.iter().enumerate() {
            let tie = key == threshold && ties > 0;
            ties -= usize::from(tie);
            // Written before it is decided to keep, so that nothing branches; never ahead of what is
            // read.
            indices[kept] = indices[at];
            kept += usize::from(key > threshold || tie);
        }
        debug_assert_eq!(kept, k);
        indices.truncate(k);
        indices
    }
}

/// The k-th largest of `keys`, and how many of just that to keep.
fn kth(keys: &[u32], k: usize) -> (u32, usize) {
    // Four histograms, so that equal neighbours do not wait for one counter.
    let mut counts = vec![[0_u32; 4]; BUCKETS];
    for (lane, &key) in keys.iter().enumerate() {
        counts[(key >> BELOW) as usize][lane & 3] += 1;
    }
    let mut above = 0;
    let mut bucket = BUCKETS;
    loop {
        bucket -= 1;
        let here: usize = counts[bucket].iter().map(|&c| c as usize).sum();
        if above + here >= k {
            break;
        }
        above += here;
    }
    let mut near: Vec<u32> =
        keys.iter().copied().filter(|key| (key >> BELOW) as usize == bucket).collect();
    let rank = k - above;
    let (larger, &mut kth, _) = near.select_nth_unstable_by(rank - 1, |a, b| b.cmp(a));
    (kth, rank - larger.iter().filter(|&&key| key > kth).count())
}

/// A bit for each entry, the first one's lowest: whether its magnitude has at least the bits `bound`.
#[inline]
fn reach(word: &[f32; WORD], bound: u32) -> u64 {
    let mut bits = 0;
    // In parts of 16, which is as compilers vectorise it.
    for (at, part) in word.as_chunks::<16>().0.iter().enumerate() {
        let bit = |place: usize| u16::from(magnitude(part[place]) >= bound) << place;
        bits |= u64::from((0..16).map(bit).fold(0, |bits, bit| bits | bit)) << (16 * at);
    }
    bits
}

/// Bits of `|value|`; they rank as magnitudes do.
#[inline]
fn magnitude(value: f32) -> u32 {
    value.to_bits() & 0x7FFF_FFFF
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;
    use proptest::prelude::*;

    /// The plain way: a stable sort by falling magnitude.
    fn by_sorting(dense: &[f32], k: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..dense.len() as u32).collect();
        order.sort_by(|&a, &b| {
            dense[b as usize].abs().total_cmp(&dense[a as usize].abs()).then(a.cmp(&b))
        });
        order.truncate(k);
        order.sort_unstable();
        order
    }

    fn indices(support: Support, n: usize) -> Vec<u32> {
        match support {
            Support::All => (0..n as u32).collect(),
            Support::Indices(indices) => indices,
        }
    }

    #[test]
    fn ties_keep_the_lower_index() {
        let support = top_k(&[1.0, -1.0, 0.5, 1.0], 2).expect("finite");
        assert_eq!(support, Support::Indices(vec![0, 1]));
    }

    #[test]
    fn all_zero_keeps_the_first() {
        assert_eq!(top_k(&[0.0; 8], 2), Ok(Support::Indices(vec![0, 1])));
    }

    #[test]
    fn refuses_what_is_not_finite() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let refused = top_k(&[1.0, bad], 2).expect_err("not finite");
            assert!(matches!(refused, SelectError::NonFinite { index: 1, .. }));
        }
    }

    #[test]
    fn agrees_with_sorting_on_a_heavy_tail() {
        let mut rng = Stream::new(1, "test", &[]);
        let dense: Vec<f32> = (0..10_000).map(|_| (rng.normal().powi(3)) as f32).collect();
        for k in [0, 1, 39, 156, 2_500, 9_990] {
            let support = top_k(&dense, k).expect("finite");
            assert_eq!(indices(support, dense.len()), by_sorting(&dense, k));
        }
    }

    /// Long enough for a sample, which is misled by a vector whose large entries all lie beside it, by one
    /// that is nearly all zero, and by one whose large entries are just those that it looks at.
    #[test]
    fn agrees_with_sorting_whatever_the_sample_saw() {
        let n = 5 * SAMPLE + 37;
        let step = 5;
        let mut rng = Stream::new(2, "test", &[]);
        let mut draw = |scale: &dyn Fn(usize) -> f64| -> Vec<f32> {
            (0..n).map(|i| (scale(i) * rng.normal()) as f32).collect()
        };
        let on = |i: usize, yes: f64, no: f64| if i.is_multiple_of(step) { yes } else { no };
        let vectors = [
            draw(&|_| 1.0),
            draw(&|i| on(i, 0.001, 1.0)),
            draw(&|i| on(i, 1_000.0, 1.0)),
            draw(&|i| if i % 97 == 0 { 1.0 } else { 0.0 }),
            draw(&|_| 1.0).into_iter().map(f32::round).collect(),
        ];
        for mut dense in vectors {
            for k in [1, 100, n / 64, n / 16, n / 2, n - 1] {
                let support = top_k(&dense, k).expect("finite");
                assert_eq!(indices(support, n), by_sorting(&dense, k), "{k}");
            }
            dense[n - 1] = f32::INFINITY;
            dense[step + 1] = f32::NAN;
            for k in [0, 1, n / 16, n, usize::MAX] {
                let refused = top_k(&dense, k).expect_err("not finite");
                assert!(matches!(refused, SelectError::NonFinite { index: 6, .. }), "{refused}");
            }
        }
    }

    proptest! {
        /// Whatever the vector, the kept set is the sorted one. Few distinct values make ties.
        #[test]
        fn agrees_with_sorting(
            dense in prop::collection::vec((-4_i8..=4).prop_map(|v| f32::from(v) * 0.25), 1..200),
            k in 0_usize..220,
        ) {
            let support = top_k(&dense, k).expect("finite");
            prop_assert_eq!(indices(support, dense.len()), by_sorting(&dense, k));
        }
    }
}
