"""A receiver of version 2 frames, written from docs/wire.md, sections 7 to 11, alone."""

import math
import struct

from bodies import INDEX_BITS, NAMES, PARTS, Block, class_of, has_floor, has_scale, most
from coder import Magnitudes, Map
from words import sha


class Refused(Exception):
    """By the name of the check."""


def need(ok, name):
    if not ok:
        raise Refused(name)


class Bits:
    """Of a packed body, lowest first."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        need(self.at + count <= 8 * len(self.data), "entries ends")
        bits = [self.data[i // 8] >> i % 8 & 1 for i in range(self.at, self.at + count)]
        self.at += count
        return sum(bit << j for j, bit in enumerate(bits))

    def gap(self, b, limit):
        high = 0
        while self.take(1):
            high += 1
            need(high << b < limit, "entries past")
        gap = high << b | self.take(b)
        need(gap < limit, "entries past")
        return gap

    def end(self):
        need(8 * len(self.data) - self.at < 8, "entries follows")
        need(self.take(8 * len(self.data) - self.at) == 0, "entries padding")


class Decoder:
    """Of a modelled body."""

    def __init__(self, data):
        self.data, self.at, self.invented = data, 0, 0
        self.low, self.high, self.code = 0, 2**32 - 1, 0
        for _ in range(4):
            self.code = self.code * 256 + self.byte()

    def byte(self):
        if self.at < len(self.data):
            self.at += 1
            return self.data[self.at - 1]
        self.invented += 1
        need(self.invented <= 4, "entries ends")
        return 0

    def bit(self, p):
        middle = self.low + (self.high - self.low) * p // 2**16
        bit = self.code <= middle
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while self.low >> 24 == self.high >> 24:
            self.low = self.low * 256 % 2**32
            self.high = self.high * 256 % 2**32 + 255
            self.code = self.code * 256 % 2**32 + self.byte()
        return int(bit)

    def take(self, count):
        out = 0
        for _ in range(count):
            out = out * 2 + self.bit(32768)
        return out

    def end(self):
        need(self.at == len(self.data), "entries follows")
        real = self.code.to_bytes(4, "big")[: 4 - self.invented]
        for length in range(5):
            step = 2 ** (32 - 8 * length)
            point = -(-self.low // step) * step
            if point <= self.high:
                need(real == point.to_bytes(4, "big")[:length], "entries padding")
                return


class Reading:
    """Blocks as they are read, and values as they are checked."""

    def __init__(self, code, k, limit):
        self.code, self.k, self.limit, self.length, self.values = code, k, limit, most(code), []

    def header(self, take):
        if not take(1):
            self.length = 1 + take(10)
        need(self.length <= self.k - len(self.values) and self.length <= most(self.code), "entries block")
        floor = take(8) if has_floor(self.code) else 0
        self.block = Block([], floor, take(8) if has_scale(self.code) else 0)

    def outliers(self, take):
        if self.code != "fp4":
            return
        last = -1
        for _ in range(take(8)):
            place, bits = take(8), take(16)
            rises, finite = last < place < self.length, bits >> 10 & 31 != 31
            need(rises and finite, "entries outlier")
            self.block.outliers[place] = bits
            last = place

    def entry(self, negative, index):
        need(not (negative and index == 0 and self.code in ("int8", "fp4")), "entries minus zero")
        self.block.entries.append((negative, index))
        value = self.block.values(self.code)[-1]
        need(abs(value) <= self.limit, "entries value")
        self.values.append(value)


def packed(body, code, k, data, size, limit):
    bits, reading, ranks = Bits(data), Reading(code, k, limit), []
    while len(reading.values) < k:
        reading.header(bits.take)
        b = bits.take(5) if body == 1 else None
        need(b is None or b <= 27, "entries Rice")
        for _ in range(reading.length):
            after = ranks[-1] + 1 if ranks else 0
            need(after < size, "entries past")
            ranks.append(after + (bits.gap(b, size - after) if body == 1 else 0))
        if code == "fp4":
            entries = [(bits.take(1), bits.take(3)) for _ in range(reading.length)]
            reading.outliers(bits.take)
            for entry in entries:
                reading.entry(*entry)
        else:
            for _ in range(reading.length):
                reading.entry(bits.take(1), bits.take(INDEX_BITS[code]))
    bits.end()
    return ranks, reading.values


def unary(decoder, top, near, magnitudes):
    for rung in range(top):
        chance = magnitudes.size[near][rung]
        more = decoder.bit(chance.p)
        chance.learn(more, 200)
        if not more:
            return rung
    return top


def index_of(code, decoder, near, magnitudes):
    if code in ("f32", "f16"):
        return decoder.take(INDEX_BITS[code])
    if code == "int8":
        length = unary(decoder, 7, near, magnitudes)
        return 1 << (length - 1) | decoder.take(length - 1) if length > 1 else length
    return unary(decoder, 2 ** INDEX_BITS[code] - 1, near, magnitudes)


def modelled(body, code, k, data, tensors, domain, limit):
    decoder, reading, ranks = Decoder(data), Reading(code, k, limit), []
    map, magnitudes = Map(), Magnitudes()
    rank, start, left = 0, 0, 0
    for _, part, (rows, columns) in tensors:
        map.start_tensor(columns, PARTS.index(part))
        row = 0
        while rank < len(domain) and domain[rank] < start + rows * columns:
            place = domain[rank] - start
            for _ in range(place // columns - row):
                map.start_row()
            row, v = place // columns, place % columns
            near = map.near(v)
            sent = body == 2 or decoder.bit(map.chance(v))
            of_class = 0
            if sent:
                need(len(ranks) < k, "entries count")
                if left == 0:
                    reading.header(decoder.take)
                    reading.outliers(decoder.take)
                    left = reading.length
                negative = decoder.take(1)
                index = index_of(code, decoder, near, magnitudes)
                reading.entry(negative, index)
                ranks.append(rank)
                left -= 1
                of_class = class_of(code, index)
            if body == 3:
                map.learn(v, sent)
            map.note(v, of_class)
            rank += 1
        start += rows * columns
    need(len(ranks) == k, "entries count")
    decoder.end()
    return ranks, reading.values


def decode(data, kind, context, tensors, domain, codes, allowed, longest):
    """Coordinates and values; `codes` are the value codes that may be."""
    overhead, limit = (56, 8.0) if kind else (48, 128.0)
    need(len(data) <= longest, "oversized")
    need(len(data) < 4 or data[:4] == b"GSMR", "magic")
    need(len(data) >= overhead, "truncated")
    version, said_kind, coding, k, length = struct.unpack("<H2B2I", data[4:16])
    need(version == 2, "version")
    need(said_kind == kind, "code kind")
    need(coding >> 2 < len(NAMES), "code coding")
    need(len(data) >= overhead + length, "truncated")
    need(len(data) == overhead + length, "trailing")
    need(sha(b"gossamer/v2/frame\0" + context + data[:-32]) == data[-32:], "digest")
    if kind:
        examples, loss = struct.unpack("<If", data[16:24])
        need(math.isfinite(loss) and examples, "metadata")
    body, code = coding & 3, NAMES[coding >> 2]
    need(code in codes, "code values")
    need(k <= allowed, "density")
    need(body in (1, 3) or k == len(domain), "entries count")
    need(k <= 8 * (length + 4), "entries too few")
    content = data[overhead - 32 : -32]
    if body < 2:
        ranks, values = packed(body, code, k, content, len(domain), limit)
    else:
        ranks, values = modelled(body, code, k, content, tensors, domain, limit)
    return [domain[rank] for rank in ranks], values
