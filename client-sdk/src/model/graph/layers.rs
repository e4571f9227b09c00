//! Layers that families share, from candle's differentiable operations. Formulas: the files of [`crate::ops`].

use std::ops::Range;

use candle_core::{D, Result, Tensor};

use super::Pass;
use crate::data::IGNORE;

impl Pass<'_> {
    /// `w x / sqrt(mean(x^2) + eps)`, row by row.
    pub(crate) fn rms_norm(&self, x: &Tensor, weight: &Range<usize>, eps: f64) -> Result<Tensor> {
        let root = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
        x.broadcast_div(&root)?.broadcast_mul(self.at(weight)?)
    }

    /// `w (x - mean(x)) / sqrt(var(x) + eps) + b`, row by row.
    pub(crate) fn layer_norm(
        &self,
        x: &Tensor,
        [weight, bias]: &[Range<usize>; 2],
        eps: f64,
    ) -> Result<Tensor> {
        let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let root = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
        let u = x.broadcast_div(&root)?;
        u.broadcast_mul(self.at(weight)?)?.broadcast_add(self.at(bias)?)
    }

    /// `[rows * cols, heads * d]` as `[rows, heads, cols, d]`.
    pub(crate) fn heads(&self, x: &Tensor, heads: usize) -> Result<Tensor> {
        let d = x.dim(D::Minus1)? / heads;
        x.reshape((self.batch.rows, self.batch.cols, heads, d))?.transpose(1, 2)?.contiguous()
    }

    /// 0 where a token meets another, else minus infinity: `[1, 1, cols, cols]` where it meets those up to
    /// itself, `[rows, 1, 1, cols]` where it meets all of its row that is not padding.
    pub(crate) fn mask(&self, causal: bool) -> Result<Tensor> {
        let (rows, cols) = (self.batch.rows, self.batch.cols);
        let see = |seen| if seen { 0.0 } else { f32::NEG_INFINITY };
        if causal {
            let mask = (0..cols * cols).map(|at| see(at % cols <= at / cols));
            return self.constant(mask.collect(), &[1, 1, cols, cols]);
        }
        let mask = (0..rows * cols).map(|at| see(at % cols < self.length(at / cols)));
        self.constant(mask.collect(), &[rows, 1, 1, cols])
    }

    /// Tokens of a row that are not padding.
    pub(crate) fn length(&self, row: usize) -> usize {
        self.batch.lengths.get(row).copied().unwrap_or(self.batch.cols)
    }

    /// Attention of `q`, `[rows, heads, cols, d]`, over `k` and `v`, of as many heads or a divisor, as
    /// `[rows * cols, heads * d]`.
    pub(crate) fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        mask: &Tensor,
    ) -> Result<Tensor> {
        let (rows, heads, cols, d) = q.dims4()?;
        let (k, v) = (repeat(k, heads)?, repeat(v, heads)?);
        let scores = (q.matmul(&k.t()?)? / (d as f64).sqrt())?;
        let p = candle_nn::ops::softmax(&scores.broadcast_add(mask)?, D::Minus1)?;
        p.matmul(&v)?.transpose(1, 2)?.contiguous()?.reshape((rows * cols, heads * d))
    }
}

/// Each key head for all query heads of its group.
fn repeat(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (rows, kv_heads, cols, d) = x.dims4()?;
    if heads == kv_heads {
        return Ok(x.clone());
    }
    x.unsqueeze(2)?
        .expand((rows, kv_heads, heads / kv_heads, cols, d))?
        .reshape((rows, heads, cols, d))
}

/// The sum of `-log p(target)` over the targets that are not [`IGNORE`], of which there is one; a scalar.
pub(crate) fn nats(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let kept: Vec<u32> =
        (0..targets.len() as u32).filter(|&i| targets[i as usize] != IGNORE).collect();
    let targets: Vec<u32> = targets.iter().copied().filter(|&t| t != IGNORE).collect();
    let n = kept.len();
    let kept = Tensor::from_vec(kept, n, logits.device())?;
    let targets = Tensor::from_vec(targets, (n, 1), logits.device())?;
    let log_p = candle_nn::ops::log_softmax(&logits.index_select(&kept, 0)?, D::Minus1)?;
    log_p.gather(&targets, 1)?.sum_all()?.neg()
}
