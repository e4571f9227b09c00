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
    /// How Llama 3 stretches them.
    pub rope_scaling: Option<Llama3Rope>,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Which linears have biases.
    pub bias: Bias,
    /// The token before a text, where there is one.
    pub bos: Option<u32>,
    /// The tokens that end a text.
    pub eos: Vec<u32>,
}

/// Which of a layer's linears have biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// None.
    None,
    /// q, k and v: Qwen2.
    Qkv,
    /// q, k, v and o: Llama with `attention_bias`.
    Attention,
}

/// Frequencies stretched for a longer context: those whose wave is longer than
/// `original_context / low_frequency` are divided by `factor`, those shorter than
/// `original_context / high_frequency` are kept, and between them it goes linearly.
///
/// Source: transformers' `rope_type: llama3`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3Rope {
    /// What low frequencies are divided by.
    pub factor: f64,
    /// Waves in the original context below which a frequency is low.
    pub low_frequency: f64,
    /// Waves in the original context above which a frequency is high.
    pub high_frequency: f64,
    /// The context before, in tokens.
    pub original_context: f64,
}

impl Llama3Rope {
    /// What becomes of a frequency.
    pub(in crate::model) fn stretch(&self, frequency: f64) -> f64 {
        let waves = self.original_context * frequency / std::f64::consts::TAU;
        let kept = (waves - self.low_frequency) / (self.high_frequency - self.low_frequency);
        let kept = kept.clamp(0.0, 1.0);
        (1.0 - kept) * frequency / self.factor + kept * frequency
    }
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
    #[serde(default)]
    use_sliding_window: bool,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
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
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

impl RopeFile {
    fn scaling(&self) -> Result<Option<Llama3Rope>, ModelError> {
        match self.rope_type.as_deref().unwrap_or("default") {
            "default" => return Ok(None),
            "llama3" => {}
            other => return Err(unsupported("rope_type", other.into(), "default or llama3")),
        }
        let need = |field: &str, value: Option<f64>| {
            value.ok_or_else(|| ModelError::Config(format!("rope_type llama3 needs {field}")))
        };
        Ok(Some(Llama3Rope {
            factor: need("factor", self.factor)?,
            low_frequency: need("low_freq_factor", self.low_freq_factor)?,
            high_frequency: need("high_freq_factor", self.high_freq_factor)?,
            original_context: need(
                "original_max_position_embeddings",
                self.original_max_position_embeddings,
            )?,
        }))
    }
}

fn norm_eps() -> f64 {
    1e-6
}

fn hidden_act() -> String {
    "silu".into()
}

impl LlamaConfig {
    /// The architectures this decoder computes.
    pub(crate) const ARCHITECTURES: [&str; 2] = ["LlamaForCausalLM", "Qwen2ForCausalLM"];

    /// Parses and checks `config.json`.
    ///
    /// # Errors
    /// [`ModelError::Config`] where it is no such file, [`ModelError::Unsupported`] where it asks for
    /// what this decoder does not compute, [`ModelError::Size`] where sizes do not fit together.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ModelError> {
        let file: File = parse(bytes)?;
        let known = |name: &str| Self::ARCHITECTURES.contains(&name);
        if file.architectures.len() != 1 || !known(&file.architectures[0]) {
            let expected = "LlamaForCausalLM or Qwen2ForCausalLM";
            return Err(unsupported("architectures", file.architectures.join(", "), expected));
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
        file.check_windows()?;
        let bias = match file.attention_bias {
            _ if file.architectures[0] == Self::ARCHITECTURES[1] => Bias::Qkv,
            true => Bias::Attention,
            false => Bias::None,
        };
        let rope = file.rope_parameters.as_ref().or(file.rope_scaling.as_ref());
        let nested = rope.and_then(|rope| rope.rope_theta);
        let rope_scaling = rope.map(RopeFile::scaling).transpose()?.flatten();
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
            rope_scaling,
            bias,
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
        if let Some(rope) = &self.rope_scaling {
            check_positive("factor", rope.factor)?;
            check_positive("low_freq_factor", rope.low_frequency)?;
            check_positive("original_max_position_embeddings", rope.original_context)?;
            check_positive(
                "high_freq_factor - low_freq_factor",
                rope.high_frequency - rope.low_frequency,
            )?;
        }
        Ok(())
    }

