//! Matrix product on slices, in SIMD chosen at run time, over a [`team`]'s threads.
//!
//! `out[i, j] = add * out[i, j] + scale * sum_p a[i, p] b[p, j]`. Each sum runs over `p` upward in fused
//! multiply-add chains of [`CHAIN`], each scaled and added to `out` before the next, so its bits depend
//! neither on the tiling nor on the vector width: equal inputs give equal bytes on every machine and
//! beside any number of other threads. That is why this is here although candle brings `gemm`, which also
//! wants owned tensors and its own thread pool.

mod view;

use std::cell::Cell;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{ARCH, team};
pub(crate) use view::{Factor, View};

/// Terms of a chain. The gradient of SmolLM2's features is a sum over 49,152 words: with one chain for all,
/// the adapter's gradients were 7e-5 off in the median (`tests/smollm2.rs`), with these 5e-6; PyTorch's are
/// 1e-5 off. A strip of so many rows also stays in the cache.
const CHAIN: usize = 2048;
/// Numbers of `b` packed at once, and of `a` met by all of them: shares of a core's own cache.
const PACKED: usize = 1 << 16;
const BLOCK: usize = 1 << 15;
/// Columns, or a multiple of so many, that a thread of a team takes: the widest strip.
const NARROWEST: usize = 32;
/// Rows of a thread for which packing no longer counts.
const MANY: usize = 256;

thread_local! {
    /// Strips, reused by the thread's next product.
    static BUFFER: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// What happens to the entries already there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Store {
    /// They are replaced.
    Set,
    /// The product is added to them.
    Add,
}

/// `out = scale * a b`, or `out += scale * a b`; see the module's formula.
///
/// `a`: `[m, k]`, `b`: `[k, n]`, `out`: `[m, n]` row by row, `stride` entries from row to row.
pub(crate) fn product<'a>(
    out: &mut [f32],
    stride: usize,
    a: View<'_>,
    b: impl Into<Factor<'a>>,
    scale: f32,
    store: Store,
) {
    let b = b.into();
    assert_eq!(a.cols, b.rows, "inner dimensions");
    if a.rows == 0 || b.cols == 0 {
        return;
    }
    assert!(b.cols <= stride || a.rows == 1, "rows overlap");
    assert!((a.rows - 1) * stride + b.cols <= out.len(), "short output");
    let columns = team::share(b.cols, 2 * a.cols * a.rows).next_multiple_of(NARROWEST);
    if columns < b.cols && a.rows < MANY * team::parts(usize::MAX) {
        // Every thread packs what it multiplies by: where rows are few, only its own columns.
        let parts = by_columns(out, stride, a.rows, b.cols, columns);
        team::each(parts, |(columns, out)| {
            ARCH.dispatch(Product { out: Columns(out), a, b, columns, scale, store });
        });
        return;
    }
    // Rows by the eight, as the tiles have them.
    let rows = team::share(a.rows, 2 * a.cols * b.cols).next_multiple_of(8);
    let parts = out.chunks_mut((rows * stride).max(1)).zip(a.by_rows(rows));
    team::each(parts, |(out, a)| {
        let (out, columns) = (Rows { out, stride }, 0..b.cols);
        ARCH.dispatch(Product { out, a, b, columns, scale, store });
    });
}

/// Parts of `out`, `n` of its `cols` columns each, but for the last.
fn by_columns(
    out: &mut [f32],
    stride: usize,
    rows: usize,
    cols: usize,
    n: usize,
) -> impl Iterator<Item = (Range<usize>, Vec<&mut [f32]>)> {
    let part = |start| (start..cols.min(start + n), Vec::with_capacity(rows));
    let mut parts: Vec<(Range<usize>, Vec<&mut [f32]>)> = (0..cols).step_by(n).map(part).collect();
    // One row may lie closer than it is long.
    for row in out.chunks_mut(stride.max(cols)).take(rows) {
        for ((_, part), columns) in parts.iter_mut().zip(row[..cols].chunks_mut(n)) {
            part.push(columns);
        }
    }
    parts.into_iter()
}

/// Where a product's entries go; columns count from the part's first.
trait Out {
    /// Entries `j..j + n` of row `i`.
    fn at(&mut self, i: usize, j: usize, n: usize) -> &mut [f32];
}

/// Whole rows.
struct Rows<'a> {
    out: &'a mut [f32],
    stride: usize,
}

impl Out for Rows<'_> {
    #[inline(always)]
    fn at(&mut self, i: usize, j: usize, n: usize) -> &mut [f32] {
        &mut self.out[i * self.stride + j..][..n]
    }
}

/// Some columns of every row.
struct Columns<'a>(Vec<&'a mut [f32]>);

impl Out for Columns<'_> {
    #[inline(always)]
    fn at(&mut self, i: usize, j: usize, n: usize) -> &mut [f32] {
        &mut self.0[i][j..][..n]
    }
}

struct Product<'a, O> {
    out: O,
    a: View<'a>,
    b: Factor<'a>,
    /// Of `b`: those to form.
    columns: Range<usize>,
    scale: f32,
    store: Store,
}

