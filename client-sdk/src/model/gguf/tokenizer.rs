//! A `tokenizer.json` from a GGUF file's metadata: byte-level BPE.
//!
//! `tokenizer.ggml.pre` names how text is split before the merges; those known:
//!
//! | name | split |
//! |---|---|
//! | `gpt-2`, `default` | GPT-2's words |
//! | `smollm` | every digit alone, then GPT-2's words |
//! | `llama-bpe` | Llama 3's words, digits by three; a word in the vocabulary is not merged |
//! | `qwen2` | NFC, then Qwen 2's words, every digit alone |
//!
//! Source: `llm_tokenizer_bpe` of llama.cpp's `llama-vocab.cpp`.

use serde_json::{Map, Value as Json, json};

use super::header::{Header, Value};
use crate::model::ModelError;

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Kinds of tokens, by ggml's numbers.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

fn unknown(key: &str, got: &str, known: &str) -> ModelError {
    let why =
        format!("{key} is {got:?}; this build knows {known}, or a tokenizer.json beside the file");
    ModelError::Tokenizer(why)
}

/// The file's tokenizer as Hugging Face's JSON.
pub(super) fn json(header: &Header) -> Result<Vec<u8>, ModelError> {
    let model = header.text("tokenizer.ggml.model")?;
    if model != "gpt2" {
        return Err(unknown("tokenizer.ggml.model", model, "gpt2"));
    }
    let pre = match header.metadata.contains_key("tokenizer.ggml.pre") {
        true => header.text("tokenizer.ggml.pre")?,
        false => "default",
    };
    let bytes = |words: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": words });
    let split = |regex: &str| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
    let both =
        |first: Json, second: Json| json!({ "type": "Sequence", "pretokenizers": [first, second] });
    let digits = json!({ "type": "Digits", "individual_digits": true });
    let pre_tokenizer = match pre {
        "gpt-2" | "default" => bytes(true),
        "smollm" => both(digits, bytes(true)),
        "llama-bpe" => both(split(LLAMA3), bytes(false)),
        "qwen2" => both(split(QWEN2), bytes(false)),
        other => {
            let known = "gpt-2, default, smollm, llama-bpe and qwen2";
            return Err(unknown("tokenizer.ggml.pre", other, known));
        }
    };
    let tokens = header.texts("tokenizer.ggml.tokens")?;
    let kinds: &[i64] = match header.metadata.get("tokenizer.ggml.token_type") {
        Some(Value::Integers(kinds)) if kinds.len() == tokens.len() => kinds,
        None => &[],
        Some(_) => {
            let why = "tokenizer.ggml.token_type has not one integer for each token";
            return Err(ModelError::Tokenizer(why.into()));
        }
    };
    let mut vocab = Map::new();
    for (id, token) in tokens.iter().enumerate() {
        if let Some(before) = vocab.insert(token.clone(), id.into()) {
            let why =
                format!("tokens {before} and {id} of tokenizer.ggml.tokens are both {token:?}");
            return Err(ModelError::Tokenizer(why));
        }
    }
    let mut merges = Vec::new();
    for merge in header.texts("tokenizer.ggml.merges")? {
        // A part may begin with a blank of its own, written as another character, never as this one.
        let parts = merge.split_once(' ').ok_or_else(|| {
            ModelError::Tokenizer(format!("{merge:?} of tokenizer.ggml.merges has not two parts"))
        })?;
        merges.push(json!([parts.0, parts.1]));
    }
    let added = tokens.iter().zip(kinds).enumerate();
    let added = added.filter(|(_, (_, kind))| [CONTROL, USER_DEFINED].contains(kind));
    let added: Vec<Json> = added
        .map(|(id, (token, &kind))| {
            json!({
                "id": id, "content": token, "special": kind == CONTROL,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    let file = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": (pre == "qwen2").then(|| json!({ "type": "NFC" })),
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": bytes(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre == "llama-bpe", "vocab": vocab, "merges": merges,
        },
    });
    Ok(file.to_string().into_bytes())
}
