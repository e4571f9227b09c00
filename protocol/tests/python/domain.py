"""What a round lets travel under version 2, written from docs/wire.md, section 6, alone."""

import math

from bodies import INDEX_BITS, header_bits
from chacha8 import Stream
from words import count


def at(way, round):
    """Density and values of a round."""
    held = [stage for stage in way.get("stages", []) if stage["from"] <= round]
    holds = held[-1] if held else way
    return holds["density"], holds.get("values", "f32")


def is_dense(method, round):
    return method.get("support", "each-round") != "each-round" and round == 0


def domain(run, round, client, shared=None):
    """The coordinates of an update, rising. `shared` is what the snapshot carries."""
    method = run.body["method"]
    if is_dense(method, round):
        return list(range(run.n))
    if method.get("train") == "support":
        return shared
    select = method["upload"].get("select", {})
    segments, random = select.get("segments", 1), select.get("random")
    turn = (round % segments + int.from_bytes(client[:4], "little") % segments) % segments
    stream = Stream(run.seed, "random-support", [round.to_bytes(8, "little")])
    within = set(shared) if select.get("within_download") else None
    out, start = [], 0
    for _, part, (rows, columns) in run.tensors:
        for i in range(start, start + rows * columns):
            drawn = random is None or stream.word() < math.floor(random * 2**32)
            striped = i // 256 % segments == turn
            due = True
            if method.get("alternate") and part != "head":
                even = round // method["alternate"]["rounds"] % 2 == 0
                due = even == (part == "lora_b")
            if due and (part == "head" or (drawn and striped)) and (within is None or i in within):
                out.append(i)
        start += rows * columns
    return out


def share(run, indices, density):
    adapter = sum(rows * columns for _, part, (rows, columns) in run.tensors if part != "head")
    a = sum(i < adapter for i in indices)
    head = run.body["method"].get("head_density", 1.0)
    return (count(density, a) if a else 0) + (count(head, len(indices) - a) if len(indices) > a else 0)


def allowed(run, round, indices):
    """Entries that an update may have whose domain this is."""
    method = run.body["method"]
    whole = is_dense(method, round) or method.get("train") == "support" or method["upload"].get("bytes_max")
    return len(indices) if whole else share(run, indices, at(method["upload"], round)[0])


def room(n, k, code):
    outliers = 24 * (k // 64 + 1) if code == "fp4" else 0
    bits = n + k * (INDEX_BITS[code] + 1) + (k // 256 + 1) * (header_bits(code) + 25) + outliers
    return bits // 8 + 16


def limits(run, round):
    """Entries of a snapshot and of anybody's update, and the longest frames."""
    method, whole = run.body["method"], range(run.n)
    down, down_code = at(method["download"], round)
    _, up_code = at(method["upload"], round)
    entries = run.n if is_dense(method, round) else share(run, whole, down)
    updates = entries if method.get("train") == "support" else allowed(run, round, whole)
    longest = method["upload"].get("bytes_max") or 56 + room(run.n, updates, up_code)
    return {"download_entries": entries, "upload_entries": updates, "update_len_max": longest,
            "snapshot_len_max": 48 + room(run.n, entries, down_code)}
