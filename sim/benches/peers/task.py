"""The task that each peer has: model, adapter, the batches of each client of each round, training, evaluation.

`main.rs` writes a task's folder: `task.json`, the tokens `tokens.bin` (i32; a target of -100 isn't learned) and the
adapter that everything starts from, `adapter/`. Who trains in a round and on what is written there, so that all
have the very same work.
"""

import json
import os
import pathlib
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy
import peft
import torch
import transformers

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


class Task:
    def __init__(self, folder, threads):
        torch.set_num_threads(threads)
        self.folder = pathlib.Path(folder)
        terms = json.loads((self.folder / "task.json").read_text())
        self.clients, self.lr, self.momentum = terms["clients"], terms["lr"], terms["momentum"]
        self.rounds, self.evaluation = terms["rounds"], terms["evaluation"]
        self.tokens = torch.from_numpy(numpy.fromfile(self.folder / "tokens.bin", dtype=numpy.int32))
        model = transformers.AutoModelForCausalLM.from_pretrained(
            terms["model"], dtype=torch.float32, attn_implementation="sdpa")
        self.model = peft.PeftModel.from_pretrained(model, self.folder / "adapter", is_trainable=True)
        self.model.train()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]

    def batch(self, place):
        """Inputs and targets, each `[rows, cols]`; in the file one after the other."""
        at, rows, cols = place["at"], place["rows"], place["cols"]
        n = rows * cols
        inputs, targets = self.tokens[at : at + n], self.tokens[at + n : at + 2 * n]
        return inputs.long().reshape(rows, cols), targets.long().reshape(rows, cols)

    def loss(self, inputs, targets, reduction="mean"):
        logits = self.model(input_ids=inputs, use_cache=False).logits
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction=reduction)

    def get(self):
        return [p.detach().numpy().copy() for p in self.trained]

    def set(self, values):
        with torch.no_grad():
            for parameter, value in zip(self.trained, values, strict=True):
                parameter.copy_(torch.from_numpy(value))

    def train(self, batches):
        """One client's round, from the values that are set."""
        optimizer = torch.optim.SGD(self.trained, lr=self.lr, momentum=self.momentum)
        for place in batches:
            loss = self.loss(*self.batch(place))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def evaluate(self):
        """Mean loss, nats a token."""
        total, tokens = 0.0, 0
        with torch.no_grad():
            for place in self.evaluation:
                inputs, targets = self.batch(place)
                total += self.loss(inputs, targets, "sum").item()
                tokens += (targets != -100).sum().item()
        return total / tokens


# What main.rs reads: one line of JSON after each round, and one at the end.
_out = os.fdopen(os.dup(1), "w")


def say(**line):
    print(json.dumps(line), file=_out, flush=True)


def arguments():
    """The task's folder and the number of workers; all that others print goes to the errors."""
    os.dup2(2, 1)
    folder, workers = sys.argv[1:]
    return folder, int(workers)
