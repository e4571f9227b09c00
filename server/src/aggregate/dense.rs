//! Small dense matrices in `f64`: products, triangles, singular values.
//!
//! Only `+ - * /` and square roots, in one order, which IEEE 754 fixes to the bit: every machine comes to the
//! same factors.

/// A matrix, row by row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Dense {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) values: Vec<f64>,
}

impl Dense {
    pub(super) fn zeros(rows: usize, cols: usize) -> Self {
        Self { rows, cols, values: vec![0.0; rows * cols] }
    }

    /// `values`, `[rows, cols]`.
    pub(super) fn of(cols: usize, values: &[f32]) -> Self {
        let rows = values.len() / cols;
        Self { rows, cols, values: values.iter().map(|&v| f64::from(v)).collect() }
    }

    pub(super) fn at(&self, row: usize, col: usize) -> f64 {
        self.values[row * self.cols + col]
    }

    pub(super) fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.cols..][..self.cols]
    }

    fn row_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.values[row * self.cols..][..self.cols]
    }

    pub(super) fn t(&self) -> Self {
        let mut turned = Self::zeros(self.cols, self.rows);
        for row in 0..self.rows {
            for col in 0..self.cols {
                turned.values[col * self.rows + row] = self.at(row, col);
            }
        }
        turned
    }

    /// Puts `other`, which is no larger, in the first rows and columns.
    pub(super) fn set(&mut self, other: &Self) {
        for row in 0..other.rows {
            self.row_mut(row)[..other.cols].copy_from_slice(other.row(row));
        }
    }

    /// Puts `values` on the diagonal.
    pub(super) fn set_diagonal(&mut self, values: impl Iterator<Item = f64>) {
        let places = self.values.iter_mut().step_by(self.cols + 1);
        places.zip(values).for_each(|(place, value)| *place = value);
    }

    /// `self other`.
    pub(super) fn times(&self, other: &Self) -> Self {
        let mut product = Self::zeros(self.rows, other.cols);
        for row in 0..self.rows {
            for (inner, &value) in self.row(row).iter().enumerate() {
                axpy(product.row_mut(row), value, other.row(inner));
            }
        }
        product
    }

    /// `self += share other`.
    pub(super) fn add(&mut self, share: f64, other: &Self) {
        axpy(&mut self.values, share, &other.values);
    }

    /// `self self^T`.
    pub(super) fn gram(&self) -> Self {
        let mut gram = Self::zeros(self.rows, self.rows);
        for i in 0..self.rows {
            for j in 0..self.rows {
                gram.values[i * self.rows + j] = dot(self.row(i), self.row(j));
            }
        }
        gram
    }

    /// The sum of the products of equal places.
    pub(super) fn inner(&self, other: &Self) -> f64 {
        dot(&self.values, &other.values)
    }
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + a * b)
}

fn axpy(sum: &mut [f64], share: f64, values: &[f64]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += share * value;
    }
}

/// `x` with `x s = right` for a symmetric positive `s`, `[n, n]`; `right` and `x`: `[m, n]`. `None` where `s`
/// is not positive, as far as can be told. By Cholesky's factor.
pub(super) fn solve(s: &Dense, right: &Dense) -> Option<Dense> {
    let n = s.rows;
    let mut l = Dense::zeros(n, n);
    for i in 0..n {
        for j in 0..=i {
            let left = s.at(i, j) - dot(&l.row(i)[..j], &l.row(j)[..j]);
            l.values[i * n + j] = if i == j {
                if left.is_nan() || left <= 0.0 {
                    return None;
                }
                left.sqrt()
            } else {
                left / l.at(j, j)
            };
        }
    }
    let mut x = right.clone();
    for row in 0..x.rows {
        let x = x.row_mut(row);
        for i in 0..n {
            x[i] = (x[i] - dot(&l.row(i)[..i], &x[..i])) / l.at(i, i);
        }
        for i in (0..n).rev() {
            let above = (i + 1..n).fold(0.0, |sum, j| sum + l.at(j, i) * x[j]);
            x[i] = (x[i] - above) / l.at(i, i);
        }
    }
    Some(x)
}

