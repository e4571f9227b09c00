//! A GPT-2-family model's sizes, from Hugging Face's `config.json`.

use serde::Deserialize;

use crate::model::ModelError;
use crate::model::config::{MOST, OneOrMore, check_positive, check_sizes, parse, unsupported};

/// Sizes and constants of the decoder; every size is at least 1 and they fit together.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpt2Config {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the feed-forward layer.
    pub intermediate: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Heads; divides `hidden`.
    pub heads: usize,
    /// Rows of the word embedding.
    pub vocab: usize,
    /// Rows of the position embedding: the longest sequence.
    pub context: usize,
    /// LayerNorm's epsilon.
    pub norm_eps: f64,
    /// Whether the head is the word embedding.
    pub tied: bool,
    /// The token before a text, where there is one.
    pub bos: Option<u32>,
    /// The tokens that end a text.
    pub eos: Vec<u32>,
}

/// The file's own names.
#[derive(Deserialize)]
struct File {
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_inner: Option<usize>,
    n_positions: usize,
    vocab_size: usize,
    #[serde(default = "norm_eps")]
    layer_norm_epsilon: f64,
    #[serde(default = "activation")]
    activation_function: String,
    #[serde(default = "yes")]
    scale_attn_weights: bool,
    #[serde(default)]
    scale_attn_by_inverse_layer_idx: bool,
    #[serde(default)]
    add_cross_attention: bool,
    #[serde(default = "yes")]
    tie_word_embeddings: bool,
    bos_token_id: Option<u32>,
    eos_token_id: Option<OneOrMore>,
}

fn norm_eps() -> f64 {
    1e-5
}

fn activation() -> String {
    "gelu_new".into()
}

fn yes() -> bool {
    true
}

impl Gpt2Config {
    /// The architecture this decoder computes.
    pub(crate) const ARCHITECTURE: &str = "GPT2LMHeadModel";

    /// Parses and checks `config.json`.
    ///
    /// # Errors
    /// [`ModelError::Config`] where it is no such file, [`ModelError::Unsupported`] where it asks for
    /// what this decoder does not compute, [`ModelError::Size`] where sizes do not fit together.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ModelError> {
        let file: File = parse(bytes)?;
        // The second is the same formula by another name.
        if !["gelu_new", "gelu_pytorch_tanh"].contains(&file.activation_function.as_str()) {
            let expected = "gelu_new or gelu_pytorch_tanh";
            return Err(unsupported("activation_function", file.activation_function, expected));
        }
        let settings = [
            ("scale_attn_weights", file.scale_attn_weights, true),
            ("scale_attn_by_inverse_layer_idx", file.scale_attn_by_inverse_layer_idx, false),
            ("add_cross_attention", file.add_cross_attention, false),
        ];
        for (field, got, known) in settings {
            if got != known {
                let known = if known { "true" } else { "false" };
                return Err(unsupported(field, got.to_string(), known));
            }
        }
        let config = Self {
            hidden: file.n_embd,
            intermediate: file.n_inner.unwrap_or_else(|| file.n_embd.saturating_mul(4)),
            layers: file.n_layer,
            heads: file.n_head,
            vocab: file.vocab_size,
            context: file.n_positions,
            norm_eps: file.layer_norm_epsilon,
            tied: file.tie_word_embeddings,
            bos: file.bos_token_id,
            eos: OneOrMore::list(file.eos_token_id),
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
            ("n_embd", self.hidden),
            ("n_inner", self.intermediate),
            ("n_head", self.heads),
            ("vocab_size", self.vocab),
            ("n_positions", self.context),
        ];
        check_sizes(("n_layer", self.layers), &sizes)?;
        if self.hidden > MOST / 4 {
            return Err(ModelError::Size {
                field: "n_embd",
                got: self.hidden,
                why: "1 to 262,144",
            });
        }
        if !self.hidden.is_multiple_of(self.heads) {
            return Err(ModelError::Size {
                field: "n_head",
                got: self.heads,
                why: "divides n_embd",
            });
        }
        check_positive("layer_norm_epsilon", self.norm_eps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> serde_json::Value {
        serde_json::json!({
            "architectures": ["GPT2LMHeadModel"], "n_embd": 12, "n_layer": 2, "n_head": 3,
            "n_positions": 40, "vocab_size": 23, "bos_token_id": 1, "eos_token_id": 2,
        })
    }

    #[test]
    fn sizes_are_read() {
        let config = Gpt2Config::from_json(tiny().to_string().as_bytes()).expect("sound");
        assert_eq!((config.hidden, config.intermediate, config.layers), (12, 48, 2));
        assert_eq!((config.heads, config.head_dim(), config.vocab), (3, 4, 23));
        assert_eq!((config.context, config.tied, config.norm_eps), (40, true, 1e-5));
        assert_eq!((config.bos, config.eos), (Some(1), vec![2]));
    }

    #[test]
    fn refuses_by_name() {
        let with = |field: &str, value: serde_json::Value| {
            let mut json = tiny();
            json[field] = value;
            Gpt2Config::from_json(json.to_string().as_bytes()).expect_err(field).to_string()
        };
        assert!(with("activation_function", "relu".into()).contains("relu"));
        assert!(with("scale_attn_weights", false.into()).contains("scale_attn_weights"));
        let field = "scale_attn_by_inverse_layer_idx";
        assert!(with(field, true.into()).contains(field));
        assert!(with("add_cross_attention", true.into()).contains("add_cross_attention"));
        assert!(with("n_head", 5.into()).contains("n_head"));
        assert!(with("n_head", 0.into()).contains("n_head"));
        assert!(with("n_layer", 5_000.into()).contains("n_layer"));
        assert!(with("n_embd", (1_u64 << 40).into()).contains("n_embd"));
        assert!(with("layer_norm_epsilon", 0.0.into()).contains("layer_norm_epsilon"));
    }
}
