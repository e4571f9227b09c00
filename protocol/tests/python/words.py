"""Layouts, seeded starts, manifests and digests, written from docs/wire.md alone."""

import hashlib
import math
import struct

from chacha8 import Stream
from gsmr import f32


def sha(data):
    return hashlib.sha256(data).digest()


def lora(linears, targets, rank, freeze_a=False):
    """Tensors (name, part, shape) of LoRA on `linears` (name, d_in, d_out)."""
    out = []
    for name, d_in, d_out in linears:
        if any(name == t or name.endswith("." + t) for t in targets):
            if not freeze_a:
                out.append((name + ".lora_A", "lora_a", [rank, d_in]))
            out.append((name + ".lora_B", "lora_b", [d_out, rank]))
    return out


def size(tensors):
    return sum(rows * columns for _, _, (rows, columns) in tensors)


def layout_digest(tensors):
    text = b"gossamer/v1/layout\0"
    for name, part, shape in tensors:
        text += struct.pack("<Q", len(name.encode())) + name.encode()
        text += bytes([["lora_a", "lora_b", "head"].index(part)]) + struct.pack("<2Q", *shape)
    return sha(text)


def init(tensors, seed):
    """The flat adapter before training."""
    out = []
    for name, part, (rows, columns) in tensors:
        if part != "lora_a":
            out += [0.0] * (rows * columns)
            continue
        # Each step is rounded to binary32.
        bound = f32(1.0 / f32(math.sqrt(columns)))
        stream = Stream(seed, "lora-init", [name.encode()])
        out += [f32((2.0 * stream.unit() - 1.0) * bound) for _ in range(rows * columns)]
    return out


def base_digest(config, tokenizer, weights):
    names = ("config.json", "tokenizer.json", "model.safetensors")
    lines = (f"{name}\0{digest.hex()}\n" for name, digest in zip(names, (config, tokenizer, weights)))
    return sha("".join(lines).encode())


def accepted_digest(accepted):
    return sha(b"gossamer/v1/accepted\0" + b"".join(c + d for c, d in sorted(accepted)))


def count(density, n):
    """Half rounds away from zero; at least one."""
    return min(n, max(1, math.floor(density * n + 0.5)))


def dump(value):
    """Compact JSON in the order given; a number is written in its shortest form."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{dump(k)}:{dump(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dump, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        assert value.isascii() and value.isprintable() and not set(value) & set('"\\'), value
        return f'"{value}"'
    return repr(value).replace("e-0", "e-")
