#!/usr/bin/env python3
"""PEFT's side of client-sdk/tests/peft.rs.

    peft_interop.py make DIR     writes random models into DIR/gpt2 and DIR/bert
    peft_interop.py meet DIR     reads DIR/case.json, and what it names:
        base    the model's folder          ours     Gossamer's adapter
        merged  Gossamer's merged model     batch    what both sides run
        theirs  settings for LoraConfig     classes  of the head, or 0
                                     trains and saves an adapter of its own into DIR/theirs, and writes the
                                     logits of all into DIR/logits.json
"""

import json
import pathlib
import sys
import warnings

warnings.filterwarnings("ignore")

import peft  # noqa: E402
import torch  # noqa: E402
from peft_model import load, logits, make  # noqa: E402


def train(model, batch, classes):
    """Ten steps of AdamW on fixed targets, large enough that every factor moves."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.02)
    for _ in range(10):
        out = logits(model, batch)
        targets = torch.arange(out.shape[0]) % (classes or 19)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(out, targets).backward()
        optimizer.step()


def meet(folder):
    case = json.loads((folder / "case.json").read_text())
    batch, classes = case["batch"], case["classes"]
    out = {}

    def tell(name, model):
        with torch.no_grad():
            out[name] = logits(model, batch).flatten().tolist()

    base = load(case["base"], classes)
    tell("base", base)
    ours = peft.PeftModel.from_pretrained(base, case["ours"]).eval()
    tell("ours", ours.base_model)
    # PEFT's own merge, which for Conv1D goes by the exported fan_in_fan_out.
    tell("unloaded", ours.merge_and_unload())
    tell("merged", load(case["merged"], classes))

    torch.manual_seed(3)
    config = peft.LoraConfig(task_type="SEQ_CLS" if classes else "CAUSAL_LM", **case["theirs"])
    theirs = peft.get_peft_model(load(case["base"], classes), config).eval()
    train(theirs.base_model, batch, classes)
    theirs.save_pretrained(folder / "theirs")
    tell("theirs", theirs.base_model)
    (folder / "logits.json").write_text(json.dumps(out))


if __name__ == "__main__":
    command, folder = sys.argv[1:]
    {"make": make, "meet": meet}[command](pathlib.Path(folder))
