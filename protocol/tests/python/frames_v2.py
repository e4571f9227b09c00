"""Good frames of version 2: every body with every value code, many domains; and what a round lets travel."""

import struct

import decode

from bodies import INDEX_BITS, NAMES, Block, has_floor, has_scale, modelled, packed, quantise, to_f16
from chacha8 import Stream
from domain import allowed, at, domain, limits
from gsmr import bits, f32
from manifests_v2 import ALL, BY_NAME
from words import init, sha

SNAPSHOT, UPDATE = range(2)
DENSE, RICE, DENSE_MODELLED, MAP = range(4)
BODIES = ["dense-packed", "rice-packed", "dense-modelled", "map-modelled"]
ROUND = 3
CLIENT = sha(b"client")[:16]
START = sha(b"snapshot")


def draw(n, name, scale=0.0625):
    """Values with a heavy tail."""
    stream = Stream(0, "golden", [name.encode()])
    unit = lambda: 2.0 * stream.unit() - 1.0
    return [f32(unit() * unit() * unit() * scale) for _ in range(n)]


def some(indices, name, share):
    """Some of them, in clusters."""
    stream, keep, out = Stream(0, "golden-some", [name.encode()]), False, []
    for i in indices:
        keep = stream.unit() < (0.6 if keep else share)
        out += [i] * keep
    return out


def ladder(code, lengths, name):
    """Blocks of drawn levels; each level is there where the block is long enough."""
    stream, out = Stream(0, "golden-ladder", [name.encode()]), []
    for length in lengths:
        top = 2 ** INDEX_BITS[code]
        indices = [i if i < top else stream.below(top) for i in range(length)]
        may_be_negative = lambda m: m > 0 or code != "int8"
        entries = [(stream.below(2) == 1 and may_be_negative(m), m) for m in indices]
        stream.shuffle(entries)
        floor = 80 + stream.below(40) if has_floor(code) else 0
        out.append(Block(entries, floor, 96 + stream.below(32) if has_scale(code) else 0))
    return out


def seal(content, context):
    return content + sha(b"gossamer/v2/frame\0" + context + content)


def context(run, round, kind, client=CLIENT, snapshot=START):
    return run + struct.pack("<Q", round) + (client + snapshot if kind == UPDATE else b"")


def frame(*, kind, body, values, run, round, k, body_bytes, own, magic=b"GSMR", version=2, coding=None,
          body_len=None, bound=None):
    """A sealed frame; every field can be made to lie."""
    coding = body | NAMES.index(values) << 2 if coding is None else coding
    length = len(body_bytes) if body_len is None else body_len
    head = magic + struct.pack("<H2B2I", version, kind, coding, k, length)
    return seal(head + own + body_bytes, bound or context(run, round, kind))


def own(kind, examples=57, loss=2.5):
    return struct.pack("<If", examples, loss) if kind == UPDATE else b""