    /// Whether linear `i` of a layer has a bias.
    pub(super) fn biased(&self, i: usize) -> bool {
        match self.bias {
            Bias::None => false,
            Bias::Qkv => i < 3,
            Bias::Attention => i < 4,
        }
    }

    /// Angles for positions below `len`.
    pub(crate) fn rope(&self, len: usize) -> Rope {
        match self.rope_scaling {
            None => Rope::new(self.head_dim, len, self.rope_theta, &|frequency| frequency),
            Some(llama3) => Rope::new(self.head_dim, len, self.rope_theta, &|f| llama3.stretch(f)),
        }
    }

    /// What a batch of text must keep within.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits { vocab: self.vocab, context: self.context, classes: None }
    }

    /// As Hugging Face has it.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let qwen2 = self.bias == Bias::Qkv;
        let rope_scaling = self.rope_scaling.map(|rope| {
            serde_json::json!({
                "rope_type": "llama3",
                "factor": rope.factor,
                "low_freq_factor": rope.low_frequency,
                "high_freq_factor": rope.high_frequency,
                "original_max_position_embeddings": rope.original_context,
            })
        });
        let mut json = serde_json::json!({
            "architectures": [Self::ARCHITECTURES[usize::from(qwen2)]],
            "model_type": if qwen2 { "qwen2" } else { "llama" },
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
            "attention_bias": self.bias == Bias::Attention,
            "mlp_bias": false,
            "bos_token_id": self.bos,
            "eos_token_id": self.eos,
        });
        if let Some(rope) = rope_scaling {
            json["rope_scaling"] = rope;
        }
        json
    }
}

impl File {
    /// Windows that slide, where any layer has one.
    fn check_windows(&self) -> Result<(), ModelError> {
        if let Some(kinds) = &self.layer_types {
            let other = kinds.iter().find(|kind| *kind != "full_attention");
            return match other {
                None => Ok(()),
                Some(kind) => Err(unsupported("layer_types", kind.clone(), "full_attention")),
            };
        }
        let layers = self.max_window_layers.unwrap_or(0);
        match self.use_sliding_window && layers < self.num_hidden_layers {
            true => Err(unsupported("use_sliding_window", "true".into(), "false")),
            false => Ok(()),
        }
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
            rope_scaling: None,
            bias: Bias::Attention,
            bos: Some(1),
            eos: vec![2],
        }
    }

    #[test]
    fn json_round_trip() {
        let rope_scaling = Some(Llama3Rope {
            factor: 8.0,
            low_frequency: 1.0,
            high_frequency: 4.0,
            original_context: 32.0,
        });
        for config in [
            tiny(),
            LlamaConfig { tied: true, bos: None, eos: vec![], ..tiny() },
            LlamaConfig { bias: Bias::Qkv, rope_scaling, ..tiny() },
        ] {
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
        assert!(with("architectures", ["Qwen3ForCausalLM"].into()).contains("Qwen3ForCausalLM"));
        assert!(with("hidden_act", "gelu".into()).contains("gelu"));
        assert!(with("mlp_bias", true.into()).contains("mlp_bias"));
        let yarn = serde_json::json!({"rope_type": "yarn", "factor": 8.0});
        assert!(with("rope_scaling", yarn).contains("yarn"));
        let scaled = serde_json::json!({"rope_type": "llama3", "factor": 8.0});
        assert!(with("rope_scaling", scaled).contains("low_freq_factor"));
        let turned = serde_json::json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0,
            "high_freq_factor": 1.0, "original_max_position_embeddings": 32});
        assert!(with("rope_scaling", turned).contains("high_freq_factor"));
        assert!(with("use_sliding_window", true.into()).contains("use_sliding_window"));
        let kinds = ["full_attention", "sliding_attention"];
        assert!(with("layer_types", kinds[..].into()).contains("sliding_attention"));
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
