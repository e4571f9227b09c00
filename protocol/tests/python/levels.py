"""Lloyd-Max levels of the unit exponential distribution, from its density alone.

    python3 levels.py        prints the tables of docs/wire.md, section 8

A quantiser has least squared error where each level is the mean of its cell and each border lies half-way
between two levels. Above any point the unit exponential is itself again, one higher: the last level lies
1 above its border. From there cell after cell follows downwards, until the first one begins at 0.
"""

import math


def above(length):
    """How far the mean of a cell lies below its upper border; an exponential cut to `length`."""
    return length - 1.0 + length / math.expm1(length)


def length_of(distance):
    """The cell whose mean lies `distance` below its upper border; by bisection."""
    low, high = 1e-9, 100.0
    for _ in range(200):
        middle = (low + high) / 2.0
        low, high = (middle, high) if above(middle) < distance else (low, middle)
    return low


def lloyd_max(count):
    """The levels, rising."""
    distance, cells = 1.0, []
    for _ in range(count - 1):
        length = length_of(distance)
        cells.insert(0, (length, distance))
        distance = length - distance
    levels, border = [], 0.0
    for length, below in cells:
        levels.append(border + length - below)
        border += length
    return levels + [border + 1.0]


def table(count):
    """In units of 1/64, rounded."""
    return [round(64.0 * level) for level in lloyd_max(count)]


TABLES = {"lloyd2": table(2), "lloyd3": table(4), "lloyd4": table(8)}

if __name__ == "__main__":
    for name, levels in TABLES.items():
        print(name, *levels)
