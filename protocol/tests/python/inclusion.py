"""Writes tests/vectors/inclusion.json: Merkle trees and audit paths by the definitions of RFC 6962, section 2.1.

    python3 protocol/tests/python/inclusion.py > protocol/tests/vectors/inclusion.json
"""

import hashlib
import json


def sha(data):
    return hashlib.sha256(data).digest()


def split(n):
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def root(leaves):
    if not leaves:
        return sha(b"")
    if len(leaves) == 1:
        return sha(b"\0" + leaves[0])
    k = split(len(leaves))
    return sha(b"\1" + root(leaves[:k]) + root(leaves[k:]))


def path(m, leaves):
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return path(m, leaves[:k]) + [root(leaves[k:])]
    return path(m - k, leaves[k:]) + [root(leaves[:k])]


trees = []
for n in [0, 1, 2, 3, 4, 5, 7, 8, 11]:
    texts = [f"receipt {i}" for i in range(n)]
    leaves = [text.encode() for text in texts]
    paths = [[node.hex() for node in path(m, leaves)] for m in range(n)]
    trees.append({"leaves": texts, "root": root(leaves).hex(), "paths": paths})
print(json.dumps({"trees": trees}, indent=1))
