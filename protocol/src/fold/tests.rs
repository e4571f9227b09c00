use super::*;
use crate::rng::Stream;
use crate::sparse::Support;

fn sparse(n: usize, entries: &[(u32, f32)]) -> Sparse {
    let indices = entries.iter().map(|e| e.0).collect();
    Sparse::new(n, Support::Indices(indices), entries.iter().map(|e| e.1).collect())
        .expect("rising")
}

/// Two folds' words added place by place are the words of both; by hand, 0.5 and 0.25 are 2^29 and 2^28 units.
#[test]
fn words_add_up_to_the_sum() {
    for average in [Average::Cohort, Average::Contributors] {
        let mut folds = [Fold::new(3, average), Fold::new(3, average)];
        folds[0].add(&sparse(3, &[(0, 0.5), (2, -0.5)])).expect("fits");
        folds[1].add_weighted(&sparse(3, &[(2, 0.25)]), 2).expect("fits");
        let [a, b] = [folds[0].to_words(), folds[1].to_words()];
        let sum: Vec<i64> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        let counts: &[i64] = if average == Average::Cohort { &[] } else { &[1, 0, 3] };
        assert_eq!(sum, [&[3, 1 << 29, 0, 0][..], counts].concat());
        let mut whole = Fold::new(3, average);
        whole.set_words(&sum).expect("of this shape");
        let other = folds[1].clone();
        folds[0].merge(&other).expect("fits");
        assert_eq!(whole, folds[0]);
        for bad in [&sum[1..], &[], &[&[-1][..], &sum[1..]].concat()] {
            assert_eq!(whole.set_words(bad), Err(FoldError::Bytes));
        }
        let full = [&[UPDATES_MAX as i64 + 1][..], &sum[1..]].concat();
        assert_eq!(whole.set_words(&full), Err(FoldError::Full));
        assert_eq!(whole, folds[0], "nothing changed");
    }
}

#[test]
fn mean_by_cohort_and_by_contributors() {
    for (average, expected) in
        [(Average::Cohort, [1.5, 0.5, 0.0]), (Average::Contributors, [1.5, 1.0, 0.0])]
    {
        let mut fold = Fold::new(3, average);
        assert_eq!(fold.mean(), None);
        fold.add(&sparse(3, &[(0, 1.0), (1, 1.0)])).expect("fits");
        fold.add(&sparse(3, &[(0, 2.0)])).expect("fits");
        assert_eq!(fold.mean(), Some(expected.to_vec()));
    }
}

/// `(2 * 1 + 3 * 2) / 5` and `3 * 1 / 5`, dense or not.
#[test]
fn a_weight_is_so_many_updates() {
    let mut fold = Fold::new(2, Average::Examples);
    fold.add_weighted(&sparse(2, &[(0, 1.0)]), 2).expect("fits");
    let dense = Sparse::new(2, Support::All, vec![2.0, 1.0]).expect("valid");
    fold.add_weighted(&dense, 3).expect("fits");
    assert_eq!(fold.mean(), Some(vec![1.6, 0.6]));
    fold.add_weighted(&dense, u32::MAX).expect("no more than the most");
    assert_eq!(fold.updates(), 5 + u64::from(WEIGHT_MAX));
}

/// `(1/2 * 1 + 2) / 2`, and by contributors `1/2 * 1 / 1` where only the first sent.
#[test]
fn a_scaled_update_counts_whole() {
    let (first, second) = (sparse(2, &[(0, 1.0), (1, 1.0)]), sparse(2, &[(0, 2.0)]));
    for (average, expected) in
        [(Average::Cohort, [1.25, 0.25]), (Average::Contributors, [1.25, 0.5])]
    {
        let mut fold = Fold::new(2, average);
        fold.add_scaled(&first, WEIGHT_MAX / 2, WEIGHT_MAX).expect("fits");
        fold.add_scaled(&second, WEIGHT_MAX, WEIGHT_MAX).expect("fits");
        assert_eq!(fold.mean(), Some(expected.to_vec()));
    }
}

#[test]
fn bytes_are_as_documented_and_come_back() {
    let mut fold = Fold::new(2, Average::Contributors);
    fold.add(&sparse(2, &[(1, -0.5)])).expect("fits");
    let bytes = fold.to_bytes();
    // One update, two parameters, counted; 0 and -2^29; nobody and one.
    let head = [[1, 0, 0, 0], [0, 0, 0, 0], [2, 0, 0, 0], [1, 0, 0, 0]].concat();
    let sums = [[0; 8], [0, 0, 0, 0xE0, 0xFF, 0xFF, 0xFF, 0xFF]].concat();
    assert_eq!(bytes, [head, sums, [[0, 0, 0, 0], [1, 0, 0, 0]].concat()].concat());
    for fold in [fold, Fold::new(3, Average::Cohort)] {
        let bytes = fold.to_bytes();
        assert_eq!(Fold::from_bytes(&bytes), Ok(fold));
        for cut in 0..bytes.len() {
            assert_eq!(Fold::from_bytes(&bytes[..cut]), Err(FoldError::Bytes), "{cut}");
        }
        assert_eq!(Fold::from_bytes(&[&bytes[..], &[0]].concat()), Err(FoldError::Bytes));
    }
}

