"""The manifests that the vectors of version 2 belong to, good ones and bad ones."""

import copy

from bodies import NAMES
from manifests import PLAIN, Terms
from words import dump

MIDDLE = [("m.0.q_proj", 12, 10), ("m.0.up_proj", 12, 7)]
STRIPED = [("x.o_proj", 160, 100)]
WIDE = [("x.o_proj", 700, 500)]
# Three classes of four features.
HEAD = {
    "tail": [("classifier.weight", "head", [3, 4]), ("classifier.bias", "head", [3, 1])],
    "head": {"classes": 3},
}


def method(down=1.0, up=1.0, values="f32", of="change", download=None, upload=None, **rest):
    """Only what is not at its default is written."""
    return {
        "download": {"density": down, "of": of, "values": values} | (download or {}),
        "upload": {"density": up, "values": values} | (upload or {}),
        **rest,
    }


def run(name, linears=MIDDLE, rank=3, **changes):
    targets = [path.split(".")[-1] for path, _, _ in linears]
    return Terms(name, linears, version=2, lora__rank=rank, lora__targets=targets, **changes)


def up(**select):
    return {"upload": {"select": select}}


STAGES = [{"from": 2, "density": 0.5, "values": "f16"}, {"from": 5, "density": 0.125, "values": "sign"}]
EVERYTHING = method(
    0.25, 0.125, "int8", "weights",
    download={"residual": 0.5, "select": {"by": "rank-wise", "scope": {"floor": 0.25}}, "stages": STAGES},
    upload={
        "select": {"by": "importance", "scope": "tensor", "segments": 2, "random": 0.5, "within_download": True},
        "rounding": "stochastic", "stages": STAGES[1:], "bytes_max": 4096,
        "feedback": {"decay": 0.5, "rounds_max": 8},
    },
    train="dense", support="each-round", average="contributors", alternate={"rounds": 2}, coding="packed",
)

ALL = [
    *(run(f"all-{code}", method=method(values=code)) for code in NAMES),
    *(run(f"wide-{code}", WIDE, 4, method=method(0.5, 0.5, code))
      for code in ("f32", "int8", "lloyd3", "lloyd2", "fp4")),
    run("quarter", method=method(0.25, 0.25)),
    run("packed", method=method(values="f16", coding="packed")),
    run("frozen-a", lora__freeze_a=True, method=method(values="lloyd4")),
    run("segments", STRIPED, 4, method=method(1.0, 0.25, "f16", **up(segments=3))),
    run("many-segments", method=method(1.0, 0.5, "f16", **up(segments=65536))),
    run("random", method=method(1.0, 0.5, "sign", **up(random=0.3)), seed=2**64 - 1),
    run("alternate", method=method(1.0, 0.5, alternate={"rounds": 2})),
    run("within", method=method(0.25, 0.5, "int8", **up(within_download=True))),
    run("together", STRIPED, 4, method=method(
        0.5, 0.25, **up(segments=2, random=0.5, within_download=True), alternate={"rounds": 1})),
    run("support", method=method(0.25, 0.25, "int3", train="support")),
    run("once", method=method(0.125, 0.125, train="support", support="once")),
    run("after-first", method=method(0.125, 0.125, "sign", train="support", support="after-first")),
    run("weights", method=method(0.25, 0.25, "f16", "weights")),
    run("staged", method=method(0.25, 0.25, download={"stages": STAGES}, upload={"stages": STAGES[1:]})),
    run("budget", method=method(0.25, 0.25, upload={"bytes_max": 256})),
    run("head", method=method(0.25, 0.25, "int4", head_density=0.5), **HEAD),
    run("head-drawn", STRIPED, 4, method=method(
        0.25, 0.25, "f16", **up(segments=2, random=0.5), alternate={"rounds": 1}), **HEAD),
    run("everything", STRIPED, 4, method=EVERYTHING),
]
BY_NAME = {terms.name: terms for terms in ALL}

DEFAULTS = {
    "download": {
        "residual": 1.0, "stages": [],
        "select": {"by": "magnitude", "scope": "global", "segments": 1, "random": None, "within_download": False},
    },
    "upload": {
        "rounding": "nearest", "stages": [], "bytes_max": None, "feedback": None,
        "select": {"by": "magnitude", "scope": "global", "segments": 1, "random": None, "within_download": False},
    },
    "train": "dense", "support": "each-round", "average": "cohort", "alternate": None, "head_density": 1.0,
    "coding": "smallest",
}


