"""ChaCha with 8 rounds, and the seeded streams over it, written from docs/wire.md alone.

Block function: Bernstein, "ChaCha, a variant of Salsa20", 2008; 64-bit block counter, 64-bit nonce 0.
"""

import hashlib
import struct

MASK = 0xFFFFFFFF


def _quarter(s, a, b, c, d):
    for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        s[x] = (s[x] + s[y]) & MASK
        mixed = s[z] ^ s[x]
        s[z] = ((mixed << turn) | (mixed >> (32 - turn))) & MASK


def block(key, counter):
    """The 16 words of one block."""
    start = list(struct.unpack("<4I", b"expand 32-byte k")) + list(struct.unpack("<8I", key))
    start += [counter & MASK, counter >> 32, 0, 0]
    s = list(start)
    for _ in range(4):
        _quarter(s, 0, 4, 8, 12)
        _quarter(s, 1, 5, 9, 13)
        _quarter(s, 2, 6, 10, 14)
        _quarter(s, 3, 7, 11, 15)
        _quarter(s, 0, 5, 10, 15)
        _quarter(s, 1, 6, 11, 12)
        _quarter(s, 2, 7, 8, 13)
        _quarter(s, 3, 4, 9, 14)
    return [(a + b) & MASK for a, b in zip(s, start)]


class Stream:
    """The draws named by a seed, a label and parts."""

    def __init__(self, seed, label, parts=()):
        name = b"gossamer/v1/rng\0" + label.encode() + b"\0" + struct.pack("<Q", seed)
        for part in parts:
            name += struct.pack("<Q", len(part)) + part
        self.key = hashlib.sha256(name).digest()
        self.blocks = 0
        self.words = []

    def word(self):
        if not self.words:
            self.words = block(self.key, self.blocks)
            self.blocks += 1
        return self.words.pop(0)

    def bits(self):
        low = self.word()
        return low | (self.word() << 32)

    def unit(self):
        return (self.word() >> 8) / 2**24

    def unit_f64(self):
        return (self.bits() >> 11) / 2**53

    def below(self, n):
        if n == 0:
            return 0
        while True:
            wide = self.bits() * n
            if wide % 2**64 >= 2**64 % n:
                return wide >> 64

    def shuffle(self, items):
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]


# Published: ChaCha8, 256-bit key of zeros, nonce 0 (draft-strombergson-chacha-test-vectors, TC1).
assert struct.pack("<16I", *block(bytes(32), 0)).hex().startswith(
    "3e00ef2f895f40d67f5bb8e81f09a5a12c840ec3ce9a7f3b181be188ef711a1e"
)