#[test]
fn a_refused_update_changes_nothing() {
    let mut fold = Fold::new(2, Average::Cohort);
    let before = fold.clone();
    assert!(fold.add(&sparse(3, &[(0, 1.0)])).is_err());
    for bad in [f32::NAN, f32::INFINITY, -8.1] {
        assert!(fold.add(&sparse(2, &[(0, 1.0), (1, bad)])).is_err());
    }
    assert!(fold.merge(&Fold::new(2, Average::Contributors)).is_err());
    assert_eq!(fold, before);
}

#[test]
fn units_are_rounded_to_even() {
    let unit = 1.0 / 1_073_741_824.0_f32;
    for (value, expected) in [
        (0.0, 0),
        (-0.0, 0),
        (0.5 * unit, 0),
        (1.5 * unit, 2),
        (-2.5 * unit, -2),
        (-3.5 * unit, -4),
        (0.75 * unit, 1),
        (f32::MIN_POSITIVE, 0),
        (1.0, 1 << 30),
        (-8.0, -(8 << 30)),
    ] {
        assert_eq!(units(value), expected, "{value}");
    }
}

/// Entries one by one are what they are together, whatever the number of pieces.
#[test]
fn entry_by_entry() {
    let n = 3 * PIECE;
    let mut rng = Stream::new(12, "entries", &[]);
    for average in [Average::Cohort, Average::Contributors] {
        let (mut whole, mut single) = (Fold::new(n, average), Fold::new(n, average));
        for count in [0, 1, PIECE, PIECE + 1, n] {
            let entries: Vec<(u32, f32)> =
                (0..count as u32).map(|i| (i, rng.normal() as f32)).collect();
            whole.add(&sparse(n, &entries)).expect("fits");
            let said = single.add_entries(|adding| {
                entries.iter().for_each(|&(index, value)| adding.entry(index, value));
                Ok::<_, FoldError>(count)
            });
            assert_eq!(said, Ok(count));
            assert_eq!(single, whole);
        }
    }
}

/// Whatever is wrong, and wherever: the entries before it are taken back.
#[test]
fn a_failed_visit_changes_nothing() {
    let n = 2 * PIECE;
    for average in [Average::Cohort, Average::Contributors] {
        let mut fold = Fold::new(n, average);
        fold.add(&sparse(n, &[(0, 1.0), (7, -0.3)])).expect("fits");
        let before = fold.clone();
        for (bad, expected) in [
            ((n as u32, 1.0), FoldError::Index(n as u32)),
            ((u32::MAX, 1.0), FoldError::Index(u32::MAX)),
            ((3, 1.0), FoldError::Index(3)),
            ((400, 8.1), FoldError::Value(8.1)),
            ((400, f32::INFINITY), FoldError::Value(f32::INFINITY)),
        ] {
            let refused = fold.add_entries(|adding| {
                (0..PIECE as u32 + 9).for_each(|index| adding.entry(index, 0.1));
                adding.entry(bad.0, bad.1);
                adding.entry(500, 0.1);
                Ok::<_, FoldError>(())
            });
            assert_eq!(refused, Err(expected));
            assert_eq!(fold, before);
        }
        let refused: Result<(), FoldError> = fold.add_entries(|adding| {
            (0..PIECE as u32 + 9).for_each(|index| adding.entry(index, 0.1));
            Err(FoldError::Average) // stands for a decoder's error
        });
        assert_eq!(refused, Err(FoldError::Average));
        assert_eq!(fold, before);
    }
}

/// A thousand random orders and splits of the same updates give one sum, bit for bit.
#[test]
fn a_thousand_orders_and_splits_one_sum() {
    let n = 500;
    let mut rng = Stream::new(11, "orders", &[]);
    let updates: Vec<Sparse> = (0..40)
        .map(|_| {
            let entries: Vec<(u32, f32)> = (0..n as u32)
                .filter(|_| rng.below(4) == 0)
                .collect::<Vec<_>>()
                .into_iter()
                .map(|i| (i, (rng.normal() * 0.01) as f32))
                .collect();
            sparse(n, &entries)
        })
        .collect();
    for average in [Average::Cohort, Average::Contributors] {
        let mut reference = Fold::new(n, average);
        for update in &updates {
            reference.add(update).expect("fits");
        }
        let bits: Vec<u32> = reference.mean().expect("some").iter().map(|v| v.to_bits()).collect();
        for _ in 0..1_000 {
            let mut order: Vec<&Sparse> = updates.iter().collect();
            rng.shuffle(&mut order);
            let mut parts = vec![Fold::new(n, average); 1 + rng.below(8) as usize];
            for update in order {
                let part = rng.below(parts.len() as u64) as usize;
                parts[part].add(update).expect("fits");
            }
            rng.shuffle(&mut parts);
            let mut whole = Fold::new(n, average);
            for part in &parts {
                whole.merge(part).expect("fits");
            }
            let got: Vec<u32> = whole.mean().expect("some").iter().map(|v| v.to_bits()).collect();
            assert_eq!(got, bits);
        }
    }
}