def explicit():
    """`quarter` with every default of `method` written out."""
    body = copy.deepcopy(BY_NAME["quarter"].body)
    for name, value in DEFAULTS.items():
        body["method"][name] = {**body["method"][name], **value} if isinstance(value, dict) else value
    return dump(body)


def minimal():
    """`quarter` with every field left out that has a default."""
    body = copy.deepcopy(BY_NAME["quarter"].body)
    for way in ("download", "upload"):
        body["method"][way] = {"density": 0.25}
    return dump(body)


def bad():
    """Manifests that are refused, by the field that is wrong."""

    def case(error, name, version=2, of="quarter", **changes):
        body = copy.deepcopy(PLAIN)
        body |= {"version": version, "layout": BY_NAME[of].body["layout"], "method": method()}
        for path, value in changes.items():
            *way, last = path.split("__")
            place = body
            for step in way:
                place = place.setdefault(step, {})
            place[last] = value
        return {"name": name, "json": dump(body), "error": error}

    field = lambda path, name, value, **rest: case("field " + path, name, **{path.replace(".", "__"): value}, **rest)
    yield case("version", "version 0", 0)
    yield case("version", "version 3", 3)
    for path in ("method.extra", "method.upload.extra", "method.upload.select.extra"):
        yield case("syntax", f"unknown field {path}", **{path.replace(".", "__"): 1})
    for path, value in (
        ("method.upload.values", "int5"), ("method.upload.select.by", "norm"), ("method.upload.select.scope", "layer"),
        ("method.upload.rounding", "up"), ("method.coding", "best"), ("method.upload.density", 0.0),
        ("method.upload.select.random", 0.0), ("method.upload.select.random", 1.5), ("method.head_density", 0.0),
        ("method.upload.stages", [{"from": 1, "density": 0.5}]), ("method.alternate", {}),
        ("method.upload.feedback", {"decay": 0.5}), ("method.upload.bytes_max", 2**32),
    ):
        yield case("syntax", f"{path} {dump(value)}", **{path.replace(".", "__"): value})
    for way in ("download", "upload"):
        stage = {"density": 0.5, "values": "f16"}
        twice = [{"from": 2, **stage}, {"from": 2, **stage}]
        yield field(f"method.{way}.stages", f"{way}: a stage twice", twice)
        yield field(f"method.{way}.select.scope", f"{way}: floor 0", {"floor": 0.0})
        yield field(f"method.{way}.select.scope", f"{way}: floor 1", {"floor": 1.0})
        yield field(f"method.{way}.select.segments", f"{way}: no segment", 0)
        yield field(f"method.{way}.select.segments", f"{way}: too many segments", 65537)
    for select in ({"segments": 2}, {"random": 0.5}, {"within_download": True}):
        yield field("method.download.select", f"a download of {dump(select)}", select)
    yield field("method.download.residual", "residual above 1", 1.5)
    yield field("method.upload.bytes_max", "too small a budget", 255)
    yield field("method.upload.feedback.decay", "decay 0", 0.0, method__upload__feedback__rounds_max=1)
    yield field("method.upload.feedback.decay", "decay above 1", 1.5, method__upload__feedback__rounds_max=1)
    yield field("method.alternate.rounds", "turns of no round", 0)
    yield field("method.support", "once under dense training", "once")
    support = {"method__train": "support"}
    yield field("method.alternate", "turns on a shared support", {"rounds": 1}, **support)
    yield field("method.upload.select", "a selection on a shared support", {"by": "importance"}, **support)
    yield field("method.upload.bytes_max", "a budget on a shared support", 300, **support)
    yield case("field layout", "a head that the layout lacks", head={"classes": 3})
    yield case("field layout", "a head of more classes than the layout has", of="head", head={"classes": 4})
    yield case("field head.classes", "a head of one class", of="head", head={"classes": 1})
    yield case("field head", "a layout with a head that the manifest lacks", of="head")
    yield case("field training.context", "a head, and no room for a token", of="head", head={"classes": 3},
               training__context=2)
    one = {"version": 1}
    yield case("field head", "version 1: a head", of="head", head={"classes": 3}, **one)
    yield field("method", "version 1: f16", method(values="f16"), **one)
    yield field("method", "version 1: segments", method(**up(segments=2)), **one)
    yield field("method", "version 1: an alternation", method(alternate={"rounds": 1}), **one)
    yield field("method", "version 1: packed", method(coding="packed"), **one)
    yield field("method", "version 1: a budget", method(upload={"bytes_max": 300}), **one)
