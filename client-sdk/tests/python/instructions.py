#!/usr/bin/env python3
"""Numbers of instruction data on stories260K, from transformers in float64, for tests/instructions.rs.

The template is written out from Stanford Alpaca's train.py; masking, cutting and packing are written here
anew, with transformers' own label -100 and its own loss.

    pip install torch transformers tokenizers
    python instructions.py --data PATH/TO/data > ../golden/instructions.json

The committed numbers: torch 2.15.0, transformers 5.24.0, 64-bit CPU.
"""

import argparse
import gzip
import json
import pathlib

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

COLS, ROWS, NARROW = 384, 8, 160
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
WITHOUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=pathlib.Path, required=True)
    data = parser.parse_args().data
    model = LlamaForCausalLM.from_pretrained(data / "stories260k").double().eval()
    tokenizer = Tokenizer.from_file(str(data / "stories260k" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    bos, eos = model.config.bos_token_id, model.config.eos_token_id

    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    pairs = []
    with gzip.open(data / "instructions.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            example = {key: str(value).strip() for key, value in json.loads(line).items()}
            template = WITH_INPUT if example["input"] else WITHOUT
            prompt = [bos] + encode(template.format_map(example))
            pairs.append((prompt, encode(example["output"]) + [eos]))

    def loss(rows):
        """transformers' mean loss of rows of (tokens, labels), padded with label -100."""
        width = max(len(tokens) for tokens, _ in rows)
        ids = torch.tensor([tokens + [0] * (width - len(tokens)) for tokens, _ in rows])
        labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows])
        with torch.no_grad():
            out = model(input_ids=ids, labels=labels)
        return out.loss.item(), int((labels[:, 1:] != -100).sum())

    def row(prompt, answer, cols):
        """Tokens and labels of one sequence of at most cols inputs."""
        tokens, labels = prompt + answer, [-100] * len(prompt) + answer
        return tokens[: cols + 1], labels[: cols + 1]

    def left(cols):
        return [row(p, a, cols) for p, a in pairs if len(p) <= cols]

    padded, learned = loss(left(COLS)[:ROWS])

    # Each sequence without its last token, which is nobody's input, but for its label: the loss is summed
    # sequence by sequence over the logits of the row.
    packed, room = [], 0
    for tokens, labels in left(COLS):
        if len(tokens) - 1 > room or not packed:
            packed.append([])
            room = COLS
        packed[-1].append((tokens, labels))
        room -= len(tokens) - 1
    nats, count = 0.0, 0
    for sequences in packed[:2]:
        inputs = [token for tokens, _ in sequences for token in tokens[:-1]]
        targets = torch.tensor([label for _, labels in sequences for label in labels[1:]])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([inputs])).logits[0]
        nats += torch.nn.functional.cross_entropy(
            logits, targets, ignore_index=-100, reduction="sum"
        ).item()
        count += int((targets != -100).sum())

    def size(cols):
        rows = left(cols)
        return {
            "rows": len(rows),
            "inputs": sum(len(tokens) - 1 for tokens, _ in rows),
            "learned": sum(label != -100 for _, labels in rows for label in labels[1:]),
        }

    print(json.dumps({
        "cols": COLS, "first": ROWS, "narrow": NARROW, "examples": len(pairs),
        "wide": size(COLS), "cut": size(NARROW), "packed_rows": len(packed),
        "padded": {"loss": padded, "learned": learned},
        "packed": {"loss": nats / count, "learned": count},
        "answers": [len(pairs[0][1]), sum((i + 1) * t for i, t in enumerate(pairs[0][1]))],
    }, indent=1))


if __name__ == "__main__":
    main()
