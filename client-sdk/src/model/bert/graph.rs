//! BERT's layers as a graph of candle's operations.

use candle_core::{Result, Tensor};

use super::{BertConfig, BertMap, INNER, K, LINEARS, O, OUTER, Q, V};
use crate::model::graph::Pass;

/// `[rows, hidden]`.
pub(crate) fn features(config: &BertConfig, map: &BertMap, pass: &mut Pass<'_>) -> Result<Tensor> {
    let (heads, eps) = (config.heads, config.norm_eps);
    let (rows, cols) = (pass.batch.rows, pass.batch.cols);
    let mask = pass.mask(false)?;
    let positions: Vec<u32> = (0..rows * cols).map(|at| (at % cols) as u32).collect();
    let words = pass.rows(&map.words, &pass.batch.inputs)?;
    let placed = (words + pass.rows(&map.positions, &positions)?)?;
    let types = pass.rows(&map.types, &vec![0; rows * cols])?;
    let mut x = pass.layer_norm(&(placed + types)?, &map.norm, eps)?;
    for (at, [attention_norm, norm]) in map.norms.iter().enumerate() {
        let first = at * LINEARS.len();
        let [q, k, v] = [Q, K, V].map(|i| {
            let y = pass.linear(first + i, &x)?;
            pass.heads(&y, heads)
        });
        let attended = pass.attention(&q?, &k?, &v?, &mask)?;
        let middle = (&x + pass.linear(first + O, &attended)?)?;
        let normed = pass.layer_norm(&middle, attention_norm, eps)?;
        let active = pass.linear(first + INNER, &normed)?.gelu_erf()?;
        let sum = (&normed + pass.linear(first + OUTER, &active)?)?;
        x = pass.layer_norm(&sum, norm, eps)?;
    }
    // The mean over each row's real tokens.
    let shares = (0..rows * cols).map(|at| {
        let (length, at) = (pass.length(at / cols), at % cols);
        if at < length { 1.0 / length as f32 } else { 0.0 }
    });
    let shares = pass.constant(shares.collect(), &[rows, cols, 1])?;
    x.reshape((rows, cols, config.hidden))?.broadcast_mul(&shares)?.sum(1)
}
