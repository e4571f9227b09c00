"""Snapshots as differences to earlier ones, written from docs/wire.md, section 21, alone."""

import struct

from bodies import INDEX_BITS, NAMES, PARTS, Block, class_of, code_index, has_floor, has_scale, most, scale, to_f16
from chacha8 import Stream
from coder import Chance, Coder, Magnitudes, Map, squash
from frames_v2 import BODIES, DENSE, DENSE_MODELLED, MAP, RICE, SNAPSHOT, Case, draw, ladder, some
from gsmr import f32
from manifests_v2 import BY_NAME

HELD_ROUND = 2


def word(x):
    return struct.unpack("<I", struct.pack("<f", abs(x)))[0]


def class_of_held(x):
    return 0 if x == 0 else max(0, min(62, (word(x) >> 22) - 214)) + 1


class HeldMap(Map):
    """The map with what is held beside it."""

    def __init__(self):
        super().__init__()
        self.weight = [[4000, 4000, 6000, 2000, 2000, 0, 30000, 30000] for _ in range(3)]
        self.table = {}

    def chance_held(self, v, held):
        super().chance(v)
        this, before, _ = self.classes
        of = class_of_held(held)
        both = 3 * this.get(v - 1, 0) + before.get(v, 0)
        fresh = lambda: Chance(49152 if of else 4096)
        places = (self.part, of), (self.part, both, of)
        self.looked = [self.table.setdefault(place, fresh()) for place in places]
        self.input += [chance.odds() for chance in self.looked]
        self.p = squash(sum(x * w for x, w in zip(self.input, self.weight[self.part])) >> 16)
        return self.p

    def learn(self, v, bit):
        super().learn(v, bit)
        for chance in self.looked:
            chance.learn(bit, 250)


def number(code, negative, index):
    if not negative:
        return index
    return -index if code in ("int8", "fp4") else -1 - index


def near_index(code, block, held):
    size = abs(held)
    if code == "f32":
        return word(size)
    if code == "f16":
        return to_f16(size)
    if code == "int8":
        step = scale(block.scale)
        return min(127, int(f32(f32(size / step) + 0.5))) if step else 0
    levels = [block.magnitude(code, m) for m in range(2 ** INDEX_BITS[code])]
    count = 0
    for a, b in zip(levels, levels[1:]):
        if size < f32(f32(a + b) * 0.5):
            break
        count += 1
    return count


