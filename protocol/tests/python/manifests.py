"""The manifests that the vectors' frames belong to."""

import copy

from words import base_digest, dump, lora, sha, size

SMALL = [("model.layers.0.self_attn.q_proj", 4, 6), ("model.layers.0.mlp.up_proj", 5, 7)]
BASE = base_digest(sha(b"config"), sha(b"tokenizer"), sha(b"weights"))

PLAIN = {
    "version": 1,
    "name": "golden",
    "seed": 1,
    "rounds": 8,
    "base": {"name": "tiny", "digest": BASE.hex()},
    "lora": {"rank": 2, "alpha": 4.0, "targets": ["q_proj", "up_proj"], "dropout": 0.0, "freeze_a": False},
    "layout": None,
    "method": {
        "download": {"density": 0.25, "of": "change", "values": "f32"},
        "upload": {"density": 0.25, "values": "f32"},
        "train": "dense",
        "support": "each-round",
        "average": "cohort",
    },
    "training": {
        "steps": 4, "batch": 2, "context": 16,
        "optimizer": {"kind": "sgd", "lr": 0.1, "momentum": 0.9},
        "clip": None,
    },
    "cohort": {
        "goal": 2, "ask": 3, "min": 1, "enrolled_min": 0, "deadline_s": 60,
        "selection": "first-come", "retry_s": 5.0,
    },
    "optimizer": {"kind": "sgd", "lr": 1.0, "momentum": 0.0},
}


class Terms:
    """A manifest with its bytes and its tensors."""

    def __init__(self, name, linears=SMALL, tail=(), **changes):
        self.name = name
        body = copy.deepcopy(PLAIN)
        for path, value in changes.items():
            *way, last = path.split("__")
            at = body
            for step in way:
                at = at[step]
            at[last] = value
        lo = body["lora"]
        self.tensors = lora(linears, lo["targets"], lo["rank"], lo["freeze_a"]) + list(tail)
        body["layout"] = [{"name": n, "part": p, "shape": s} for n, p, s in self.tensors]
        self.body, self.n, self.seed = body, size(self.tensors), body["seed"]
        self.text = dump(body)
        self.digest = sha(self.text.encode())
        self.run = self.digest[:16]


def method(down=0.25, up=0.25, values="f32", of="change", **rest):
    return {
        "method__download": {"density": down, "of": of, "values": values},
        "method__upload": {"density": up, "values": values},
        **{f"method__{name}": value for name, value in rest.items()},
    }


ALL = [
    Terms("quarter-f32"),
    Terms("half-f32", **method(0.5, 0.5), method__average="contributors",
          optimizer={"kind": "adamw", "lr": 0.001, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01}),
    Terms("dense-f32", **method(1.0, 1.0), seed=2**64 - 1,
          optimizer={"kind": "fed-adam", "lr": 0.03125, "beta1": 0.9, "beta2": 0.99, "tau": 0.001}),
    Terms("half-int8", **method(0.5, 0.5, "int8"),
          training__optimizer={"kind": "adamw", "lr": 0.002, "weight_decay": 0.0}, training__clip=1.0,
          optimizer={"kind": "fed-yogi", "lr": 0.5, "beta1": 0.9, "beta2": 0.99, "tau": 0.001}),
    Terms("shared-f32", **method(train="support")),
    Terms("shared-int8", **method(0.125, 1.0, "int8", train="support")),
    Terms("once-f32", **method(0.125, 0.125, train="support", support="once"), cohort__selection="seeded"),
    Terms("weights-f32", **method(0.25, 0.0625, of="weights"), lora__dropout=0.125,
          optimizer={"kind": "fed-adagrad", "lr": 0.25, "beta1": 0.0, "tau": 0.001}),
    Terms("frozen-a", **method(1.0, 0.25), lora__freeze_a=True),
    Terms("wide-int8", [("x.o_proj", 100, 60)], **method(1.0, 1.0, "int8"),
          lora__rank=4, lora__targets=["x.o_proj"]),
    Terms("long-f32", [("x.o_proj", 32768, 32768)], **method(2**-13, 2**-13),
          lora__rank=16, lora__targets=["o_proj"]),
]
BY_NAME = {terms.name: terms for terms in ALL}


def minimal():
    """`quarter-f32` with every field left out that has a default."""
    body = copy.deepcopy(BY_NAME["quarter-f32"].body)
    for path in (
        "lora.dropout", "lora.freeze_a", "method.download.of", "method.download.values",
        "method.upload.values", "method.train", "method.support", "method.average", "training.clip",
        "training.optimizer.momentum", "cohort.enrolled_min", "cohort.selection", "cohort.retry_s",
        "optimizer.momentum",
    ):
        *way, last = path.split(".")
        at = body
        for step in way:
            at = at[step]
        del at[last]
    return dump(body)
