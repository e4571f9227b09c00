//! What a product reads: a left side entry by entry, a right side strip by strip.

use std::ops::Range;

use crate::ops::matrix::Matrix;

/// Entries of a stored row that are made `f32` at once.
const RUN: usize = 64;

/// A matrix `[rows, cols]` in a slice; entry `(i, j)` lies at `i * row + j * col`, of which one is 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row: usize,
    pub(super) col: usize,
}

impl<'a> View<'a> {
    /// Row by row, without gaps.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Row by row, `stride` entries from one row's start to the next one's.
    pub(crate) fn strided(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(cols <= stride || rows <= 1, "rows overlap");
        assert!(rows == 0 || cols == 0 || (rows - 1) * stride + cols <= data.len(), "short matrix");
        Self { data, rows, cols, row: stride, col: 1 }
    }

    /// The transpose, without moving anything.
    pub(crate) fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row: self.col, col: self.row, ..self }
    }

    /// Parts of `n` rows, but for the last.
    pub(super) fn by_rows(self, n: usize) -> impl Iterator<Item = Self> {
        (0..self.rows).step_by(n).map(move |first| {
            let rows = n.min(self.rows - first);
            Self { data: &self.data[first * self.row..], rows, ..self }
        })
    }
}

/// A product's right side: a view, or a frozen matrix in its storage, which is made `f32` strip by strip.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factor<'a> {
    numbers: Numbers<'a>,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

#[derive(Clone, Copy, Debug)]
enum Numbers<'a> {
    View(View<'a>),
    Rows(Matrix<'a>),
    /// Transposed.
    Columns(Matrix<'a>),
}

impl<'a> Factor<'a> {
    /// A frozen matrix.
    pub(crate) fn stored(matrix: Matrix<'a>) -> Self {
        let (rows, cols) = (matrix.rows(), matrix.cols);
        let numbers = match matrix.floats() {
            Some(data) => Numbers::View(View::new(data, rows, cols)),
            None => Numbers::Rows(matrix),
        };
        Self { numbers, rows, cols }
    }

    /// Its transpose, without moving anything.
    pub(crate) fn t(self) -> Self {
        let numbers = match self.numbers {
            Numbers::View(view) => Numbers::View(view.t()),
            Numbers::Rows(matrix) => Numbers::Columns(matrix),
            Numbers::Columns(matrix) => Numbers::Rows(matrix),
        };
        Self { numbers, rows: self.cols, cols: self.rows }
    }

    /// Copies columns `columns` row by row from `first` into rows of `width`; what is past the columns becomes 0.
    #[inline(always)]
    pub(super) fn pack(
        &self,
        packed: &mut [f32],
        columns: Range<usize>,
        width: usize,
        first: usize,
    ) {
        let (start, n) = (columns.start, columns.len());
        if n < width {
            packed.fill(0.0);
        }
        let b = match self.numbers {
            Numbers::View(view) => view,
            Numbers::Rows(matrix) => {
                for (p, row) in (first..).zip(packed.chunks_exact_mut(width)) {
                    matrix.decode(&mut row[..n], p, start);
                }
                return;
            }
            Numbers::Columns(matrix) => return turned(matrix, packed, start, width, n, first),
        };
        if b.col == 1 && n == width {
            // The width is known to the compiler.
            for (p, row) in (first..).zip(packed.chunks_exact_mut(width)) {
                row.copy_from_slice(&b.data[p * b.row + start..][..width]);
            }
        } else if b.col == 1 {
            for (p, row) in (first..).zip(packed.chunks_exact_mut(width)) {
                row[..n].copy_from_slice(&b.data[p * b.row + start..][..n]);
            }
        } else {
            let column = |j: usize| &b.data[(start + j) * b.col + first * b.row..];
            let (rows, mut j) = (packed.len() / width, 0);
            while b.row == 1 && j + 8 <= n {
                let columns: [&[f32]; 8] = std::array::from_fn(|c| &column(j + c)[..rows]);
                for (p, row) in packed.chunks_exact_mut(width).enumerate() {
                    row[j..j + 8].copy_from_slice(&columns.map(|column| column[p]));
                }
                j += 8;
            }
            for j in j..n {
                let column = column(j).iter().step_by(b.row);
                for (row, &x) in packed.chunks_exact_mut(width).zip(column) {
                    row[j] = x;
                }
            }
        }
    }
}

impl<'a> From<View<'a>> for Factor<'a> {
    fn from(view: View<'a>) -> Self {
        Self { numbers: Numbers::View(view), rows: view.rows, cols: view.cols }
    }
}

/// [`Factor::pack`] of a transposed matrix: its rows `start..start + n`, from entry `first` on, become columns.
#[inline(always)]
fn turned(
    matrix: Matrix<'_>,
    packed: &mut [f32],
    start: usize,
    width: usize,
    n: usize,
    first: usize,
) {
    let mut runs = [[0.0; RUN]; 8];
    for (at, packed) in packed.chunks_mut(RUN * width).enumerate() {
        let (terms, first) = (packed.len() / width, first + at * RUN);
        let mut j = 0;
        while j + 8 <= n {
            for (c, run) in runs.iter_mut().enumerate() {
                matrix.decode(&mut run[..terms], start + j + c, first);
            }
            for (p, row) in packed.chunks_exact_mut(width).enumerate() {
                row[j..j + 8].copy_from_slice(&runs.each_ref().map(|run| run[p]));
            }
            j += 8;
        }
        for j in j..n {
            matrix.decode(&mut runs[0][..terms], start + j, first);
            for (row, &x) in packed.chunks_exact_mut(width).zip(&runs[0]) {
                row[j] = x;
            }
        }
    }
}
