//! GPT-2's layers as a graph of candle's operations.

use candle_core::{D, Result, Tensor};

use super::{Gpt2Config, Gpt2Map, INNER, LINEARS, O, OUTER, QKV};
use crate::model::graph::Pass;

/// `[rows * cols, hidden]`.
pub(crate) fn features(config: &Gpt2Config, map: &Gpt2Map, pass: &mut Pass<'_>) -> Result<Tensor> {
    let (d, heads, eps) = (config.hidden, config.heads, config.norm_eps);
    let cols = pass.batch.cols as u32;
    let mask = pass.mask(true)?;
    let positions: Vec<u32> = (0..pass.batch.inputs.len() as u32).map(|at| at % cols).collect();
    let words = pass.rows(&map.words, &pass.batch.inputs)?;
    let mut x = (words + pass.rows(&map.positions, &positions)?)?;
    for (at, [norm, mlp_norm]) in map.norms.iter().enumerate() {
        let first = at * LINEARS.len();
        let u = pass.layer_norm(&x, norm, eps)?;
        let fused = pass.linear(first + QKV, &u)?;
        let part = |i: usize| pass.heads(&fused.narrow(D::Minus1, i * d, d)?.contiguous()?, heads);
        let attended = pass.attention(&part(0)?, &part(1)?, &part(2)?, &mask)?;
        x = (x + pass.linear(first + O, &attended)?)?;
        let w = pass.layer_norm(&x, mlp_norm, eps)?;
        let active = pass.linear(first + INNER, &w)?.gelu()?;
        x = (x + pass.linear(first + OUTER, &active)?)?;
    }
    pass.layer_norm(&x, &map.norm, eps)
}