class Case:
    """A frame with what it is made of."""

    def __init__(self, name, terms, kind, indices, blocks=None, source=None, body=None, code=None, shared=None,
                 round=ROUND, body_bytes=None, encoded=None):
        self.name, self.terms, self.kind, self.round, self.shared = name, BY_NAME[terms], kind, round, shared
        run, method = self.terms, self.terms.body["method"]
        way = "upload" if kind == UPDATE else "download"
        self.code = code or at(method[way], round)[1]
        self.domain = domain(run, round, CLIENT, shared) if kind == UPDATE else list(range(run.n))
        indices = self.domain if indices is None else indices
        if blocks is None:
            blocks = quantise(self.code, run.tensors, indices, source)
        self.blocks, self.indices = blocks, indices
        self.values = [v for block in blocks for v in block.values(self.code)]
        assert len(self.values) == len(indices), name
        self.ranks = [self.domain.index(i) for i in indices]
        whole = len(indices) == len(self.domain)
        choice = {b: self.make(b) for b in ((DENSE, DENSE_MODELLED) if whole else (RICE, MAP))}
        if method.get("coding") == "packed":
            choice = {b: made for b, made in choice.items() if b < 2}
        best = min(choice, key=lambda b: (len(choice[b]), b))
        self.body = best if body is None else body
        self.body_bytes = self.make(self.body) if body_bytes is None else body_bytes
        # What Gossamer's encoder makes of the source is told where the page says it to the bit.
        self.source = source if self.body == best and body_bytes is None and code is None else None
        self.fields = dict(run=run.run, round=round, k=len(indices), body_bytes=self.body_bytes, own=own(kind))

    def make(self, body):
        ranks = self.ranks if body in (RICE, MAP) else None
        if body in (DENSE, RICE):
            return packed(self.code, self.blocks, ranks)
        return modelled(self.code, self.blocks, self.terms.tensors, self.domain, ranks)[0]

    def read(self, data, kind=None):
        """Coordinates and values, by the receiver of this script."""
        run, kind = self.terms, self.kind if kind is None else kind
        method, limit = run.body["method"], limits(run, self.round)
        codes = [at(method["upload" if kind else "download"], self.round)[1]]
        if kind and method["upload"].get("bytes_max"):
            codes = NAMES
        may = self.domain if kind else list(range(run.n))
        most = allowed(run, self.round, may) if kind else limit["download_entries"]
        longest = limit["update_len_max" if kind else "snapshot_len_max"]
        return decode.decode(data, kind, context(run.run, self.round, kind), run.tensors, may, codes, most, longest)

    def frame(self, **fields):
        said = {"kind": self.kind, "body": self.body, "values": self.code} | self.fields | fields
        return frame(**said)

    def about(self):
        return {"name": self.name, "manifest": self.terms.name, "round": self.round,
                "kind": ["snapshot", "update"][self.kind], "shared": self.shared,
                "client": CLIENT.hex(), "snapshot": START.hex()}

    def out(self):
        whole = self.indices == list(range(self.terms.n))
        said = {"examples": 57, "loss": bits([2.5])} if self.kind == UPDATE else {}
        return self.about() | said | {
            "body": BODIES[self.body], "code": self.code, "support": None if whole else self.indices,
            "values": bits(self.values), "source": None if self.source is None else bits(self.source),
            "frame": self.frame().hex()}


EXACT = [code for code in NAMES if not has_floor(code)]
EDGE = [f32(v) for v in (0.0, -0.0, 1e-40, -(2.0**-126), -8.0, 8.0, 0.1, 3.5)]
# Between two binary16 values, at halves, at the least one and at half of that.
HALVES = [1 + 2.0**-11, 1 + 3 * 2.0**-11, -(2.0**-24), 2.0**-25, 3 * 2.0**-25, -(2.0**-14), 1 / 3]


def every_code():
    """Each body with each code, on a domain of all."""
    for code in NAMES:
        terms = "all-" + code
        n = BY_NAME[terms].n
        part = some(range(n), code, 0.2)
        for body in range(4):
            indices = None if body in (DENSE, DENSE_MODELLED) else part
            k = n if indices is None else len(part)
            blocks, source = None, None
            if code in EXACT:
                source = draw(k, f"{code} {body // 2}", 1.0)
                source[:8] = EDGE if code == "f32" else source[:8]
                source[:7] = HALVES if code == "f16" else source[:7]
            else:
                blocks = ladder(code, [k], f"{code} {body}")
            yield Case(f"{code}, {BODIES[body]}", terms, UPDATE, indices, blocks, source, body)


