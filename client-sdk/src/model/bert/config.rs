//! A BERT-family model's sizes, from Hugging Face's `config.json`.

use serde::Deserialize;

use crate::model::ModelError;
use crate::model::config::{check_positive, check_sizes, parse, unsupported};

/// Sizes and constants of the encoder; every size is at least 1 and they fit together.
#[derive(Clone, Debug, PartialEq)]
pub struct BertConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the feed-forward layer.
    pub intermediate: usize,
    /// Encoder layers.
    pub layers: usize,
    /// Heads; divides `hidden`.
    pub heads: usize,
    /// Rows of the word embedding.
    pub vocab: usize,
    /// Rows of the position embedding: the longest sequence.
    pub context: usize,
    /// Rows of the token type embedding; all tokens are of type 0.
    pub types: usize,
    /// LayerNorm's epsilon.
    pub norm_eps: f64,
    /// The token behind a sequence shorter than the batch is wide; nothing is computed from it.
    pub pad: u32,
    /// Whether the file is of a bare encoder, or has it as the module `bert` beside a head, which is
    /// not read.
    pub bare: bool,
}

/// The file's own names.
#[derive(Deserialize)]
struct File {
    architectures: Vec<String>,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    #[serde(default = "norm_eps")]
    layer_norm_eps: f64,
    #[serde(default = "hidden_act")]
    hidden_act: String,
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
    #[serde(default)]
    pad_token_id: Option<u32>,
}

fn norm_eps() -> f64 {
    1e-12
}

fn hidden_act() -> String {
    "gelu".into()
}

impl BertConfig {
    /// The architectures this encoder computes.
    pub(crate) const ARCHITECTURES: [&str; 2] = ["BertModel", "BertForSequenceClassification"];

    /// Parses and checks `config.json`.
    ///
    /// # Errors
    /// [`ModelError::Config`] where it is no such file, [`ModelError::Unsupported`] where it asks for
    /// what this encoder does not compute, [`ModelError::Size`] where sizes do not fit together.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ModelError> {
        let file: File = parse(bytes)?;
        let known = |name: &str| Self::ARCHITECTURES.contains(&name);
        if file.architectures.len() != 1 || !known(&file.architectures[0]) {
            let expected = "BertModel or BertForSequenceClassification";
            return Err(unsupported("architectures", file.architectures.join(", "), expected));
        }
        if file.hidden_act != "gelu" {
            return Err(unsupported("hidden_act", file.hidden_act, "gelu"));
        }
        let positions = file.position_embedding_type.unwrap_or_else(|| "absolute".into());
        if positions != "absolute" {
            return Err(unsupported("position_embedding_type", positions, "absolute"));
        }
        if file.is_decoder {
            return Err(unsupported("is_decoder", "true".into(), "false"));
        }
        let config = Self {
            hidden: file.hidden_size,
            intermediate: file.intermediate_size,
            layers: file.num_hidden_layers,
            heads: file.num_attention_heads,
            vocab: file.vocab_size,
            context: file.max_position_embeddings,
            types: file.type_vocab_size,
            norm_eps: file.layer_norm_eps,
            pad: file.pad_token_id.unwrap_or(0),
            bare: file.architectures[0] == Self::ARCHITECTURES[0],
        };
        config.check()?;
        Ok(config)
    }

    /// Size of a head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    fn check(&self) -> Result<(), ModelError> {
        let sizes = [
            ("hidden_size", self.hidden),
            ("intermediate_size", self.intermediate),
            ("num_attention_heads", self.heads),
            ("vocab_size", self.vocab),
            ("max_position_embeddings", self.context),
            ("type_vocab_size", self.types),
        ];
        check_sizes(("num_hidden_layers", self.layers), &sizes)?;
        if !self.hidden.is_multiple_of(self.heads) {
            let why = "divides hidden_size";
            return Err(ModelError::Size { field: "num_attention_heads", got: self.heads, why });
        }
        check_positive("layer_norm_eps", self.norm_eps)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Small, with no two sizes alike.
    pub(crate) fn tiny() -> serde_json::Value {
        serde_json::json!({
            "architectures": ["BertModel"],
            "hidden_size": 12,
            "intermediate_size": 20,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": 23,
            "max_position_embeddings": 40,
            "type_vocab_size": 2,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "pad_token_id": 0,
        })
    }

    #[test]
    fn sizes_are_read() {
        let config = BertConfig::from_json(tiny().to_string().as_bytes()).expect("sound");
        assert_eq!((config.hidden, config.intermediate, config.layers), (12, 20, 2));
        assert_eq!((config.heads, config.head_dim(), config.vocab), (4, 3, 23));
        assert_eq!((config.context, config.types, config.bare), (40, 2, true));
    }

    #[test]
    fn refuses_by_name() {
        let with = |field: &str, value: serde_json::Value| {
            let mut json = tiny();
            json[field] = value;
            BertConfig::from_json(json.to_string().as_bytes()).expect_err(field).to_string()
        };
        assert!(with("architectures", ["BertForMaskedLM"].into()).contains("BertForMaskedLM"));
        assert!(with("hidden_act", "gelu_new".into()).contains("gelu_new"));
        assert!(with("position_embedding_type", "relative_key".into()).contains("relative_key"));
        assert!(with("is_decoder", true.into()).contains("is_decoder"));
        assert!(with("num_attention_heads", 5.into()).contains("num_attention_heads"));
        assert!(with("num_attention_heads", 0.into()).contains("num_attention_heads"));
        assert!(with("num_hidden_layers", 5_000.into()).contains("num_hidden_layers"));
        assert!(with("vocab_size", (1_u64 << 40).into()).contains("vocab_size"));
        assert!(with("layer_norm_eps", 0.0.into()).contains("layer_norm_eps"));
    }
}
