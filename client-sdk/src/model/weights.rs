//! Where each of a Llama-family model's tensors lies in its flat vector.

use std::ops::Range;

use super::LlamaConfig;
use super::tensors::{LinearMap, Tensors};
use gossamer_protocol::layout::BaseLinear;

/// A layer's linears, in the order of [`LayerMap::linears`].
pub(crate) const LINEARS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// A layer's places.
#[derive(Clone, Debug)]
pub(crate) struct LayerMap {
    pub(crate) norm: Range<usize>,
    pub(crate) linears: [LinearMap; 7],
    pub(crate) mlp_norm: Range<usize>,
}

/// A model's places.
#[derive(Clone, Debug)]
pub(crate) struct WeightMap {
    pub(crate) embed: Range<usize>,
    pub(crate) layers: Vec<LayerMap>,
    pub(crate) norm: Range<usize>,
    /// The embedding's own place where the head is tied.
    pub(crate) head: Range<usize>,
    pub(crate) tensors: Tensors,
}

impl WeightMap {
    /// Lays out the tensors `config` calls for.
    pub(crate) fn new(config: &LlamaConfig) -> Self {
        let mut tensors = Tensors::default();
        let (d, ff) = (config.hidden, config.intermediate);
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let sizes = [[d, q], [d, kv], [d, kv], [q, d], [d, ff], [d, ff], [ff, d]];
        let embed = tensors.put("model.embed_tokens.weight".into(), &[config.vocab, d]);
        let layers = (0..config.layers)
            .map(|layer| {
                let path = format!("model.layers.{layer}");
                LayerMap {
                    norm: tensors.put(format!("{path}.input_layernorm.weight"), &[d]),
                    linears: std::array::from_fn(|i| {
                        let path = format!("{path}.{}", LINEARS[i]);
                        tensors.put_linear(&path, sizes[i], config.attention_bias && i < 4)
                    }),
                    mlp_norm: tensors.put(format!("{path}.post_attention_layernorm.weight"), &[d]),
                }
            })
            .collect();
        let norm = tensors.put("model.norm.weight".into(), &[d]);
        let head = match config.tied {
            true => embed.clone(),
            false => tensors.put("lm_head.weight".into(), &[config.vocab, d]),
        };
        Self { embed, layers, norm, head, tensors }
    }

    /// What LoRA may adapt, layer by layer.
    pub(crate) fn linears(&self) -> Vec<BaseLinear> {
        let layer = |(at, layer): (usize, &LayerMap)| {
            let linear = |(linear, name): (&LinearMap, &str)| BaseLinear {
                name: format!("model.layers.{at}.{name}"),
                d_in: linear.d_in,
                d_out: linear.d_out,
            };
            layer.linears.iter().zip(LINEARS).map(linear).collect::<Vec<_>>()
        };
        self.layers.iter().enumerate().flat_map(layer).collect()
    }
}
