"""Frames of every code, and bad ones."""

import struct

import gsmr
from chacha8 import Stream
from gsmr import BITMAP, DENSE, F32, INT8, RICE, SHARED, SNAPSHOT, UPDATE, f32
from manifests import BY_NAME
from words import count, init, sha

ROUND = 3
CLIENT = sha(b"client")[:16]
START = sha(b"snapshot")
CODE = {"f32": F32, "int8": INT8}


def draw(n, name, scale=0.0625):
    stream = Stream(0, "golden", [name.encode()])
    return [f32((2.0 * stream.unit() - 1.0) * scale) for _ in range(n)]


def case(name, terms, kind, indices, values, shared=None, round=ROUND):
    """A good frame, what goes into it and what comes out."""
    terms = BY_NAME[terms]
    way = terms.body["method"]["upload" if kind == UPDATE else "download"]
    code = CODE[way["values"]]
    position_code, position_bytes = gsmr.positions(indices, terms.n, shared is not None)
    value_bytes, decoded = gsmr.code_values(values, code)
    fields = dict(run=terms.run, round=round, n=terms.n, k=len(values), position_code=position_code,
                  position_bytes=position_bytes, value_code=code, value_bytes=value_bytes)
    if kind == UPDATE:
        own = gsmr.update_own(2, CLIENT, START, 57, 2.5)
    else:
        own = bytes([["change", "weights"].index(way["of"])])
    frame = gsmr.frame(kind, own, **fields)
    out = {"name": name, "manifest": terms.name, "round": round, "shared": shared,
           "kind": ["snapshot", "update"][kind], "frame": frame.hex(),
           "positions": ["dense", "bitmap", "rice", "shared"][position_code],
           "support": indices, "source": gsmr.bits(values), "values": gsmr.bits(decoded)}
    if kind == UPDATE:
        out |= {"attempt": 2, "client": CLIENT.hex(), "snapshot": START.hex(), "examples": 57,
                "loss": gsmr.bits([2.5])}
    return out, (kind, own, fields)


