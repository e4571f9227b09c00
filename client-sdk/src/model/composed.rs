//! The Llama decoder from candle's differentiable primitives: any device, any candle objective, slower.
//!
//! It computes what training computes, without dropout. Tests take its gradients, by candle's own
//! differentiation, as the reference for the hand-written backward pass. candle's fused
//! `rms_norm`, `softmax_last_dim` and `rope` would cut the gradient in silence, so none is used here.

use candle_core::{D, Device, Result, Tensor};

use super::family::Kind;
use super::llama::{LINEARS, LlamaMap};
use super::{BaseModel, LlamaConfig};
use crate::data::{Batch, IGNORE};

/// A low-rank branch: `A`, `[rank, d_in]`, `B`, `[d_out, rank]`, and the scale between.
#[derive(Clone, Debug)]
pub struct Branch {
    /// The down-projection.
    pub a: Tensor,
    /// The up-projection.
    pub b: Tensor,
    /// `alpha / rank`.
    pub scale: f64,
}

/// A base model's tensors on a device.
#[derive(Debug)]
pub struct Composed {
    config: LlamaConfig,
    map: LlamaMap,
    /// In the order of the map.
    tensors: Vec<Tensor>,
}

impl Composed {
    /// Copies the base model's weights to `device`.
    ///
    /// # Errors
    /// candle's, where the device is out of memory or the base is of another family.
    pub fn new(base: &BaseModel, device: &Device) -> Result<Self> {
        let (config, map) = parts(base)?;
        let tensors = map.tensors.iter().map(|tensor| {
            Tensor::from_vec(base.weights().values(tensor), tensor.shape.as_slice(), device)
        });
        let tensors = tensors.collect::<Result<_>>()?;
        Ok(Self { config, map, tensors })
    }

    /// As [`new`](Self::new) with given tensors in place of the base's, for full training.
    ///
    /// # Errors
    /// candle's, where their number differs or the base is of another family.
    pub fn with_tensors(base: &BaseModel, tensors: Vec<Tensor>) -> Result<Self> {
        let (config, map) = parts(base)?;
        let expected = map.tensors.iter().len();
        if tensors.len() != expected {
            candle_core::bail!("{} tensors, not {expected}", tensors.len());
        }
        Ok(Self { config, map, tensors })
    }

