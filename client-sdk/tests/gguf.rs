//! GGUF files against transformers: tokens, logits, loss, every adapter gradient and ten AdamW steps; and
//! files that lie.
//!
//! `python/gguf_files.py` wrote `golden/*.gguf` and, in `golden/gguf.json`, the numbers.

mod parity;

use gossamer_client::data::Batch;
use gossamer_client::model::{BaseModel, Bias, ModelError};
use parity::{Recipe, batch, list, number};
use serde_json::Value;

const GOLDEN: &str = include_str!("golden/gguf.json");
const LLAMA: &[u8] = include_bytes!("golden/llama.gguf");
const QWEN2: &[u8] = include_bytes!("golden/qwen2.gguf");
const GPT2: &[u8] = include_bytes!("golden/gpt2.gguf");
const ROTARY: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

fn golden() -> Value {
    serde_json::from_str(GOLDEN).expect("golden JSON")
}

fn load(file: &[u8]) -> Result<BaseModel, ModelError> {
    BaseModel::from_gguf_bytes(file, None)
}

fn check(name: &str, file: &[u8], targets: &[&str]) -> BaseModel {
    let (golden, base) = (golden(), load(file).expect("loads"));
    let texts: Vec<String> = list(&golden["texts"]);
    let model = &golden["models"][name];
    for (text, tokens) in texts.iter().zip(list::<Vec<u32>>(&model["tokens"])) {
        assert_eq!(base.encode(text).expect("encodes"), tokens, "{name}: {text:?}");
    }
    let rows = golden["rows"].as_u64().expect("rows") as usize;
    let batches = golden["batches"].as_array().expect("batches").iter();
    let batches: Vec<Batch> =
        batches.map(|b| batch(&b["inputs"], &b["targets"], vec![], rows)).collect();
    let rank = golden["rank"].as_u64().expect("rank") as usize;
    let (alpha, size) = (number(&golden["alpha"]), number(&golden["size"]));
    Recipe { targets, rank, alpha, size, head: None }.check(name, &base, &batches, model);
    base
}

/// Every kind of weight but the largest blocks, rows of q and k moved, stretched frequencies.
#[test]
fn llama_is_torchs() {
    let base = check("llama", LLAMA, &ROTARY);
    let config = base.llama().expect("a Llama");
    let rope = config.rope_scaling.expect("stretched");
    assert_eq!((rope.factor, rope.original_context), (8.0, 32.0));
    assert_eq!((config.norm_eps, config.rope_theta, config.tied), (1e-5, 100.0, true));
    assert_eq!((base.bos(), base.eos()), (Some(1), [2].as_slice()));
    assert_eq!(base.decode(&base.encode("the rain").expect("text")).expect("text"), "the rain");
}

#[test]
fn qwen2_is_torchs() {
    let base = check("qwen2", QWEN2, &ROTARY);
    let config = base.llama().expect("of its family");
    assert_eq!((config.bias, config.tied, config.rope_scaling), (Bias::Qkv, false, None));
}

/// Its linears stand upright in the file, other than in Hugging Face's.
#[test]
fn gpt2_is_torchs() {
    let base = check("gpt2", GPT2, &["c_attn", "c_proj", "c_fc"]);
    assert!(base.fan_in_fan_out());
}

/// A file, a folder with one, a tokenizer beside it, and a folder that has two.
#[test]
fn from_disk() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("model.Q8_0.gguf");
    std::fs::write(&file, LLAMA).expect("written");
    let whole = load(LLAMA).expect("loads");
    for path in [dir.path(), &file] {
        assert_eq!(BaseModel::load(path).expect("loads").digest(), whole.digest());
    }
    let words = r#"{"version": "1.0", "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {"rain": 7, "?": 0}, "unk_token": "?"}}"#;
    std::fs::write(dir.path().join("tokenizer.json"), words).expect("written");
    let other = BaseModel::load(&file).expect("loads");
    assert_eq!(other.encode("rain").expect("text"), [7]);
    assert_ne!(other.digest(), whole.digest());
    std::fs::write(dir.path().join("other.gguf"), LLAMA).expect("written");
    let refused = BaseModel::load(dir.path());
    assert!(matches!(refused, Err(ModelError::Ambiguous { n: 2, .. })), "{refused:?}");
}

/// Where `text` begins in a file.
fn find(file: &[u8], text: &str) -> usize {
    let at = file.windows(text.len()).position(|window| window == text.as_bytes());
    at.expect("the file has it")
}

