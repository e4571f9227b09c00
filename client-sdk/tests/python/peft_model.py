"""The models of the interop test, as Python has them. An encoder's head takes the mean of the last layer over
a text's tokens, so its class is this one and not transformers' BertForSequenceClassification."""

import json
import pathlib

import torch
from transformers import AutoModelForCausalLM, BertConfig, BertModel, GPT2Config, GPT2LMHeadModel


class MeanClassifier(BertModel):
    """BERT's encoder, the mean of its features over the tokens that are no padding, a linear head."""

    def __init__(self, config):
        super().__init__(config, add_pooling_layer=False)
        self.classifier = torch.nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, input_ids, attention_mask, **_):
        features = super().forward(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(features.dtype)
        return self.classifier((features * mask).sum(1) / mask.sum(1))


def load(folder, classes):
    """The model in `folder`, in f32, without dropout; with `classes` an encoder with a head."""
    if classes:
        model = MeanClassifier.from_pretrained(folder, num_labels=classes, dtype=torch.float32)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def logits(model, batch):
    """Of the batch, as Gossamer gives them: `[rows * cols, vocab]`, or with a head `[rows, classes]`."""
    inputs = torch.tensor(batch["inputs"]).reshape(batch["rows"], batch["cols"])
    if batch["lengths"]:
        at = torch.arange(batch["cols"]).unsqueeze(0)
        mask = (at < torch.tensor(batch["lengths"]).unsqueeze(1)).long()
        return model(input_ids=inputs, attention_mask=mask)
    return model(input_ids=inputs).logits.flatten(0, 1)


def make(folder):
    """Random models: `gpt2` and `bert`."""
    torch.manual_seed(7)
    folder = pathlib.Path(folder)
    sizes = dict(vocab_size=31, bos_token_id=0, eos_token_id=0)
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=16, n_head=4, n_layer=2, n_positions=32, **sizes))
    sizes = dict(vocab_size=31, hidden_size=16, intermediate_size=24, num_attention_heads=4)
    bert = BertModel(
        BertConfig(num_hidden_layers=2, max_position_embeddings=32, pad_token_id=0, **sizes),
        add_pooling_layer=False,
    )
    for name, model in (("gpt2", gpt2), ("bert", bert)):
        for parameter in model.parameters():
            # Wider than the usual 0.02: logits that an adapter moves visibly.
            parameter.data += 0.3 * torch.randn_like(parameter)
        model.save_pretrained(folder / name)
        special = lambda word, token: {"id": word, "ids": [token], "tokens": [word]}
        part = lambda word: {"SpecialToken": {"id": word, "type_id": 0}}
        tokenizer = {
            "version": "1.0",
            "model": {
                "type": "WordLevel",
                "vocab": {f"w{i}": i for i in range(31)},
                "unk_token": "w0",
            },
            "pre_tokenizer": {"type": "Whitespace"},
        }
        if name == "bert":
            tokenizer["post_processor"] = {
                "type": "TemplateProcessing",
                "single": [part("w1"), {"Sequence": {"id": "A", "type_id": 0}}, part("w2")],
                "pair": [],
                "special_tokens": {"w1": special("w1", 1), "w2": special("w2", 2)},
            }
        (folder / name / "tokenizer.json").write_text(json.dumps(tokenizer))
