//! The factors of each adapted weight, found in the flat vector.

use std::ops::Range;

use super::{Layout, Part};

/// Each LoRA pair's places in the flat vector: rank, A (rows of it are rank components) and B (columns).
///
/// Where A is frozen it is not in the layout, and its range is empty.
#[must_use]
pub fn pairs(layout: &Layout) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = Vec::new();
    let mut before: Option<(&str, Range<usize>, [usize; 2])> = None;
    let mut last = "";
    let stem = |name: &str| name.rsplit_once('.').map(|(stem, _)| stem.to_owned());
    for (tensor, range) in layout.tensors() {
        match tensor.part {
            Part::LoraA => before = Some((&tensor.name, range, tensor.shape)),
            Part::LoraB => {
                let a = before.take().filter(|(name, ..)| stem(name) == stem(&tensor.name));
                let (a, d_in) = a.map_or((0..0, 0), |(_, range, shape)| (range, shape[1]));
                pairs.push(Pair {
                    rank: tensor.shape[1],
                    a,
                    d_in,
                    b: range,
                    d_out: tensor.shape[0],
                    core: 0..0,
                });
                last = &tensor.name;
            }
            Part::LoraR => {
                let of = pairs.last_mut().filter(|_| stem(last) == stem(&tensor.name));
                of.into_iter().for_each(|pair| pair.core = range.clone());
            }
            Part::Head | Part::Weight | Part::Control => {}
        }
    }
    pairs
}

/// One adapted matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Rows of A, columns of B.
    pub rank: usize,
    /// A, `[rank, d_in]`.
    pub a: Range<usize>,
    /// Columns of A; 0 where it is frozen.
    pub d_in: usize,
    /// B, `[d_out, rank]`.
    pub b: Range<usize>,
    /// Rows of B.
    pub d_out: usize,
    /// R between them, `[rank, rank]`; empty where there is none.
    pub core: Range<usize>,
}

impl Pair {
    /// `B R`, `[d_out, rank]`; B where there is no core.
    #[must_use]
    pub fn b_times_core(&self, flat: &[f32]) -> Vec<f32> {
        let (b, core) = (&flat[self.b.clone()], &flat[self.core.clone()]);
        if core.is_empty() {
            return b.to_vec();
        }
        let mut product = vec![0.0; b.len()];
        for (row, b) in product.chunks_mut(self.rank).zip(b.chunks(self.rank)) {
            for (b, core) in b.iter().zip(core.chunks(self.rank)) {
                row.iter_mut().zip(core).for_each(|(sum, core)| *sum += b * core);
            }
        }
        product
    }

    /// Euclidean norm of A's row for each rank component; 1 where A is frozen.
    pub(crate) fn norms_a(&self, flat: &[f32]) -> Vec<f32> {
        if self.a.is_empty() {
            return vec![1.0; self.rank];
        }
        flat[self.a.clone()].chunks(self.d_in).map(norm).collect()
    }

    /// Euclidean norm of B's column for each rank component.
    pub(crate) fn norms_b(&self, flat: &[f32]) -> Vec<f32> {
        let b = &flat[self.b.clone()];
        let column = |v: usize| (0..self.d_out).map(move |u| b[u * self.rank + v]);
        (0..self.rank).map(|v| column(v).map(|x| x * x).sum::<f32>().sqrt()).collect()
    }
}

fn norm(values: &[f32]) -> f32 {
    values.iter().map(|x| x * x).sum::<f32>().sqrt()
}
