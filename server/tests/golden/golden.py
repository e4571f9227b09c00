"""Numbers for `tests/optimizers.rs` and `tests/flasc.rs`: numpy alone, float64, written from the papers.

    python golden.py > golden.json

The optimisers are in their textbook form (bias-corrected moments written out), not in the order the
server computes them, and nothing is rounded to float32 on the way: the tests allow for that.
"""

import json

import numpy as np

rng = np.random.default_rng(20240617)


def sgd(theta, grads, lr, momentum):
    v = np.zeros_like(theta)
    for g in grads:
        v = momentum * v + g
        theta = theta - lr * v
        yield theta


def adamw(theta, grads, lr, beta1, beta2, eps, weight_decay):
    """arXiv:1711.05101 with torch's parametrisation: the decay is lr * weight_decay."""
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, g in enumerate(grads, 1):
        theta = theta - lr * weight_decay * theta
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        theta = theta - lr * m_hat / (np.sqrt(v_hat) + eps)
        yield theta


def fed(theta, grads, lr, beta1, tau, second):
    """arXiv:2003.00295, algorithm 2; delta is minus the pseudo-gradient, v starts at tau^2."""
    m, v = np.zeros_like(theta), np.full_like(theta, tau**2)
    for g in grads:
        delta = -g
        m = beta1 * m + (1 - beta1) * delta
        v = second(v, delta**2)
        theta = theta + lr * m / (np.sqrt(v) + tau)
        yield theta


def adagrad(v, square):
    return v + square


def yogi(beta2):
    return lambda v, square: v - (1 - beta2) * square * np.sign(v - square)


def adam(beta2):
    return lambda v, square: beta2 * v + (1 - beta2) * square


def as_float32(x):
    return [float(v) for v in np.asarray(x, dtype=np.float32)]


def optimizers():
    n, steps = 6, 4
    theta = np.float64(np.float32(rng.normal(size=n) * 0.1))
    deltas = np.float64(np.float32(rng.normal(size=(steps, n)) * 0.02))
    deltas[1:, 0] = 0.0  # a coordinate that nobody sends after the first step
    deltas[:, 1] = 0.0  # and one that nobody ever sends
    grads = -deltas
    cases = [
        ({"kind": "sgd", "lr": 1.0}, sgd(theta, grads, 1.0, 0.0)),
        ({"kind": "sgd", "lr": 0.5, "momentum": 0.9}, sgd(theta, grads, 0.5, 0.9)),
        ({"kind": "adamw", "lr": 0.01}, adamw(theta, grads, 0.01, 0.9, 0.999, 1e-8, 0.01)),
        (
            {"kind": "adamw", "lr": 0.1, "beta1": 0.8, "beta2": 0.9, "eps": 1e-4, "weight_decay": 0.3},
            adamw(theta, grads, 0.1, 0.8, 0.9, 1e-4, 0.3),
        ),
        ({"kind": "fed-adam", "lr": 0.05}, fed(theta, grads, 0.05, 0.9, 1e-3, adam(0.99))),
        ({"kind": "fed-yogi", "lr": 0.05}, fed(theta, grads, 0.05, 0.9, 1e-3, yogi(0.99))),
        ({"kind": "fed-adagrad", "lr": 0.05}, fed(theta, grads, 0.05, 0.0, 1e-3, adagrad)),
    ]
    return {
        "theta": as_float32(theta),
        "deltas": [as_float32(d) for d in deltas],
        "cases": [{"rule": rule, "thetas": [list(t) for t in thetas]} for rule, thetas in cases],
    }


def top_k(x, density):
    """0/1 mask of the k largest magnitudes, k = max(1, round half up), ties to the lower index."""
    k = max(1, int(np.floor(density * len(x) + 0.5)))
    order = sorted(range(len(x)), key=lambda i: (-abs(x[i]), i))
    mask = np.zeros(len(x), dtype=bool)
    mask[order[:k]] = True
    return mask


def flasc():
    """One round as published (research note, section 1): masked download, dense local training (any
    drift will do), masked upload against the *masked* weights, uniform mean, AdamW on the dense P."""
    n, clients, d_dl, d_ul = 20, 3, 0.25, 0.2
    P = np.float64(np.float32(rng.normal(size=n) * 0.1))
    M = top_k(P, d_dl)
    Q0 = P * M
    locals_, uploads, G = [], [], np.zeros(n)
    for _ in range(clients):
        Q = np.float64(np.float32(Q0 + rng.normal(size=n) * 0.05))
        D = Q0 - Q
        D = D * top_k(D, d_ul)
        locals_.append(as_float32(Q))
        uploads.append([int(i) for i in np.flatnonzero(D)])
        G += D
    g = G / clients
    (P1,) = adamw(P, [g], 0.02, 0.9, 0.999, 1e-8, 0.01)
    return {
        "density": {"download": d_dl, "upload": d_ul},
        "lr": 0.02,
        "start": as_float32(P),
        "download": [int(i) for i in np.flatnonzero(M)],
        "locals": locals_,
        "uploads": uploads,
        "theta": list(P1),
        "next_download": [int(i) for i in np.flatnonzero(top_k(P1, d_dl))],
    }


print(json.dumps({"optimizers": optimizers(), "flasc": flasc()}, indent=1))
