//! A Llama-family model's sizes, from Hugging Face's `config.json`.

use serde::Deserialize;

use crate::data::Limits;
use crate::model::ModelError;
use crate::model::config::{MOST, OneOrMore, check_positive, check_sizes, parse, unsupported};
use crate::ops::rope::Rope;

/// Sizes and constants of the decoder; every size is at least 1 and they fit together.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the gated feed-forward layer.
    pub intermediate: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Size of a head; even.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Longest sequence.
    pub context: usize,
    /// RMSNorm's epsilon.
    pub norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Whether q, k, v and o have biases.
    pub attention_bias: bool,
    /// The token before a text, where there is one.
    pub bos: Option<u32>,
    /// The tokens that end a text.
    pub eos: Vec<u32>,
}

/// The file's own names.
#[derive(Deserialize)]
struct File {
    architectures: Vec<String>,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "norm_eps")]
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_parameters: Option<RopeFile>,
    rope_scaling: Option<RopeFile>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default = "hidden_act")]
    hidden_act: String,
    bos_token_id: Option<u32>,
    eos_token_id: Option<OneOrMore>,
}

/// Newer files keep theta here.
#[derive(Deserialize)]
struct RopeFile {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
}

fn norm_eps() -> f64 {
    1e-6
}

fn hidden_act() -> String {
    "silu".into()
}

impl LlamaConfig {
    /// The architecture this decoder computes.
    pub(crate) const ARCHITECTURE: &str = "LlamaForCausalLM";

    /// Parses and checks `config.json`.
    ///
    /// # Errors
    /// [`ModelError::Config`] where it is no such file, [`ModelError::Unsupported`] where it asks for
    /// what this decoder does not compute, [`ModelError::Size`] where sizes do not fit together.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ModelError> {
        let file: File = parse(bytes)?;
        if file.architectures != [Self::ARCHITECTURE] {
            let got = file.architectures.join(", ");
            return Err(unsupported("architectures", got, Self::ARCHITECTURE));
        }
        Self::from_file(file)
    }

    fn from_file(file: File) -> Result<Self, ModelError> {
        if file.hidden_act != "silu" {
            return Err(unsupported("hidden_act", file.hidden_act, "silu"));
        }
        if file.mlp_bias {
            return Err(unsupported("mlp_bias", "true".into(), "false"));
        }
        let ropes = [&file.rope_parameters, &file.rope_scaling];
        for rope in ropes.into_iter().flatten() {
            let kind = rope.rope_type.as_deref().unwrap_or("default");
            if kind != "default" {
                return Err(unsupported("rope_type", kind.into(), "default"));
            }
        }
        let nested = file.rope_parameters.as_ref().and_then(|rope| rope.rope_theta);
        let config = Self {
            hidden: file.hidden_size,
            intermediate: file.intermediate_size,
            layers: file.num_hidden_layers,
            heads: file.num_attention_heads,
            kv_heads: file.num_key_value_heads.unwrap_or(file.num_attention_heads),
            head_dim: file.head_dim.unwrap_or_else(|| {
                file.hidden_size.checked_div(file.num_attention_heads).unwrap_or(0)
            }),
            vocab: file.vocab_size,
            context: file.max_position_embeddings,
            norm_eps: file.rms_norm_eps,
            rope_theta: nested.or(file.rope_theta).unwrap_or(10_000.0),
            tied: file.tie_word_embeddings,
            attention_bias: file.attention_bias,
            bos: file.bos_token_id,
            eos: OneOrMore::list(file.eos_token_id),
        };
        config.check()?;
        Ok(config)
    }

    /// Whether the sizes fit together.
    ///
    /// # Errors
    /// [`ModelError::Size`] at the first that does not.
    pub fn check(&self) -> Result<(), ModelError> {
        let sizes = [
            ("hidden_size", self.hidden),
            ("intermediate_size", self.intermediate),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("vocab_size", self.vocab),
            ("max_position_embeddings", self.context),
        ];
        check_sizes(("num_hidden_layers", self.layers), &sizes)?;
        // Each below the limit, their product may still be beyond any width.
        let width = self.heads * self.head_dim;
        if width > MOST {
            let why = "at most 1,048,576 over all heads";
            return Err(ModelError::Size { field: "head_dim", got: self.head_dim, why });
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let why = "divides num_attention_heads";
            return Err(ModelError::Size { field: "num_key_value_heads", got: self.kv_heads, why });
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(ModelError::Size { field: "head_dim", got: self.head_dim, why: "even" });
        }
        check_positive("rms_norm_eps", self.norm_eps)?;
        check_positive("rope_theta", self.rope_theta)?;
        Ok(())
    }

    /// Whether linear `i` of a layer has a bias.
    pub(super) fn biased(&self, i: usize) -> bool {
        self.attention_bias && i < 4
    }

    /// Angles for positions below `len`.
    pub(crate) fn rope(&self, len: usize) -> Rope {
        Rope::new(self.head_dim, len, self.rope_theta)
    }

    /// What a batch of text must keep within.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits { vocab: self.vocab, context: self.context, classes: None }
    }

    /// As Hugging Face has it.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "architectures": [Self::ARCHITECTURE],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tied,
            "attention_bias": self.attention_bias,
            "mlp_bias": false,
            "bos_token_id": self.bos,
            "eos_token_id": self.eos,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Small, with every feature on.
    pub(crate) fn tiny() -> LlamaConfig {
        LlamaConfig {
            hidden: 12,
            intermediate: 20,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 4,
            vocab: 19,
            context: 80,
            norm_eps: 1e-5,
            rope_theta: 10_000.0,
            tied: false,
            attention_bias: true,
            bos: Some(1),
            eos: vec![2],
        }
    }

    #[test]
    fn json_round_trip() {
        for config in [tiny(), LlamaConfig { tied: true, bos: None, eos: vec![], ..tiny() }] {
            let text = config.to_json().to_string();
            assert_eq!(LlamaConfig::from_json(text.as_bytes()).expect("its own"), config);
        }
    }

    #[test]
    fn refuses_by_name() {
        let with = |field: &str, value: serde_json::Value| {
            let mut json = tiny().to_json();
            json[field] = value;
            LlamaConfig::from_json(json.to_string().as_bytes()).expect_err(field).to_string()
        };
        assert!(with("architectures", ["Qwen2ForCausalLM"].into()).contains("Qwen2ForCausalLM"));
        assert!(with("hidden_act", "gelu".into()).contains("gelu"));
        assert!(with("mlp_bias", true.into()).contains("mlp_bias"));
        let scaled = serde_json::json!({"rope_type": "llama3", "factor": 8.0});
        assert!(with("rope_scaling", scaled).contains("llama3"));
        assert!(with("num_key_value_heads", 3.into()).contains("num_key_value_heads"));
        assert!(with("num_attention_heads", 0.into()).contains("num_attention_heads"));
        assert!(with("head_dim", 5.into()).contains("head_dim"));
        assert!(with("vocab_size", (1_u64 << 40).into()).contains("vocab_size"));
        // 2^20 heads' worth of width each: the weights' number would overflow.
        let wide = LlamaConfig { heads: 1 << 20, kv_heads: 1, head_dim: 1 << 20, ..tiny() };
        let refused = LlamaConfig::from_json(wide.to_json().to_string().as_bytes());
        assert!(matches!(refused, Err(ModelError::Size { field: "head_dim", .. })), "{refused:?}");
        assert!(with("num_hidden_layers", 5_000.into()).contains("num_hidden_layers"));
        assert!(LlamaConfig::from_json(b"{").is_err());
    }
}
