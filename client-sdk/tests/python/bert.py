"""Golden numbers for `src/model/encoder/tests.rs` and `tests/minilm.rs`, from PyTorch and transformers.

    python3 bert.py > ../golden/bert.json
    python3 bert.py --base MINILM_FOLDER > ../golden/minilm.json

Written with torch 2.15.0 and transformers 5.24.0; everything in float64. The small model's weights, LoRA
factors and head are a formula's, which the test has too.
"""

import argparse
import json

import torch
from transformers import AutoTokenizer, BertConfig, BertModel

RANK, ALPHA, CLASSES = 3, 6.0, 5
CONFIG = {
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 23,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
# Rows of tokens that are not padding; blocks of attention end at 32.
BATCHES = {"padded": (40, [40, 33, 7, 1]), "whole": (9, [9, 9])}
LINEARS = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
]
SENTENCES = [
    "The graphics card renders the picture much too slowly.",
    "Shuttle launch postponed again",
    "He shot the puck past the goalie in overtime; the crowd went wild!",
    "",
]


def spread(shape, tensor, centre=0.0, size=0.5):
    """`centre + size * h`, h in [-1, 1) from the entry's and the tensor's number."""
    n = torch.Size(shape).numel()
    i = torch.arange(1, n + 1, dtype=torch.float64)
    h = torch.sin(i * 12.9898 + tensor * 78.233) * 43758.5453
    h = 2 * (h - torch.floor(h)) - 1
    return (centre + size * h).to(torch.float32).to(torch.float64).reshape(shape)


def small():
    """The model; tensors are numbered in the order in which the encoder's map has them."""
    config = BertConfig(**CONFIG, attn_implementation="eager")
    model = BertModel(config, add_pooling_layer=False).to(torch.float64).eval()
    names = [f"embeddings.{x}_embeddings.weight" for x in ("word", "position", "token_type")]
    norm = lambda path: [f"{path}.LayerNorm.{x}" for x in ("weight", "bias")]
    names += norm("embeddings")
    for layer in range(CONFIG["num_hidden_layers"]):
        path = f"encoder.layer.{layer}"
        names += [f"{path}.{linear}.{x}" for linear in LINEARS for x in ("weight", "bias")]
        names += norm(f"{path}.attention.output") + norm(f"{path}.output")
    state = model.state_dict()
    weights = {}
    for at, name in enumerate(names):
        centre = 1.0 if name.endswith("LayerNorm.weight") else 0.0
        weights[name] = spread(state[name].shape, at, centre)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all("position_ids" in name for name in missing), missing
    model.requires_grad_(False)
    return model


def adapt(model):
    """LoRA on all linears by forward hooks; the factors by the layout's names, in its order."""
    factors = {}
    for layer, block in enumerate(model.encoder.layer):
        for name in LINEARS:
            linear = block.get_submodule(name)
            path = f"encoder.layer.{layer}.{name}"
            d_out, d_in = linear.weight.shape
            a = spread((RANK, d_in), 100 + len(factors), size=0.3).requires_grad_()
            factors[f"{path}.lora_A"] = a
            b = spread((d_out, RANK), 100 + len(factors), size=0.3).requires_grad_()
            factors[f"{path}.lora_B"] = b

            def hook(module, inputs, output, a=a, b=b):
                return output + ALPHA / RANK * (inputs[0] @ a.T @ b.T)

            linear.register_forward_hook(hook)
    return factors


def features(model, inputs, mask):
    """Every layer's input and the last one's output, and its mean over real tokens."""
    out = model(input_ids=inputs, attention_mask=mask, output_hidden_states=True)
    weights = mask[:, :, None].to(torch.float64)
    last = out.last_hidden_state
    return out.hidden_states, (last * weights).sum(1) / weights.sum(1)


def summary(x):
    """Norm, a weighted sum that any entry changes, and the first entries."""
    x = x.detach().flatten()
    weights = torch.cos(torch.arange(len(x), dtype=torch.float64))
    return {"norm": x.norm().item(), "sum": (x * weights).sum().item(), "first": x[:3].tolist()}


def batch(cols, lengths):
    tokens = [[(7 * t + 5 * row + t * t) % 22 + 1 for t in range(cols)] for row in range(len(lengths))]
    mask = [[int(t < length) for t in range(cols)] for length in lengths]
    tokens = [[x * m for x, m in zip(*row)] for row in zip(tokens, mask)]
    return torch.tensor(tokens), torch.tensor(mask), torch.arange(len(lengths)) * 2 % CLASSES


def golden_small():
    out = {"config": CONFIG, "rank": RANK, "alpha": ALPHA, "classes": CLASSES, "batches": {}}
    for name, (cols, lengths) in BATCHES.items():
        model = small()
        factors = adapt(model)
        head = {
            "classifier.weight": spread((CLASSES, CONFIG["hidden_size"]), 200).requires_grad_(),
            "classifier.bias": spread((CLASSES,), 201).requires_grad_(),
        }
        inputs, mask, labels = batch(cols, lengths)
        hidden, pooled = features(model, inputs, mask)
        logits = pooled @ head["classifier.weight"].T + head["classifier.bias"]
        loss = torch.nn.functional.cross_entropy(logits, labels)
        loss.backward()
        out["batches"][name] = {
            "inputs": inputs.flatten().tolist(),
            "lengths": lengths,
            "labels": labels.tolist(),
            "hidden": [summary(x) for x in hidden],
            "pooled": pooled.flatten().tolist(),
            "logits": logits.flatten().tolist(),
            "loss": loss.item(),
            "right": (logits.argmax(1) == labels).sum().item(),
            "gradients": {n: summary(x.grad) for n, x in (factors | head).items()},
        }
    return out


def golden_minilm(base):
    model = BertModel.from_pretrained(base, dtype=torch.float64, attn_implementation="eager").eval()
    tokens = AutoTokenizer.from_pretrained(base)(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        _, pooled = features(model, tokens["input_ids"], tokens["attention_mask"])
    lengths = tokens["attention_mask"].sum(1).tolist()
    inputs = [row[:length] for row, length in zip(tokens["input_ids"].tolist(), lengths)]
    return {"sentences": SENTENCES, "inputs": inputs, "features": [summary(x) for x in pooled]}


def shorten(x):
    """Nine significant digits are more than f32 has."""
    if isinstance(x, float):
        return float(f"{x:.9g}")
    if isinstance(x, dict):
        return {k: shorten(v) for k, v in x.items()}
    return [shorten(v) for v in x] if isinstance(x, list) else x


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base")
    base = parser.parse_args().base
    out = golden_minilm(base) if base else golden_small()
    print(json.dumps(shorten(out), indent=None, separators=(",", ":")))


if __name__ == "__main__":
    main()
