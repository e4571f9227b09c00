"""Writes tests/vectors/rotation.json: statements about keys that follow one another, by docs/wire.md.

    python3 protocol/tests/python/rotation.py > protocol/tests/vectors/rotation.json
"""

import json

import ed25519
from messages import client_id, sign

OLD, NEW, DEVICE, NEXT = (bytes([b]) * 32 for b in (1, 2, 3, 4))


def public(seed):
    return ed25519.public(seed).hex()


def rotation(at, until):
    text = f"{public(OLD)}\n{public(NEW)}\n{at}\n{until}\n".encode()
    return {"from": public(OLD), "to": public(NEW), "at_ms": at, "until_ms": until,
            "by_from": sign(OLD, "server-key", text), "by_to": sign(NEW, "server-key", text)}


def new_key(client):
    text = f"{client}\n{public(NEXT)}\n".encode()
    return {"public_key": public(NEXT), "proof": sign(NEXT, "client-key", text)}


client = client_id(DEVICE)
vectors = {"rotation": rotation(1_700_000_000_000, 2**64 - 1), "client": client, "new_key": new_key(client)}
print(json.dumps(vectors, indent=1))
