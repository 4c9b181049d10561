"""Which programs of a foreign image have a twin in its native sibling."""

from __future__ import annotations

import posixpath

import msgspec

from polyarch.executor import machines
from polyarch.layer.rootfs import Rootfs
from polyarch.oci.platform import host
from polyarch.ops.twins import tools
from polyarch.ops.twins.packages import Owned, owned

_LARGEST = 32 << 20


class Twin(msgspec.Struct, frozen=True):
    """``path`` is the program in the foreign image, symbolic links resolved, ``digest`` its content.
    ``native`` is the twin's path in the sibling; ``kind`` how it is started: "s" by itself, "g" or "m" by
    glibc's or musl's loader. See ``tools.Tool`` for ``avoid`` and ``patch``; ``applets`` for a program that
    is many."""

    path: str
    digest: str
    native: str
    kind: str
    avoid: str = ""
    patch: bool = False
    applets: tuple[str, ...] = ()


class Twins(msgspec.Struct, frozen=True):
    """All twins of an image, with the sibling's loader and the folders of its libraries ("" and () when
    nothing needs them)."""

    twins: tuple[Twin, ...]
    loader: str = ""
    libraries: tuple[str, ...] = ()


def choose(foreign: Rootfs, sibling: Rootfs) -> Twins:
    """The twins, found by both images' package databases: the same file of the same package and version, and
    each file as its package brought it."""
    theirs, ours = owned(foreign, _candidate), owned(sibling, _candidate)
    found: list[Twin] = []
    loaders: set[str] = set()
    for path, file in sorted(theirs.items()):
        twin = ours.get(path)
        if twin is None or (twin.package, twin.version) != (file.package, file.version):
            continue
        if not _plain(foreign, path) or not _genuine(foreign, path, file) or not _plain(sibling, path):
            continue
        content = sibling.read(path, _LARGEST)
        loader = machines.interpreter(content[:4096])
        kind = _kind(content, loader)
        if not kind or not twin.holds(content):
            continue
        if loader:
            loaders.add(sibling.resolve(loader))
        name = posixpath.basename(path)
        digest = foreign.digest(path)
        if name == "busybox":
            found.append(Twin(path, digest, path, kind, applets=tuple(sorted(tools.APPLETS))))
        else:
            tool = tools.TOOLS[name]
            found.append(Twin(path, digest, path, kind, tool.avoid, tool.patch))
    if len(loaders) > 1:  # of two C libraries: which libraries belong to which is not for us to say
        found = [twin for twin in found if twin.kind == "s"]
        loaders = set()
    return Twins(tuple(found), *((loaders.pop(), _libraries(sibling)) if loaders else ("", ())))


def _candidate(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    return folder in tools.FOLDERS and (name in tools.TOOLS or name == "busybox")


def _plain(rootfs: Rootfs, path: str) -> bool:
    """Whether it is a regular file without any power of its own."""
    entry = rootfs.get(path)
    return (
        entry is not None
        and entry.type in ("file", "hardlink")
        and not entry.mode & 0o6000
        and not entry.xattrs
        and rootfs.sizes([path])[0] <= _LARGEST
    )


def _genuine(rootfs: Rootfs, path: str, file: Owned) -> bool:
    return file.holds(rootfs.read(path, _LARGEST))


def _kind(content: bytes, loader: str) -> str:
    machine = machines.identify(content[:64])
    if machine is None or machine.architecture != host().architecture:
        return ""
    name = posixpath.basename(loader)
    if not loader:
        return "s"
    return "m" if name.startswith("ld-musl-") else "g" if name.startswith("ld-linux-") else ""


def _libraries(sibling: Rootfs) -> tuple[str, ...]:
    """The folders of the sibling's libraries, as its loader would have them."""
    folders = []
    for parent in ("lib", "usr/lib", "usr/local/lib"):
        real = sibling.resolve(parent)
        nested = [
            f"{real}/{name}"
            for name in sibling.children(real)
            if name.endswith(("-linux-gnu", "-linux-musl"))
        ]
        folders += [*nested, real]
    folders.append(sibling.resolve("lib64"))
    known = (folder for folder in folders if (entry := sibling.get(folder)) and entry.type == "directory")
    return tuple(dict.fromkeys(known))