def tie(n):
    """A support whose Rice code is just as long as the bitmap, and one a byte longer."""
    lengths = {}
    for seed in range(500):
        stream = Stream(seed, "golden-tie")
        indices = [i for i in range(n) if stream.below(4) == 0]
        lengths.setdefault(len(gsmr.best_rice(indices)), indices)
    return lengths[-(-n // 8)], lengths[-(-n // 8) + 1]


EDGE = [f32(v) for v in (0.0, -0.0, 1e-40, 2.0**-126, -8.0, 8.0, 0.1, -(2.0**-30), 3.5)]


def good():
    wide = draw(256, "wide") + [0.0] * 256 + [127 * 2.0**-9] + [
        f32(m * 2.0**-9) for m in (0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.25, 126.5)] + draw(119, "tail", 0.125)
    above = [f32(127 * 2.0**-9 + 2.0**-20)] + draw(639, "above", 0.125)
    far = [0, 1, 5, 70_000, 70_001, 1_000_000, 1_048_575]
    equal, longer = tie(44)
    middle = list(range(2, 44, 3))[:11]
    theta = init(BY_NAME["weights-f32"].tensors, 1)
    kept = sorted(sorted(range(44), key=lambda i: (-abs(theta[i]), i))[:11])
    for args in [
        ("update, dense f32", "dense-f32", UPDATE, None, draw(35, "dense") + EDGE),
        ("update, Rice f32", "quarter-f32", UPDATE, middle, draw(11, "rice")),
        ("update, fewer entries than allowed", "quarter-f32", UPDATE, [43], [-0.0]),
        ("update, no entry", "quarter-f32", UPDATE, [], []),
        ("update, Rice as long as the bitmap", "half-f32", UPDATE, equal, draw(len(equal), "equal")),
        ("update, bitmap f32", "half-f32", UPDATE, longer, draw(len(longer), "longer")),
        ("update, every second, bitmap f32", "half-f32", UPDATE, list(range(1, 44, 2)), draw(22, "odd")),
        ("update, Rice int8", "half-int8", UPDATE, [0, 6, 7, 40], [1.0, -0.5, 2.0**-40, f32(0.3)]),
        ("update, one tiny int8", "half-int8", UPDATE, [9], [2.0**-40]),
        ("update, bitmap int8", "half-int8", UPDATE, longer, draw(len(longer), "eight", 8.0)),
        ("update, dense int8 of three blocks", "wide-int8", UPDATE, None, wide),
        ("update, int8 just over a power's reach", "wide-int8", UPDATE, None, above),
        ("update, far apart", "long-f32", UPDATE, far, draw(7, "far")),
        ("update, shared f32", "shared-f32", UPDATE, middle, draw(11, "shared"), middle),
        ("update, shared int8", "shared-int8", UPDATE, [0, 1, 2, 9, 43], EDGE[4:], [0, 1, 2, 9, 43]),
        ("update, once: round 0 is dense", "once-f32", UPDATE, None, draw(44, "once"), None, 0),
        ("update, once: then shared", "once-f32", UPDATE, [1, 4, 30, 31, 32, 33], draw(6, "then"),
         [1, 4, 30, 31, 32, 33], 1),
        ("snapshot, dense f32", "dense-f32", SNAPSHOT, None, draw(42, "s-dense") + [128.0, -128.0]),
        ("snapshot, nothing learned yet", "quarter-f32", SNAPSHOT, [], [], None, 0),
        ("snapshot, Rice f32", "quarter-f32", SNAPSHOT, middle, draw(11, "s-rice")),
        ("snapshot, bitmap f32", "half-f32", SNAPSHOT, longer, draw(len(longer), "s-bitmap")),
        ("snapshot, int8", "half-int8", SNAPSHOT, longer, draw(len(longer), "s-int8", 100.0)),
        ("snapshot, positions travel though clients share them", "shared-int8", SNAPSHOT,
         [0, 1, 2, 9, 43], EDGE[4:]),
        ("snapshot, weights themselves", "weights-f32", SNAPSHOT, kept, [theta[i] for i in kept]),
        ("snapshot, A frozen", "frozen-a", SNAPSHOT, None, draw(26, "frozen")),
        ("snapshot, once: round 0 is dense", "once-f32", SNAPSHOT, None, [0.0] * 44, None, 0),
    ]:
        yield case(*args)


def limits():
    """Entries and bytes that each manifest lets travel."""
    for terms in BY_NAME.values():
        for round in (0, ROUND):
            m = terms.body["method"]
            dense = m["support"] == "once" and round == 0
            down = terms.n if dense else count(m["download"]["density"], terms.n)
            up = terms.n if dense else count(m["upload"]["density"], terms.n)
            if m["train"] == "support" and not dense:
                up = down
            room = {"f32": lambda k: 4 * k, "int8": lambda k: k + -(-k // 256)}
            yield {"manifest": terms.name, "round": round, "download_entries": down, "upload_entries": up,
                   "update_len_max": 138 + -(-terms.n // 8) + room[m["upload"]["values"]](up),
                   "snapshot_len_max": 79 + -(-terms.n // 8) + room[m["download"]["values"]](down)}


def pack(*values):
    return struct.pack(f"<{len(values)}f", *values)


def bad(made):
    """Good frames with one thing made wrong, and the error's name."""
    parts = {out["name"]: (out, kept) for out, kept in made}
    nan, inf = float("nan"), float("inf")
    over = struct.unpack("<f", struct.pack("<I", 0x41000001))[0]

    def alter(error, of, name, own=None, kind=None, cut=None, read_as=None, shared="same", **fields):
        out, (made_as, made_own, made_fields) = parts[of]
        frame = gsmr.frame(made_as if kind is None else kind, made_own if own is None else own,
                           **(made_fields | fields))
        return {"name": name, "manifest": out["manifest"], "round": out["round"],
                "shared": out["shared"] if shared == "same" else shared,
                "kind": read_as or out["kind"], "frame": (cut(frame) if cut else frame).hex(), "error": error}

    rice, small = "update, Rice f32", "update, Rice int8"
    dense, half = "update, dense f32", "update, every second, bitmap f32"
    shared, down = "update, shared f32", "snapshot, Rice f32"
    far = "update, far apart"
    own = lambda examples, loss: gsmr.update_own(2, CLIENT, START, examples, loss)
    eleven = list(parts[rice][1][2]["position_bytes"])
    bits = lambda text, b=0: bytes([b]) + gsmr.pack_bits(text)
    two = lambda text, b=0: dict(k=2, position_bytes=bits(text, b), value_bytes=pack(1.0, 1.0))
    flip = lambda back: lambda f: f[:-back] + bytes([f[-back] ^ 1]) + f[len(f) - back + 1 :]
    whole = {"position_code": RICE}

    yield alter("truncated", rice, "no byte", cut=lambda f: b"")
    yield alter("truncated", rice, "three bytes of the magic", cut=lambda f: f[:3])
    yield alter("truncated", rice, "a byte less than header and trailer", cut=lambda f: f[:137])
    yield alter("truncated", down, "a byte less than a snapshot's", cut=lambda f: f[:78])
    yield alter("truncated", rice, "positions longer than the frame", position_len=2**32 - 1)
    yield alter("oversized", rice, "longer than any update of the run", cut=lambda f: f + bytes(200))
    yield alter("oversized", half, "a byte over the longest", position_bytes=bytes(7))
    yield alter("magic", rice, "another magic", magic=b"GSMS")
    yield alter("version", rice, "version 0", version=0)
    yield alter("version", rice, "version 2", version=2)
    yield alter("digest", rice, "a bit of the last value flipped", cut=flip(33))
    yield alter("digest", rice, "a bit of the trailer flipped", cut=flip(1))
    yield alter("digest", rice, "the last byte missing", cut=lambda f: f[:-1])
    yield alter("digest", dense, "a byte behind the trailer", cut=lambda f: f + b"\0")
    yield alter("code kind", half, "an update where a snapshot is due", read_as="snapshot",
                value_bytes=b"", k=0)
    yield alter("code kind", "snapshot, dense f32", "a snapshot where an update is due", read_as="update")
    yield alter("code kind", rice, "kind 2", kind=2)
    yield alter("code positions", rice, "positions 4", position_code=4)
    yield alter("code positions", rice, "shared where nothing is", position_code=SHARED, position_bytes=b"")
    yield alter("code positions", shared, "positions sent where they are shared", position_code=RICE,
                position_bytes=bytes(eleven))
    yield alter("code positions", shared, "dense where positions are shared", position_code=DENSE)
    yield alter("code values", rice, "values 2", value_code=2)
    yield alter("code values", rice, "int8 where f32 is agreed", value_code=INT8, value_bytes=bytes(12))
    yield alter("code values", small, "f32 where int8 is agreed", value_code=F32, value_bytes=bytes(16))
    yield alter("code reserved", rice, "reserved byte set", reserved=1)
    yield alter("code reference", down, "weights where a change is agreed", own=b"\1")
    yield alter("code reference", down, "reference 2", own=b"\2")
    yield alter("layout", rice, "another n", n=45)
    yield alter("metadata", rice, "loss NaN", own=own(1, nan))
    yield alter("metadata", rice, "loss infinite", own=own(1, -inf))
    yield alter("metadata", rice, "no examples", own=own(0, 1.0))
    yield alter("density", far, "an entry too many", k=129, position_bytes=gsmr.best_rice(list(range(129))),
                value_bytes=bytes(4 * 129))
    yield alter("density", rice, "four billion entries claimed", k=2**32 - 1)
    yield alter("density", down, "an entry too many, down", k=12)
    for value, name in ((nan, "NaN"), (inf, "infinite"), (-inf, "minus infinity"), (over, "just over 8")):
        yield alter("entries value", rice, f"value {name}", value_bytes=pack(value, *[0.0] * 10))
    yield alter("entries value", down, "a weight over 128", value_bytes=pack(129.0, *[0.0] * 10))
    yield alter("entries value", small, "int8 -128", value_bytes=bytes([0xE2, 1, 0x80, 1, 1]))
    yield alter("entries value", small, "int8 over 8", value_bytes=bytes([0, 9, 1, 1, 1]))
    yield alter("entries exponent", small, "exponent 2", value_bytes=bytes([2, 1, 1, 1, 1]))
    yield alter("entries exponent", small, "exponent -31", value_bytes=bytes([0xE1, 1, 1, 1, 1]))
    yield alter("entries length values", rice, "a value's byte missing", value_bytes=bytes(43))
    yield alter("entries length values", far, "a byte behind the values", value_bytes=bytes(29))
    yield alter("entries length values", small, "int8 without its exponent", value_bytes=bytes(4))
    yield alter("entries length positions", dense, "dense with a position byte", position_bytes=b"\0",
                k=43, value_bytes=bytes(4 * 43))
    yield alter("entries support", dense, "dense with an entry missing", k=43, value_bytes=bytes(4 * 43))
    yield alter("entries length positions", half, "bitmap too short", position_bytes=b"\xff\xff\x3f")
    yield alter("entries count", half, "bitmap of another count", position_bytes=gsmr.bitmap([0, 1, 2], 44))
    yield alter("entries positions", half, "a bit beyond the last coordinate", k=1, value_bytes=bytes(4),
                position_bytes=gsmr.bitmap([44], 45))
    yield alter("entries positions", rice, "Rice without its parameter", **whole, k=0, value_bytes=b"",
                position_bytes=b"")
    yield alter("entries positions", rice, "Rice parameter 28", position_bytes=bytes([28, 0]))
    yield alter("entries positions", rice, "more entries than bits", position_bytes=bytes([0, 0]))
    yield alter("entries positions", rice, "an index at n", **two("0" + "1" * 43 + "0"))
    yield alter("entries positions", rice, "an index past n by its low bits", **two("0" "00000" "10" "11111", 5))
    yield alter("entries positions", far, "one-bits without end", **two("1" * 320))
    yield alter("entries positions", rice, "bits that end in a gap", **two("0" "0000" "110", 4))
    yield alter("entries positions", rice, "a byte behind the positions", **two("0" "0" + "0" * 7))
    yield alter("entries positions", rice, "padding set", **two("0" "0" "000001"))
    yield alter("entries positions", shared, "shared with a position byte", position_bytes=b"\0")
    yield alter("entries count", shared, "fewer entries than the shared support", k=10, value_bytes=bytes(40))
    yield alter("entries no shared support", down, "a snapshot without positions", position_code=SHARED,
                position_bytes=b"")
