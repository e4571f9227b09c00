#!/usr/bin/env python3
"""Numbers of stories260K with LoRA, from PyTorch in float64, for tests/golden.rs.

The model is transformers' own LlamaForCausalLM; LoRA is added by hooks; optimisers and clipping are
torch's. Adapter values come from a formula both sides compute, so no random generator is shared.

    pip install torch transformers tokenizers
    python stories260k.py --base PATH/TO/stories260k > ../golden/stories260k.json

The committed numbers: torch 2.15.0, transformers 5.24.0, 64-bit CPU.
"""

import argparse
import json
import math

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

RANK, ALPHA = 2, 8.0
PROMPT = "Once upon a time, there was a little girl named Lily."
GREEDY = "Once upon a time"
ROWS, COLS = 2, 24
TEXT = (
    "Tom had a red ball. He took it to the park to play with his dog. The dog ran fast and got the "
    "ball. Tom was very happy. They went home and had some cake. Mom said it was time for bed. "
    "The sun was big and the sky was blue. A bird sat in a tree and sang a song for the frog."
)
LINEARS = [
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
]


def start(shape, index):
    """Adapter tensor number `index`: amplitude * sin(0.1 * (i + 1) * (index + 1)), as f32."""
    amplitude = 0.1 if index % 2 == 0 else 0.05
    n = shape[0] * shape[1]
    values = [amplitude * math.sin(0.1 * (i + 1) * (index + 1)) for i in range(n)]
    return torch.tensor(values, dtype=torch.float32).double().reshape(shape)


def adapt(model):
    """Adds `ALPHA / RANK * B A x` to every linear; returns the factors by name, in order."""
    factors = {}
    for layer in range(model.config.num_hidden_layers):
        for name in LINEARS:
            path = f"model.layers.{layer}.{name}"
            linear = model.get_submodule(path)
            d_out, d_in = linear.weight.shape
            a = start((RANK, d_in), len(factors)).requires_grad_()
            factors[f"{path}.lora_A"] = a
            b = start((d_out, RANK), len(factors)).requires_grad_()
            factors[f"{path}.lora_B"] = b

            def hook(module, inputs, output, a=a, b=b):
                return output + ALPHA / RANK * (inputs[0] @ a.T @ b.T)

            linear.register_forward_hook(hook)
    return factors


def summary(x):
    """Norm, a weighted sum that any entry changes, and the first entries."""
    x = x.detach().flatten()
    weights = torch.cos(torch.arange(len(x), dtype=torch.float64))
    return {"norm": x.norm().item(), "sum": (x * weights).sum().item(), "first": x[:3].tolist()}


def load(base):
    model = LlamaForCausalLM.from_pretrained(
        base, dtype=torch.float64, attn_implementation="eager"
    )
    model.requires_grad_(False)
    return model.eval()


def loss_of(model, batch):
    inputs, targets = batch
    logits = model(torch.tensor(inputs)).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.tensor(targets).flatten(), ignore_index=-100
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True)
    base = parser.parse_args().base
    torch.set_grad_enabled(True)
    tokenizer = Tokenizer.from_file(f"{base}/tokenizer.json")
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids

    out = {"rank": RANK, "alpha": ALPHA}
    prompt = [1] + encode(PROMPT)
    plain = load(base)
    out["prompt"] = {"text": PROMPT, "tokens": prompt}
    logits = plain(torch.tensor([prompt])).logits[0]
    out["prompt"]["last_logits"] = [round(x, 6) for x in logits[-1].tolist()]
    out["prompt"]["rows"] = [summary(row) for row in logits]

    tokens = [1] + encode(GREEDY)
    for _ in range(96):
        with torch.no_grad():
            tokens.append(plain(torch.tensor([tokens])).logits[0, -1].argmax().item())
    out["greedy"] = {"prompt": GREEDY, "new": 96, "text": tokenizer.decode(tokens)}
    assert 2 not in tokens, "the golden text must not end early"

    stream = [1] + encode(TEXT)
    batches = []
    for step in range(3):
        inputs, targets = [], []
        for row in range(ROWS):
            at = 5 * step + 40 * row
            window = stream[at : at + COLS + 1]
            inputs.append(window[:-1])
            targets.append(window[1:])
        # The second row ends early, as a short text's does.
        targets[1][-6:] = [-100] * 6
        batches.append((inputs, targets))
    out["batches"] = [
        {"inputs": sum(i, []), "targets": sum(t, []), "rows": ROWS, "cols": COLS}
        for i, t in batches
    ]

    model = load(base)
    factors = adapt(model)
    loss = loss_of(model, batches[0])
    loss.backward()
    out["loss"] = loss.item()
    out["gradients"] = {name: summary(x.grad) for name, x in factors.items()}

    recipes = {
        "sgd": (lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), None),
        "sgd-clipped": (lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), 0.25),
        "adamw": (lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1), 1.0),
    }
    out["training"] = {}
    for name, (make, clip) in recipes.items():
        model = load(base)
        factors = adapt(model)
        optimizer = make(list(factors.values()))
        losses, after = [], {}
        for step, batch in enumerate(batches, 1):
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(list(factors.values()), clip)
            optimizer.step()
            losses.append(loss.item())
            if step in (1, 3):
                after[str(step)] = {n: summary(x) for n, x in factors.items()}
        out["training"][name] = {"clip": clip, "losses": losses, "after": after}
    print(json.dumps(shorten(out), indent=None, separators=(",", ":")))


def shorten(x):
    """Nine significant digits are more than f32 has."""
    if isinstance(x, float):
        return float(f"{x:.9g}")
    if isinstance(x, dict):
        return {k: shorten(v) for k, v in x.items()}
    return [shorten(v) for v in x] if isinstance(x, list) else x


if __name__ == "__main__":
    main()
