//! The Llama family's layers as a graph of candle's operations.

use candle_core::{D, Result, Tensor};

use super::{DOWN, GATE, K, LINEARS, LlamaConfig, LlamaMap, O, Q, UP, V};
use crate::model::graph::Pass;

/// `[rows * cols, hidden]`.
pub(crate) fn features(
    config: &LlamaConfig,
    map: &LlamaMap,
    pass: &mut Pass<'_>,
) -> Result<Tensor> {
    let (cols, eps) = (pass.batch.cols, config.norm_eps);
    let (cos, sin) = config.rope(cols).by_position();
    let half = [cols, config.head_dim / 2];
    let (cos, sin) = (pass.constant(cos, &half)?, pass.constant(sin, &half)?);
    let mask = pass.mask(true)?;
    let mut x = pass.rows(&map.embed, &pass.batch.inputs)?;
    for (at, [norm, mlp_norm]) in map.norms.iter().enumerate() {
        let first = at * LINEARS.len();
        let u = pass.rms_norm(&x, norm, eps)?;
        // In the order in which dropout is drawn.
        let [q, k, v] = [Q, K, V].map(|i| pass.linear(first + i, &u));
        let q = turn(&pass.heads(&q?, config.heads)?, &cos, &sin)?;
        let k = turn(&pass.heads(&k?, config.kv_heads)?, &cos, &sin)?;
        let v = pass.heads(&v?, config.kv_heads)?;
        let attended = pass.attention(&q, &k, &v, &mask)?;
        x = (x + pass.linear(first + O, &attended)?)?;
        let w = pass.rms_norm(&x, mlp_norm, eps)?;
        let [gate, up] = [GATE, UP].map(|i| pass.linear(first + i, &w));
        let active = (gate?.silu()? * up?)?;
        x = (x + pass.linear(first + DOWN, &active)?)?;
    }
    pass.rms_norm(&x, &map.norm, eps)
}

/// `x`: `[rows, heads, cols, d]`, turned by position.
fn turn(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let (low, high) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let first = (low.broadcast_mul(cos)? - high.broadcast_mul(sin)?)?;
    let second = (high.broadcast_mul(cos)? + low.broadcast_mul(sin)?)?;
    Tensor::cat(&[first, second], D::Minus1)
}
