"""Digests: ``algorithm:hex`` strings that name content (OCI image-spec, descriptor.md, "Digests")."""

from __future__ import annotations

import hashlib
import re
from typing import NewType

from polyarch.errors import ContentError

Digest = NewType("Digest", str)

_LENGTHS = {"sha256": 64, "sha512": 128}
_PATTERN = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
_HEX = re.compile(r"[a-f0-9]+")


def parse(text: str) -> Digest:
    """``text`` as a digest; ContentError unless it is a registered algorithm with the right hex length."""
    algorithm, _, encoded = text.partition(":")
    if algorithm not in _LENGTHS or len(encoded) != _LENGTHS[algorithm] or not _HEX.fullmatch(encoded):
        raise ContentError(
            f"{text[:100]!r} is not a valid digest",
            hint="a digest looks like sha256: followed by 64 lower-case hexadecimal digits",
            reason="invalid-digest",
        )
    return Digest(text)


def is_valid(text: str) -> bool:
    """Whether ``parse`` would take ``text``."""
    algorithm, _, encoded = text.partition(":")
    return len(encoded) == _LENGTHS.get(algorithm, -1) and _HEX.fullmatch(encoded) is not None


def looks_like(text: str) -> bool:
    """Whether ``text`` has the form of some digest, registered algorithm or not."""
    return _PATTERN.fullmatch(text) is not None


def of(data: bytes) -> Digest:
    """The sha256 digest of ``data``."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def algorithm(digest: str) -> str:
    """The part before the colon."""
    return digest.partition(":")[0]


def encoded(digest: str) -> str:
    """The part behind the colon: the file name in an OCI layout."""
    return digest.partition(":")[2]
