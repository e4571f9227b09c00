//! The linear weights of a model, from its `config.json` alone: what a run needs to know of a base model's family.

use gossamer_protocol::layout::BaseLinear;
use serde::Deserialize;
use serde_json::Value;

/// Most layers and largest size believed: far above any model, far below what would overflow.
const LAYERS_MAX: usize = 1_000;
const SIZE_MAX: usize = 1 << 24;

/// Why a `config.json` does not describe a model that a run can adapt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FamilyError {
    /// Not JSON, or a field is missing.
    #[error("config.json: {0}")]
    Syntax(String),
    /// Another family's.
    #[error(
        "config.json field architectures is {0:?}; a run adapts a LlamaForCausalLM, Qwen2ForCausalLM, \
         GPT2LMHeadModel, BertModel or BertForSequenceClassification"
    )]
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

/// What a run needs to know of its base model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shapes {
    /// Every linear weight of the layers, layer by layer, with Hugging Face's names.
    pub linears: Vec<BaseLinear>,
    /// Width of the features, which a task head takes.
    pub hidden: usize,
    /// Whether it is an encoder, trained through a head; else a decoder, trained on next tokens.
    pub encoder: bool,
}

#[derive(Deserialize)]
struct Llama {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
}

#[derive(Deserialize)]
struct Gpt2 {
    n_embd: usize,
    n_layer: usize,
    n_inner: Option<usize>,
}

#[derive(Deserialize)]
struct Bert {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
}

/// Reads a Hugging Face model's `config.json`; a file without `architectures` is a Llama's.
///
/// # Errors
/// [`FamilyError`] where the text is no such model's.
pub fn shapes(config_json: &[u8]) -> Result<Shapes, FamilyError> {
    let syntax = |e: serde_json::Error| FamilyError::Syntax(e.to_string());
    let config: Value = serde_json::from_slice(config_json).map_err(syntax)?;
    let architecture = match config.get("architectures") {
        None => "LlamaForCausalLM".to_owned(),
        Some(names) => match names.as_array().map(Vec::as_slice) {
            Some([Value::String(name)]) => name.clone(),
            _ => return Err(FamilyError::Architecture(names.to_string())),
        },
    };
    match architecture.as_str() {
        "LlamaForCausalLM" | "Qwen2ForCausalLM" => {
            llama(Deserialize::deserialize(config).map_err(syntax)?)
        }
        "GPT2LMHeadModel" => gpt2(Deserialize::deserialize(config).map_err(syntax)?),
        "BertModel" => bert("", Deserialize::deserialize(config).map_err(syntax)?),
        "BertForSequenceClassification" => {
            bert("bert.", Deserialize::deserialize(config).map_err(syntax)?)
        }
        other => Err(FamilyError::Architecture(other.to_owned())),
    }
}

fn llama(config: Llama) -> Result<Shapes, FamilyError> {
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
    Ok(Shapes { linears: linears("model.layers", layers, &modules), hidden, encoder: false })
}

fn gpt2(config: Gpt2) -> Result<Shapes, FamilyError> {
    let hidden = size("n_embd", config.n_embd, SIZE_MAX)?;
    let inner = size("n_inner", config.n_inner.unwrap_or(4 * hidden), SIZE_MAX)?;
    let layers = size("n_layer", config.n_layer, LAYERS_MAX)?;
    let modules = [
        ("attn.c_attn", hidden, 3 * hidden),
        ("attn.c_proj", hidden, hidden),
        ("mlp.c_fc", hidden, inner),
        ("mlp.c_proj", inner, hidden),
    ];
    Ok(Shapes { linears: linears("transformer.h", layers, &modules), hidden, encoder: false })
}

fn bert(prefix: &str, config: Bert) -> Result<Shapes, FamilyError> {
    let hidden = size("hidden_size", config.hidden_size, SIZE_MAX)?;
    let inner = size("intermediate_size", config.intermediate_size, SIZE_MAX)?;
    let layers = size("num_hidden_layers", config.num_hidden_layers, LAYERS_MAX)?;
    let modules = [
        ("attention.self.query", hidden, hidden),
        ("attention.self.key", hidden, hidden),
        ("attention.self.value", hidden, hidden),
        ("attention.output.dense", hidden, hidden),
        ("intermediate.dense", hidden, inner),
        ("output.dense", inner, hidden),
    ];
    let path = format!("{prefix}encoder.layer");
    Ok(Shapes { linears: linears(&path, layers, &modules), hidden, encoder: true })
}

