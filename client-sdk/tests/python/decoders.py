"""Golden numbers for `tests/decoders.rs`: small models of each decoder family, from transformers.

    python3 decoders.py > ../golden/decoders.json

Written with torch 2.15.0 and transformers 5.24.0; everything in float64. Weights and LoRA factors are a
formula's, which the test has too: tensor number `i` of a model is `spread(shape, i, centre, 0.5)`.
"""

import json

import torch
from parity import adapt, next_tokens, run, shorten, spread
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

RANK, ALPHA, STEPS, VOCAB = 3, 6.0, 10, 29
ROWS, COLS = 2, 37  # Blocks of attention end at 32.
LLAMA = [
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
]
GPT2 = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
ROTARY = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
STRETCHED = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CASES = {
    "gpt2": (
        GPT2LMHeadModel,
        GPT2Config(
            n_embd=12, n_layer=2, n_head=3, n_positions=64, vocab_size=VOCAB, bos_token_id=1,
            eos_token_id=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        ),
        [f"transformer.h.{i}.{name}" for i in range(2) for name in GPT2],
    ),
    # Own head, biases on q, k and v.
    "qwen2": (
        Qwen2ForCausalLM,
        Qwen2Config(**ROTARY, rope_theta=1e6, tie_word_embeddings=False),
        [f"model.layers.{i}.{name}" for i in range(2) for name in LLAMA],
    ),
    # Tied, head size of its own; frequencies kept, between and divided.
    "llama3": (
        LlamaForCausalLM,
        LlamaConfig(
            **ROTARY, head_dim=8, tie_word_embeddings=True,
            rope_parameters={"rope_theta": 100.0, **STRETCHED},
        ),
        [f"model.layers.{i}.{name}" for i in range(2) for name in LLAMA],
    ),
}


def centre(name):
    norm = "norm" in name or ".ln_" in name
    return 1.0 if norm and name.endswith("weight") else 0.0


def build(kind, config):
    """The model, and its stored tensors' names and shapes in the order of their numbers."""
    config._attn_implementation = "eager"
    model = kind(config).to(torch.float64).eval()
    state = model.state_dict()
    names = [n for n, _ in model.named_parameters()]
    weights = {n: spread(state[n].shape, at, centre(n)) for at, n in enumerate(names)}
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name]), name
    return model, [{"name": n, "shape": list(state[n].shape), "centre": centre(n)} for n in names]


def batch(step):
    """Tokens by a formula; the second row's last six targets are none."""
    rows = [
        [(7 * t + 5 * row + t * t + 3 * step * t) % (VOCAB - 1) + 1 for t in range(COLS + 1)]
        for row in range(ROWS)
    ]
    targets = [row[1:] for row in rows]
    targets[1][-6:] = [-100] * 6
    return [row[:-1] for row in rows], targets


def main():
    batches = [batch(step) for step in range(STEPS)]
    flat = [{"inputs": sum(i, []), "targets": sum(t, [])} for i, t in batches]
    out = {"rank": RANK, "alpha": ALPHA, "rows": ROWS, "cols": COLS, "batches": flat, "models": {}}
    for name, (kind, config, linears) in CASES.items():
        model, tensors = build(kind, config)
        factors = adapt(model, linears, RANK, ALPHA, 0.3)
        config.architectures = [kind.__name__]
        case = run(factors, lambda at: next_tokens(model, batches[at]), STEPS, 0.01)
        # As `save_pretrained` writes it.
        case["config"] = json.loads(config.to_json_string(use_diff=True))
        case["tensors"] = tensors
        out["models"][name] = case
    print(json.dumps(shorten(out), indent=None, separators=(",", ":")))


if __name__ == "__main__":
    main()
