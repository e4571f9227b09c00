"""Frames of version 2 with one thing made wrong, and the check that refuses them."""

import struct

import decode
from bodies import Block, modelled, packed, packed_bits
from chacha8 import Stream
from coder import Coder
from domain import limits
from frames_v2 import RICE, SNAPSHOT, UPDATE, context, own
from gsmr import pack_bits
from words import sha

NAN, INFINITE = float("nan"), float("inf")


def bits_of(value):
    return struct.unpack("<I", struct.pack("<f", value))[0]


def level(value):
    """An entry of an f32 block."""
    word = bits_of(value)
    return word >> 31 == 1, word & 0x7FFFFFFF


class Spoiler:
    """Makes frames wrong, and checks that this script's own receiver names the same error."""

    def __init__(self, cases):
        self.cases, self.out = {case.name: case for case in cases}, []

    def found(self, case, data, kind=None):
        try:
            case.read(data, kind)
        except decode.Refused as refused:
            return str(refused)
        return "nothing"

    def add(self, error, of, name, cut=None, read_as=None, **fields):
        case = self.cases[of]
        data = case.frame(**fields)
        data = cut(data) if cut else data
        kind = case.kind if read_as is None else read_as
        found = self.found(case, data, kind)
        assert found == error, f"{name}: {found}, not {error}"
        about = case.about() | {"name": name, "kind": ["snapshot", "update"][kind]}
        self.out.append(about | {"frame": data.hex(), "error": error})

    def body(self, error, of, name, data, k=None, **fields):
        extra = {} if k is None else {"k": k}
        self.add("entries " + error, of, name, body_bytes=data, **extra, **fields)


def envelope(make):
    rice, down, budget = "a quarter", "snapshot, a quarter", "a budget's int8"
    whole, longest = "f32, dense-packed", limits(make.cases[rice].terms, 3)["update_len_max"]
    flip = lambda place: lambda f: f[:place] + bytes([f[place] ^ 1]) + f[place:][1:]
    bound = lambda **other: context(**(dict(run=make.cases[rice].terms.run, round=3, kind=UPDATE) | other))

    make.add("truncated", rice, "no byte", cut=lambda f: b"")
    make.add("truncated", rice, "three bytes of the magic", cut=lambda f: f[:3])
    make.add("truncated", rice, "a byte less than an update's least", cut=lambda f: f[:55])
    make.add("truncated", down, "a byte less than a snapshot's least", cut=lambda f: f[:47])
    make.add("truncated", rice, "the last byte missing", cut=lambda f: f[:-1])
    make.add("truncated", rice, "a body said longer than the frame", body_len=2**32 - 1)
    make.add("trailing", rice, "a byte behind the trailer", cut=lambda f: f + b"\0")
    make.add("trailing", rice, "a body said shorter than it is", body_len=0)
    make.add("oversized", rice, "a byte longer than the longest", cut=lambda f: f + bytes(longest + 1 - len(f)))
    make.add("trailing", rice, "as long as the longest", cut=lambda f: f + bytes(longest - len(f)))
    make.add("oversized", budget, "a byte over the budget", cut=lambda f: f + bytes(257 - len(f)))
    make.add("magic", rice, "another magic", magic=b"GSMS")
    make.add("magic", rice, "four other bytes", cut=lambda f: b"GSM2")
    for version in (0, 1, 3, 512):
        make.add("version", rice, f"version {version}", version=version)
    make.add("code kind", rice, "an update where a snapshot is due", read_as=SNAPSHOT)
    make.add("code kind", down, "a snapshot where an update is due", read_as=UPDATE)
    make.add("code kind", rice, "kind 2", kind=2, own=own(UPDATE))
    make.add("code coding", rice, "value code 11", coding=11 << 2)
    make.add("code coding", rice, "value code 63", coding=255)
    make.add("digest", rice, "a bit of the examples flipped", cut=flip(16))
    make.add("digest", rice, "a bit of the body flipped", cut=flip(30))
    make.add("digest", rice, "a bit of the trailer flipped", cut=lambda f: f[:-1] + bytes([f[-1] ^ 1]))
    make.add("digest", rice, "made for another run", bound=bound(run=bytes(16)))
    make.add("digest", rice, "made for another round", bound=bound(round=4))
    make.add("digest", rice, "made by another client", bound=bound(client=sha(b"another")[:16]))
    make.add("digest", rice, "made from another snapshot", bound=bound(snapshot=sha(b"another")))
    make.add("digest", rice, "bound as a snapshot is", bound=bound(kind=SNAPSHOT))
    make.add("digest", down, "a snapshot of another round", bound=context(make.cases[down].terms.run, 2, SNAPSHOT))
    make.add("digest", rice, "a trailer over the frame alone", cut=lambda f: f[:-32] + sha(f[:-32]))
    for loss, name in ((NAN, "NaN"), (INFINITE, "infinite"), (-INFINITE, "minus infinity")):
        make.add("metadata", rice, f"loss {name}", own=own(UPDATE, loss=loss))
    make.add("metadata", rice, "no examples", own=own(UPDATE, examples=0))
    make.add("code values", rice, "f16 where f32 is agreed", values="f16")
    make.add("code values", down, "f16 where f32 is agreed, down", values="f16")
    make.add("code values", "staged, round 5", "the values of an earlier stage", values="f32")
    make.add("density", rice, "an entry too many", k=32)
    make.add("density", rice, "four billion entries claimed", k=2**32 - 1)
    make.add("density", down, "an entry too many, down", k=32)
    make.add("density", "support, round 3, as many as allowed", "more than the shared support", k=32)
    make.add("entries count", whole, "dense with an entry missing", k=122)
    make.add("entries count", "f32, dense-modelled", "dense and modelled, with an entry missing", k=122)
    make.add("entries too few", "f32, rice-packed", "more entries than bits", k=123, body_bytes=bytes(11))


