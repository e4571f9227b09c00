"""JSON messages, records, receipts, tokens and signatures."""

import base64

import ed25519
from manifests import BASE, BY_NAME
from words import accepted_digest, dump, sha

SERVER = bytes([1]) * 32
DEVICE = bytes(range(32))


def url64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(seed, purpose, data):
    return url64(ed25519.sign(seed, b"gossamer/v1/" + purpose.encode() + b"\0" + data))


def client_id(seed):
    return sha(ed25519.public(seed))[:16].hex()


def signatures():
    for purpose in ("manifest", "record", "receipt", "request", "enrolment"):
        for seed, data in ((SERVER, b""), (DEVICE, bytes(range(200)))):
            yield {"seed": seed.hex(), "public": ed25519.public(seed).hex(), "client": client_id(seed),
                   "purpose": purpose, "bytes": data.hex(), "signature": sign(seed, purpose, data)}


def request(method, path, body, nonce, expires):
    text = f"{method}\n{path}\n{sha(body).hex()}\n{nonce.hex()}\n{expires}\n"
    header = f"Gossamer client={client_id(DEVICE)},nonce={nonce.hex()},expires={expires}"
    header += ",signature=" + sign(DEVICE, "request", text.encode())
    return {"seed": DEVICE.hex(), "method": method, "path": path, "body": body.hex(),
            "nonce": nonce.hex(), "expires_ms": expires, "header": header}


def requests():
    run = BY_NAME["quarter-f32"].run.hex()
    yield request("POST", "/v1/check-in", b"{}", bytes(range(16)), 1_700_000_000_000)
    yield request("GET", f"/v1/runs/{run}/manifest", b"", bytes([255]) * 16, 2**64 - 1)
    path = f"/v1/runs/{run}/rounds/3/attempts/2/updates/{client_id(DEVICE)}"
    yield request("PUT", path, b"GSMR", bytes(16), 0)
    yield request("GET", "/v1/x?a=1&b=%20", b"", bytes(range(16, 32)), 1)


def bad_headers():
    good = next(requests())["header"]
    client, nonce, expires, signature = good.removeprefix("Gossamer ").split(",")
    return ["", "Bearer x", good.removeprefix("Gossamer "), good + ",x=1", good + ",", good[:-1],
            good + "=", good.replace("nonce", "nonse"), good.replace(expires, "expires=-1"),
            good.replace(",", ", "), good.replace(nonce, nonce[:-2]),
            good.replace(expires, "expires=18446744073709551616"),
            "Gossamer " + ",".join((nonce, client, expires, signature))]


def records():
    """A chain of three; each names the one before."""
    terms = BY_NAME["quarter-f32"]
    parent = None
    sets = [[], [(sha(b"b")[:16], sha(b"update b")), (sha(b"a")[:16], sha(b"update a"))],
            [(bytes([k]) * 16, sha(bytes([k]))) for k in (255, 0, 128)]]
    for round, accepted in enumerate(sets):
        text = dump({
            "version": 1, "run": terms.run.hex(), "round": round, "parent": parent,
            "manifest": terms.digest.hex(), "snapshot": sha(b"snapshot %d" % round).hex(),
            "snapshot_bytes": 80 + round, "state": sha(b"state %d" % round).hex(),
            "attempt": round, "accepted": len(accepted), "accepted_set": accepted_digest(accepted).hex(),
        })
        parent = sha(text.encode()).hex()
        yield {"json": text, "digest": parent, "signature": sign(SERVER, "record", text.encode()),
               "accepted": [[client.hex(), update.hex()] for client, update in accepted]}


def documents():
    """Every JSON message; what is written is what is read."""
    run, key = BY_NAME["quarter-f32"].run.hex(), ed25519.public(DEVICE).hex()
    secret = "c2VjcmV0"
    slot = {"run": run, "round": 2**53 + 1, "attempt": 2**32 - 1}
    receipt = dump(slot | {"client": client_id(DEVICE), "update": sha(b"update").hex()})
    task = slot | {"snapshot": sha(b"snapshot").hex(), "snapshot_bytes": 4096, "deadline_ms": 60000}
    problem = {"type": "urn:gossamer:problem:stale-round", "title": "The round has closed", "status": 410,
               "detail": "round 3 is closed"}
    for kind, body in [
        ("enrolment", {"secret": secret, "public_key": key, "proof": sign(DEVICE, "enrolment", secret.encode())}),
        ("enrolled", {"client": client_id(DEVICE)}),
        ("check-in", {}),
        ("check-in", {"run": run}),
        ("answer", {"answer": "train"} | task),
        ("answer", {"answer": "wait", "retry_ms": 5123, "reason": "no round is open"}),
        ("answer", {"answer": "over", "reason": "the run is complete"}),
        ("problem", problem),
        ("problem", problem | {"retry_ms": 2**63}),
    ]:
        yield {"kind": kind, "json": dump(body), "signature": None}
    yield {"kind": "receipt", "json": receipt, "signature": sign(SERVER, "receipt", receipt.encode())}
    yield {"kind": "manifest", "json": BY_NAME["quarter-f32"].text,
           "signature": sign(SERVER, "manifest", BY_NAME["quarter-f32"].text.encode())}


def strictness():
    """Whether a field nobody knows is passed over (answers) or refused (what is signed or asked)."""
    passed_over = {"enrolled", "answer", "problem"}
    for document in documents():
        kind, text = document["kind"], document["json"]
        comma = "" if text == "{}" else ","
        yield {"kind": kind, "json": f'{text[:-1]}{comma}"later":1}}', "read": kind in passed_over}
    yield {"kind": "answer", "json": '{"answer":"dance"}', "read": False}


def tokens():
    key = ed25519.public(SERVER).hex()
    for body in ({"secret": "c2VjcmV0", "server_key": key},
                 {"secret": "c2VjcmV0", "server_key": key, "ca": url64(bytes(range(250, 256)) + b"DER")}):
        yield {"json": dump(body), "text": "gossamer1." + url64(dump(body).encode())}


def problems():
    names = """no-route|No such route
method|The route does not take this method
bad-request|The request is malformed
unsigned|The request is not signed
bad-signature|The signature does not match
expired|The signature's time is not now
replayed|The request was sent before
unknown-client|The client is not enrolled
bad-token|The enrolment token is not valid
unknown-run|No such run
run-over|The run is over
unknown-round|No such round
stale-round|The round has closed
not-in-cohort|The client was not asked in this round
not-yours|The update is another client's
conflict|The client already sent a different update
bad-frame|The bytes are no valid frame
bad-entries|The update's entries are malformed
bad-value|A value is not finite or too large
bad-layout|The update does not fit the layout
wrong-base|The update starts from another snapshot
too-large|The body is too large
wrong-offset|The upload resumes at another offset
unknown-object|No such object
bad-range|The range is not in the object
busy|The server is at its limit; try again later
store-full|The server's disk is full
internal|The server failed"""
    for line in names.splitlines():
        name, title = line.split("|")
        yield {"type": f"urn:gossamer:problem:{name}", "title": title}


def digests():
    return {"config": sha(b"config").hex(), "tokenizer": sha(b"tokenizer").hex(),
            "weights": sha(b"weights").hex(), "base": BASE.hex()}
