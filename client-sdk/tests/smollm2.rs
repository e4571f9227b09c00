//! SmolLM2-135M-Instruct, as `sim/models/fetch-smollm2` leaves it, against PyTorch: tokens, logits, loss,
//! every adapter gradient and ten AdamW steps, from a GGUF file.
//!
//! The numbers in `golden/smollm2.json` are what `python/smollm2.py` printed.

mod parity;

use std::path::Path;

use gossamer_client::data::Batch;
use gossamer_client::model::BaseModel;
use parity::{Recipe, batch, list, number};
use serde_json::Value;

const GOLDEN: &str = include_str!("golden/smollm2.json");
const LINEARS: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Skipped where the model is not at hand.
#[test]
fn smollm2_is_torchs() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/models/smollm2");
    if !dir.is_dir() {
        println!("SKIPPED: no SmolLM2; sim/models/fetch-smollm2 gets it");
        return;
    }
    let base = BaseModel::load(&dir).expect("SmolLM2 loads");
    let golden: Value = serde_json::from_str(GOLDEN).expect("golden JSON");
    assert_eq!(base.n_weights() as f64, number(&golden["n_weights"]));
    assert_eq!((base.hidden(), base.context()), (576, 8192));
    // The file says that texts begin without a token of their own.
    assert_eq!((base.bos(), base.eos()), (None, [2].as_slice()));
    let texts: Vec<String> = list(&golden["texts"]);
    for (text, tokens) in texts.iter().zip(list::<Vec<u32>>(&golden["tokens"])) {
        assert_eq!(base.encode(text).expect("encodes"), tokens, "{text:?}");
        let special = text.contains("<|");
        assert!(special || base.decode(&tokens).expect("decodes") == *text, "{text:?}");
    }

    let rows = golden["rows"].as_u64().expect("rows") as usize;
    let batches = golden["batches"].as_array().expect("batches").iter();
    let batches: Vec<Batch> =
        batches.map(|b| batch(&b["inputs"], &b["targets"], vec![], rows)).collect();
    let (rank, alpha) = (golden["rank"].as_u64().expect("rank") as usize, number(&golden["alpha"]));
    let recipe =
        Recipe { targets: &LINEARS, rank, alpha, size: number(&golden["size"]), head: None };
    recipe.check("SmolLM2", &base, &batches, &golden);
}
