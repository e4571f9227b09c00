"""Numbers for `src/client/scaffold.rs`: SCAFFOLD (arXiv:1910.06378, algorithm 1, option II) on two clients
with h / 2 (x - a)^2, standard library alone.

    python scaffold.py > ../golden/scaffold.json
"""

H, A = [1.0, 3.0], [2.0, -1.0]
LR, K, N = 0.1, 3, 2


def run(x):
    c, own = 0.0, [0.0, 0.0]
    for cohort in [0, 1], [1], [0, 1]:
        dy, dc = [], []
        for i in cohort:
            y = x
            for _ in range(K):
                y -= LR * (H[i] * (y - A[i]) - own[i] + c)
            after = own[i] - c + (x - y) / (K * LR)
            dy.append(y - x)
            dc.append(after - own[i])
            own[i] = after
        x += sum(dy) / len(cohort)
        c += len(cohort) / N * sum(dc) / len(cohort)
        yield x, c


rows = [f"[{a[0]:.9}, {b[0]:.9}, {a[1]:.9}, {b[1]:.9}]" for a, b in zip(run(0.5), run(-2.0))]
print("[" + ", ".join(rows) + "]")