def blocks():
    """Several blocks, of lengths that an encoder may choose."""
    n = BY_NAME["wide-int8"].n
    for code in ("f32", "int8", "fp4"):
        part = some(range(n), "wide " + code, 0.06)
        yield Case(f"{code}, several blocks", "wide-" + code, UPDATE, part, source=draw(len(part), "wide " + code, 4.0))
    for body, lengths in ((RICE, [1024, 1, 90]), (MAP, [1, 300, 300, 7, 200])):
        part = some(range(n), "lengths", 0.15)[: sum(lengths)]
        yield Case(f"lloyd3, blocks of {lengths}, {BODIES[body]}", "wide-lloyd3", UPDATE, part,
                   ladder("lloyd3", lengths, "lengths"), body=body)
    # An entry where row and column are cold and the tensor is not: beyond the range of log-odds.
    cold = [2800 + 4 * row + v for row in range(250) for v in (1, 2, 3)] + [2800 + 4 * 255, 2800 + 4 * 256 + 1]
    yield Case("lloyd2, a column of B that is sent once", "wide-lloyd2", UPDATE, cold, ladder("lloyd2", [752], "cold"),
               body=MAP)
    yield Case("int8, blocks of one, two and three", "all-int8", UPDATE, [0, 40, 41, 90, 91, 122],
               ladder("int8", [1, 2, 3], "small blocks"), body=MAP)
    eight = [Block([(False, m), (True, m)], 0, 24 * 8) for m in range(8)]
    for code in ("lloyd2", "lloyd3", "lloyd4", "fp4"):
        of = eight[1 if code == "fp4" else 0 : 2 ** INDEX_BITS[code]]
        part = list(range(2 * len(of)))
        yield Case(f"{code}: its table, a block a level", "all-" + code, UPDATE, part, of, body=RICE)
    edges = [Block([(False, 0), (True, 1)], *pair) for pair in ((0, 0), (1, 1), (200, 1), (0, 160), (215, 0))]
    yield Case("int2: scale bytes at their ends", "all-int2", UPDATE, list(range(10)), edges, body=RICE)
    outliers = {0: to_f16(0.3), 1: to_f16(-0.7), 2: to_f16(1e-6)}
    beside = Block([(False, 7), (True, 7), (False, 0), (True, 3)], 0, 100, outliers)
    for body in (RICE, MAP):
        yield Case(f"fp4: outliers, {BODIES[body]}", "all-fp4", UPDATE, [5, 6, 70, 122], [beside], body=body)


def domains():
    """Domains other than all, with part of them and whole."""
    shared = {"within": 31, "support": 31, "together": 520, "after-first": 15, "once": 15}
    for terms in ("segments", "many-segments", "random", "alternate", "within", "together", "support", "once",
                  "after-first", "frozen-a", "head", "head-drawn"):
        run = BY_NAME[terms]
        code = run.body["method"]["upload"]["values"]
        for round in (3, 5):
            carried = None
            if terms in shared:
                order = list(range(run.n))
                Stream(round, "golden-shared").shuffle(order)
                carried = sorted(order[: shared[terms]])
            may = domain(run, round, CLIENT, carried)
            k = allowed(run, round, may)
            order = some(may, f"{terms} {round}", 0.3)
            part, most = order[:k], None if k == len(may) else may[:k]
            for name, indices, body in (
                ("part, as a map", part, MAP), ("as many as allowed", most, None),
                ("as many as allowed, modelled", most, DENSE_MODELLED if most is None else MAP),
            ):
                count = len(may) if indices is None else len(indices)
                of = {"source": draw(count, terms + name)} if code in EXACT else {
                    "blocks": ladder(code, [count] if count else [], terms + name)}
                if may or body is None:
                    yield Case(f"{terms}, round {round}, {name}", terms, UPDATE, indices, body=body, shared=carried,
                               round=round, **of)


