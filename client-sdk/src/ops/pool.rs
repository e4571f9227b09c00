//! Mean pooling over a row's real tokens: `y_r = sum over t < lengths_r of x_rt / lengths_r`.
//!
//! Backward: `dx_rt = dy_r / lengths_r`, 0 for padding.

/// `out`: `[rows, d]`, `x`: `[rows, cols, d]`, `lengths`: `[rows]`, each 1 to `cols`.
pub(crate) fn forward(out: &mut [f32], x: &[f32], lengths: &[usize]) {
    let rows = lengths.len();
    let (d, row) = (out.len() / rows, x.len() / rows);
    for ((out, x), &length) in out.chunks_exact_mut(d).zip(x.chunks_exact(row)).zip(lengths) {
        out.fill(0.0);
        x.chunks_exact(d).take(length).for_each(|x| super::add(out, x));
        out.iter_mut().for_each(|y| *y /= length as f32);
    }
}

/// Sets `dx`; shapes as in [`forward`].
pub(crate) fn backward(dx: &mut [f32], dy: &[f32], lengths: &[usize]) {
    let rows = lengths.len();
    let (d, row) = (dy.len() / rows, dx.len() / rows);
    dx.fill(0.0);
    for ((dx, dy), &length) in dx.chunks_exact_mut(row).zip(dy.chunks_exact(d)).zip(lengths) {
        for dx in dx.chunks_exact_mut(d).take(length) {
            for (dx, dy) in dx.iter_mut().zip(dy) {
                *dx = dy / length as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_has_no_part() {
        let x = [1.0, 2.0, 3.0, 6.0, 99.0, 99.0, 5.0, 7.0, 99.0, 99.0, 99.0, 99.0];
        let (mut y, mut dx) = ([0.0; 4], [9.0; 12]);
        forward(&mut y, &x, &[2, 1]);
        assert_eq!(y, [2.0, 4.0, 5.0, 7.0]);
        backward(&mut dx, &[2.0, 4.0, 5.0, 7.0], &[2, 1]);
        assert_eq!(dx, [1.0, 2.0, 1.0, 2.0, 0.0, 0.0, 5.0, 7.0, 0.0, 0.0, 0.0, 0.0]);
    }
}