/// The file with `bytes` put `after` bytes behind the end of `text`.
fn changed(file: &[u8], text: &str, after: usize, bytes: &[u8]) -> Vec<u8> {
    let at = find(file, text) + text.len() + after;
    let mut file = file.to_vec();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

fn why(file: &[u8]) -> String {
    load(file).expect_err("refused").to_string()
}

#[test]
fn what_does_not_fit_is_named() {
    let none = "no GGUF file".as_bytes();
    assert!(why(none).contains("begins with"), "{}", why(none));
    let version = changed(LLAMA, "GGUF", 0, &[9]);
    assert!(why(&version).contains("version 9"), "{}", why(&version));
    let other = changed(LLAMA, "general.architecture", 12, b"mamba");
    assert!(matches!(load(&other), Err(ModelError::Unsupported { ref got, .. }) if got == "mamba"));
    let pre = changed(LLAMA, "tokenizer.ggml.pre", 12, b"llama-xyz");
    assert!(matches!(load(&pre), Err(ModelError::Tokenizer(ref e)) if e.contains("llama-xyz")));
    let model = changed(LLAMA, "tokenizer.ggml.model", 12, b"bert");
    assert!(matches!(load(&model), Err(ModelError::Tokenizer(ref e)) if e.contains("bert")));
    let gone = changed(LLAMA, "llama.context_lengt", 0, b"g");
    assert!(why(&gone).contains("llama.context_length"), "{}", why(&gone));
    // A layer more than there are tensors for.
    let layers = changed(LLAMA, "llama.block_count", 4, &[3]);
    assert!(matches!(load(&layers), Err(ModelError::Missing(ref n)) if n.contains("layers.2.")));
    let heads = changed(LLAMA, "llama.attention.head_count", 4, &[8]);
    assert!(load(&heads).is_err());

    // A tensor's name is followed by its dimensions, their number first, its format and its place.
    let q = "blk.1.attn_q.weight";
    let format = changed(LLAMA, q, 4 + 16, &[10]);
    match load(&format) {
        Err(ModelError::Dtype { name, found, .. }) => {
            assert_eq!(
                (name.as_str(), found.as_str()),
                ("model.layers.1.self_attn.q_proj.weight", "Q2_K")
            );
        }
        other => panic!("{other:?}"),
    }
    let unknown = changed(LLAMA, q, 4 + 16, &[200]);
    assert!(
        matches!(load(&unknown), Err(ModelError::Dtype { ref found, .. }) if found == "format 200")
    );
    let rows = changed(LLAMA, q, 4, &[33]);
    assert!(why(&rows).contains("whole blocks"), "{}", why(&rows));
    let shape = changed(LLAMA, q, 4 + 8, &[31]);
    assert!(matches!(load(&shape), Err(ModelError::Shape { ref found, .. }) if *found == [31, 32]));
    let dims = changed(LLAMA, q, 0, &[5]);
    assert!(why(&dims).contains("5 dimensions"), "{}", why(&dims));
    for offset in [1_u64, 1 << 40, u64::MAX - 31, u64::MAX] {
        let place = changed(LLAMA, q, 4 + 16 + 4, &offset.to_le_bytes());
        assert!(why(&place).contains("attn_q") || why(&place).contains("q_proj"), "{offset}");
    }
    // On the bytes of another.
    let twice = changed(LLAMA, q, 4 + 16 + 4, &[0; 8]);
    assert!(why(&twice).contains("end at"), "{}", why(&twice));
    let same = changed(LLAMA, "blk.1.attn_", 0, b"k");
    assert!(why(&same).contains("twice"), "{}", why(&same));
    // What a Llama of another kind divides its frequencies by.
    let divisors = &2.5_f32.to_le_bytes();
    let at = LLAMA.len() - 32;
    let mut rope = LLAMA.to_vec();
    rope[at + 4..at + 8].copy_from_slice(divisors);
    assert!(why(&rope).contains("rope_freqs"), "{}", why(&rope));
}

/// Counts, lengths and sizes that the file does not have: refused before anything is made of them.
#[test]
fn a_header_that_claims_too_much() {
    let most = u64::MAX.to_le_bytes();
    for after in [4, 12] {
        let counts = changed(LLAMA, "GGUF", after, &most);
        assert!(why(&counts).contains("at most"), "{}", why(&counts));
    }
    for (key, after) in [
        ("general.architecture", 4),
        ("tokenizer.ggml.tokens", 8),
        ("tokenizer.ggml.token_type", 8),
    ] {
        for n in [u64::MAX, 1 << 61, 1 << 40, 1 << 25] {
            let file = changed(LLAMA, key, after, &n.to_le_bytes());
            assert!(matches!(load(&file), Err(ModelError::Weights(_))), "{key}: {n}");
        }
    }
    for size in [u64::MAX, 1 << 40, 0] {
        let file = changed(LLAMA, "token_embd.weight", 4 + 8, &size.to_le_bytes());
        assert!(load(&file).is_err(), "{size}");
    }
}

/// No prefix of a file loads, and no changed byte of a header does harm.
#[test]
fn cut_and_changed_files() {
    for file in [LLAMA, GPT2] {
        let header = find(file, "output_norm.weight");
        for len in (0..header).step_by(7).chain((header..file.len()).step_by(997)) {
            assert!(load(&file[..len]).is_err(), "{len}");
        }
        for at in (0..header).step_by(3) {
            let mut file = file.to_vec();
            for bit in [0, 7] {
                file[at] ^= 1 << bit;
                let _ = load(&file);
            }
        }
    }
}
