#!/usr/bin/env python3
"""PEFT's own files of a small GPT-2 adapter, for protocol/tests/vectors/peft.json; made with peft 0.21.2.

Run as `python3 peft_config.py > ../../../protocol/tests/vectors/peft.json`. The configuration is the text
that PEFT saved; names and shapes are of its tensors, scales of its model.
"""

import json
import pathlib
import tempfile
import warnings

import peft
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

warnings.filterwarnings("ignore")

torch.manual_seed(0)
tokens = dict(bos_token_id=0, eos_token_id=0)
base = GPT2LMHeadModel(GPT2Config(n_embd=8, n_head=2, n_layer=2, vocab_size=20, n_positions=16, **tokens))
config = peft.LoraConfig(
    r=2,
    lora_alpha=4,
    target_modules="all-linear",
    task_type="CAUSAL_LM",
    use_rslora=True,
    # No two that match one module: PEFT sorts keys when it saves, so its first match is lost.
    rank_pattern={"mlp.c_proj": 1, "attn.c_proj": 3},
    alpha_pattern={"h.1.mlp.c_fc": 7},
)
model = peft.get_peft_model(base, config)
with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    model.save_pretrained(folder)
    text = (folder / "adapter_config.json").read_text()
    tensors = load_file(folder / "adapter_model.safetensors")

# What PEFT chose of `all-linear` is a set, written in any order.
parsed = json.loads(text)
parsed["target_modules"] = sorted(parsed["target_modules"])
scaling = {
    name.removeprefix("base_model.model."): module.scaling["default"]
    for name, module in model.named_modules()
    if isinstance(module, peft.tuners.lora.LoraLayer)
}
shapes = {name: list(tensors[name].shape) for name in sorted(tensors)}
print(json.dumps({"config": json.dumps(parsed, indent=2), "shapes": shapes, "scaling": scaling}, indent=1))