def others():
    """Nothing, the first round, stages, budgets, snapshots."""
    yield Case("a quarter", "quarter", UPDATE, list(range(9, 40)), source=draw(31, "quarter"))
    yield Case("no entry", "quarter", UPDATE, [], source=[])
    body, _ = modelled("f32", [], BY_NAME["quarter"].tensors, range(123), [])
    yield Case("no entry, through the map", "quarter", UPDATE, [], source=[], body=MAP, body_bytes=body)
    n = BY_NAME["quarter"].n
    yield Case("whole, but sent as gaps", "all-f16", UPDATE, None, source=draw(n, "gaps"), body=RICE)
    yield Case("whole, but sent as a map", "all-f16", UPDATE, None, source=draw(n, "map"), body=MAP)
    far = [0, n - 1]
    block = ladder("int4", [2], "rice 27")
    yield Case("Rice parameter 27", "all-int4", UPDATE, far, block, body=RICE,
               body_bytes=packed("int4", block, far, [27]))
    yield Case("Rice parameter 0", "all-int4", UPDATE, far, block, body=RICE, body_bytes=packed("int4", block, far, [0]))
    yield Case("once: round 0 is dense", "once", UPDATE, None, source=draw(n, "once"), round=0)
    for round in (0, 4, 5):
        yield Case(f"staged, round {round}", "staged", UPDATE, list(range(7, 20)), source=draw(13, "staged"), round=round)
    for code in ("sign", "int8"):
        source = draw(60, "budget")
        yield Case(f"a budget's {code}", "budget", UPDATE, list(range(60)), source=source, code=code, body=RICE)
    yield Case("packed alone", "packed", UPDATE, list(range(0, n, 2)), source=draw(62, "packed"))
    yield Case("equally long: packed", "all-sign", UPDATE, None, source=draw(n, "equal"))
    example = Block([(False, 1), (True, 3)], 0xB0, 0x98)
    yield Case("the page's example", "all-int3", UPDATE, [0, 6], [example], body=RICE,
               body_bytes=bytes.fromhex("0280c50cac0e"))
    part = list(range(100, 131)) + [137]
    yield Case("snapshot, with a head", "head", SNAPSHOT, part, ladder("int4", [len(part)], "s-head"), body=MAP)
    theta = init(BY_NAME["weights"].tensors, 1)
    kept = sorted(sorted(range(n), key=lambda i: (-abs(theta[i]), i))[:31])
    for name, terms, indices, source, round in (
        ("dense", "all-f32", None, draw(n - 2, "s-dense") + [128.0, -128.0], ROUND),
        ("nothing learned yet", "quarter", [], [], 0),
        ("a quarter", "quarter", list(range(9, 40)), draw(31, "s-quarter"), ROUND),
        ("weights themselves", "weights", kept, [theta[i] for i in kept], ROUND),
        ("after-first: round 0 is dense", "after-first", None, [0.0] * n, 0),
        ("after-first: then sparse", "after-first", list(range(50, 65)), draw(15, "s-after"), 1),
        ("large int8", "all-int8", None, draw(n, "s-int8", 100.0), ROUND),
        ("alternation and segments leave it alone", "together", list(range(0, 1040, 2)), draw(520, "s-together"), 4),
        ("staged, round 2", "staged", list(range(61)), draw(61, "s-staged"), 2),
        ("staged, round 9", "staged", list(range(15)), draw(15, "s-later"), 9),
    ):
        yield Case(f"snapshot, {name}", terms, SNAPSHOT, indices, source=source, round=round)


def good():
    cases = [*every_code(), *blocks(), *domains(), *others()]
    for case in cases:
        indices, values = case.read(case.frame())
        assert (indices, bits(values)) == (case.indices, bits(case.values)), case.name
    return cases


def all_limits():
    for run in ALL:
        for round in (0, 2, 3, 5):
            yield {"manifest": run.name, "round": round} | limits(run, round)


def all_domains():
    """Who may send what in which round."""
    for name, rounds in (("segments", (0, 1, 2, 3, 2**64 - 1)), ("many-segments", (0, 65535)), ("random", (0, 7)),
                         ("alternate", (0, 1, 2, 3, 4)), ("within", (0,)), ("together", (0, 1, 2)),
                         ("support", (0, 1)), ("once", (0, 1)), ("everything", (0, 3)), ("quarter", (0,)),
                         ("head", (0, 1)), ("head-drawn", (0, 1, 2))):
        run = BY_NAME[name]
        needs = run.body["method"].get("train") == "support" or run.body["method"]["upload"].get(
            "select", {}).get("within_download")
        for round in rounds:
            for client in (CLIENT, sha(b"another")[:16]):
                shared = some(range(run.n), "shared", 0.2) if needs else None
                may = domain(run, round, client, shared)
                yield {"manifest": name, "round": round, "client": client.hex(), "shared": shared,
                       "domain": None if may == list(range(run.n)) else may, "share": allowed(run, round, may)}
