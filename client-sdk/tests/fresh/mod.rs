//! A Llama-family model with drawn weights, of any size.

use gossamer_client::model::{BaseModel, Bias, LlamaConfig};
use gossamer_client::train::Pretraining;

/// Sizes: features, of the feed-forward, layers, heads, key heads, of a head, vocabulary, positions.
pub(crate) fn base(sizes: [usize; 8]) -> BaseModel {
    let [hidden, intermediate, layers, heads, kv_heads, head_dim, vocab, context] = sizes;
    let config = LlamaConfig {
        hidden,
        intermediate,
        layers,
        heads,
        kv_heads,
        head_dim,
        vocab,
        context,
        norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tied: true,
        rope_scaling: None,
        bias: Bias::None,
        bos: None,
        eos: vec![],
    };
    let fresh = Pretraining::new(config, 1, 0.0).expect("sizes fit");
    let tokenizer =
        r#"{"version":"1.0","model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"a"}}"#;
    let weights = fresh.to_safetensors().expect("finite");
    BaseModel::from_bytes(fresh.to_config().as_bytes(), tokenizer.as_bytes(), &weights)
        .expect("its own files")
}
