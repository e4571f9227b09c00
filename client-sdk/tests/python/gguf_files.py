"""Golden files for `tests/gguf.rs` and the tests of `src/model/gguf`: small GGUF files and blocks.

    python3 gguf_files.py ../golden

Written with torch 2.15.0, transformers 5.24.0 and gguf 0.19.0: `gguf` writes the files, quantises, and turns
quantised weights back; the model of those weights is transformers', in float64. Weights are the formula's
(`parity.py`), tokens `bpe.py`'s. Rows of q and k go where llama.cpp's converter puts them.
"""

import json
import pathlib
import sys

import gguf
import numpy as np
import torch
from bpe import encode
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from parity import adapt, next_tokens, run, shorten, spread, summary
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

RANK, ALPHA, STEPS, SIZE = 3, 6.0, 10, 0.1
ROWS, COLS = 2, 20
HEADS, KV_HEADS, HIDDEN, INNER, CONTEXT = 4, 2, 32, 64, 64
TOKENS = ["<|none|>", "<|begin|>", "<|end|>", *"abdehilnorstuw", "Ġ", "Ċ", *"012", ".", "'", "Ã", "¼"]
MERGES = ["t h", "th e", "Ġ t", "i n", "Ġt h", "0 0", "1 2", "Ġ Ġ", "Ã ¼"]
TOKENS += [merge.replace(" ", "") for merge in MERGES] + ["there", "<|user|>"]
KINDS = [gguf.TokenType.NORMAL] * len(TOKENS)
KINDS[0:3] = [gguf.TokenType.CONTROL] * 3
KINDS[-1] = gguf.TokenType.USER_DEFINED
SPECIAL = [*TOKENS[:3], TOKENS[-1]]
TEXTS = ["the  rain in there", "<|begin|>1200 012\n\nthe'll be<|user|> t he.", "   ühl ü\n", "1 21  2100"]
ROTARY = {
    "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 2,
    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "vocab_size": len(TOKENS),
    "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2,
}
STRETCHED = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEARS = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONV1D = {
    "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj", "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
KINDS_OF_LLAMA = {
    "attn_q": Kind.Q8_0, "attn_k": Kind.Q5_1, "attn_v": Kind.Q4_1, "attn_output": Kind.Q5_0,
    "ffn_gate": Kind.Q4_0, "ffn_up": Kind.F16, "ffn_down": Kind.BF16, "token_embd": Kind.Q8_0,
}


def names(arch):
    """Hugging Face's name of each tensor by GGUF's, without the part after the last dot."""
    if arch == "gpt2":
        inner = {**CONV1D, "attn_norm": "ln_1", "ffn_norm": "ln_2"}
        ends = {"token_embd": "wte", "position_embd": "wpe", "output_norm": "ln_f"}
        out = {k: f"transformer.{v}" for k, v in ends.items()}
        layer = "transformer.h"
    else:
        norms = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
        inner, layer = {**LINEARS, **norms}, "model.layers"
        out = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    return out | {f"blk.{i}.{k}": f"{layer}.{i}.{v}" for i in range(2) for k, v in inner.items()}


def permute(weights, heads):
    """As `LlamaModel.permute` of llama.cpp's `convert_hf_to_gguf.py`."""
    shape = weights.shape
    return weights.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def unpermute(weights, heads):
    shape = weights.shape
    return weights.reshape(heads, shape[0] // heads // 2, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def divisors(model):
    """What `rope_freqs.weight` has: plain frequencies over stretched ones."""
    stretched = model.model.rotary_emb.inv_freq.double()
    i = torch.arange(0, HIDDEN // HEADS, 2, dtype=torch.float64)
    return (100.0 ** (-i / (HIDDEN // HEADS)) / stretched).float().numpy()


def write(path, arch, model, kinds, pre):
    """The file; and `model` gets the weights that it has."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(2)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    if arch == "gpt2":
        writer.add_layer_norm_eps(1e-5)
    else:
        writer.add_head_count_kv(KV_HEADS)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_freq_base(model.config.rope_parameters["rope_theta"])
        writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types(KINDS)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    state = model.state_dict()
    hugging = {name for name, _ in model.named_parameters()}
    at = 0
    for theirs, ours in names(arch).items():
        for part in ("weight", "bias"):
            name = f"{ours}.{part}"
            if name not in hugging:
                continue
            centre = 1.0 if "norm" in theirs and part == "weight" else 0.0
            turned = arch == "gpt2" and part == "weight" and theirs.split(".")[-1] in CONV1D
            shape = state[name].shape[::-1] if turned else state[name].shape
            values = spread(shape, at, centre, 0.5).float().numpy()
            heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(theirs.split(".")[-1])
            heads = heads if arch == "llama" else None
            values = permute(values, heads) if heads else values
            kind = kinds.get(theirs.split(".")[-1], Kind.F32) if values.ndim > 1 else Kind.F32
            raw = quantize(np.ascontiguousarray(values), kind)
            writer.add_tensor(f"{theirs}.{part}", raw, raw_dtype=kind)
            back = dequantize(raw, kind)
            back = unpermute(back, heads) if heads else back
            back = torch.tensor(np.ascontiguousarray(back), dtype=torch.float64)
            state[name] = back.T if turned else back
            at += 1
    assert at == len(hugging), (at, hugging)
    if arch == "llama":
        writer.add_tensor("rope_freqs.weight", divisors(model))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if "lm_head.weight" not in hugging:
        del state["lm_head.weight"]
    model.load_state_dict(state, strict=False)
    model.tie_weights()
    model.eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, state[name]), name


def batch(step):
    """Tokens by a formula; the second row's last six targets are none."""
    n = len(TOKENS)
    rows = [
        [(7 * t + 5 * row + t * t + 3 * step * t) % n for t in range(COLS + 1)]
        for row in range(ROWS)
    ]
    targets = [row[1:] for row in rows]
    targets[1][-6:] = [-100] * 6
    return [row[:-1] for row in rows], targets


def blocks():
    """Of each kind three blocks of bytes by the formula, scales between 2^-4 and 2^-3 and of both signs."""
    scales = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0]}
    scales |= {"Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
    out = {}
    for at, (name, halves) in enumerate(scales.items()):
        kind = Kind[name]
        _, size = gguf.GGML_QUANT_SIZES[kind]
        raw = ((spread((3, size), 50 + at).numpy() + 0.5) * 256).astype(np.uint8)
        for half in halves:
            raw[:, half + 1] = raw[:, half + 1] & 0x83 | 0x2C
        values = torch.tensor(dequantize(raw, kind)).double()
        out[name] = {"raw": raw.tobytes().hex(), "values": summary(values), "n": values.numel()}
    return out


def main():
    golden = pathlib.Path(sys.argv[1])
    cases = {
        # Tied, every kind of weight, stretched frequencies.
        "llama": (
            LlamaForCausalLM(
                LlamaConfig(
                    **ROTARY, tie_word_embeddings=True,
                    rope_parameters={"rope_theta": 100.0, **STRETCHED},
                )
            ),
            KINDS_OF_LLAMA, "llama-bpe",
        ),
        # Own head, biases.
        "qwen2": (
            Qwen2ForCausalLM(
                Qwen2Config(
                    **ROTARY, tie_word_embeddings=False, rope_parameters={"rope_theta": 1e6},
                )
            ),
            {"attn_q": Kind.Q8_0, "attn_k": Kind.Q8_0}, "qwen2",
        ),
        "gpt2": (
            GPT2LMHeadModel(
                GPT2Config(
                    n_embd=HIDDEN, n_layer=2, n_head=HEADS, n_positions=CONTEXT, n_inner=INNER,
                    vocab_size=len(TOKENS), bos_token_id=1, eos_token_id=2,
                )
            ),
            {"attn_qkv": Kind.F16, "ffn_down": Kind.Q8_0}, "gpt-2",
        ),
    }
    batches = [batch(step) for step in range(STEPS)]
    flat = [{"inputs": sum(i, []), "targets": sum(t, [])} for i, t in batches]
    out = {"rank": RANK, "alpha": ALPHA, "size": SIZE, "rows": ROWS, "batches": flat}
    out |= {"texts": TEXTS, "blocks": blocks(), "models": {}}
    for arch, (model, kinds, pre) in cases.items():
        model.config._attn_implementation = "eager"
        model = model.to(torch.float64)
        write(golden / f"{arch}.gguf", arch, model, kinds, pre)
        inner, layer = (CONV1D, "transformer.h") if arch == "gpt2" else (LINEARS, "model.layers")
        paths = [f"{layer}.{i}.{name}" for i in range(2) for name in inner.values()]
        factors = adapt(model, paths, RANK, ALPHA, SIZE)
        case = run(factors, lambda at: next_tokens(model, batches[at]), STEPS, 0.001)
        case["tokens"] = [encode(text, pre, TOKENS, MERGES, SPECIAL) for text in TEXTS]
        out["models"][arch] = case
    (golden / "gguf.json").write_text(json.dumps(shorten(out), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
