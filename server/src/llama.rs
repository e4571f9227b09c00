//! The linear weights of a Llama-family model, from its `config.json` alone.

use gossamer_protocol::layout::BaseLinear;
use serde::Deserialize;

/// Most layers and largest size believed: far above any model, far below what would overflow.
const LAYERS_MAX: usize = 1_000;
const SIZE_MAX: usize = 1 << 24;

/// Why a `config.json` does not describe a Llama-family model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LlamaError {
    /// Not JSON, or a field is missing.
    #[error("config.json: {0}")]
    Syntax(String),
    /// Another family's.
    #[error("config.json field architectures is {0:?}; a run adapts a LlamaForCausalLM")]
    Architecture(String),
    /// A size that no model has.
    #[error("config.json field {field} is {got}")]
    Size {
        /// The field.
        field: &'static str,
        /// Its value.
        got: usize,
    },
}

#[derive(Deserialize)]
struct Config {
    /// Hand-written files may lack it.
    #[serde(default)]
    architectures: Vec<String>,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
}

/// Every linear weight of the decoder's layers, layer by layer, as `q_proj`, `k_proj`, `v_proj`,
/// `o_proj`, `gate_proj`, `up_proj`, `down_proj`, with Hugging Face's names.
///
/// # Errors
/// [`LlamaError`] where the text is no such model's.
pub fn llama_linears(config_json: &[u8]) -> Result<Vec<BaseLinear>, LlamaError> {
    let config: Config =
        serde_json::from_slice(config_json).map_err(|e| LlamaError::Syntax(e.to_string()))?;
    if let Some(other) = config.architectures.iter().find(|name| *name != "LlamaForCausalLM") {
        return Err(LlamaError::Architecture(other.clone()));
    }
    let size = |field, got: usize, max| {
        if (1..=max).contains(&got) { Ok(got) } else { Err(LlamaError::Size { field, got }) }
    };
    let hidden = size("hidden_size", config.hidden_size, SIZE_MAX)?;
    let inner = size("intermediate_size", config.intermediate_size, SIZE_MAX)?;
    let layers = size("num_hidden_layers", config.num_hidden_layers, LAYERS_MAX)?;
    let heads = size("num_attention_heads", config.num_attention_heads, SIZE_MAX)?;
    let kv_heads = config.num_key_value_heads.unwrap_or(heads);
    let kv_heads = size("num_key_value_heads", kv_heads, heads)?;
    let head = size("head_dim", config.head_dim.unwrap_or(hidden / heads), SIZE_MAX)?;

    let (q, kv) = (heads * head, kv_heads * head);
    let modules = [
        ("self_attn.q_proj", hidden, q),
        ("self_attn.k_proj", hidden, kv),
        ("self_attn.v_proj", hidden, kv),
        ("self_attn.o_proj", q, hidden),
        ("mlp.gate_proj", hidden, inner),
        ("mlp.up_proj", hidden, inner),
        ("mlp.down_proj", inner, hidden),
    ];
    let linears = (0..layers).flat_map(|layer| {
        modules.map(|(module, d_in, d_out)| BaseLinear {
            name: format!("model.layers.{layer}.{module}"),
            d_in,
            d_out,
        })
    });
    Ok(linears.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grouped_heads_have_narrow_keys_and_values() {
        let config = br#"{"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2,
            "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 512}"#;
        let linears = llama_linears(config).expect("a model");
        assert_eq!(linears.len(), 14);
        let shapes: Vec<(&str, usize, usize)> =
            linears[7..].iter().map(|l| (l.name.as_str(), l.d_in, l.d_out)).collect();
        assert_eq!(shapes[0], ("model.layers.1.self_attn.q_proj", 64, 64));
        assert_eq!(shapes[1], ("model.layers.1.self_attn.k_proj", 64, 32));
        assert_eq!(shapes[3], ("model.layers.1.self_attn.o_proj", 64, 64));
        assert_eq!(shapes[4], ("model.layers.1.mlp.gate_proj", 64, 172));
        assert_eq!(shapes[6], ("model.layers.1.mlp.down_proj", 172, 64));
    }

    #[test]
    fn a_wide_head_counts_and_nonsense_is_refused_by_name() {
        let config = |extra: &str, layers: &str| {
            format!(
                r#"{{"hidden_size": 64, "intermediate_size": 8, "num_hidden_layers": {layers},
                "num_attention_heads": 4 {extra}}}"#
            )
        };
        let wide = llama_linears(config(r#", "head_dim": 32"#, "1").as_bytes()).expect("a model");
        assert_eq!((wide[0].d_out, wide[3].d_in), (128, 128));
        let bert = llama_linears(config(r#", "architectures": ["BertModel"]"#, "1").as_bytes());
        assert_eq!(bert, Err(LlamaError::Architecture("BertModel".into())));
        let named = config(r#", "architectures": ["LlamaForCausalLM"]"#, "1");
        assert!(llama_linears(named.as_bytes()).is_ok());
        let many = llama_linears(config("", "4000000000").as_bytes());
        assert!(matches!(many, Err(LlamaError::Size { field: "num_hidden_layers", .. })));
        assert!(matches!(llama_linears(b"{}"), Err(LlamaError::Syntax(_))));
    }
}