    /// The tensors, in the order of the file's places.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Logits `[rows * cols, vocab]`; `branch` gives linear `i`'s LoRA branch, counted as in
    /// [`BaseModel::linears`].
    ///
    /// # Errors
    /// candle's.
    pub fn logits(
        &self,
        batch: &Batch,
        branch: &dyn Fn(usize) -> Option<Branch>,
    ) -> Result<Tensor> {
        let Self { config, map, .. } = self;
        let (rows, cols) = (batch.rows, batch.cols);
        let embed = self.get("model.embed_tokens.weight")?;
        let device = embed.device();
        let inputs = Tensor::from_slice(&batch.inputs, batch.inputs.len(), device)?;
        let rope = config.rope(cols);
        let (cos, sin) = rope.by_position();
        let table = |t: Vec<f32>| Tensor::from_vec(t, (cols, config.head_dim / 2), device);
        let (cos, sin) = (table(cos)?, table(sin)?);
        let mask = (0..cols * cols).map(|at| match at % cols > at / cols {
            true => f32::NEG_INFINITY,
            false => 0.0,
        });
        let mask = Tensor::from_iter(mask, device)?.reshape((cols, cols))?;

        let mut x = embed.index_select(&inputs, 0)?;
        for at in 0..config.layers {
            let path = |name: &str| format!("model.layers.{at}.{name}");
            let linear = |i: usize, x: &Tensor| -> Result<Tensor> {
                let name = path(LINEARS[i]);
                let mut y = x.matmul(&self.get(&format!("{name}.weight"))?.t()?)?;
                if map.tensors.linears()[at * LINEARS.len() + i].bias.is_some() {
                    y = y.broadcast_add(self.get(&format!("{name}.bias"))?)?;
                }
                if let Some(Branch { a, b, scale }) = branch(at * LINEARS.len() + i) {
                    y = (y + (x.matmul(&a.t()?)?.matmul(&b.t()?)? * scale)?)?;
                }
                Ok(y)
            };
            let u = self.norm(&x, &path("input_layernorm.weight"))?;
            let heads = |x: Tensor, heads: usize| {
                x.reshape((rows, cols, heads, config.head_dim))?.transpose(1, 2)?.contiguous()
            };
            let q = turn(&heads(linear(0, &u)?, config.heads)?, &cos, &sin)?;
            let k = turn(&heads(linear(1, &u)?, config.kv_heads)?, &cos, &sin)?;
            let v = heads(linear(2, &u)?, config.kv_heads)?;
            let (k, v) = (repeat(&k, config.heads)?, repeat(&v, config.heads)?);
            let scores = (q.matmul(&k.t()?)? / (config.head_dim as f64).sqrt())?;
            let p = candle_nn::ops::softmax(&scores.broadcast_add(&mask)?, D::Minus1)?;
            let attended = p.matmul(&v)?.transpose(1, 2)?.contiguous()?;
            let attended = attended.reshape((rows * cols, config.heads * config.head_dim))?;
            x = (x + linear(3, &attended)?)?;
            let w = self.norm(&x, &path("post_attention_layernorm.weight"))?;
            let gate = linear(4, &w)?;
            let gate = (&gate / ((gate.neg()?.exp()? + 1.0)?))?;
            x = (x + linear(6, &(gate * linear(5, &w)?)?)?)?;
        }
        let head = if config.tied { embed } else { self.get("lm_head.weight")? };
        self.norm(&x, "model.norm.weight")?.matmul(&head.t()?)
    }

    fn norm(&self, x: &Tensor, weight: &str) -> Result<Tensor> {
        let root = (x.sqr()?.mean_keepdim(D::Minus1)? + self.config.norm_eps)?.sqrt()?;
        x.broadcast_div(&root)?.broadcast_mul(self.get(weight)?)
    }

    fn get(&self, name: &str) -> Result<&Tensor> {
        let at = self.map.tensors.iter().position(|tensor| tensor.name == name);
        match at {
            Some(at) => Ok(&self.tensors[at]),
            None => candle_core::bail!("no tensor {name}"),
        }
    }
}

fn parts(base: &BaseModel) -> Result<(LlamaConfig, LlamaMap)> {
    match base.kind() {
        Kind::Llama(config, map) => Ok((config.clone(), map.clone())),
        _ => candle_core::bail!("the base model is of another family than Llama's"),
    }
}

/// Mean cross-entropy over targets that are not [`IGNORE`]; a scalar.
///
/// # Errors
/// candle's; where no target is left.
pub fn cross_entropy(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let kept: Vec<u32> =
        (0..targets.len() as u32).filter(|&i| targets[i as usize] != IGNORE).collect();
    let targets: Vec<u32> = targets.iter().copied().filter(|&t| t != IGNORE).collect();
    let n = kept.len();
    let kept = Tensor::from_vec(kept, n, logits.device())?;
    let targets = Tensor::from_vec(targets, (n, 1), logits.device())?;
    let log_p = candle_nn::ops::log_softmax(&logits.index_select(&kept, 0)?, D::Minus1)?;
    log_p.gather(&targets, 1)?.mean_all()?.neg()
}

/// `x`: `[rows, heads, cols, d]`, turned by position.
fn turn(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let (low, high) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let first = (low.broadcast_mul(cos)? - high.broadcast_mul(sin)?)?;
    let second = (high.broadcast_mul(cos)? + low.broadcast_mul(sin)?)?;
    Tensor::cat(&[first, second], D::Minus1)
}

/// Each key head for all query heads of its group.
fn repeat(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (rows, kv_heads, cols, d) = x.dims4()?;
    x.unsqueeze(2)?
        .expand((rows, kv_heads, heads / kv_heads, cols, d))?
        .reshape((rows, heads, cols, d))
}