/// The same `modules` (name, `d_in`, `d_out`) in each layer.
fn linears(path: &str, layers: usize, modules: &[(&str, usize, usize)]) -> Vec<BaseLinear> {
    let layer = |at| {
        modules.iter().map(move |&(module, d_in, d_out)| BaseLinear {
            name: format!("{path}.{at}.{module}"),
            d_in,
            d_out,
        })
    };
    (0..layers).flat_map(layer).collect()
}

fn size(field: &'static str, got: usize, max: usize) -> Result<usize, FamilyError> {
    if (1..=max).contains(&got) { Ok(got) } else { Err(FamilyError::Size { field, got }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(linears: &[BaseLinear]) -> Vec<(&str, usize, usize)> {
        linears.iter().map(|l| (l.name.as_str(), l.d_in, l.d_out)).collect()
    }

    #[test]
    fn grouped_heads_have_narrow_keys_and_values() {
        let config = br#"{"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2,
            "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 512}"#;
        let Shapes { linears, hidden, encoder } = shapes(config).expect("a model");
        assert_eq!((linears.len(), hidden, encoder), (14, 64, false));
        let linears = found(&linears[7..]);
        assert_eq!(linears[0], ("model.layers.1.self_attn.q_proj", 64, 64));
        assert_eq!(linears[1], ("model.layers.1.self_attn.k_proj", 64, 32));
        assert_eq!(linears[3], ("model.layers.1.self_attn.o_proj", 64, 64));
        assert_eq!(linears[4], ("model.layers.1.mlp.gate_proj", 64, 172));
        assert_eq!(linears[6], ("model.layers.1.mlp.down_proj", 172, 64));
    }

    #[test]
    fn other_families_have_their_own_modules() {
        let gpt2 = br#"{"architectures": ["GPT2LMHeadModel"], "n_embd": 12, "n_layer": 2}"#;
        let Shapes { linears, encoder, .. } = shapes(gpt2).expect("a model");
        assert_eq!((linears.len(), encoder), (8, false));
        let linears = found(&linears[4..]);
        assert_eq!(linears[0], ("transformer.h.1.attn.c_attn", 12, 36));
        assert_eq!(linears[3], ("transformer.h.1.mlp.c_proj", 48, 12));
        let bert = br#"{"architectures": ["BertForSequenceClassification"], "hidden_size": 12,
            "intermediate_size": 20, "num_hidden_layers": 1}"#;
        let Shapes { linears, encoder, hidden } = shapes(bert).expect("a model");
        assert_eq!((linears.len(), encoder, hidden), (6, true, 12));
        let linears = found(&linears);
        assert_eq!(linears[2], ("bert.encoder.layer.0.attention.self.value", 12, 12));
        assert_eq!(linears[5], ("bert.encoder.layer.0.output.dense", 20, 12));
    }

    #[test]
    fn a_wide_head_counts_and_nonsense_is_refused_by_name() {
        let config = |extra: &str, layers: &str| {
            format!(
                r#"{{"hidden_size": 64, "intermediate_size": 8, "num_hidden_layers": {layers},
                "num_attention_heads": 4 {extra}}}"#
            )
        };
        let wide = shapes(config(r#", "head_dim": 32"#, "1").as_bytes()).expect("a model").linears;
        assert_eq!((wide[0].d_out, wide[3].d_in), (128, 128));
        for other in [r#"["T5Model"]"#, r#"["BertModel", "T5Model"]"#, "7"] {
            let refused = shapes(config(&format!(", \"architectures\": {other}"), "1").as_bytes());
            assert!(matches!(refused, Err(FamilyError::Architecture(_))), "{other}: {refused:?}");
        }
        let many = shapes(config("", "4000000000").as_bytes());
        assert!(matches!(many, Err(FamilyError::Size { field: "num_hidden_layers", .. })));
        for text in [&b"{}"[..], b"[]", b"x"] {
            assert!(matches!(shapes(text), Err(FamilyError::Syntax(_))));
        }
    }
}
