//! A GGUF file's metadata as the `config.json` that it was made from, and its tensors by the names that
//! Hugging Face has for them.

use std::collections::HashMap;

use serde_json::{Value as Json, json};

use super::header::{Header, Value};
use crate::model::ModelError;
use crate::model::config::unsupported;
use crate::model::stored::{Entry, Rows};

/// Architectures that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Llama,
    Qwen2,
    Gpt2,
}

const ROTARY: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];
const ROTARY_ENDS: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];
const GPT2: [(&str, &str); 6] = [
    ("attn_norm", "ln_1"),
    ("attn_qkv", "attn.c_attn"),
    ("attn_output", "attn.c_proj"),
    ("ffn_norm", "ln_2"),
    ("ffn_up", "mlp.c_fc"),
    ("ffn_down", "mlp.c_proj"),
];
const GPT2_ENDS: [(&str, &str); 4] = [
    ("token_embd", "transformer.wte"),
    ("position_embd", "transformer.wpe"),
    ("output_norm", "transformer.ln_f"),
    ("output", "lm_head"),
];

impl Family {
    /// By `general.architecture`.
    pub(super) fn of(header: &Header) -> Result<Self, ModelError> {
        match header.text("general.architecture")? {
            "llama" => Ok(Self::Llama),
            "qwen2" => Ok(Self::Qwen2),
            "gpt2" => Ok(Self::Gpt2),
            other => Err(unsupported("general.architecture", other.into(), "llama, qwen2 or gpt2")),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Gpt2 => "gpt2",
        }
    }

