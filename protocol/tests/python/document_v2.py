"""What `protocol/tests/vectors/v2.json` holds."""

import bad_v2
import frames_v2
from gsmr import bits
from manifests_v2 import ALL, bad, explicit, minimal
from words import layout_digest

ABOUT = [
    "Golden vectors of Gossamer's manifests and frames, version 2 (docs/wire.md).",
    "Made by protocol/tests/python/vectors.py.",
    "Never edited: devices in the field keep to these bytes. A new version gets a new file beside it.",
    "Values are binary32 bit patterns in hexadecimal; a support or domain of null is every coordinate.",
    "A frame's source is null where what an encoder makes of it is its own choice.",
]


def manifests():
    for terms in ALL:
        yield {"name": terms.name, "json": terms.text, "digest": terms.digest.hex(), "run": terms.run.hex(),
               "n": terms.n, "layout": layout_digest(terms.tensors).hex()}


def document():
    cases = frames_v2.good()
    frames, refused = [case.out() for case in cases], bad_v2.bad(cases)
    for case, out, read in bad_v2.by_chance(cases, 60):
        if read is None:
            refused.append(out)
        else:
            indices, values = read
            frames.append(case.out() | out | {"support": indices, "values": bits(values), "source": None})
    return {
        "version": 2,
        "about": ABOUT,
        "manifests": list(manifests()),
        "same_manifests": [{"as": "quarter", "json": json} for json in (minimal(), explicit())],
        "bad_manifests": list(bad()),
        "limits": list(frames_v2.all_limits()),
        "domains": list(frames_v2.all_domains()),
        "frames": frames,
        "bad_frames": refused,
    }
