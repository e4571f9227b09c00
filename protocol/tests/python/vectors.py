"""Writes `protocol/tests/vectors/*.json` from docs/wire.md alone; no Rust code has a part in them.

    python3 vectors.py           compares with what is committed, and fails where they differ
    python3 vectors.py --write   writes those that do not exist yet

The standard library is all it needs. No file is ever edited: another wire gets another file.
"""

import json
import pathlib
import sys

import differences
import document_v2
import frames
import messages
from chacha8 import Stream
from gsmr import bits
from manifests import ALL, minimal
from words import count, init, layout_digest, lora

OUT = pathlib.Path(__file__).parent.parent / "vectors"
ABOUT = [
    "Golden vectors of Gossamer's wire, version 1 (docs/wire.md), made by protocol/tests/python/vectors.py.",
    "Never edited: devices in the field keep to these bytes. A new version gets a new file beside it.",
    "Values are binary32 bit patterns in hexadecimal; a support of null is every coordinate.",
]


def streams():
    """Draws in order from one stream; among them a rejection, and 64-bit draws over a block's end."""
    for seed, label, parts in ((0, "", []), (2**64 - 1, "lora-init", [b"a", b"bc"]), (7, "cohort", [bytes(8), b""])):
        stream = Stream(seed, label, parts)
        draws = []
        for op, n in [("bits", 0), ("unit", 0)] + [("bits", 0)] * 35 + [
            ("unit_f64", 0), ("unit", 0), ("below", 0), ("below", 1), ("below", 5), ("below", 10**12),
            ("shuffle", 12)] + [("below", 2**63 + 1)] * 12 + [("unit", 0)] * 140 + [("bits", 0)] * 2:
            if op == "bits":
                drawn = str(stream.bits())
            elif op == "unit":
                drawn = bits([stream.unit()])
            elif op == "unit_f64":
                drawn = str(int(stream.unit_f64() * 2**53))
            elif op == "below":
                drawn = str(stream.below(n))
            else:
                items = list(range(n))
                stream.shuffle(items)
                drawn = " ".join(map(str, items))
            draws.append([op, str(n), drawn])
        yield {"seed": str(seed), "label": label, "parts": [p.hex() for p in parts], "draws": draws}


def layouts():
    """Tensors that targets pick, their digest and their start."""
    linears = [("m.0.q_proj", 4, 6), ("m.0.up_proj", 3, 5), ("m.1.q_proj", 7, 2), ("m.1.xq_proj", 2, 2)]
    for targets, rank, freeze_a, seed in (
        (["q_proj"], 2, False, 1), (["m.1.q_proj", "up_proj"], 3, False, 2**64 - 1), (["q_proj"], 1, True, 5),
    ):
        tensors = lora(linears, targets, rank, freeze_a)
        yield {"linears": [[name, d_in, d_out] for name, d_in, d_out in linears],
               "targets": targets, "rank": rank, "freeze_a": freeze_a, "seed": str(seed),
               "tensors": [{"name": n, "part": p, "shape": s} for n, p, s in tensors],
               "digest": layout_digest(tensors).hex(), "init": bits(init(tensors, seed))}


def manifests():
    for terms in ALL:
        yield {"name": terms.name, "json": terms.text, "digest": terms.digest.hex(), "run": terms.run.hex(),
               "n": terms.n, "layout": layout_digest(terms.tensors).hex()}


def counts():
    for density, n in ((1.0, 7), (0.25, 44), (0.015625, 10), (0.015625, 96), (0.5, 5), (1e-9, 1000), (0.3, 5)):
        yield {"density": density, "n": n, "k": count(density, n)}


def document():
    made = list(frames.good())
    return {
        "version": 1,
        "about": ABOUT,
        "manifests": list(manifests()),
        "minimal_manifest": {"full": "quarter-f32", "json": minimal()},
        "limits": list(frames.limits()),
        "counts": list(counts()),
        "frames": [out for out, _ in made],
        "bad_frames": list(frames.bad(made)),
        "streams": list(streams()),
        "layouts": list(layouts()),
        "base": messages.digests(),
        "signatures": list(messages.signatures()),
        "requests": list(messages.requests()),
        "bad_headers": messages.bad_headers(),
        "records": list(messages.records()),
        "documents": list(messages.documents()),
        "strictness": list(messages.strictness()),
        "tokens": list(messages.tokens()),
        "problems": list(messages.problems()),
    }


def text(document):
    """One line a case."""
    sections = []
    for name, value in document.items():
        if isinstance(value, list):
            lines = ",\n".join("  " + json.dumps(item) for item in value)
            sections.append(f' "{name}": [\n{lines}\n ]')
        else:
            sections.append(f' "{name}": {json.dumps(value)}')
    return "{\n" + ",\n".join(sections) + "\n}\n"


def main():
    documents = {"v1.json": document, "v2.json": document_v2.document, "differences-v1.json": differences.document}
    for name, made in ((name, make()) for name, make in documents.items()):
        out, made = OUT / name, text(made)
        if "--write" in sys.argv[1:] and not out.exists():
            out.write_text(made, encoding="ascii", newline="\n")
        elif out.read_text(encoding="ascii") != made:
            sys.exit(f"{name} is not what docs/wire.md gives")
        print(f"{name} is what docs/wire.md gives")


if __name__ == "__main__":
    main()
