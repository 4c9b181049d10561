"""Small things the tests of this folder share."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.layer.direct import DirectPrivilege
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.store import LayerStore
from polyarch.layer.tar_writer import write
from polyarch.oci import digest as digests


def new_store(root: Path) -> LayerStore:
    state = State(root)
    return LayerStore(state, Layout(state.content), DirectPrivilege())


def file(path: str, content: bytes = b"", **more: object) -> Entry:
    return Entry(path, "file", size=len(content), digest=digests.of(content), **more)  # type: ignore[arg-type]


def tar(entries: list[Entry], contents: dict[str, bytes]) -> bytes:
    out: list[bytes] = []
    write(entries, lambda entry: io.BytesIO(contents[entry.path]), out.append)
    return b"".join(out)


def layer(store: LayerStore, entries: list[Entry], contents: dict[str, bytes] | None = None):
    given = contents or {}
    return store.file_layer(Toc(tuple(entries)), lambda entry: io.BytesIO(given.get(entry.path, b"")))


def listing(tree: Path) -> dict[str, tuple[object, ...]]:
    """What a directory holds, to be compared."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(tree):
        for name in folders + files:
            path = Path(folder) / name
            status = path.lstat()
            content: object = b""
            if stat.S_ISREG(status.st_mode):
                content = path.read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                content = status.st_rdev
            xattrs = {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
            }
            found[str(path.relative_to(tree))] = (
                oct(status.st_mode),
                status.st_uid,
                status.st_gid,
                status.st_mtime_ns if not stat.S_ISDIR(status.st_mode) else 0,
                content,
                xattrs,
            )
    return found
