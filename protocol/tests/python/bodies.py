"""Values, blocks and the four bodies of version 2, written from docs/wire.md, sections 8 to 12, alone."""

import struct

from coder import Coder, Magnitudes, Map
from gsmr import f32, pack_bits
from levels import TABLES

NAMES = ["f32", "f16", "int8", "int4", "int3", "int2", "lloyd4", "lloyd3", "lloyd2", "sign", "fp4"]
INDEX_BITS = dict(zip(NAMES, [31, 15, 7, 3, 2, 1, 3, 2, 1, 0, 3]))
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
PARTS = ["lora_a", "lora_b", "head"]


def most(code):
    """Entries of a block, at most."""
    return 256 if code in ("int8", "fp4") else 1024


def has_scale(code):
    return code not in ("f32", "f16")


def has_floor(code):
    return has_scale(code) and code not in ("int8", "sign", "fp4")


def header_bits(code):
    return 1 + 8 * has_scale(code) + 8 * has_floor(code)


def scale(byte):
    return (8 + byte % 8) * 2.0 ** (byte // 8 - 27) if byte else 0.0


def f16(bits):
    return struct.unpack("<e", struct.pack("<H", bits))[0]


def to_f16(x):
    """Bits of the nearest binary16, ties to even."""
    return struct.unpack("<H", struct.pack("<e", x))[0]


class Block:
    """A floor and a scale byte, entries (negative, index), and outliers {place: binary16 bits}."""

    def __init__(self, entries, floor=0, scale=0, outliers=None):
        self.entries, self.floor, self.scale, self.outliers = entries, floor, scale, outliers or {}

    def magnitude(self, code, m):
        if code == "f32":
            return struct.unpack("<f", struct.pack("<I", m))[0]
        if code == "f16":
            return f16(m)
        step = {"sign": [1.0], "fp4": E2M1}.get(code) or [t / 64 for t in TABLES.get(code, [])] or range(128)
        return f32(scale(self.floor) + f32(scale(self.scale) * step[m]))

    def values(self, code):
        out = []
        for place, (negative, m) in enumerate(self.entries):
            value = self.magnitude(code, m)
            value = -value if negative else value
            beside = self.outliers.get(place)
            out.append(value if beside is None else f32(value + f16(beside)))
        return out


# What Gossamer's encoder does where the page says it to the bit: section 12.


def at_least(x):
    return next((b for b in range(256) if scale(b) >= x), 255)


def nearest_scale(x):
    return min(range(256), key=lambda b: (abs(scale(b) - x), b))


def is_negative(x):
    return struct.pack(">f", x)[0] >> 7 == 1


def fit(code, values):
    """The block of these values; not for codes with a floor."""
    sizes = [abs(v) for v in values]
    signs = [is_negative(v) for v in values]
    if code == "f32":
        return Block([(s, struct.unpack("<I", struct.pack("<f", v))[0]) for s, v in zip(signs, sizes)])
    if code == "f16":
        return Block([(s, to_f16(v)) for s, v in zip(signs, sizes)])
    if code == "int8":
        byte = at_least(f32(max(sizes) / 127))
        indices = [min(127, round(f32(v / scale(byte)))) if byte else 0 for v in sizes]
        return Block([(s and m > 0, m) for s, m in zip(signs, indices)], scale=byte)
    if code == "sign":
        total = 0.0
        for v in sizes:
            total = f32(total + v)
        return Block([(s, 0) for s in signs], scale=nearest_scale(f32(total / len(sizes))))
    assert code == "fp4"
    byte = at_least(f32(sorted(sizes)[99 * (len(sizes) - 1) // 100] / 6))
    block, outliers = Block([], scale=byte), {}
    levels = [block.magnitude(code, m) for m in range(8)]
    for place, (s, v) in enumerate(zip(signs, sizes)):
        m = 7 if v > levels[7] else min(range(8), key=lambda m: (abs(levels[m] - v), m))
        block.entries.append((s and m > 0, m))
        if v > levels[7]:
            block.outliers[place] = to_f16(f32(values[place] - (-levels[m] if s else levels[m])))
    return block


def cut(code, tensors, indices):
    """Lengths of the blocks of entries at these coordinates."""
    lengths, loose, at, end = [], 0, 0, 0
    for _, _, (rows, columns) in tensors:
        end += rows * columns
        here = sum(at <= i < end for i in indices)
        at, loose = end, loose + here
        while loose >= most(code):
            lengths.append(most(code))
            loose -= most(code)
        if loose >= 256:
            lengths.append(loose)
            loose = 0
    return lengths + [loose] * (loose > 0)


def quantise(code, tensors, indices, values):
    blocks, at = [], 0
    for length in cut(code, tensors, indices):
        blocks.append(fit(code, values[at : at + length]))
        at += length
    return blocks


# Section 9.


def low_first(x, count):
    return "".join(str(x >> j & 1) for j in range(count))


def gap_bits(gaps, b):
    return "".join("1" * (gap >> b) + "0" + low_first(gap, b) for gap in gaps)


def best_parameter(gaps):
    return min(range(28), key=lambda b: (sum((gap >> b) + 1 + b for gap in gaps), b))


def packed_bits(code, blocks, ranks=None, parameters=None):
    """The bit string; `ranks` is None for body 0, `parameters` None for the best."""
    text, before, after, at = "", most(code), 0, 0
    for number, block in enumerate(blocks):
        length = len(block.entries)
        text += "1" if length == before else "0" + low_first(length - 1, 10)
        before = length
        text += low_first(block.floor, 8) * has_floor(code) + low_first(block.scale, 8) * has_scale(code)
        if ranks is not None:
            gaps = []
            for rank in ranks[at : at + length]:
                gaps.append(rank - after)
                after = rank + 1
            at += length
            b = parameters[number] if parameters else best_parameter(gaps)
            text += low_first(b, 5) + gap_bits(gaps, b)
        for negative, index in block.entries:
            text += str(int(negative)) + low_first(index, INDEX_BITS[code])
        if code == "fp4":
            text += low_first(len(block.outliers), 8)
            for place, bits in block.outliers.items():
                text += low_first(place, 8) + low_first(bits, 16)
    return text


def packed(code, blocks, ranks=None, parameters=None):
    return pack_bits(packed_bits(code, blocks, ranks, parameters))


# Section 11.


def class_of(code, index):
    if code in ("f32", "f16"):
        return 1
    return 2 if index > (15 if code == "int8" else 0) else 1


def code_index(code, index, near, magnitudes, coder):
    if code in ("f32", "f16"):
        coder.raw(index, INDEX_BITS[code])
    elif code == "int8":
        length = index.bit_length()
        magnitudes.unary(coder, length, 7, near)
        if length > 1:
            coder.raw(index - (1 << (length - 1)), length - 1)
    else:
        magnitudes.unary(coder, index, 2 ** INDEX_BITS[code] - 1, near)


def modelled(code, blocks, tensors, domain, ranks=None):
    """The body, and how many of its bytes the end took; `ranks` is None for body 2."""
    coder, map, magnitudes = Coder(), Map(), Magnitudes()
    entries = iter([(block, place) for block in blocks for place in range(len(block.entries))])
    sent = None if ranks is None else set(ranks)
    before, rank, start = most(code), 0, 0
    domain = list(domain)
    for _, part, (rows, columns) in tensors:
        map.start_tensor(columns, PARTS.index(part))
        row = 0
        while rank < len(domain) and domain[rank] < start + rows * columns:
            place = domain[rank] - start
            while row < place // columns:
                map.start_row()
                row += 1
            v = place % columns
            near = map.near(v)
            here = sent is None or rank in sent
            rank += 1
            if sent is not None:
                coder.bit(here, map.chance(v))
            of_class = 0
            if here:
                block, at = next(entries)
                if at == 0:
                    length = len(block.entries)
                    coder.raw(int(length == before), 1)
                    if length != before:
                        coder.raw(length - 1, 10)
                    before = length
                    if has_floor(code):
                        coder.raw(block.floor, 8)
                    if has_scale(code):
                        coder.raw(block.scale, 8)
                    if code == "fp4":
                        coder.raw(len(block.outliers), 8)
                        for spot, bits in block.outliers.items():
                            coder.raw(spot, 8)
                            coder.raw(bits, 16)
                negative, index = block.entries[at]
                coder.raw(int(negative), 1)
                code_index(code, index, near, magnitudes, coder)
                of_class = class_of(code, index)
            if sent is not None:
                map.learn(v, here)
            map.note(v, of_class)
        start += rows * columns
    assert next(entries, None) is None
    return coder.finish()
