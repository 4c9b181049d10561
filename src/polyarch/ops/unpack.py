"""ADD of a local archive: its members, unpacked below a directory, as entries of the new layer."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from polyarch.context.archive import archive_layer, is_archive
from polyarch.errors import PolyarchError
from polyarch.layer.entry import Entry
from polyarch.layer.rootfs import Rootfs
from polyarch.ops.canvas import Canvas


def unpack(
    canvas: Canvas,
    source: Rootfs,
    path: str,
    destination: str,
    owner: tuple[int, int] | None,
    folder: Path | None = None,
) -> bool:
    """Unpack ``path`` when it is a tar archive, compressed or not; False when it is something else.

    Members replace what is there, but a directory over a directory. Owners are the archive's unless
    ``owner`` is given. The archive is kept in ``folder`` without a name, uncompressed.
    """
    followed = source.resolve(path)
    entry = source.get(followed)
    if entry is None or entry.type not in ("file", "hardlink"):
        return False
    with source.open(followed) as stream:
        if not is_archive(stream):
            return False
    with source.open(followed) as stream:
        layer = archive_layer(stream, name=path, folder=folder)
    members, implied = Rootfs((layer,)), layer.index().implied
    uid, gid = owner or (0, 0)
    top = canvas.resolve(destination)
    canvas.make_directories(top, uid, gid)
    named = {member.path for member in members.layers[0].toc().entries}
    # Directories that are only part of others' names are no members: what stands there, even a link, stays.
    walked = [member for member in members.walk("") if member.path and member.path in named]
    regular = [member.path for member in walked if member.type == "file"]
    described = {entry.path: entry for entry in members.files(regular)}
    for member in walked:
        if member.path in implied:
            _imply(canvas, _inside(canvas, top, member.path))
        else:
            _place(canvas, members, described.get(member.path, member), top, owner)
    for member in walked:
        if member.type == "hardlink":
            _check_link(canvas, member, _inside(canvas, top, member.link), path)
    return True


def _check_link(canvas: Canvas, member: Entry, place: str, archive: str) -> None:
    linked = canvas.get(place)
    if linked is None or linked.type == "directory":
        raise PolyarchError(
            f"cannot unpack {archive}: {member.path} is a hard link to {member.link}, and "
            + ("that is a directory" if linked else "there is no such file"),
            hint="make the archive anew, with the file that the link means in it",
            reason="broken-hardlink",
        )


def _imply(canvas: Canvas, place: str) -> None:
    """A directory that the archive does not list, only what is in it: root's, whatever ``owner`` says."""
    there = canvas.get(place)
    if there is None or there.type != "directory":
        canvas.make_directories(place, 0, 0)


def _place(canvas: Canvas, members: Rootfs, member: Entry, top: str, owner: tuple[int, int] | None) -> None:
    place = _inside(canvas, top, member.path)
    parent = posixpath.dirname(place)
    above = canvas.get(parent) if parent else None
    if above is None or above.type != "directory":
        canvas.make_directories(parent, 0, 0)  # as docker has it: no member, so no owner is given to it
    uid, gid = owner if owner is not None else (member.uid, member.gid)
    entry = msgspec.structs.replace(member, path=place, uid=uid, gid=gid)
    if member.type == "hardlink":
        canvas.put(msgspec.structs.replace(entry, link=_inside(canvas, top, member.link)))
    elif member.type == "file":
        canvas.put(entry, _opener(members, member.path))
    else:
        canvas.put(entry)


def _inside(canvas: Canvas, top: str, path: str) -> str:
    """Where a member lands: links on its way are followed, but never out of ``top``."""
    parent = canvas.resolve(posixpath.join(top, posixpath.dirname(path)))
    if top and parent != top and not parent.startswith(top + "/"):
        parent = posixpath.join(top, posixpath.dirname(path))
    return posixpath.join(parent, posixpath.basename(path))


def _opener(members: Rootfs, path: str) -> Callable[[], BinaryIO]:
    return lambda: members.open(path)
