"""GSMR frames, written from docs/wire.md alone: positions, values, header, trailer."""

import hashlib
import struct

DENSE, BITMAP, RICE, SHARED = range(4)
F32, INT8 = range(2)
SNAPSHOT, UPDATE = range(2)


def f32(x):
    """`x` rounded to binary32."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


def bits(values):
    """Binary32 bit patterns, as the vectors write them."""
    return " ".join(f"{struct.unpack('<I', struct.pack('<f', v))[0]:08x}" for v in values)


def pack_bits(text):
    """A string of 0 and 1, first bit in the low end of the first byte."""
    text += "0" * (-len(text) % 8)
    return bytes(int(text[i : i + 8][::-1], 2) for i in range(0, len(text), 8))


def rice(indices, b):
    text, after = "", 0
    for index in indices:
        gap = index - after
        low = "".join(str(gap >> j & 1) for j in range(b))
        text += "1" * (gap >> b) + "0" + low
        after = index + 1
    return bytes([b]) + pack_bits(text)


def rice_cost(indices, b):
    """Bits after the parameter byte."""
    before = [-1] + indices[:-1]
    return sum(((i - j - 1) >> b) + 1 + b for i, j in zip(indices, before))


def best_rice(indices):
    return rice(indices, min(range(28), key=lambda b: (rice_cost(indices, b), b)))


def bitmap(indices, n):
    members = set(indices)
    return pack_bits("".join("1" if i in members else "0" for i in range(n)))


def positions(indices, n, shared):
    """Code and bytes; `indices` is None for every coordinate."""
    if indices is None:
        return DENSE, b""
    if shared:
        return SHARED, b""
    short = best_rice(indices)
    return (RICE, short) if len(short) <= -(-n // 8) else (BITMAP, bitmap(indices, n))


def int8(values):
    """Bytes, and the values they stand for."""
    exponents, integers, stand_for = [], [], []
    for at in range(0, len(values), 256):
        block = values[at : at + 256]
        top = max(map(abs, block))
        e = next(e for e in range(-30, 2) if top <= 127 * 2.0**e)
        exponents.append(e)
        # Python rounds halves to even; a binary32 times a power of two is exact in binary64.
        whole = [round(v * 2.0**-e) for v in block]
        integers += whole
        stand_for += [m * 2.0**e for m in whole]
    return struct.pack(f"<{len(exponents)}b{len(integers)}b", *exponents, *integers), stand_for


def code_values(values, code):
    if code == F32:
        return struct.pack(f"<{len(values)}f", *values), values
    return int8(values)


def seal(content):
    return content + hashlib.sha256(content).digest()


def frame(kind, own, *, run, round, n, k, position_code, position_bytes, value_code, value_bytes,
          version=1, reserved=0, position_len=None, magic=b"GSMR"):
    """A sealed frame; every field can be made to lie."""
    length = len(position_bytes) if position_len is None else position_len
    head = magic + struct.pack("<H4B", version, kind, position_code, value_code, reserved)
    head += run + struct.pack("<Q3I", round, n, k, length)
    return seal(head + own + position_bytes + value_bytes)


def update_own(attempt, client, snapshot, examples, loss):
    return struct.pack("<I", attempt) + client + snapshot + struct.pack("<If", examples, loss)