/// The largest `r` components of `b a`, with `b` `[m, k]` and `a` `[k, n]`: `[m, r]` and `[r, n]`, whose
/// product is the best of that rank. The second's rows are orthonormal, each with its largest entry positive;
/// the first's columns are as long as the singular values, which fall. Fewer than `r` where `min(k, n)` is.
///
/// `a^T = q t` by Householder's reflections, then `(b t^T) v = u s` by Jacobi's rotations of columns
/// (Hestenes), so that no matrix of `[m, n]` is needed: `b a = (u s) (q v)^T`.
pub(super) fn largest(b: &Dense, a: &Dense, r: usize) -> (Dense, Dense) {
    let (q, t) = triangle(a.t());
    // Rows are the columns that are rotated.
    let mut x = t.times(&b.t());
    let mut v = q.t();
    rotate(&mut x, &mut v);
    let squares: Vec<f64> = (0..x.rows).map(|i| dot(x.row(i), x.row(i))).collect();
    let mut order: Vec<usize> = (0..x.rows).collect();
    // Stable, so that equal ones keep their order.
    order.sort_by(|&i, &j| squares[j].total_cmp(&squares[i]));
    order.truncate(r);
    let (mut columns, mut rows) =
        (Dense::zeros(order.len(), x.cols), Dense::zeros(order.len(), v.cols));
    for (to, &from) in order.iter().enumerate() {
        let mut most = 0.0_f64;
        for &value in v.row(from) {
            if value.abs() > most.abs() {
                most = value;
            }
        }
        let sign = if most < 0.0 { -1.0 } else { 1.0 };
        axpy(columns.row_mut(to), sign, x.row(from));
        axpy(rows.row_mut(to), sign, v.row(from));
    }
    (columns.t(), rows)
}

/// Orthonormal columns whose span has all of `a`'s: as many as `a` has columns, or rows where those are fewer.
pub(super) fn orthonormal(a: &Dense) -> Dense {
    triangle(a.clone()).0
}

/// `q` `[m, p]` with orthonormal columns and `t` `[p, n]`, upper triangular, with `q t = a` and
/// `p = min(m, n)`.
fn triangle(mut a: Dense) -> (Dense, Dense) {
    let (m, n) = (a.rows, a.cols);
    let p = m.min(n);
    let mut mirrors: Vec<Vec<f64>> = Vec::with_capacity(p);
    for k in 0..p {
        let mut mirror: Vec<f64> = (k..m).map(|row| a.at(row, k)).collect();
        let norm = dot(&mirror, &mirror).sqrt();
        mirror[0] += if mirror[0] < 0.0 { -norm } else { norm };
        reflect(&mut a, &mirror, k);
        mirrors.push(mirror);
    }
    let mut q = Dense::zeros(m, p);
    for k in 0..p {
        q.values[k * p + k] = 1.0;
    }
    for (k, mirror) in mirrors.iter().enumerate().rev() {
        reflect(&mut q, mirror, k);
    }
    a.values.truncate(p * n);
    a.rows = p;
    for row in 0..p {
        a.row_mut(row)[..row].fill(0.0);
    }
    (q, a)
}

/// `a <- (1 - 2 w w^T / w^T w) a`, with `w` in the rows from `first` on.
fn reflect(a: &mut Dense, w: &[f64], first: usize) {
    let square = dot(w, w);
    if square == 0.0 {
        return;
    }
    let mut along = vec![0.0; a.cols];
    for (at, &w) in w.iter().enumerate() {
        axpy(&mut along, w, a.row(first + at));
    }
    for (at, &w) in w.iter().enumerate() {
        axpy(a.row_mut(first + at), -2.0 * w / square, &along);
    }
}

