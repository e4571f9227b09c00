"""Prints golden/storage.json: numbers as each storage of ops/matrix.rs gives them back, as bits of float32.

f16 and bf16 are torch's roundings; 8 bit and E2M1 follow their formulas in numpy: a scale for each 64 entries
of a row, the nearest code by distance, of a tie the even one.
"""

import json

import numpy
import torch

ROWS, COLS, BLOCK = 6, 150, 64
E2M1 = numpy.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=numpy.float32)


def blocks(row):
    return [row[at : at + BLOCK] for at in range(0, len(row), BLOCK)]


def int8(block):
    scale = numpy.abs(block).max() / numpy.float32(127)
    # Integers have no negative 0.
    return block * 0 if scale == 0 else numpy.rint(block / scale) * scale + numpy.float32(0)


def fp4(block):
    scale = numpy.abs(block).max() / numpy.float32(6)
    if scale == 0:
        return block * 0
    sizes = numpy.abs(block / scale)
    distances = numpy.abs(sizes[:, None] - E2M1[None, :])
    best = distances.min(axis=1, keepdims=True)
    codes = numpy.arange(8)
    # The even one of the nearest.
    chosen = numpy.where(distances == best, codes % 2 * 8 + codes, 99).min(axis=1) % 8
    values = E2M1[chosen] * scale
    return numpy.where((block < 0) & (chosen > 0), -values, values)


def values():
    i = numpy.arange(ROWS * COLS)
    spread = ((i * 7919 + 13) % 2003 - 1001) / 512
    rows = (spread * 2.0 ** (i % 7 - 3)).astype(numpy.float32).reshape(ROWS, COLS)
    # Ties and ends, with a scale of 1 or a power of 2; a block of zeros; subnormal halves.
    ties = [6, 0.25, -0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, -5, 0, 5.0001, 0.2499, -6]
    rows[1, : len(ties)] = ties
    rows[1, len(ties) : BLOCK] = 0.75
    rows[2, :BLOCK] = 0
    rows[3] *= numpy.float32(2.0**-16)
    rows[4, :BLOCK] = numpy.float32(127) * (numpy.arange(BLOCK) / 64)
    rows[4, 0] = -127
    rows[5, 0] = 65000
    return rows


def bits(array):
    return [int(x) for x in array.astype(numpy.float32).reshape(-1).view(numpy.uint32)]


def main():
    rows = values()
    tensor = torch.from_numpy(rows)
    by_block = lambda f: numpy.stack([numpy.concatenate([f(b) for b in blocks(row)]) for row in rows])
    print(json.dumps({
        "cols": COLS,
        "values": bits(rows),
        "f16": bits(tensor.to(torch.float16).to(torch.float32).numpy()),
        "bf16": bits(tensor.to(torch.bfloat16).to(torch.float32).numpy()),
        "int8": bits(by_block(int8)),
        "fp4": bits(by_block(fp4)),
    }))


if __name__ == "__main__":
    main()
