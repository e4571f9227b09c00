"""The range coder and the model under it, written from docs/wire.md, sections 10 and 11, alone."""

import math


class Coder:
    """Codes bits into bytes."""

    def __init__(self):
        self.low, self.high, self.out = 0, 2**32 - 1, bytearray()

    def bit(self, bit, p):
        assert 1 <= p <= 65535
        middle = self.low + (self.high - self.low) * p // 2**16
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while self.low >> 24 == self.high >> 24:
            self.out.append(self.low >> 24)
            self.low = self.low * 256 % 2**32
            self.high = self.high * 256 % 2**32 + 255

    def raw(self, x, count):
        for place in reversed(range(count)):
            self.bit(x >> place & 1, 32768)

    def finish(self):
        """The bytes, and how many of them the end took."""
        for length in range(5):
            step = 2 ** (32 - 8 * length)
            point = -(-self.low // step) * step
            if point <= self.high:
                return bytes(self.out) + point.to_bytes(4, "big")[:length], length


SIGMA = [
    22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768,
    40793, 47911, 53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476, 65500, 65514,
]
assert SIGMA == [round(2**16 / (1 + math.exp(8 - j / 2))) for j in range(33)]
PACE = [131072 // (2 * s + 3) for s in range(256)]


def clamp(x):
    return max(-2047, min(2047, x))


def squash(x):
    y = clamp(x) + 2048
    j, f = y >> 7, y % 128
    return (SIGMA[j] * (128 - f) + SIGMA[j + 1] * f + 64) >> 7


REACHES = [(x, squash(x) >> 4) for x in range(-2047, 2048)]
STRETCH = [next((x for x, reach in REACHES if reach >= top), 2047) for top in range(4096)]


class Chance:
    def __init__(self, p, seen=0):
        self.p, self.seen = p, seen

    def learn(self, bit, most):
        target = 65535 if bit else 0
        p = self.p + (((target - self.p) * (PACE[self.seen] // 2)) >> 15)
        self.p = max(32, min(65503, p))
        self.seen += self.seen < most

    def odds(self):
        return STRETCH[self.p >> 4]


class Map:
    """Which coordinates are sent."""

    def __init__(self):
        self.tensor, self.row, self.column = Chance(4096), Chance(4096), []
        self.around = {}
        self.weight = [[18000, 18000, 22000, 12000, 12000, 0] for _ in range(3)]
        self.width = self.part = None

    def start_tensor(self, width, part):
        if (width, part) == (self.width, self.part):
            for chance in self.column:
                chance.seen = min(chance.seen, 6)
        else:
            self.column = [Chance(self.tensor.p, 2) for _ in range(width)]
        self.width, self.part = width, part
        self.tensor.seen = min(self.tensor.seen, 20)
        self.classes = [{}, {}, {}]
        self.start_row()

    def start_row(self):
        self.classes = [{}] + self.classes[:2]
        self.row = Chance((self.row.p + self.tensor.p) // 2, 3)

    def near(self, v):
        """What the magnitudes look at."""
        this, before, _ = self.classes
        return max(this.get(v - 1, 0), before.get(v, 0))

    def chance(self, v):
        this, before, above = self.classes
        some = [before.get(v - 1, 0), before.get(v + 1, 0), this.get(v - 2, 0), above.get(v, 0)]
        place = (self.part, 3 * this.get(v - 1, 0) + before.get(v, 0), sum(c > 0 for c in some), above.get(v, 0))
        self.here = self.around.setdefault(place, Chance(4096))
        row, column, around, tensor = (c.odds() for c in (self.row, self.column[v], self.here, self.tensor))
        self.input = [row, column, around, tensor, clamp(row + column - tensor), 256]
        self.p = squash(sum(x * w for x, w in zip(self.input, self.weight[self.part])) >> 16)
        return self.p

    def learn(self, v, bit):
        error = 65535 - self.p if bit else -self.p
        weight = self.weight[self.part]
        for i, x in enumerate(self.input):
            weight[i] += (((x * (error >> 4)) >> 10) * 20) >> 6
        self.row.learn(bit, 40)
        self.column[v].learn(bit, 30)
        self.here.learn(bit, 250)
        self.tensor.learn(bit, 250)

    def note(self, v, of_class):
        self.classes[0][v] = of_class


class Magnitudes:
    """How large an entry is."""

    def __init__(self):
        self.size = [[Chance(24000) for _ in range(8)] for _ in range(3)]

    def unary(self, coder, index, top, near):
        for rung in range(top):
            chance = self.size[near][rung]
            more = index > rung
            coder.bit(more, chance.p)
            chance.learn(more, 200)
            if not more:
                return