def in_bits(make):
    f32, int8, int4, fp4 = "f32, rice-packed", "int8, rice-packed", "int4, rice-packed", "fp4: outliers, rice-packed"
    n = make.cases[f32].terms.n
    ones = lambda *entries: [Block(list(entries), 0, 100)]
    two = ones((False, 1), (True, 1))
    good = packed_bits("int4", two, [3, 9], [2])
    head, places = good[:27], good[27:]
    assert head == "0" + "1000000000" + "0" * 8 + "00100110"
    spoil = lambda error, name, text, k=2, of=int4: make.body(error, of, name, pack_bits(text), k)

    spoil("block", "a first block as long as the last, which no block was", "1" + good[11:])
    spoil("block", "a block longer than the entries", good, k=1)
    spoil("block", "a second block as long as the first, of one entry left", good + "1", k=3)
    make.body("block", "int8, several blocks", "an int8 block of 257", pack_bits("0" "0000000010" + "0" * 3000), 300,
              body=RICE)
    for b, bits in ((28, "00111"), (31, "11111")):
        spoil("Rice", f"Rice parameter {b}", head + bits + places[5:])
    spoil("past", "an index at the end of the domain", head + "00000" + "1" * n + "0")
    spoil("past", "an index past the end by its low bits", head + "11100" + "0" + "1" * 7 + "0" * 8)
    spoil("past", "a gap without end", head + "00000" + "1" * 400)
    spoil("past", "an entry behind the last coordinate", packed_bits("int4", two, [n - 1, n], [0]))
    part = "random, round 3, as many as allowed"
    behind = [3, len(make.cases[part].domain)]
    spoil("past", "an entry behind the domain", packed_bits("sign", [Block([(False, 0)] * 2)], behind), of=part)
    spoil("ends", "bits that end in a length", "0" + "1000000")
    spoil("ends", "bits that end in a gap", head + "00100" + "0" * 3)
    spoil("ends", "bits that end in an index", packed_bits("int4", two, [3, 90], [6])[:48])
    spoil("ends", "no byte, but an entry", "", k=1)
    spoil("follows", "a byte behind the last entry", good + "0" * (-len(good) % 8 + 8))
    spoil("follows", "a byte where no entry is", "0" * 8, k=0)
    spoil("padding", "padding set", good + "0" * (-len(good) % 8 - 1) + "1")
    zero = [Block([(True, 0), (False, 1)], 0, 100)]
    make.body("minus zero", int8, "int8: minus zero", packed("int8", zero, [0, 1]), 2)
    make.body("minus zero", fp4, "fp4: minus zero", packed("fp4", zero, [0, 1]), 2)
    beside = lambda outliers: packed("fp4", [Block([(False, 7)] * 3, 0, 100, outliers)], [0, 1, 2])
    make.body("outlier", fp4, "an outlier behind its block", beside({3: 0}), 3)
    make.body("outlier", fp4, "outliers that fall", beside({2: 0, 1: 0}), 3)
    for bits, name in ((0x7C00, "infinite"), (0x7E00, "NaN"), (0xFC00, "minus infinity")):
        make.body("outlier", fp4, f"an outlier {name}", beside({1: bits}), 3)
    make.body("value", fp4, "a level over 8 by its outlier", beside({0: 0x4800}), 3)
    twice = packed_bits("fp4", [Block([(False, 7)] * 3, 0, 100, {1: 0})], [0, 1, 2])
    at = len(twice) - 32
    make.body("outlier", fp4, "an outlier twice", pack_bits(twice[:at] + "01000000" + 2 * twice[at + 8 :]), 3)
    make.body("ends", fp4, "outliers that end early", pack_bits(twice[:at] + "01000000" + twice[at + 8 :]), 3)


