"""The client's directories for the daemon: what of them is needed, file by file, and only what it lacks.

The protocol is fsutil's. Every entry is described, in the order of a walk; the daemon compares with what it
has from last time and asks for the files it lacks by their number in that order.
"""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from queue import SimpleQueue
from urllib.parse import unquote_plus

import grpc

from polyarch.builder.buildkit.protocol import filesync_pb2 as filesync
from polyarch.builder.buildkit.protocol import fsutil_pb2 as fsutil
from polyarch.builder.buildkit.session import Offer
from polyarch.errors import PolyarchError
from polyarch.layer.entry import Entry
from polyarch.layer.rootfs import MAX_LINKS, Rootfs

_CHUNK = 256 << 10
_DIR_NAME = "dir-name"
_DIRECTORY = 1 << 31  # Go's bits of a file's mode
_SYMLINK = 1 << 27
_DEVICE = 1 << 26
_FIFO = 1 << 25
_SETUID, _SETGID, _STICKY = 1 << 23, 1 << 22, 1 << 20
_CHARACTER = 1 << 21
_TYPES = {"directory": _DIRECTORY, "symlink": _SYMLINK, "fifo": _FIFO, "block": _DEVICE}
_TYPES["character"] = _DEVICE | _CHARACTER

_Packet = fsutil.Packet
_Type = fsutil.Packet.PacketType


class Directories:
    """The directories offered, by name; each is looked at when the daemon asks for it."""

    def __init__(self, files: Mapping[str, Callable[[], Listing]]) -> None:
        self._files = files

    def offer(self) -> Offer:
        """The service."""
        return Offer(filesync.DESCRIPTOR.services_by_name["FileSync"], {"DiffCopy": self._copy})

    def _copy(
        self, requests: Iterator[fsutil.Packet], context: grpc.ServicerContext
    ) -> Iterator[fsutil.Packet]:
        name = _metadata(context).get(_DIR_NAME, "")
        listing = self._files.get(name)
        if listing is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no access allowed to dir {name!r}")
            return
        wanted: SimpleQueue[fsutil.Packet | None] = SimpleQueue()
        threading.Thread(target=_receive, args=(requests, wanted), daemon=True).start()
        try:
            yield from _send(listing(), wanted)
        except (PolyarchError, OSError) as error:
            text = error.summary if isinstance(error, PolyarchError) else str(error)
            yield _Packet(type=_Type.PACKET_ERR, data=text.encode("utf-8", "replace"))


class Listing:
    """A root filesystem and what of it is wanted: everything at and below ``roots``, and what leads there."""

    def __init__(self, rootfs: Rootfs, roots: Collection[str]) -> None:
        self.rootfs = rootfs
        self._roots = roots

    def entries(self) -> Iterator[Entry]:
        """The entries in order; the root itself is not among them."""
        found: dict[str, Entry] = {}
        for root in [""] if "" in self._roots else self._roots:
            parent = root
            while parent := parent.rpartition("/")[0]:
                above = self.rootfs.get(parent)
                if above is not None:
                    found.setdefault(parent, above)
            found.update((entry.path, entry) for entry in self.rootfs.walk(root))
        found.pop("", None)
        for path in sorted(found, key=_walk_order):
            yield found[path]


def wanted_roots(rootfs: Rootfs, paths: Collection[str]) -> frozenset[str]:
    """What must be there for ``paths`` to be found: what they lead to, and the symlinks on the way."""
    found: set[str] = set()
    for path in paths:
        done: list[str] = []
        todo = _parts(path)
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                del done[-1:]
                continue
            here = "/".join((*done, part))
            entry = rootfs.get(here)
            if entry is None:
                break
            if entry.type != "symlink" or links >= MAX_LINKS:
                done.append(part)
                continue
            links += 1
            found.add(here)
            if entry.link.startswith("/"):
                done.clear()
            todo.extend(_parts(entry.link))
        else:
            found.add("/".join(done))
    return frozenset(found)


def _parts(path: str) -> list[str]:
    """The components of a path, the last first."""
    return [part for part in path.split("/") if part not in ("", ".")][::-1]


def _send(listing: Listing, wanted: SimpleQueue[fsutil.Packet | None]) -> Iterator[fsutil.Packet]:
    paths: list[str] = []
    sent: set[str] = set()
    for entry in listing.entries():
        yield _Packet(type=_Type.PACKET_STAT, stat=_stat(listing.rootfs, entry, sent))
        paths.append(entry.path)
        sent.add(entry.path)
    yield _Packet(type=_Type.PACKET_STAT)
    while (packet := wanted.get()) is not None:
        match packet.type:
            case _Type.PACKET_REQ:
                if packet.id >= len(paths):
                    raise PolyarchError("the builder asked for a file that was not offered")
                with listing.rootfs.open(paths[packet.id]) as stream:
                    while data := stream.read(_CHUNK):
                        yield _Packet(type=_Type.PACKET_DATA, id=packet.id, data=data)
                yield _Packet(type=_Type.PACKET_DATA, id=packet.id)
            case _Type.PACKET_FIN:
                yield _Packet(type=_Type.PACKET_FIN)
                return
            case _Type.PACKET_ERR:
                return


def _receive(requests: Iterator[fsutil.Packet], wanted: SimpleQueue[fsutil.Packet | None]) -> None:
    """Take requests as they come: the daemon goes on only when somebody does."""
    try:
        for packet in requests:
            wanted.put(packet)
    except grpc.RpcError:
        pass  # the stream broke, which ends it as well
    finally:
        wanted.put(None)


def _stat(rootfs: Rootfs, entry: Entry, sent: set[str]) -> fsutil.Stat:
    try:
        entry.path.encode()
    except UnicodeEncodeError:
        raise PolyarchError(
            f"the name {entry.path!r} is not UTF-8, which a BuildKit builder cannot take",
            hint="rename it, or leave it out in .dockerignore",
            reason="name-not-utf8",
        ) from None
    link = entry.link if entry.type == "symlink" else ""
    if entry.type == "hardlink":
        found = rootfs.content(entry.path)
        target = found[0] if found is not None else entry
        link = entry.link if entry.link in sent else ""
        entry = Entry(entry.path, "file", target.mode, target.uid, target.gid, target.size, target.mtime_ns)
    return fsutil.Stat(
        path=entry.path,
        mode=go_mode(entry),
        uid=entry.uid,
        gid=entry.gid,
        size=entry.size if entry.type == "file" and not link else 0,
        mod_time=entry.mtime_ns,
        linkname=link.encode("utf-8", "replace").decode(),
        devmajor=entry.major,
        devminor=entry.minor,
        xattrs=entry.xattrs,
    )


def go_mode(entry: Entry) -> int:
    """Type and mode as Go's os.FileMode has them."""
    mode = (entry.mode & 0o777) | _TYPES.get(entry.type, 0)
    for bit, theirs in ((stat.S_ISUID, _SETUID), (stat.S_ISGID, _SETGID), (stat.S_ISVTX, _STICKY)):
        mode |= theirs if entry.mode & bit else 0
    return mode


def _walk_order(path: str) -> list[bytes]:
    return [part.encode("utf-8", "surrogateescape") for part in path.split("/")]


def _metadata(context: grpc.ServicerContext) -> dict[str, str]:
    found = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
    return {
        key: unquote_plus(value) if found.get(f"{key}-encoded") == "1" else value
        for key, value in found.items()
    }
