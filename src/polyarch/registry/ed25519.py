"""Signatures with Ed25519 (RFC 8032), for the one thing that needs them: proving to a BuildKit daemon that
two sessions have the same log-in at a registry. Nothing here guards anything for longer than a build, and no
time is constant.
"""

from __future__ import annotations

import hashlib

SEED_BYTES = 32
_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_Y = 4 * pow(5, -1, _P) % _P
_X = 15112221349535400772501151409588531511454012693041857206046113283949847762202

Point = tuple[int, int, int, int]  # extended homogeneous coordinates
_BASE: Point = (_X, _Y, 1, _X * _Y % _P)


def public_key(seed: bytes) -> bytes:
    """The public key that belongs to ``seed`` (32 bytes)."""
    scalar, _ = _secret(seed)
    return _compress(_multiply(scalar, _BASE))


def sign(seed: bytes, message: bytes) -> bytes:
    """The signature of ``message``, 64 bytes."""
    scalar, prefix = _secret(seed)
    key = _compress(_multiply(scalar, _BASE))
    number = _hashed(prefix, message)
    commitment = _compress(_multiply(number, _BASE))
    answer = (number + _hashed(commitment, key, message) * scalar) % _ORDER
    return commitment + answer.to_bytes(32, "little")


def _secret(seed: bytes) -> tuple[int, bytes]:
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little")
    return scalar & ((1 << 254) - 8) | 1 << 254, digest[32:]


def _hashed(*parts: bytes) -> int:
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little") % _ORDER


def _add(one: Point, other: Point) -> Point:
    x1, y1, z1, t1 = one
    x2, y2, z2, t2 = other
    a, b = (y1 - x1) * (y2 - x2) % _P, (y1 + x1) * (y2 + x2) % _P
    c, d = 2 * t1 * t2 * _D % _P, 2 * z1 * z2 % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _multiply(scalar: int, point: Point) -> Point:
    result: Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point = _add(point, point)
        scalar >>= 1
    return result


def _compress(point: Point) -> bytes:
    x, y, z, _ = point
    inverse = pow(z, -1, _P)
    x, y = x * inverse % _P, y * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")
