//! Where each of a model's tensors lies in one flat vector, and safetensors in and out of it.

use std::ops::Range;

use gossamer_protocol::layout::BaseLinear;
use safetensors::{Dtype, SafeTensors};

use super::{LlamaConfig, ModelError};

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

/// A linear's places.
#[derive(Clone, Debug)]
pub(crate) struct LinearMap {
    pub(crate) d_in: usize,
    pub(crate) d_out: usize,
    pub(crate) weight: Range<usize>,
    pub(crate) bias: Option<Range<usize>>,
}

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
    /// Every tensor: its name, shape and place, in order.
    pub(crate) tensors: Vec<Tensor>,
}

/// One stored tensor.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) place: Range<usize>,
}

impl WeightMap {
    /// Lays out the tensors `config` calls for.
    pub(crate) fn new(config: &LlamaConfig) -> Self {
        let mut tensors: Vec<Tensor> = Vec::new();
        let mut put = |name: String, shape: &[usize]| {
            let start = tensors.last().map_or(0, |last| last.place.end);
            let place = start..start + shape.iter().product::<usize>();
            tensors.push(Tensor { name, shape: shape.to_vec(), place: place.clone() });
            place
        };
        let (d, ff) = (config.hidden, config.intermediate);
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let sizes = [(d, q), (d, kv), (d, kv), (q, d), (d, ff), (d, ff), (ff, d)];
        let embed = put("model.embed_tokens.weight".into(), &[config.vocab, d]);
        let layers = (0..config.layers)
            .map(|layer| {
                let path = format!("model.layers.{layer}");
                LayerMap {
                    norm: put(format!("{path}.input_layernorm.weight"), &[d]),
                    linears: std::array::from_fn(|i| {
                        let (d_in, d_out) = sizes[i];
                        let path = format!("{path}.{}", LINEARS[i]);
                        let biased = config.attention_bias && i < 4;
                        LinearMap {
                            d_in,
                            d_out,
                            weight: put(format!("{path}.weight"), &[d_out, d_in]),
                            bias: biased.then(|| put(format!("{path}.bias"), &[d_out])),
                        }
                    }),
                    mlp_norm: put(format!("{path}.post_attention_layernorm.weight"), &[d]),
                }
            })
            .collect();
        let norm = put("model.norm.weight".into(), &[d]);
        let head = match config.tied {
            true => embed.clone(),
            false => put("lm_head.weight".into(), &[config.vocab, d]),
        };
        Self { embed, layers, norm, head, tensors }
    }

    /// Length of the flat vector.
    pub(crate) fn n(&self) -> usize {
        self.tensors.last().map_or(0, |last| last.place.end)
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

    /// Reads every tensor from a safetensors file; the file may hold others beside.
    pub(crate) fn read(&self, bytes: &[u8]) -> Result<Vec<f32>, ModelError> {
        let file =
            SafeTensors::deserialize(bytes).map_err(|e| ModelError::Weights(e.to_string()))?;
        // By what the file has, not by what the configuration claims.
        let mut flat = Vec::new();
        for tensor in &self.tensors {
            let name = || tensor.name.clone();
            let view = file.tensor(&tensor.name).map_err(|_| ModelError::Missing(name()))?;
            if view.shape() != tensor.shape {
                let (expected, found) = (tensor.shape.clone(), view.shape().to_vec());
                return Err(ModelError::Shape { name: name(), expected, found });
            }
            let data = view.data();
            match view.dtype() {
                Dtype::F32 => {
                    flat.extend(data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)))
                }
                Dtype::F16 => {
                    let wide = |&b: &[u8; 2]| half::f16::from_le_bytes(b).to_f32();
                    flat.extend(data.as_chunks().0.iter().map(wide));
                }
                Dtype::BF16 => {
                    let wide = |&b: &[u8; 2]| half::bf16::from_le_bytes(b).to_f32();
                    flat.extend(data.as_chunks().0.iter().map(wide));
                }
                other => {
                    return Err(ModelError::Dtype { name: name(), found: format!("{other:?}") });
                }
            }
        }
        if let Some(at) = flat.iter().position(|x| !x.is_finite()) {
            let tensor = self.tensors.iter().find(|t| t.place.contains(&at));
            return Err(ModelError::NonFinite(tensor.map_or_else(String::new, |t| t.name.clone())));
        }
        Ok(flat)
    }

    /// The safetensors file of `flat`, in `f16`.
    pub(crate) fn write_f16(&self, flat: &[f32]) -> Result<Vec<u8>, ModelError> {
        let narrow = |x: &f32| half::f16::from_f32(*x).to_le_bytes();
        let bytes: Vec<Vec<u8>> = self
            .tensors
            .iter()
            .map(|tensor| flat[tensor.place.clone()].iter().flat_map(narrow).collect())
            .collect();
        let mut views = Vec::with_capacity(bytes.len());
        for (tensor, bytes) in self.tensors.iter().zip(&bytes) {
            let view =
                safetensors::tensor::TensorView::new(Dtype::F16, tensor.shape.clone(), bytes)
                    .map_err(|e| ModelError::Weights(e.to_string()))?;
            views.push((tensor.name.as_str(), view));
        }
        safetensors::serialize(views, None).map_err(|e| ModelError::Weights(e.to_string()))
    }
}
