"""What the members of a layer's tar mean: where each lands, what it replaces, what it deletes below.

Later members win over earlier ones. ``.wh.`` names become whiteouts and opaque marks, which touch lower
layers only, wherever in the tar they stand (OCI image-spec, layer.md, "Whiteouts"). A member whose directory
is a symlink of the same layer lands where that link leads inside the root, as containerd resolves it; so
nothing is ever written through a link.
"""

from __future__ import annotations

from typing import cast

import msgspec

from polyarch.errors import ContentError
from polyarch.layer.entry import Entry, EntryType, Toc
from polyarch.layer.tar_reader import Member, clean
from polyarch.layer.toc import canonical, whole_seconds

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_AUFS = ".wh..wh."
_MAX_LINKS = 40


class Placement:
    """Collects the entries of one tar. ``whiteouts`` False takes ``.wh.`` names for ordinary ones, as in
    archives that are no layers."""

    def __init__(self, *, whiteouts: bool = True) -> None:
        self._whiteouts = whiteouts
        self.entries: dict[str, Entry] = {}
        self.deleted: set[str] = set()
        self.opaque: set[str] = set()
        self._symlinks = False
        self._parents: set[str] = {""}  # directories known to be no symlinks
        self._linked: dict[str, list[str]] = {}  # hardlinks by what they link to

    def place(self, member: Member) -> Entry | None:
        """The entry of ``member``; None for what is no entry of its own (whiteouts, metadata of AUFS)."""
        path = member.path
        if self._whiteouts and _WHITEOUT in path and self._mark(path):
            return None
        parent, _, name = path.rpartition("/")
        if parent not in self._parents:
            resolved = self._resolve(parent)
            if resolved != parent:
                path = f"{resolved}/{name}" if resolved else name
        kind = cast(EntryType, member.type)
        if kind == "character" and member.major == 0 and member.minor == 0 and self._whiteouts:
            self.deleted.add(path)  # overlayfs would take the device for one
            return None
        link = member.link
        if kind == "hardlink":
            link = self._hardlink(path, link)
            if link == path:
                if path not in self.entries:
                    raise ContentError(f"the layer's {path!r} is a hardlink to itself", reason="invalid-tar")
                return None
        elif kind != "symlink":
            link = ""
        entry = Entry(
            path,
            kind,
            member.mode if kind != "symlink" else 0o777,
            member.uid,
            member.gid,
            member.size,
            whole_seconds(member.mtime_ns),
            link,
            member.major,
            member.minor,
            member.xattrs,
        )
        if not path and kind != "directory":
            raise ContentError(f"the tar archive makes its root a {kind}", reason="invalid-tar")
        if path in self.entries or (path in self._parents and kind != "directory"):
            self._replace(path, kind)
        if kind == "symlink":
            self._symlinks = True
            self._parents.discard(path)
        elif kind == "hardlink":
            self._linked.setdefault(link, []).append(path)
        self.entries[path] = entry
        return entry

    def finish(self) -> Toc:
        """The toc of everything placed. Whiteouts of what the layer itself has become opaque marks on
        directories, and nothing on files, which hide what is below anyway."""
        implied = self.implied()
        extra: list[Entry] = []
        for path in self.deleted:
            entry = self.entries.get(path)
            if entry is None and path not in implied:
                extra.append(Entry(path, "whiteout", 0))
            elif entry is None or entry.type == "directory":
                self.opaque.add(path)
                if entry is None:
                    extra.append(Entry(path, "directory", 0o755))
        for path in self.opaque:
            entry = self.entries.get(path)
            if entry is None or entry.type == "directory":
                extra.append(Entry(path, "opaque", 0))
        return canonical([*self.entries.values(), *extra])

    def implied(self) -> set[str]:
        """Directories that something lies in but that have no entry."""
        found: set[str] = set()
        for path in (*self.entries, *self.deleted, *self.opaque):
            parent = path.rpartition("/")[0]
            while parent and parent not in self.entries and parent not in found:
                found.add(parent)
                parent = parent.rpartition("/")[0]
        return found

    def describe(self, path: str, digest: str, machine: str) -> None:
        """Fill in what became known when the content of ``path`` had passed by."""
        self.entries[path] = msgspec.structs.replace(self.entries[path], digest=digest, machine=machine)

    # --- inside ---------------------------------------------------------------------------------------------

    def _mark(self, path: str) -> bool:
        """Take a name that starts with ``.wh.`` for what it means; False when there is none."""
        parent, _, name = path.rpartition("/")
        if any(part.startswith(_AUFS) for part in path.split("/") if part != _OPAQUE):
            return True
        if _WHITEOUT in parent and any(part.startswith(_WHITEOUT) for part in parent.split("/")):
            raise ContentError(f"the layer holds {path!r} inside a whiteout", reason="invalid-whiteout")
        if not name.startswith(_WHITEOUT):
            return False
        parent = self._resolve(parent)
        if name == _OPAQUE:
            self.opaque.add(parent)
            return True
        target = name.removeprefix(_WHITEOUT)
        if target in ("", ".", ".."):
            raise ContentError(f"the layer holds the whiteout {path!r} of nothing", reason="invalid-whiteout")
        self.deleted.add(f"{parent}/{target}" if parent else target)
        return True

    def _resolve(self, parent: str) -> str:
        """Where ``parent`` leads, symlinks of this layer followed inside the root."""
        if not self._symlinks and not self._blocked(parent):
            self._parents.add(parent)
            return parent
        todo = parent.split("/")[::-1] if parent else []
        done: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                del done[-1:]
                continue
            path = "/".join((*done, part))
            entry = self.entries.get(path)
            if entry is not None and entry.type == "symlink":
                links += 1
                if links > _MAX_LINKS:
                    raise ContentError(f"the layer's {parent!r} is a loop of symlinks", reason="symlink-loop")
                if entry.link.startswith("/"):
                    done.clear()
                todo.extend(entry.link.split("/")[::-1])
                continue
            if entry is not None and entry.type != "directory":
                raise _no_directory(path, parent)
            done.append(part)
        resolved = "/".join(done)
        if resolved == parent:
            self._parents.add(parent)
        return resolved

    def _blocked(self, parent: str) -> bool:
        path = parent
        while path and path not in self._parents:
            entry = self.entries.get(path)
            if entry is not None and entry.type != "directory":
                raise _no_directory(path, parent)
            path = path.rpartition("/")[0]
        return False

    def _hardlink(self, path: str, link: str) -> str:
        parent, _, name = link.rpartition("/")
        parent = self._resolve(parent)
        target = f"{parent}/{name}" if parent else name
        entry = self.entries.get(target)
        if entry is not None and entry.type == "hardlink":
            target = entry.link  # always to where the content is
        elif entry is not None and entry.type == "directory":
            raise ContentError(f"the layer's {path!r} is a hardlink to a directory", reason="invalid-tar")
        return clean(target)

    def _replace(self, path: str, kind: str) -> None:
        before = self.entries.get(path)
        if kind != "directory" and (before is None or before.type == "directory"):
            prefix = path + "/"
            for below in [p for p in self.entries if p.startswith(prefix)]:
                self._forget(below)
            self._parents = {p for p in self._parents if p != path and not p.startswith(prefix)}
        if before is not None and before.type != "directory":
            self._forget(path)

    def _forget(self, path: str) -> None:
        """Remove an entry; if others are hardlinks to it, the first of them becomes the file."""
        before = self.entries.pop(path)
        if before.type == "hardlink":
            self._linked.get(before.link, [path]).remove(path)
        links = [p for p in self._linked.pop(path, []) if p in self.entries]
        if links:
            heir, *others = links
            self.entries[heir] = msgspec.structs.replace(before, path=heir)
            for other in others:
                self.entries[other] = msgspec.structs.replace(self.entries[other], link=heir)
            if others:
                self._linked[heir] = others


def _no_directory(path: str, wanted: str) -> ContentError:
    return ContentError(
        f"the layer puts something under {wanted!r}, but {path!r} is no directory", reason="invalid-tar"
    )