impl<O: Out> WithSimd for Product<'_, O> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.columns.len() <= S::F32_LANES {
            self.strips::<S, 1>(simd);
        } else {
            self.strips::<S, 2>(simd);
        }
    }
}

impl<O: Out> Product<'_, O> {
    /// Goes over `b` in strips of `V` vectors, some at once, each packed once and met by every row of `a`.
    #[inline(always)]
    fn strips<S: Simd, const V: usize>(mut self, simd: S) {
        let (whole, width) = (self.a.cols, V * S::F32_LANES);
        let longest = whole.clamp(1, CHAIN);
        let at_once = (PACKED / (longest * width)).clamp(1, self.columns.len().div_ceil(width));
        let block = (BLOCK / longest).max(8) & !7;
        let mut packed = BUFFER.take();
        packed.resize(packed.len().max(at_once * longest * width), 0.0);
        let store = self.store;
        for start in self.columns.clone().step_by(at_once * width) {
            let end = self.columns.end.min(start + at_once * width);
            self.store = store;
            // Without any terms there is still an output.
            for first in (0..whole.max(1)).step_by(CHAIN) {
                let terms = whole.min(first + CHAIN) - first;
                let packed = &mut packed[..at_once * terms * width];
                for (at, start) in (start..end).step_by(width).enumerate() {
                    let columns = start..end.min(start + width);
                    let strip = &mut packed[at * terms * width..][..terms * width];
                    self.b.pack(strip, columns, width, first);
                }
                for i in (0..self.a.rows).step_by(block) {
                    let rows = i..self.a.rows.min(i + block);
                    for (at, start) in (start..end).step_by(width).enumerate() {
                        let strip = &packed[at * terms * width..][..terms * width];
                        let (strip, _) = S::as_simd_f32s(strip);
                        let (strip, _) = strip.as_chunks::<V>();
                        self.rows(simd, rows.clone(), start, strip, first);
                    }
                }
                self.store = Store::Add;
            }
        }
        BUFFER.set(packed);
    }

    /// Some rows times one strip, whose first row belongs to `first`.
    #[inline(always)]
    fn rows<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        rows: Range<usize>,
        start: usize,
        strip: &[[S::f32s; V]],
        first: usize,
    ) {
        let (m, mut i) = (rows.end, rows.start);
        // As many sums as hide a multiply-add's latency, and as fit into the registers: 16 lanes come with 32,
        // 8 or fewer with 16.
        while (S::F32_LANES >= 16 || V == 1) && i + 8 <= m {
            self.tile::<S, 8, V>(simd, [i, first], start, strip);
            i += 8;
        }
        // Six, unless the rest would go row by row.
        while S::F32_LANES == 8 && V == 2 && i + 6 <= m && !matches!(m - i, 8 | 9) {
            self.tile::<S, 6, V>(simd, [i, first], start, strip);
            i += 6;
        }
        while i + 4 <= m {
            self.tile::<S, 4, V>(simd, [i, first], start, strip);
            i += 4;
        }
        while i < m {
            self.tile::<S, 1, V>(simd, [i, first], start, strip);
            i += 1;
        }
    }

    /// Rows `i..i + M` times one strip, from `a`'s column `first`.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const V: usize>(
        &mut self,
        simd: S,
        [i, first]: [usize; 2],
        start: usize,
        strip: &[[S::f32s; V]],
    ) {
        let (a, k) = (self.a, strip.len());
        let mut sums = [[simd.splat_f32s(0.0); V]; M];
        if a.col == 1 {
            let rows: [&[f32]; M] =
                std::array::from_fn(|r| &a.data[(i + r) * a.row + first..][..k]);
            for p in 0..k {
                for (sums, row) in sums.iter_mut().zip(rows) {
                    let x = simd.splat_f32s(row[p]);
                    for (sum, &y) in sums.iter_mut().zip(&strip[p]) {
                        *sum = simd.mul_add_f32s(x, y, *sum);
                    }
                }
            }
        } else {
            // A transpose: its columns lie in one piece.
            for (p, ys) in strip.iter().enumerate() {
                let column: &[f32] = &a.data[(first + p) * a.col + i..][..M];
                for (sums, &x) in sums.iter_mut().zip(column) {
                    let x = simd.splat_f32s(x);
                    for (sum, &y) in sums.iter_mut().zip(ys) {
                        *sum = simd.mul_add_f32s(x, y, *sum);
                    }
                }
            }
        }
        let scale = simd.splat_f32s(self.scale);
        for (r, sums) in sums.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                let j = start + v * S::F32_LANES;
                if j >= self.columns.end {
                    break;
                }
                let width = S::F32_LANES.min(self.columns.end - j);
                let out = self.out.at(i + r, j - self.columns.start, width);
                let mut value = simd.mul_f32s(scale, sum);
                let add = self.store == Store::Add;
                // A partial load or store is a call.
                if let ([whole], _) = S::as_mut_simd_f32s(out) {
                    *whole = if add { simd.add_f32s(*whole, value) } else { value };
                    continue;
                }
                if add {
                    value = simd.add_f32s(simd.partial_load_f32s(out), value);
                }
                simd.partial_store_f32s(out, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use gossamer_protocol::rng::Stream;

    use super::*;
    use crate::ops::matrix::{Packed, Storage};

    /// A stored matrix, both ways round: the bits of the product with its numbers as `f32`.
    #[test]
    fn a_stored_factor_is_its_numbers() {
        let mut rng = Stream::new(3, "product", &[]);
        for (m, rows, cols) in [(1, 1, 1), (5, 70, 33), (9, 37, 150), (3, 2 * CHAIN + 3, 34)] {
            let weights = random(&mut rng, rows * cols);
            for storage in Storage::ALL {
                let mut packed = Packed::new(storage, rows, cols);
                let mut floats = vec![0.0; rows * cols];
                for (at, row) in weights.chunks_exact(cols).enumerate() {
                    packed.set(at, row).expect("within range");
                    packed.matrix().row(&mut floats[at * cols..][..cols], at);
                }
                let (stored, view) =
                    (Factor::stored(packed.matrix()), View::new(&floats, rows, cols));
                for (stored, view) in [(stored, view), (stored.t(), view.t())] {
                    let a = random(&mut rng, m * view.rows);
                    let a = View::new(&a, m, view.rows);
                    let (mut got, mut want) = (vec![0.0; m * view.cols], vec![0.0; m * view.cols]);
                    product(&mut got, view.cols, a, stored, 0.5, Store::Set);
                    product(&mut want, view.cols, a, view, 0.5, Store::Set);
                    assert_eq!(got, want, "{storage} {m} {rows} {cols}");
                }
            }
        }
    }

    fn random(rng: &mut Stream, len: usize) -> Vec<f32> {
        (0..len).map(|_| rng.normal() as f32).collect()
    }

    /// The definition, term by term, in the promised order.
    fn plain(out: &mut [f32], stride: usize, a: View<'_>, b: View<'_>, scale: f32, store: Store) {
        for i in 0..a.rows {
            for j in 0..b.cols {
                let terms: Vec<usize> = (0..a.cols).collect();
                let sums = terms.chunks(CHAIN).map(|chain| {
                    chain.iter().fold(0.0_f32, |sum, p| {
                        a.data[i * a.row + p * a.col].mul_add(b.data[p * b.row + j * b.col], sum)
                    })
                });
                let out = &mut out[i * stride + j];
                let before = if store == Store::Add { *out } else { 0.0 };
                *out = sums.fold(before, |out, sum| out + scale * sum);
            }
        }
    }

    /// Every shape, both orientations: the definition's exact bits.
    #[test]
    fn bits_are_those_of_the_definition() {
        let mut rng = Stream::new(1, "product", &[]);
        let odd = [(1, 1, 1), (5, 3, 7), (13, 64, 33), (31, 17, 172), (9, 2 * CHAIN + 3, 34)];
        for (m, k, n) in odd.into_iter().chain([(8, 8, 16), (21, 9, 8), (23, 6, 5)]) {
            let a = random(&mut rng, m * k);
            let b = random(&mut rng, k * n);
            let views_a = [View::new(&a, m, k), View::new(&a, k, m).t()];
            let views_b = [View::new(&b, k, n), View::new(&b, n, k).t()];
            for a in views_a {
                for b in views_b {
                    for store in [Store::Set, Store::Add] {
                        let stride = n + 2;
                        let mut got = random(&mut rng, m * stride);
                        let mut want = got.clone();
                        product(&mut got, stride, a, b, 0.5, store);
                        plain(&mut want, stride, a, b, 0.5, store);
                        assert_eq!(got, want, "{m} {k} {n} {store:?}");
                    }
                }
            }
        }
    }

    /// Columns or, of few columns, rows on several threads: the same bits, with gaps between rows and a last
    /// part that is short.
    #[test]
    fn a_team_has_the_same_bits() {
        for (m, k, n) in [(101, 150, 210), (900, 200, 30), (1, 1500, 2100)] {
            team_of(m, k, n);
        }
    }

    fn team_of(m: usize, k: usize, n: usize) {
        let mut rng = Stream::new(2, "product", &[]);
        let (a, b) = (random(&mut rng, m * k), random(&mut rng, k * n));
        let before = random(&mut rng, (m - 1) * (n + 3) + n);
        for a in [View::new(&a, m, k), View::new(&a, k, m).t()] {
            let run = || {
                let mut out = before.clone();
                product(&mut out, n + 3, a, View::new(&b, n, k).t(), 0.5, Store::Add);
                out
            };
            for threads in [2, 5] {
                let team = team::Team::new(threads.try_into().expect("not 0")).expect("threads");
                assert!(team.run(|| team::parts(2 * m * k * n)) == threads, "too small to split");
                assert_eq!(team.run(run), run());
            }
        }
    }
}