class Steps:
    """How far a level lies from the one next to what is held."""

    def __init__(self):
        self.chances, self.r = {}, 0

    def ask(self, coder, bit, *place):
        chance = self.chances.setdefault(place, Chance(32768))
        coder.bit(bit, chance.p)
        chance.learn(bit, 200)
        return bit

    def code(self, coder, step, place):
        recent, size = min(self.r // 16, 4), abs(step)
        if self.ask(coder, step != 0, "any", place, recent):
            self.ask(coder, step > 0, "away", place, recent)
            length = 1
            while length < 33 and self.ask(coder, size.bit_length() > length, "longer", recent, length):
                length += 1
            for at in reversed(range(length - 1)):
                if at == length - 2:
                    self.ask(coder, size >> at & 1, "high", length)
                else:
                    coder.bit(size >> at & 1, 32768)
        self.r = (7 * self.r + 16 * min(size, 8)) // 8


def body(code, blocks, tensors, held, ranks):
    """The difference's body; `ranks` is None where all coordinates are sent."""
    coder, map, magnitudes, steps = Coder(), HeldMap(), Magnitudes(), Steps()
    entries = iter([(block, place) for block in blocks for place in range(len(block.entries))])
    sent = None if ranks is None else set(ranks)
    before, rank = most(code), 0
    for _, part, (rows, columns) in tensors:
        map.start_tensor(columns, PARTS.index(part))
        for place in range(rows * columns):
            v = place % columns
            if place and v == 0:
                map.start_row()
            near, had = map.near(v), held[rank]
            here = sent is None or rank in sent
            rank += 1
            if sent is not None:
                coder.bit(here, map.chance_held(v, had))
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
                        for spot, beside in block.outliers.items():
                            coder.raw(spot, 8)
                            coder.raw(beside, 16)
                negative, index = block.entries[at]
                if had == 0 and code not in ("f32", "f16", "int8", "fp4"):
                    coder.raw(int(negative), 1)
                    code_index(code, index, near, magnitudes, coder)
                else:
                    start = near_index(code, block, had)
                    step = number(code, negative, index) - number(code, had < 0, start)
                    of = {"f32": 0, "f16": 0, "int8": start.bit_length()}.get(code, start)
                    steps.code(coder, -step if had < 0 else step, of)
                of_class = class_of(code, index)
            if sent is not None:
                map.learn(v, here)
            map.note(v, of_class)
    assert next(entries, None) is None
    return coder.finish()[0]


def difference(before, after):
    """The bytes for who holds `before`."""
    run = after.terms
    held = [0.0] * run.n
    for index, value in zip(before.indices, before.values):
        held[index] = value + 0.0
    ranks = after.ranks if after.body in (RICE, MAP) else None
    coded = body(after.code, after.blocks, run.tensors, held, ranks)
    coding = after.body | NAMES.index(after.code) << 2
    return b"GSMD" + struct.pack("<H2B2I", 1, 0, coding, len(after.indices), len(coded)) + coded


def moved(code, blocks, name):
    """Most levels as they were, some a step or two on, some of another sign; scales a little higher."""
    stream, out = Stream(0, "golden-moved", [name.encode()]), []
    top = 2 ** INDEX_BITS[code] - 1
    for block in blocks:
        entries = []
        for negative, index in block.entries:
            roll = stream.below(12)
            index = min(top, max(0, index + (roll == 0) - (roll == 1) + 2 * (roll == 2)))
            negative ^= roll == 3
            entries.append((negative and (index > 0 or code not in ("int8", "fp4")), index))
        out.append(Block(entries, block.floor + 1 if block.floor else 0, block.scale + 1 if block.scale else 0))
    return out


def beside(blocks):
    """The same without minus zeros, and with an outlier each."""
    return [Block([(s and m > 0, m) for s, m in b.entries], 0, b.scale, {3: to_f16(0.7)}) for b in blocks]


def pairs():
    """A snapshot that is held, and a later one."""
    for code in NAMES:
        terms = "all-" + code
        n = BY_NAME[terms].n
        for way in range(4):
            name = f"{code}, {BODIES[way]}"
            whole = way in (DENSE, DENSE_MODELLED)
            first = list(range(n)) if whole else some(range(n), name, 0.3)
            if code in ("f32", "f16"):
                old = draw(n, name, 1.0)
                new = [f32(a + 0.001 * b) for a, b in zip(old, draw(n, name + "'", 1.0))]
                then = {"source": [old[i] for i in first]}
            else:
                blocks = ladder(code, [len(first)], name)
                if code == "fp4":
                    blocks = beside(blocks)
                then = {"blocks": blocks}
            # Half of the pairs keep their support.
            second = first if whole or NAMES.index(code) % 2 else sorted(
                {i for i in first if i % 5} | set(some(range(n), name + " more", 0.1)))
            if code in ("f32", "f16"):
                now = {"source": [new[i] for i in second]}
            elif second == first:
                now = {"blocks": moved(code, blocks, name)}
            else:
                blocks = ladder(code, [len(second)], name + " anew")
                now = {"blocks": beside(blocks) if code == "fp4" else blocks}
            yield (Case(name + ", held", terms, SNAPSHOT, first, round=HELD_ROUND, body=way, **then),
                   Case(name, terms, SNAPSHOT, second, body=way, **now))
    n = BY_NAME["all-int8"].n
    nothing = Case("nothing held", "all-int8", SNAPSHOT, [], source=[], round=0)
    yield nothing, Case("int8 after nothing", "all-int8", SNAPSHOT, None, source=draw(n, "after nothing", 4.0))
    part = some(range(n), "lloyd", 0.3)
    nothing = Case("nothing held", "all-lloyd2", SNAPSHOT, [], source=[], blocks=[], round=0)
    yield nothing, Case("lloyd2 after nothing", "all-lloyd2", SNAPSHOT, part, ladder("lloyd2", [len(part)], "l"), body=MAP)
    early = Case("staged, round 2, held", "staged", SNAPSHOT, list(range(61)), source=draw(61, "d-early"), round=2)
    yield early, Case("staged: other values than held", "staged", SNAPSHOT, list(range(5, 20)),
                      source=draw(15, "d-late"), round=9)
    zero = Case("a scale of 0, held", "all-int8", SNAPSHOT, None, source=draw(n, "zero", 1.0), round=HELD_ROUND)
    yield zero, Case("int8: a scale of 0", "all-int8", SNAPSHOT, None, source=[0.0] * n)


def document():
    made = []
    for before, after in pairs():
        made.append({"name": after.name, "manifest": after.terms.name, "held_round": before.round,
                     "held": before.frame().hex(), "round": after.round, "frame": after.frame().hex(),
                     "difference": difference(before, after).hex()})
    return {
        "version": 1,
        "about": [
            "Golden vectors of differences between snapshots, version 1 (docs/wire.md, section 21).",
            "Made by protocol/tests/python/vectors.py. The manifests are those of v2.json.",
            "Never edited: devices in the field keep to these bytes. A new version gets a new file beside it.",
        ],
        "differences": made,
    }
