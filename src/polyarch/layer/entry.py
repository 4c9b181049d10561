"""What a layer holds, without the bytes: entries and tables of contents ("toc").

Paths are relative to the root, ``/``-separated, without leading or trailing slash and without ``.`` or
``..``; the root directory itself is ``""``. They are ``str`` with surrogateescape for what is not UTF-8.
"""

from __future__ import annotations

from typing import Literal

import msgspec

EntryType = Literal[
    "file", "directory", "symlink", "hardlink", "fifo", "character", "block", "whiteout", "opaque"
]


class Entry(msgspec.Struct, frozen=True, omit_defaults=True, array_like=False):
    """One path of a layer.

    ``type`` "whiteout" deletes ``path`` of lower layers; "opaque" hides everything lower under the
    directory ``path`` (OCI image-spec, layer.md, "Whiteouts"). ``link`` is the target of a symlink (as
    written) or of a hardlink (a path of the same layer). ``mtime_ns`` is nanoseconds since 1970.
    ``digest`` is the sha256 of a file's content, "" while nobody has needed it. ``machine`` is what
    ``machine.identify`` says of the first bytes of an executable, "" when unknown or none.
    """

    path: str
    type: EntryType
    mode: int = 0o644  # permission bits, setuid, setgid and sticky; not the file type
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    link: str = ""
    major: int = 0
    minor: int = 0
    xattrs: dict[str, bytes] = {}
    digest: str = ""
    machine: str = ""


class Toc(msgspec.Struct, frozen=True):
    """The entries of one layer, sorted so that a directory precedes what is in it, each path once
    (an "opaque" entry stands beside its directory's)."""

    entries: tuple[Entry, ...]