/// Turns rows of `x` in pairs until all are orthogonal, and the same rows of `v` with them.
fn rotate(x: &mut Dense, v: &mut Dense) {
    /// Far more than any matrix takes: convergence is quadratic.
    const SWEEPS: usize = 60;
    const EPS: f64 = 1e-15;
    for _ in 0..SWEEPS {
        let mut turned = false;
        for i in 0..x.rows {
            for j in i + 1..x.rows {
                let (alpha, beta) = (dot(x.row(i), x.row(i)), dot(x.row(j), x.row(j)));
                let gamma = dot(x.row(i), x.row(j));
                let small = EPS * (alpha * beta).sqrt();
                if gamma == 0.0 || gamma.abs() <= small {
                    continue;
                }
                turned = true;
                let zeta = (beta - alpha) / (2.0 * gamma);
                let root = (1.0 + zeta * zeta).sqrt();
                let tangent = if zeta < 0.0 { -1.0 / (root - zeta) } else { 1.0 / (root + zeta) };
                let cosine = 1.0 / (1.0 + tangent * tangent).sqrt();
                turn(x, i, j, cosine, cosine * tangent);
                turn(v, i, j, cosine, cosine * tangent);
            }
        }
        if !turned {
            return;
        }
    }
}

fn turn(x: &mut Dense, i: usize, j: usize, cosine: f64, sine: f64) {
    for col in 0..x.cols {
        let (a, b) = (x.at(i, col), x.at(j, col));
        x.values[i * x.cols + col] = cosine * a - sine * b;
        x.values[j * x.cols + col] = sine * a + cosine * b;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gossamer_protocol::rng::Stream;

    fn random(rng: &mut Stream, rows: usize, cols: usize) -> Dense {
        Dense { rows, cols, values: (0..rows * cols).map(|_| rng.normal()).collect() }
    }

    fn close(a: &Dense, b: &Dense, within: f64) {
        assert_eq!((a.rows, a.cols), (b.rows, b.cols));
        let off = a.values.iter().zip(&b.values).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(off < within, "{off}");
    }

    fn one(n: usize) -> Dense {
        let mut one = Dense::zeros(n, n);
        (0..n).for_each(|i| one.values[i * n + i] = 1.0);
        one
    }

    /// Tall, wide and square; of full rank, with equal columns, and of nothing but zeros.
    #[test]
    fn all_components_make_the_product_again() {
        let mut rng = Stream::new(1, "dense", &[]);
        for (m, k, n) in [(6, 3, 4), (4, 9, 5), (5, 5, 5), (3, 8, 2), (1, 1, 1)] {
            let (b, mut a) = (random(&mut rng, m, k), random(&mut rng, k, n));
            for _ in 0..2 {
                let whole = b.times(&a);
                let (left, right) = largest(&b, &a, k.min(n));
                close(&left.times(&right), &whole, 1e-12);
                close(&right.gram(), &one(right.rows), 1e-12);
                let lengths: Vec<f64> =
                    left.t().gram().values.iter().step_by(left.cols + 1).copied().collect();
                assert!(lengths.windows(2).all(|pair| pair[0] >= pair[1]), "{lengths:?}");
                // Two equal rows: one component less.
                let first = a.row(0).to_vec();
                a.row_mut(k - 1).copy_from_slice(&first);
            }
            let (left, right) = largest(&Dense::zeros(m, k), &a, 1);
            assert!(left.values.iter().all(|&v| v == 0.0));
            close(&right.gram(), &one(1), 1e-12);
        }
    }

    #[test]
    fn solves_what_is_positive() {
        let mut rng = Stream::new(2, "dense", &[]);
        let (x, root) = (random(&mut rng, 3, 4), random(&mut rng, 4, 4));
        let s = root.gram();
        close(&solve(&s, &x.times(&s)).expect("positive"), &x, 1e-9);
        assert_eq!(solve(&Dense::zeros(2, 2), &Dense::zeros(1, 2)), None);
    }
}
