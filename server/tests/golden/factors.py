"""Numbers for `tests/factors.rs`: what each rule makes of three clients' factors. numpy alone, float64,
written from the papers, with the whole product in memory.

    python factors.py > factors.json
"""

import json

import numpy as np

rng = np.random.default_rng(20241115)
RANK, D_IN, D_OUT, SCALE = 2, 4, 6, 2.0


def narrow(x):
    return np.float64(np.float32(x))


def flat(a, b):
    return [float(v) for v in np.concatenate([a.ravel(), b.ravel()])]


def norms(local, w):
    """HetLoRA: weights by the Frobenius norm of each client's product."""
    size = np.array([np.linalg.norm(b @ a) for a, b in local])
    w = size / size.sum()
    return sum(k * a for k, (a, _) in zip(w, local)), sum(k * b for k, (_, b) in zip(w, local))


def product(local, w):
    return sum(k * (b @ a) for k, (a, b) in zip(w, local))


def svd(local, w):
    """FlexLoRA: the best approximation of rank r; all of each singular value in B."""
    u, s, vt = np.linalg.svd(product(local, w))
    a, b = vt[:RANK].copy(), (u[:, :RANK] * s[:RANK]).copy()
    for i in range(RANK):
        if a[i, np.argmax(np.abs(a[i]))] < 0:
            a[i], b[:, i] = -a[i], -b[:, i]
    return a, b


def means(local, w):
    return sum(k * a for k, (a, _) in zip(w, local)), sum(k * b for k, (_, b) in zip(w, local))


def refit(local, w, penalty):
    """LoRA-FAIR as one least-squares problem: the penalty is more rows that want dB to be 0."""
    a, b = means(local, w)
    left = np.vstack([a.T, np.sqrt(penalty) * np.eye(RANK)])
    right = np.vstack([(product(local, w) - b @ a).T, np.zeros((RANK, D_OUT))])
    return a, b + np.linalg.lstsq(left, right, rcond=None)[0].T


received = narrow(rng.normal(size=(RANK, D_IN)) * 0.3), narrow(rng.normal(size=(D_OUT, RANK)) * 0.3)
local = [
    (narrow(received[0] + rng.normal(size=(RANK, D_IN))), narrow(received[1] + rng.normal(size=(D_OUT, RANK))))
    for _ in range(3)
]
examples = np.array([1, 2, 5])
cases = []
for average, w in [("cohort", np.full(3, 1 / 3)), ("examples", examples / examples.sum())]:
    for name, (a, b) in [
        ("mean", means(local, w)),
        ("norms", norms(local, w)),
        ("svd", svd(local, w)),
        ({"refit": 0.25}, refit(local, w, 0.25)),
        ({"refit": 1e-6}, refit(local, w, 1e-6)),
    ]:
        cases.append({"average": average, "combine": name, "adapter": flat(a, b)})


def with_weight(a, b, change):
    return flat(a, b) + [float(v) for v in change.ravel()]


# FedEx-LoRA and FLoRA change the weight that lies behind, W0 + s B A before and after:
# what clients had before is `weight`, and FLoRA's factors start anew from `seeded` and 0.
weight = narrow(rng.normal(size=(D_OUT, D_IN)) * 0.1)
w = np.full(3, 1 / 3)
a, b = means(local, w)
residual = with_weight(a, b, weight + SCALE * (product(local, w) - b @ a))
stacked_b, stacked_a = np.hstack([k * b for k, (_, b) in zip(w, local)]), np.vstack([a for a, _ in local])
stack = weight + SCALE * (stacked_b @ stacked_a)

# HetLoRA's truncation: client 1 has the first component alone, and 0 for the other.
cut = [(a * [[1], [0 if k == 1 else 1]], b * [1, 0 if k == 1 else 1]) for k, (a, b) in enumerate(local)]
for name, (a, b) in [("norms", norms(cut, None)), ("svd", svd(cut, np.full(3, 1 / 3)))]:
    cases.append({"average": "cohort", "combine": name, "rank_of_1": 1, "adapter": flat(a, b)})

# Fed-SB's three kinds of rounds, a core R between the factors. First B moves: its range is kept. Then A moves behind
# an orthonormal B: the product stays, as singular vectors and values. Then R moves: its mean.
share = np.full(3, 1 / 3)
range_of_b = np.linalg.qr(sum(k * b for k, (_, b) in zip(share, local)))[0]
basis = narrow(np.linalg.qr(rng.normal(size=(D_OUT, RANK)))[0])
behind = basis @ sum(k * a for k, (a, _) in zip(share, local))
cores = narrow(rng.normal(size=(3, RANK, RANK)))
core = {
    "projector": [float(v) for v in (range_of_b @ range_of_b.T).ravel()],
    "basis": [float(v) for v in basis.ravel()],
    "product": [float(v) for v in behind.ravel()],
    "singular": [float(v) for v in np.linalg.svd(behind)[1][:RANK]],
    "cores": [[float(v) for v in one.ravel()] for one in cores],
    "mean": [float(v) for v in cores.mean(axis=0).ravel()],
}
print(
    json.dumps(
        {
            "received": flat(*received),
            "locals": [flat(*both) for both in local],
            "examples": [int(n) for n in examples],
            "cases": cases,
            "weight": [float(v) for v in weight.ravel()],
            "residual": residual,
            "stack": [float(v) for v in stack.ravel()],
            "core": core,
        },
        indent=1,
    )
)
