//! A Llama decoder as candle comes: its own differentiable operations and nothing of ours. Its weights are drawn:
//! a step takes as long whatever they are.

use std::collections::HashMap;

use candle_core::{D, Device, Result, Tensor, Var};
use gossamer_client::model::LlamaConfig;

/// A model with LoRA of rank 8 on some of its linears.
pub(crate) struct Llama {
    config: LlamaConfig,
    tensors: HashMap<String, Tensor>,
    /// A and B by the linear's name.
    branches: HashMap<String, [Var; 2]>,
}

impl Llama {
    /// Of `config`'s sizes.
    pub(crate) fn new(config: &LlamaConfig, targets: &[&str]) -> Result<Self> {
        let device = Device::Cpu;
        let LlamaConfig { hidden, intermediate, heads, kv_heads, head_dim, vocab, .. } = *config;
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        let mut model =
            Self { config: config.clone(), tensors: HashMap::new(), branches: HashMap::new() };
        let mut put = |name: String, shape: &[usize]| {
            let tensor = Tensor::randn(0f32, 0.02, shape, &device)?;
            model.tensors.insert(format!("{name}.weight"), tensor);
            if let &[d_out, d_in] = shape
                && targets.iter().any(|target| name.ends_with(target))
            {
                let a = Var::randn(0f32, 0.02, (8, d_in), &device)?;
                let b = Var::randn(0f32, 0.02, (d_out, 8), &device)?;
                model.branches.insert(name, [a, b]);
            }
            Ok::<_, candle_core::Error>(())
        };
        put("model.embed_tokens".to_owned(), &[vocab, hidden])?;
        put("model.norm".to_owned(), &[hidden])?;
        for layer in 0..config.layers {
            for (name, shape) in [
                ("input_layernorm", &[hidden][..]),
                ("self_attn.q_proj", &[q, hidden]),
                ("self_attn.k_proj", &[kv, hidden]),
                ("self_attn.v_proj", &[kv, hidden]),
                ("self_attn.o_proj", &[hidden, q]),
                ("post_attention_layernorm", &[hidden]),
                ("mlp.gate_proj", &[intermediate, hidden]),
                ("mlp.up_proj", &[intermediate, hidden]),
                ("mlp.down_proj", &[hidden, intermediate]),
            ] {
                put(format!("model.layers.{layer}.{name}"), shape)?;
            }
        }
        Ok(model)
    }

    /// Trained parameters.
    pub(crate) fn trained(&self) -> usize {
        self.branches.values().flatten().map(|var| var.elem_count()).sum()
    }

    /// Forward and backward of `[rows, cols]` tokens, each the target of the one before itself.
    pub(crate) fn step(&self, tokens: &[u32], targets: &[u32], rows: usize) -> Result<()> {
        let cols = tokens.len() / rows;
        let ids = Tensor::from_slice(tokens, tokens.len(), &Device::Cpu)?;
        let embed = self.get("model.embed_tokens.weight")?;
        let mut x = embed.index_select(&ids, 0)?;
        let LlamaConfig { layers, heads, kv_heads, head_dim: d, .. } = self.config;
        let (cos, sin) = self.angles(cols, d)?;
        let mask = (0..cols * cols).map(|at| match at % cols > at / cols {
            true => f32::NEG_INFINITY,
            false => 0.0,
        });
        let mask = Tensor::from_iter(mask, &Device::Cpu)?.reshape((cols, cols))?;
        for layer in 0..layers {
            let path = |name: &str| format!("model.layers.{layer}.{name}");
            let u = self.norm(&x, &path("input_layernorm.weight"))?;
            let split = |name: &str, n: usize| {
                let y = self.linear(&path(name), &u)?;
                y.reshape((rows, cols, n, d))?.transpose(1, 2)?.contiguous()
            };
            let q =
                candle_nn::rotary_emb::rope_slow(&split("self_attn.q_proj", heads)?, &cos, &sin)?;
            let k = split("self_attn.k_proj", kv_heads)?;
            let k = repeat(&candle_nn::rotary_emb::rope_slow(&k, &cos, &sin)?, heads)?;
            let v = repeat(&split("self_attn.v_proj", kv_heads)?, heads)?;
            let scores = (q.matmul(&k.t()?)? / (d as f64).sqrt())?.broadcast_add(&mask)?;
            let y = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
            let y = y.transpose(1, 2)?.contiguous()?.reshape((rows * cols, heads * d))?;
            x = (x + self.linear(&path("self_attn.o_proj"), &y)?)?;
            let w = self.norm(&x, &path("post_attention_layernorm.weight"))?;
            let gate = self.linear(&path("mlp.gate_proj"), &w)?.silu()?;
            let inner = (gate * self.linear(&path("mlp.up_proj"), &w)?)?;
            x = (x + self.linear(&path("mlp.down_proj"), &inner)?)?;
        }
        let logits = self.norm(&x, "model.norm.weight")?.matmul(&embed.t()?)?;
        let targets = Tensor::from_slice(targets, targets.len(), &Device::Cpu)?;
        candle_nn::loss::cross_entropy(&logits, &targets)?.backward()?;
        Ok(())
    }

    fn get(&self, name: &str) -> Result<&Tensor> {
        let found = self.tensors.get(name);
        found.ok_or_else(|| candle_core::Error::msg(format!("no tensor {name}")))
    }

    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let y = x.matmul(&self.get(&format!("{name}.weight"))?.t()?)?;
        let Some([a, b]) = self.branches.get(name) else { return Ok(y) };
        y + (x.matmul(&a.t()?)?.matmul(&b.t()?)? * 2.0)?
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        candle_nn::ops::rms_norm_slow(x, self.get(name)?, self.config.norm_eps as f32)
    }

    fn angles(&self, cols: usize, d: usize) -> Result<(Tensor, Tensor)> {
        let angle = |at: usize| {
            let (t, i) = (at / (d / 2), at % (d / 2));
            t as f32 / (self.config.rope_theta as f32).powf(2.0 * i as f32 / d as f32)
        };
        let angles: Vec<f32> = (0..cols * d / 2).map(angle).collect();
        let angles = Tensor::from_vec(angles, (cols, d / 2), &Device::Cpu)?;
        Ok((angles.cos()?, angles.sin()?))
    }
}

/// Each key head for all query heads of its group.
fn repeat(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (rows, kv_heads, cols, d) = x.dims4()?;
    let x = x.unsqueeze(2)?.expand((rows, kv_heads, heads / kv_heads, cols, d))?;
    x.reshape((rows, heads, cols, d))
}
