//! The k largest of a vector, in linear time.

use super::SelectError;
use crate::sparse::Support;

/// Buckets of the histogram: a magnitude's exponent and its four leading mantissa bits.
const BUCKETS: usize = 1 << 12;
/// Bits of a magnitude below its bucket.
const BELOW: u32 = 31 - 12;

/// Keeps the `k` entries of largest magnitude; all where there are no more.
///
/// `dense`: shape `[n]`. Ties keep the lower index, so equal inputs give equal supports. The magnitude's bits rank like the magnitude, so a
/// histogram of their top 12 finds the bucket of the k-th, and only that bucket is searched: three
/// passes, O(n) time, no sort.
///
/// # Errors
/// [`SelectError::NonFinite`] at the first NaN or infinity.
pub fn top_k(dense: &[f32], k: usize) -> Result<Support, SelectError> {
    let (threshold, ties) = match threshold(dense, k.max(1))? {
        Some(found) if k > 0 => found,
        None if k > 0 => return Ok(Support::All),
        _ => return Ok(Support::Indices(Vec::new())),
    };
    // One spare place, so that writing before deciding to keep needs no branch.
    let mut indices = vec![0_u32; k + 1];
    let mut kept = 0;
    let mut ties_left = ties;
    for (index, &value) in dense.iter().enumerate() {
        let key = magnitude(value);
        let tie = key == threshold && ties_left > 0;
        ties_left -= usize::from(tie);
        indices[kept] = index as u32;
        kept += usize::from(key > threshold || tie);
        if kept == k {
            break;
        }
    }
    debug_assert_eq!(kept, k);
    indices.truncate(k);
    Ok(Support::Indices(indices))
}

/// The k-th largest magnitude's bits, and how many entries of just that magnitude to keep; `None`
/// where all are kept.
fn threshold(dense: &[f32], k: usize) -> Result<Option<(u32, usize)>, SelectError> {
    // Four histograms, so that equal neighbours do not wait for one counter.
    let mut counts = vec![[0_u32; 4]; BUCKETS];
    for (lane, &value) in dense.iter().enumerate() {
        counts[(magnitude(value) >> BELOW) as usize][lane & 3] += 1;
    }
    // Infinities and NaNs are all and only those with the top exponent.
    let first_bad = 0x7F80_0000 >> BELOW;
    let any_bad = counts[first_bad as usize..].iter().flatten().any(|&c| c > 0);
    let suspects = if any_bad { dense } else { &[] };
    if let Some((index, &value)) = suspects.iter().enumerate().find(|(_, v)| !v.is_finite()) {
        return Err(SelectError::NonFinite { index, value });
    }
    if k >= dense.len() {
        return Ok(None);
    }
    let mut above = 0;
    let mut bucket = first_bad as usize;
    loop {
        bucket -= 1;
        let here: usize = counts[bucket].iter().map(|&c| c as usize).sum();
        if above + here >= k {
            break;
        }
        above += here;
    }
    let mut keys: Vec<u32> = dense
        .iter()
        .map(|&value| magnitude(value))
        .filter(|key| (key >> BELOW) as usize == bucket)
        .collect();
    let rank = k - above;
    let (larger, &mut kth, _) = keys.select_nth_unstable_by(rank - 1, |a, b| b.cmp(a));
    let ties = rank - larger.iter().filter(|&&key| key > kth).count();
    Ok(Some((kth, ties)))
}

/// Bits of `|value|`; they rank as magnitudes do.
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
