"""How far the product of means is from the mean of products: the numbers in
`engine/product_error.rs`, from numpy in float64 and from the definition alone: of B A, and of B R A.

    python3 sim/tests/numbers/product_error.py
"""

import numpy as np


def values(n, step, shift):
    """The same on both sides: whole numbers over 8, so that float32 holds them exactly."""
    return (((np.arange(n) * step + shift) % 17) - 8) / 8.0


def error(cored):
    shapes = [(2, 5, 4), (2, 3, 6)]  # rank, d_in, d_out of two modules
    scales = [2.0, 0.5]
    clients = 3
    square, whole = 0.0, 0.0
    for module, ((r, d_in, d_out), scale) in enumerate(zip(shapes, scales)):
        a = [values(r * d_in, 5 + k, 3 * module + k).reshape(r, d_in) for k in range(clients)]
        b = [values(d_out * r, 7 + k, 2 * module + 5 * k).reshape(d_out, r) for k in range(clients)]
        c = [values(r * r, 3 + k, module + 2 * k).reshape(r, r) if cored else np.eye(r) for k in range(clients)]
        mean_of_products = scale * sum(bk @ ck @ ak for ak, bk, ck in zip(a, b, c)) / clients
        product_of_means = scale * (sum(b) / clients) @ (sum(c) / clients) @ (sum(a) / clients)
        square += np.sum((mean_of_products - product_of_means) ** 2)
        whole += np.sum(mean_of_products**2)
    return np.sqrt(square / whole)


def main():
    print(f"{error(False):.12f} {error(True):.12f}")


if __name__ == "__main__":
    main()
