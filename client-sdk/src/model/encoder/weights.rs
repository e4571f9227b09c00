//! Where each of a BERT-family model's tensors lies in its flat vector.

use std::ops::Range;

use gossamer_protocol::layout::BaseLinear;

use super::BertConfig;
use crate::model::tensors::{LinearMap, Tensors};

/// A layer's linears, in the order of [`LayerMap::linears`]; all have a bias.
pub(crate) const LINEARS: [&str; 6] = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
];

/// A LayerNorm's weight and bias, `[hidden]` each.
pub(crate) type NormMap = [Range<usize>; 2];

/// A layer's places.
#[derive(Clone, Debug)]
pub(crate) struct LayerMap {
    pub(crate) linears: [LinearMap; 6],
    pub(crate) attention_norm: NormMap,
    pub(crate) norm: NormMap,
}

/// A model's places.
#[derive(Clone, Debug)]
pub(crate) struct EncoderMap {
    /// `[vocab, hidden]`.
    pub(crate) words: Range<usize>,
    /// `[context, hidden]`.
    pub(crate) positions: Range<usize>,
    /// `[types, hidden]`.
    pub(crate) types: Range<usize>,
    pub(crate) norm: NormMap,
    pub(crate) layers: Vec<LayerMap>,
    pub(crate) tensors: Tensors,
    prefix: &'static str,
}

impl EncoderMap {
    /// Lays out the tensors `config` calls for.
    pub(crate) fn new(config: &BertConfig) -> Self {
        let prefix = if config.bare { "" } else { "bert." };
        let mut tensors = Tensors::default();
        let (d, ff) = (config.hidden, config.intermediate);
        let norm = |tensors: &mut Tensors, path: String| {
            ["weight", "bias"].map(|part| tensors.put(format!("{path}.LayerNorm.{part}"), &[d]))
        };
        let embeddings = format!("{prefix}embeddings");
        let mut embed = |name: &str, rows| {
            tensors.put(format!("{embeddings}.{name}_embeddings.weight"), &[rows, d])
        };
        let words = embed("word", config.vocab);
        let positions = embed("position", config.context);
        let types = embed("token_type", config.types);
        let embedded = norm(&mut tensors, embeddings);
        let sizes = [[d, d], [d, d], [d, d], [d, d], [d, ff], [ff, d]];
        let layers = (0..config.layers)
            .map(|layer| {
                let path = format!("{prefix}encoder.layer.{layer}");
                LayerMap {
                    linears: std::array::from_fn(|i| {
                        tensors.put_linear(&format!("{path}.{}", LINEARS[i]), sizes[i], true)
                    }),
                    attention_norm: norm(&mut tensors, format!("{path}.attention.output")),
                    norm: norm(&mut tensors, format!("{path}.output")),
                }
            })
            .collect();
        Self { words, positions, types, norm: embedded, layers, tensors, prefix }
    }

    /// What LoRA may adapt, layer by layer.
    pub(crate) fn linears(&self) -> Vec<BaseLinear> {
        let layer = |(at, layer): (usize, &LayerMap)| {
            let linear = |(linear, name): (&LinearMap, &str)| BaseLinear {
                name: format!("{}encoder.layer.{at}.{name}", self.prefix),
                d_in: linear.d_in,
                d_out: linear.d_out,
            };
            layer.linears.iter().zip(LINEARS).map(linear).collect::<Vec<_>>()
        };
        self.layers.iter().enumerate().flat_map(layer).collect()
    }
}
