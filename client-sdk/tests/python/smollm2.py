"""Golden numbers for `tests/smollm2.rs`: SmolLM2-135M-Instruct as `sim/models/fetch-smollm2` leaves it.

    python3 smollm2.py ../../../sim/models/smollm2/*.gguf > ../golden/smollm2.json

Written with torch 2.15.0, transformers 5.24.0 and gguf 0.19.0. transformers reads the GGUF file itself and
turns its rows; everything after is in float64. Tokens are `bpe.py`'s.
"""

import json
import pathlib
import sys

import gguf
import torch
from bpe import encode
from parity import adapt, next_tokens, run, shorten
from transformers import AutoModelForCausalLM

RANK, ALPHA, STEPS, SIZE = 2, 4.0, 10, 0.02
ROWS, COLS = 2, 18
LINEARS = [
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
]
TEXTS = [
    "Once upon a time there was a spider who could not spin, and she didn't mind.",
    "In 1969   three men flew 384400 km;\n\n\tthey'll say it's far.  ",
    "Schwäbisch Gmünd, naïve café, 東京タワー, 🕷️ and 12½ eggs",
    "<|im_start|>user\nWhat is gossamer?<|im_end|>\n<|im_start|>assistant\n",
    " a  b   c    d\r\n e",
    "rooms  12,   7 and\n  3\n",
]


def main():
    path = pathlib.Path(sys.argv[1])
    fields = gguf.GGUFReader(path).fields
    metadata = lambda key: fields[f"tokenizer.ggml.{key}"].contents()
    tokens, kinds = metadata("tokens"), metadata("token_type")
    special = [token for token, kind in zip(tokens, kinds) if kind == 3]
    ids = [encode(text, metadata("pre"), tokens, metadata("merges"), special) for text in TEXTS]

    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    )
    model = model.to(torch.float64).eval().requires_grad_(False)
    n = sum(x.numel() for x in model.parameters())
    layers = model.config.num_hidden_layers
    paths = [f"model.layers.{i}.{name}" for i in range(layers) for name in LINEARS]
    factors = adapt(model, paths, RANK, ALPHA, SIZE)

    stream = sum(ids[:3], [])

    def batch(step):
        rows = [stream[s : s + COLS + 1] for s in (2 * step, 3 * step + 21)]
        targets = [row[1:] for row in rows]
        targets[1][-4:] = [-100] * 4
        return [row[:-1] for row in rows], targets

    batches = [batch(step) for step in range(STEPS)]
    flat = [{"inputs": sum(i, []), "targets": sum(t, [])} for i, t in batches]
    out = {"rank": RANK, "alpha": ALPHA, "size": SIZE, "rows": ROWS, "n_weights": n}
    out |= {"texts": TEXTS, "tokens": ids, "batches": flat}
    out |= run(factors, lambda at: next_tokens(model, batches[at]), STEPS, 0.0001)
    print(json.dumps(shorten(out), separators=(",", ":")))


if __name__ == "__main__":
    main()