    /// Hugging Face's name; none where the family has no such tensor.
    fn renamed(self, name: &str) -> Option<String> {
        let (ends, inner, layers): (&[_], &[_], _) = match self {
            Self::Llama | Self::Qwen2 => (&ROTARY_ENDS, &ROTARY, "model.layers"),
            Self::Gpt2 => (&GPT2_ENDS, &GPT2, "transformer.h"),
        };
        let find = |list: &[(&str, &'static str)], name: &str| {
            list.iter().find(|(gguf, _)| *gguf == name).map(|(_, ours)| *ours)
        };
        let (module, part) = name.rsplit_once('.')?;
        if let Some(rest) = module.strip_prefix("blk.") {
            let (layer, module) = rest.split_once('.')?;
            return Some(format!("{layers}.{layer}.{}.{part}", find(inner, module)?));
        }
        Some(format!("{}.{part}", find(ends, module)?))
    }

    /// The header's tensors by Hugging Face's names.
    pub(super) fn entries(self, header: &Header) -> HashMap<String, Entry> {
        let renamed = |(name, entry): (&String, &Entry)| Some((self.renamed(name)?, entry.clone()));
        header.tensors.iter().filter_map(renamed).collect()
    }

    /// How the rows of the tensor that Hugging Face calls `name` are stored. llama.cpp turns neighbouring
    /// entries of a head, Hugging Face those half a head apart, so its converter moves the rows of q and
    /// k; it also turns GPT-2's linears upright.
    pub(super) fn rows(self, name: &str, head_dim: usize) -> Rows {
        match self {
            Self::Llama if name.contains(".q_proj.") || name.contains(".k_proj.") => {
                Rows::Paired(head_dim)
            }
            Self::Gpt2 if name.contains(".c_") && name.ends_with(".weight") => Rows::Upright,
            _ => Rows::Kept,
        }
    }

    /// As Hugging Face's file has it.
    pub(super) fn config(self, header: &Header) -> Result<Json, ModelError> {
        let here = |key: &str| format!("{}.{key}", self.name());
        let need = |key: &str| header.size(&here(key));
        let vocab = header.tensors.get("token_embd.weight").and_then(|e| e.shape.first());
        let missing = || ModelError::Missing("token_embd.weight".into());
        let vocab = *vocab.ok_or_else(missing)?;
        let tied = !header.tensors.contains_key("output.weight");
        let mut config = json!({
            "vocab_size": vocab,
            "tie_word_embeddings": tied,
            "bos_token_id": header.bos()?,
            "eos_token_id": header.eos()?,
        });
        let fields = match self {
            Self::Gpt2 => json!({
                "architectures": ["GPT2LMHeadModel"],
                "model_type": "gpt2",
                "n_embd": need("embedding_length")?,
                "n_inner": need("feed_forward_length")?,
                "n_layer": need("block_count")?,
                "n_head": need("attention.head_count")?,
                "n_positions": need("context_length")?,
                "layer_norm_epsilon": header.float(&here("attention.layer_norm_epsilon"))?,
            }),
            Self::Llama | Self::Qwen2 => self.rotary(header)?,
        };
        if let (Json::Object(config), Json::Object(fields)) = (&mut config, fields) {
            config.extend(fields);
        }
        Ok(config)
    }

    fn rotary(self, header: &Header) -> Result<Json, ModelError> {
        let here = |key: &str| format!("{}.{key}", self.name());
        let need = |key: &str| header.size(&here(key));
        let may = |key: &str| header.integer(&here(key));
        let (hidden, heads) = (need("embedding_length")?, need("attention.head_count")?);
        let head_dim = match may("attention.key_length")? {
            Some(size) => size,
            None => hidden.checked_div(heads).unwrap_or(0),
        };
        let even = "the same as the size of a head";
        for (key, what) in [
            ("attention.value_length", "attention.value_length"),
            ("rope.dimension_count", "rope.dimension_count"),
        ] {
            if let Some(got) = may(key)?.filter(|&got| got != head_dim) {
                return Err(unsupported(what, got.to_string(), even));
            }
        }
        for (key, field) in
            [("expert_count", "expert_count"), ("attention.sliding_window", "sliding_window")]
        {
            if let Some(got) = may(key)?.filter(|&got| got != 0) {
                return Err(unsupported(field, got.to_string(), "0"));
            }
        }
        match header.metadata.get(&here("rope.scaling.type")) {
            None => {}
            Some(Value::Text(kind)) if kind == "none" => {}
            Some(other) => {
                return Err(unsupported("rope.scaling.type", format!("{other:?}"), "none"));
            }
        }
        let theta = here("rope.freq_base");
        let (architecture, kind) = match self {
            Self::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
            _ => ("LlamaForCausalLM", "llama"),
        };
        Ok(json!({
            "architectures": [architecture],
            "model_type": kind,
            "hidden_size": hidden,
            "intermediate_size": need("feed_forward_length")?,
            "num_hidden_layers": need("block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads": may("attention.head_count_kv")?.unwrap_or(heads),
            "head_dim": head_dim,
            "max_position_embeddings": need("context_length")?,
            "rms_norm_eps": header.float(&here("attention.layer_norm_rms_epsilon"))?,
            "rope_theta": match header.metadata.contains_key(&theta) {
                true => header.float(&theta)?,
                false => 10_000.0,
            },
            "attention_bias":
                self == Self::Llama && header.tensors.contains_key("blk.0.attn_q.bias"),
        }))
    }
}

impl Header {
    fn wrong(key: &str, found: Option<&Value>, expected: &str) -> ModelError {
        ModelError::Config(match found {
            None => format!("the file's metadata lacks {key}"),
            Some(value) => format!("{key} is {value:?}, expected: {expected}"),
        })
    }

    pub(super) fn text(&self, key: &str) -> Result<&str, ModelError> {
        match self.metadata.get(key) {
            Some(Value::Text(text)) => Ok(text),
            other => Err(Self::wrong(key, other, "a text")),
        }
    }

    pub(super) fn texts(&self, key: &str) -> Result<&[String], ModelError> {
        match self.metadata.get(key) {
            Some(Value::Texts(texts)) => Ok(texts),
            other => Err(Self::wrong(key, other, "texts")),
        }
    }

    fn float(&self, key: &str) -> Result<f64, ModelError> {
        match self.metadata.get(key) {
            Some(&Value::Float(value)) => Ok(value),
            other => Err(Self::wrong(key, other, "a number")),
        }
    }

    fn integer(&self, key: &str) -> Result<Option<u32>, ModelError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(&Value::Integer(value)) if u32::try_from(value).is_ok() => Ok(Some(value as u32)),
            other => Err(Self::wrong(key, other, "an integer of 32 bits")),
        }
    }

    fn size(&self, key: &str) -> Result<u32, ModelError> {
        self.integer(key)?.ok_or_else(|| Self::wrong(key, None, ""))
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(&Value::Bool(flag)) => Ok(Some(flag)),
            other => Err(Self::wrong(key, other, "true or false")),
        }
    }

    /// None where the file says that its texts begin without.
    fn bos(&self) -> Result<Option<u32>, ModelError> {
        let token = self.integer("tokenizer.ggml.bos_token_id")?;
        let added = self.flag("tokenizer.ggml.add_bos_token")?;
        Ok(token.filter(|_| added != Some(false)))
    }

    fn eos(&self) -> Result<Vec<u32>, ModelError> {
        let mut tokens = Vec::new();
        for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
            let token = self.integer(&format!("tokenizer.ggml.{key}"))?;
            tokens.extend(token.filter(|token| !tokens.contains(token)));
        }
        Ok(tokens)
    }
}
