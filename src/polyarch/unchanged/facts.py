"""What a build depended on, and whether that is still so. Everything here only looks; nothing is written."""

from __future__ import annotations

import hashlib
import json
import os

from polyarch.context import stats

TYPE_CHECKING = False  # type checkers take it for true

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

MAX_FILE = 4 << 20  # bytes of a file that is read as a whole (a Dockerfile)
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")  # as content.names has them


def hold(record: Mapping[str, Any], root: str) -> bool:
    """Whether all that ``record`` says is true now; ``root`` is the state directory. What costs least is
    looked at first, registries last."""
    return (
        database(root) == record["database"]
        and all(content(path) == digest for path, digest in record["files"].items())
        and all(_present(os.path.join(root, path), size) for path, size in record["blobs"].items())
        and _named(record["names"], root)
        and all(tree(path, patterns) == id for path, patterns, id in record["trees"])
        and _tagged(record["tags"], record["insecure"])
    )


def database(root: str) -> int:
    """Which file the cache is: without it, or with another one, steps have to run again. 0 for none."""
    try:
        return os.stat(os.path.join(root, "cache.db")).st_ino
    except OSError:
        return 0


def content(path: str) -> str | None:
    """The digest of a small file; None where there is none (nor anything else that could be read)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        with open(descriptor, "rb", closefd=False) as stream:
            return hashlib.sha256(stream.read(MAX_FILE + 1)).hexdigest()
    except OSError:
        return None  # a directory
    finally:
        os.close(descriptor)


def tree(path: str, patterns: Sequence[str]) -> str:
    """The identity of the folder ``path`` without what ``patterns`` leave out; "" where there is none."""
    real = os.path.realpath(path)
    if not os.path.isdir(real):
        return ""
    matcher = None
    if patterns:
        from polyarch.context.ignore import Matcher

        matcher = Matcher(patterns)
    walk = stats.Walk(real, matcher)
    for _ in walk:
        pass
    return f"{real} {stats.identity(walk.facts)}"


def _present(path: str, size: int) -> bool:
    try:
        return os.stat(path).st_size == size
    except OSError:
        return False


def _named(names: Sequence[tuple[str, str | None]], root: str) -> bool:
    """Whether the local store gives the names to what they stand for (None: to nothing); "" is for a digest
    that is there without a name."""
    if not names:
        return True
    try:
        with open(os.path.join(root, "content", "index.json"), "rb") as stream:
            entries = json.load(stream)["manifests"]
    except OSError:
        entries = []
    return all(_lookup(entries, name, digest) == digest for name, digest in names)


def _lookup(entries: Sequence[Mapping[str, Any]], name: str, digest: str | None) -> str | None:
    """As ``content.names.NameTable.find`` has it."""
    if not name:
        return digest if any(entry["digest"] == digest for entry in entries) else None
    for key in _NAMES:
        for entry in reversed(entries):
            if (entry.get("annotations") or {}).get(key) == name:
                return str(entry["digest"])
    return None


def _tagged(tags: Sequence[tuple[str, str, str, str, str]], insecure: Sequence[str]) -> bool:
    """Whether every tag still names its digest at its registry. Each is registry, repository, tag, digest,
    and the address where the registry is known to answer plain http to anybody, or ""."""
    if not tags:
        return True
    from polyarch.unchanged import tags as registries

    return all(registries.names(*tag, insecure=insecure) for tag in tags)
