"""What a step really changed: the overlay's upper directory compared with the root filesystem below it.

Overlayfs copies a file up when it is opened for writing or its metadata is set, and its directories with it,
whether anything changes or not. What is equal to what lies below is no change; modification times of
directories alone are none either. The directories above a change are in the layer all the same: engines
that unpack each layer into a directory of its own would otherwise make them anew, root's and 0755, and hide
``/tmp``'s 1777 or the owner of a home.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Sequence

from polyarch.layer.entry import Entry, Toc
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.toc import canonical, whole_seconds

Describe = Callable[[Sequence[Entry]], Sequence[Entry]]


def reduce(raw: Toc, base: Rootfs, describe: Describe) -> Toc:
    """``raw``, as the upper directory was scanned, without what is equal in ``base``. ``describe`` reads the
    digests of files in the upper directory."""
    linked = {entry.link for entry in raw.entries if entry.type == "hardlink"}
    kept: list[Entry] = []
    doubtful: list[Entry] = []
    opaque = {entry.path for entry in raw.entries if entry.type == "opaque"}
    hidden = ""  # the opaque directory we are in: nothing of the base is seen there
    for entry in raw.entries:
        if hidden and not (entry.path + "/").startswith(hidden):
            hidden = ""
        below = None if hidden else base.get(entry.path)
        match entry.type:
            case "whiteout":
                if below is not None:
                    kept.append(entry)
                continue
            case "opaque":
                if below is not None and below.type == "directory":
                    kept.append(entry)
                hidden = hidden or entry.path + "/"
                continue
            case "directory":
                if below is None or entry.path in opaque or not _same(entry, below):
                    kept.append(entry)
                continue
        if below is None or not _same(entry, below) or entry.type == "hardlink" or entry.path in linked:
            kept.append(entry)
        elif entry.type == "file":
            doubtful.append(entry)
    kept += _changed(doubtful, base, describe)
    return canonical([*kept, *_above(kept, raw)])


def _above(kept: Sequence[Entry], raw: Toc) -> Iterable[Entry]:
    """The directories that hold what is kept, where they are not kept themselves, as the step left them."""
    there = {entry.path for entry in kept if entry.type == "directory"}
    wanted: set[str] = set()
    for entry in kept:
        parent = posixpath.dirname(entry.path)
        while parent and parent not in wanted:
            wanted.add(parent)
            parent = posixpath.dirname(parent)
    wanted -= there
    return (entry for entry in raw.entries if entry.type == "directory" and entry.path in wanted)


def _same(entry: Entry, below: Entry) -> bool:
    """Whether everything but the content is equal. A file may be a hardlink below: copying up parts them."""
    kind = "file" if below.type == "hardlink" else below.type
    if entry.type != kind or (entry.mode, entry.uid, entry.gid) != (below.mode, below.uid, below.gid):
        return False
    if entry.xattrs != below.xattrs:
        return False
    if entry.type == "directory":
        return True
    if entry.mtime_ns != whole_seconds(below.mtime_ns):
        return False
    return (entry.link if kind == "symlink" else "", entry.major, entry.minor) == (
        below.link if kind == "symlink" else "",
        below.major,
        below.minor,
    )


def _changed(entries: list[Entry], base: Rootfs, describe: Describe) -> Iterable[Entry]:
    """Those of the files whose content differs from the base's."""
    if not entries:
        return
    sizes = base.sizes([entry.path for entry in entries])
    likely = []
    for entry, size in zip(entries, sizes, strict=True):
        if entry.size != size:
            yield entry
        else:
            likely.append(entry)
    if not likely:
        return
    before = base.files([entry.path for entry in likely])
    after = describe(likely)
    for old, new in zip(before, after, strict=True):
        if old.digest != new.digest:
            yield new
