//! Sums in one fixed order that vectorises: 16 running sums, then a tree over them.

const LANES: usize = 16;

/// `init` and the fold of `f` over every index of two equal slices, lane by lane.
#[inline(always)]
fn lanes(x: &[f32], y: &[f32], init: f32, f: impl Fn(f32, f32, f32) -> f32) -> [f32; LANES] {
    assert_eq!(x.len(), y.len(), "lengths");
    let mut acc = [init; LANES];
    let (xs, x_rest) = x.as_chunks::<LANES>();
    let (ys, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in xs.iter().zip(ys) {
        for ((acc, &x), &y) in acc.iter_mut().zip(x).zip(y) {
            *acc = f(*acc, x, y);
        }
    }
    for ((acc, &x), &y) in acc.iter_mut().zip(x_rest).zip(y_rest) {
        *acc = f(*acc, x, y);
    }
    acc
}

#[inline(always)]
fn tree(mut acc: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            acc[i] = f(acc[i], acc[i + width]);
        }
        width /= 2;
    }
    acc[0]
}

/// `sum x_i y_i`.
#[inline(always)]
pub(super) fn dot(x: &[f32], y: &[f32]) -> f32 {
    tree(lanes(x, y, 0.0, |acc, x, y| x.mul_add(y, acc)), |a, b| a + b)
}

/// `sum x_i`.
#[inline(always)]
pub(super) fn sum(x: &[f32]) -> f32 {
    tree(lanes(x, x, 0.0, |acc, x, _| acc + x), |a, b| a + b)
}

/// The largest entry; minus infinity for none. NaN entries may be passed over.
#[inline(always)]
pub(super) fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    tree(lanes(x, x, f32::NEG_INFINITY, |acc, x, _| larger(acc, x)), larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_counts_once() {
        for n in [0, 1, 15, 16, 17, 63] {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let total = (n * (n.max(1) - 1) / 2) as f32;
            assert_eq!(sum(&x), total);
            assert_eq!(dot(&x, &vec![2.0; n]), 2.0 * total);
            assert_eq!(max(&x), if n == 0 { f32::NEG_INFINITY } else { n as f32 - 1.0 });
        }
    }
}
