#!/usr/bin/env python3
"""Which modules PEFT adapts, with which rank and scale, for protocol/tests/vectors/lora.json.

PEFT itself decides: it puts LoRA on a skeleton of linears, and what it made is read back.
Run as `python3 peft_rules.py > ../../../protocol/tests/vectors/lora.json`; made with peft 0.21.2.
"""

import json
import warnings

import peft
import torch

warnings.filterwarnings("ignore")

LLAMA = [
    f"model.layers.{at}.{name}"
    for at in range(12)
    for name in ["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj"]
]
BERT = [
    f"encoder.layer.{at}.{name}"
    for at in range(2)
    for name in ["attention.self.query", "attention.output.dense", "output.dense"]
]
GPT2 = [f"transformer.h.{at}.{name}" for at in range(2) for name in ["attn.c_proj", "mlp.c_proj"]]

CASES = [
    (LLAMA, dict(target_modules=["q_proj", "v_proj"])),
    (LLAMA, dict(target_modules=["self_attn.q_proj", "model.layers.3.mlp.up_proj"])),
    (LLAMA, dict(target_modules=r".*\.(q|v)_proj")),
    (LLAMA, dict(target_modules=r"model\.layers\.1\d?\..*proj")),
    (LLAMA, dict(target_modules="All-Linear")),
    (LLAMA, dict(target_modules=["q_proj"], layers_to_transform=[1, 10])),
    (LLAMA, dict(target_modules=["q_proj"], use_rslora=True, r=6, lora_alpha=10)),
    (LLAMA, dict(target_modules=["q_proj", "up_proj"], rank_pattern={"up_proj": 3})),
    # The first key counts, though the second is longer; `_proj` is an end only behind a dot.
    (
        LLAMA,
        dict(
            target_modules=["q_proj", "up_proj"],
            rank_pattern={"q_proj": 2, "layers.1.self_attn.q_proj": 3, "_proj": 4},
        ),
    ),
    (
        LLAMA,
        dict(
            target_modules=["q_proj", "up_proj"],
            rank_pattern={r"layers\.1\d?\.self_attn\.q_proj": 2, "q_proj|up_proj": 5},
            alpha_pattern={"up_proj": 20, r"model.layers.0.self_attn.q_proj": 7},
            use_rslora=True,
        ),
    ),
    # A path from its start, which the group in front would not allow elsewhere.
    (LLAMA, dict(target_modules=["q_proj"], rank_pattern={r"^model\.layers\.2\..*": 7})),
    (BERT, dict(target_modules=["dense"])),
    (BERT, dict(target_modules=["output.dense"], layers_to_transform=[1])),
    (BERT, dict(target_modules=["query"], alpha_pattern={"self.query": 3})),
    (GPT2, dict(target_modules=["c_proj"], rank_pattern={"attn.c_proj": 1}, lora_alpha=3)),
]


def skeleton(paths):
    root = torch.nn.Module()
    for path in paths:
        at = root
        *parents, name = path.split(".")
        for parent in parents:
            if not hasattr(at, parent):
                at.add_module(parent, torch.nn.Module())
            at = getattr(at, parent)
        at.add_module(name, torch.nn.Linear(4, 4))
    return root


def case(paths, settings):
    settings = {"r": 4, "lora_alpha": 8, **settings}
    model = peft.get_peft_model(skeleton(paths), peft.LoraConfig(**settings))
    adapted = {}
    for name, module in model.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            path = name.removeprefix("base_model.model.")
            adapted[path] = [module.r["default"], module.scaling["default"]]
    return {"paths": paths, "settings": settings, "adapted": adapted}


print(json.dumps([case(*c) for c in CASES], separators=(",", ":")))