def values(make):
    over = struct.unpack("<f", struct.pack("<I", bits_of(8.0) + 1))[0]
    for value, name in ((NAN, "NaN"), (-NAN, "minus NaN"), (INFINITE, "infinite"), (over, "just over 8"),
                        (-over, "just below -8")):
        data = packed("f32", [Block([level(0.5), level(value)])], [4, 9])
        make.body("value", "f32, rice-packed", f"f32 {name}", data, 2)
    for bits, name in ((0x7C00, "infinite"), (0x7E01, "NaN"), (0x4801, "just over 8")):
        data = packed("f16", [Block([(True, bits)])], [4])
        make.body("value", "f16, rice-packed", f"f16 {name}", data, 1)
    wide = [Block([(False, 127)], 0, 161)]
    make.body("value", "int8, rice-packed", "int8 over 8", packed("int8", wide, [4]), 1)
    make.body("value", "sign, rice-packed", "sign over 8", packed("sign", [Block([(True, 0)], 0, 217)], [4]), 1)
    make.body("value", "int4, rice-packed", "a floor over 8", packed("int4", [Block([(True, 0)], 217, 0)], [4]), 1)
    data = packed("f32", [Block([level(129.0)])], [4])
    make.body("value", "snapshot, a quarter", "a weight over 128", data, 1, body=RICE)


def in_range(make):
    f32, int8, fp4 = "f32, map-modelled", "int8, map-modelled", "fp4: outliers, map-modelled"
    case = make.cases[int8]
    code = lambda blocks, ranks, of=int8: modelled(
        make.cases[of].code, blocks, case.terms.tensors, case.domain, ranks)[0]
    blocks = [Block([(False, 5), (True, 70)], 0, 100), Block([(False, 9)], 0, 100)]
    good = code(blocks, [3, 60, 61])

    make.body("count", int8, "an entry less than claimed", good, 4)
    make.body("count", int8, "an entry more than claimed", good, 2)
    make.body("block", int8, "a modelled block longer than the entries", good, 1)
    make.body("count", int8, "no byte, where zeros say that all are sent", b"", 0)
    signs = make.cases["sign, dense-modelled"].body_bytes
    make.body("ends", "sign, dense-modelled", "a body cut where more than four bytes follow", signs[:12])
    make.body("padding", int8, "a zero behind the coder's end", good + b"\0", 3)
    make.body("padding", int8, "a byte behind the coder's end", good + b"\1", 3)
    make.body("follows", int8, "four bytes behind the coder's end", good + bytes(4), 3)
    # Another point of the last interval, which decodes to the same, is not what a coder writes.
    ends = (code([Block([(False, m)], 0, 100)], [at])[:-1] + bytes([end]) for at in (3, 9) for m in range(128)
            for end in range(256))
    other = next(data for data in ends if make.found(case, case.frame(body_bytes=data, k=1)) == "entries padding")
    make.body("padding", int8, "another end than the coder's", other, 1)
    make.body("minus zero", int8, "modelled int8: minus zero", code([Block([(True, 0)], 0, 100)], [4]), 1)
    make.body("minus zero", fp4, "modelled fp4: minus zero", code([Block([(True, 0)], 0, 100)], [4], fp4), 1)
    make.body("outlier", fp4, "modelled: an outlier behind its block",
              code([Block([(True, 7)], 0, 100, {1: 0})], [4], fp4), 1)
    make.body("value", f32, "modelled f32 NaN", code([Block([level(NAN)])], [122], f32), 1)
    make.body("value", int8, "modelled int8 over 8", code([Block([(True, 127)], 0, 161)], [122]), 1)
    dense = "sign, dense-modelled"
    data = modelled("sign", [Block([(False, 0)] * 123, 0, 217)], case.terms.tensors, case.domain)[0]
    make.body("value", dense, "dense and modelled: sign over 8", data)
    coder = Coder()
    coder.raw(0, 1)
    coder.raw(123, 10)
    make.body("block", dense, "dense and modelled: a block over the domain", coder.finish()[0] + bytes(12))


def by_chance(cases, count):
    """Bodies with a bit changed at random, and what this script's receiver makes of them."""
    stream = Stream(0, "golden-chance")
    small = [case for case in cases if 4 < len(case.body_bytes) < 80]
    for number in range(count):
        case = small[stream.below(len(small))]
        body = bytearray(case.body_bytes)
        body[stream.below(len(body))] ^= 1 << stream.below(8)
        data = case.frame(body_bytes=bytes(body))
        out = case.about() | {"name": f"by chance {number}, of {case.name}", "frame": data.hex()}
        try:
            yield case, out, case.read(data)
        except decode.Refused as refused:
            yield case, out | {"error": str(refused)}, None


def bad(cases):
    make = Spoiler(cases)
    for spoil in (envelope, in_bits, values, in_range):
        spoil(make)
    return make.out
