"""Ed25519, plainly, from RFC 8032 section 5.1. For test vectors only: slow, and not constant-time."""

import hashlib

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P


def _add(p, q):
    (x1, y1), (x2, y2) = p, q
    cross = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + cross, -1, P)
    y = (y1 * y2 + x1 * x2) * pow(1 - cross, -1, P)
    return x % P, y % P


def _times(scalar, point):
    out = (0, 1)
    while scalar:
        if scalar & 1:
            out = _add(out, point)
        point = _add(point, point)
        scalar >>= 1
    return out


def _base():
    y = 4 * pow(5, -1, P) % P
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    return (P - x if x & 1 else x), y


BASE = _base()


def _pack(point):
    x, y = point
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _expand(seed):
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little")
    return (scalar & (2**254 - 8)) | 2**254, digest[32:]


def _number(*parts):
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little")


def public(seed):
    """The 32-byte public key of a 32-byte seed."""
    return _pack(_times(_expand(seed)[0], BASE))


def sign(seed, message):
    """The 64-byte signature."""
    scalar, prefix = _expand(seed)
    key = public(seed)
    nonce = _number(prefix, message) % ORDER
    commitment = _pack(_times(nonce, BASE))
    answer = (nonce + _number(commitment, key, message) * scalar) % ORDER
    return commitment + answer.to_bytes(32, "little")


# RFC 8032, section 7.1, test 1.
_SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
assert public(_SEED).hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
assert sign(_SEED, b"").hex().startswith("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065")
