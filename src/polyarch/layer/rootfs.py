"""A virtual root filesystem: layers on top of each other, looked at without mounting or unpacking them.

Paths are as in ``layer.entry``: relative, ``""`` is the root. Nothing here follows symlinks but ``resolve``,
``glob`` (before the first wildcard), and what says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from polyarch.errors import ContentError, NotFoundError, PolyarchError
from polyarch.layer import glob as globbing
from polyarch.layer.entry import Entry
from polyarch.layer.index import IndexedLayer, LayerIndex, ancestors, described
from polyarch.layer.layer import Layer

MAX_LINKS = 40  # as in the kernel
_IMPLIED_MODE = 0o755
_FOLDED = msgspec.msgpack.Encoder(order="deterministic")


class Rootfs:
    """Layers, lowest first, seen as one tree. Immutable and thread-safe; nothing is read before it is asked
    for, and ``with_layer`` costs nothing."""

    def __init__(self, layers: Sequence[Layer] = (), *, _indexes: Sequence[LayerIndex | None] = ()) -> None:
        self.layers: tuple[Layer, ...] = tuple(layers)
        # Filled lazily. Two threads may both compute an index; they compute the same.
        self._indexes: list[LayerIndex | None] = [*_indexes, *[None] * (len(self.layers) - len(_indexes))]
        self._found: dict[str, tuple[Entry, int] | None] = {}

    @property
    def id(self) -> str:
        """A digest over the layers' ids."""
        text = "\n".join(layer.id for layer in self.layers)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def __repr__(self) -> str:
        return f"Rootfs({len(self.layers)} layers, {self.id[7:19]})"

    def with_layer(self, layer: Layer) -> Rootfs:
        """This, and ``layer`` on top of it."""
        return Rootfs((*self.layers, layer), _indexes=self._indexes)

    # --- looking --------------------------------------------------------------------------------------------

    def get(self, path: str) -> Entry | None:
        """What is at ``path``; None when nothing. Directories that have no entry of their own are there as
        0755 of root. A hardlink is given as it stands in its layer; see ``files`` for its content."""
        found = self._find(path)
        return found[0] if found else None

    def resolve(self, path: str, *, last: bool = True) -> str:
        """``path`` without symlinks. Absolute links start at this root, ``..`` never climbs out of it, and
        components that are not there stay as they are. The last component is followed only if ``last``.
        PolyarchError (``symlink-loop``) after 40 links."""
        return follow(self.get, path, last=last)

    def children(self, path: str) -> list[str]:
        """The sorted names in the directory ``path``; nothing for what is no directory."""
        entry = self.get(path)
        if entry is None or entry.type != "directory":
            return []
        above = [path, *ancestors(path)]
        names: set[str] = set()
        gone: set[str] = set()
        for number in range(len(self.layers) - 1, -1, -1):
            index = self._index(number)
            found = index.children.get(path)
            if found:
                names.update(name for name in found if name not in gone)
            if index.hides(above):
                break
            gone |= index.hidden.get(path, set())
        return sorted(names)

    def walk(self, path: str = "") -> Iterator[Entry]:
        """Everything at and under ``path``: a directory before what is in it, names sorted."""
        entry = self.get(path)
        if entry is None:
            return
        yield entry
        if entry.type != "directory":
            return
        if len(self.layers) == 1 and not self._index(0).implied:
            prefix = path + "/" if path else ""
            for below in self._index(0).toc.entries:
                if below.path.startswith(prefix) and below.path and below.type not in ("whiteout", "opaque"):
                    yield below
            return
        for name in self.children(path):
            yield from self.walk(f"{path}/{name}" if path else name)

    def glob(self, pattern: str) -> list[str]:
        """The sorted paths that match ``pattern``, component by component as Go's filepath.Match does.

        Symlinks are followed before the first component with a wildcard, not behind it, and not at the end;
        names that start with a dot are not special. UsageError for a bad pattern.
        """
        fixed, components = globbing.split(pattern)
        found = [self.resolve(fixed, last=bool(components))]
        if not components:
            return found if self.get(found[0]) is not None else []
        for component in components:
            found = [path for base in found for path in self._expand(base, component)]
        return sorted(dict.fromkeys(found), key=lambda path: path.replace("/", "\0"))

    def _expand(self, base: str, component: str) -> Iterator[str]:
        if component == "..":
            yield base.rpartition("/")[0]
        elif not globbing.has_wildcard(component):
            path = f"{base}/{component}" if base else component
            if self.get(path) is not None:
                yield path
        else:
            compiled = globbing.compile_component(component)
            for name in self.children(base):
                if compiled.fullmatch(name):
                    yield f"{base}/{name}" if base else name

    # --- content --------------------------------------------------------------------------------------------

    def open(self, path: str) -> BinaryIO:
        """The bytes of the regular file at ``path``; the caller closes it. NotFoundError when there is no
        regular file."""
        entry, number = self._content(path)
        return self.layers[number].open(entry)

    def read(self, path: str, limit: int) -> bytes:
        """The whole content of a file of at most ``limit`` bytes (ContentError, ``too-large``)."""
        entry, number = self._content(path)
        if entry.size > limit:
            raise ContentError(
                f"/{path} has {entry.size} bytes, more than the {limit} allowed here", reason="too-large"
            )
        with self.layers[number].open(entry) as stream:
            return b"".join(iter(lambda: stream.read(limit + 1), b""))

    def digest(self, path: str) -> str:
        """The sha256 digest of a regular file's content; kept by its layer."""
        return self.files([path])[0].digest

    def files(self, paths: Sequence[str]) -> list[Entry]:
        """The regular files at ``paths`` with digest and machine, ready to go into another layer.

        Hardlinks come as files with the content of what they link to. Reads what has to be read in one go,
        in parallel; prefer it to many calls of ``digest``. NotFoundError when one is no regular file.
        """
        found = [self._content(path) for path in paths]
        groups: dict[int, list[int]] = {}
        for position, (_, number) in enumerate(found):
            groups.setdefault(number, []).append(position)
        result: list[Entry] = [entry for entry, _ in found]
        for number, positions in groups.items():
            wanted = [found[position][0] for position in positions]
            for position, entry in zip(positions, self._describe(number, wanted), strict=True):
                path = paths[position]
                result[position] = entry if entry.path == path else msgspec.structs.replace(entry, path=path)
        return result

    def content(self, path: str) -> tuple[Entry, int] | None:
        """The entry that holds the bytes of ``path`` (a hardlink's is that of its file) and the number of its
        layer, lowest 0; None when there is no regular file."""
        try:
            return self._content(path)
        except (NotFoundError, ContentError):
            return None

    def sizes(self, paths: Sequence[str]) -> list[int]:
        """The sizes in bytes of the regular files at ``paths``."""
        return [self._content(path)[0].size for path in paths]

    def content_digest(
        self,
        path: str,
        *,
        include: Callable[[str], bool] | None = None,
        exclude: Callable[[str], bool] | None = None,
    ) -> str:
        """A digest of what is at and under ``path``: relative names, types, modes, owners, links, devices,
        xattrs and contents; not modification times, and not where in the tree it lies.

        ``include`` and ``exclude`` are asked for the names of everything under ``path``, relative to it.
        """
        skip = len(path) + 1 if path else 0
        chosen: list[Entry] = []
        for entry in self.walk(path):
            name = entry.path[skip:]
            if entry.path != path:
                if include is not None and not include(name):
                    continue
                if exclude is not None and exclude(name):
                    continue
            chosen.append(entry)
        regular = [e.path for e in chosen if not e.digest and e.type in ("file", "hardlink")]
        digests = dict(zip(regular, (entry.digest for entry in self.files(regular)), strict=True))
        rows = []
        for entry in chosen:
            kind = "file" if entry.type == "hardlink" else entry.type
            link = entry.link if kind == "symlink" else ""
            name = entry.path[skip:] if entry.path != path else ""
            rows.append(
                (
                    name.encode("utf-8", "surrogateescape"),
                    kind,
                    entry.mode,
                    entry.uid,
                    entry.gid,
                    link.encode("utf-8", "surrogateescape"),
                    entry.major,
                    entry.minor,
                    entry.xattrs,
                    entry.digest or digests.get(entry.path, ""),
                )
            )
        return "sha256:" + hashlib.sha256(_FOLDED.encode(rows)).hexdigest()

    # --- trees ----------------------------------------------------------------------------------------------

    def trees(self) -> tuple[Path, ...]:
        """The layers as directories for an overlay, lowest first.

        A layer may hold a file without the directories above it; its tree has them as 0755 of root, which
        would hide what a lower layer says of them. Where that differs, a last tree of nothing but such
        directories puts it right.
        """
        trees = [layer.tree() for layer in self.layers]
        repair = self._repairs()
        if repair:
            make = next((m for layer in self.layers if (m := getattr(layer, "directories", None))), None)
            if make is not None:
                trees.append(make(repair).tree())
        return tuple(trees)

    def _repairs(self) -> list[Entry]:
        implied: set[str] = set()
        for number in range(1, len(self.layers)):
            implied |= self._index(number).implied
        wrong = []
        for path in sorted(implied):
            entry = self.get(path)
            if entry is None or entry.type != "directory":
                continue
            if (entry.mode, entry.uid, entry.gid) != (_IMPLIED_MODE, 0, 0) or entry.xattrs:
                wrong.append(entry)
        return wrong

    # --- inside ---------------------------------------------------------------------------------------------

    def _index(self, number: int) -> LayerIndex:
        index = self._indexes[number]
        if index is None:
            layer = self.layers[number]
            index = layer.index() if isinstance(layer, IndexedLayer) else LayerIndex(layer.toc())
            self._indexes[number] = index
        return index

    def _find(self, path: str) -> tuple[Entry, int] | None:
        try:
            return self._found[path]
        except KeyError:
            found = self._found[path] = self._search(path, len(self.layers) - 1)
            return found

    def _search(self, path: str, top: int) -> tuple[Entry, int] | None:
        above = list(ancestors(path))
        implied = -1
        for number in range(top, -1, -1):
            index = self._index(number)
            entry = index.entries.get(path)
            if entry is not None:
                if implied >= 0 and entry.type != "directory":
                    break
                return entry, number
            if implied < 0 and path in index.implied:
                implied = number
            if path in index.whiteouts or index.hides(above):
                break
        if implied < 0 and path:
            return None
        return Entry(path, "directory", _IMPLIED_MODE), max(implied, 0)

    def _content(self, path: str) -> tuple[Entry, int]:
        found = self._find(path)
        if found is not None:
            entry, number = found
            if entry.type == "file":
                return found
            if entry.type == "hardlink":
                content = self._index(number).content(path)
                if content is not None:
                    return content, number
                # Some builders link to files of lower layers.
                below = self._search(entry.link, number)
                if below is not None and below[0].type == "file":
                    return below
                raise ContentError(
                    f"/{path} is a hardlink to /{entry.link}, which is not there", reason="broken-hardlink"
                )
        what = f"a {found[0].type}" if found else "not there"
        raise NotFoundError(f"/{path} is {what}, not a regular file", reason="not-a-file")

    def _describe(self, number: int, entries: Sequence[Entry]) -> list[Entry]:
        layer = self.layers[number]
        if isinstance(layer, IndexedLayer):
            return layer.describe(entries)
        return [entry if entry.digest else described(entry, layer.open) for entry in entries]


def follow(get: Callable[[str], Entry | None], path: str, *, last: bool) -> str:
    """``path`` without symlinks, in the tree whose entries ``get`` gives; see ``Rootfs.resolve``."""
    todo = _components(path)[::-1]
    done: list[str] = []
    links = 0
    while todo:
        component = todo.pop()
        if component == "..":
            del done[-1:]
            continue
        candidate = "/".join((*done, component))
        entry = get(candidate) if last or todo else None
        if entry is None or entry.type != "symlink":
            done.append(component)
            continue
        links += 1
        if links > MAX_LINKS:
            raise PolyarchError(f"too many levels of symbolic links at /{path}", reason="symlink-loop")
        if entry.link.startswith("/"):
            done.clear()
        todo.extend(_components(entry.link)[::-1])
    return "/".join(done)


def _components(path: str) -> list[str]:
    return [component for component in path.split("/") if component not in ("", ".")]
