"""What a state directory holds, item by item: how large each is, who needs it, and when it was last used."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from polyarch.builder.report import Kind
from polyarch.content.layout import Layout
from polyarch.content.lease import Claim
from polyarch.content.names import CONTAINERD_NAME, REF_NAME
from polyarch.content.state import State
from polyarch.content.verify import read
from polyarch.content.walk import walk
from polyarch.errors import PolyarchError
from polyarch.executor.sandbox import Sandbox
from polyarch.layer.database import Database
from polyarch.layer.layer import Privilege
from polyarch.layer.scratch import PURPOSES
from polyarch.layer.store import LayerStore
from polyarch.oci import media_types
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import MAX_BYTES

_VERSION = 1
_SCHEMA = "CREATE TABLE storage_sizes (id TEXT PRIMARY KEY, size INTEGER NOT NULL)"
_OURS = ("sandbox", "empty", "points-")  # in the scratch folder; small, and shared by all steps


@dataclass(frozen=True)
class Item:
    """Something that takes room. ``used_ns`` is when it was last used (nanoseconds since 1970); ``shared``
    says that an image needs it, ``in_use`` that a living process may. Of an image the size is that of the
    blobs which no image listed before needs."""

    kind: Kind
    id: str
    size: int
    used_ns: int
    path: Path
    description: str = ""
    shared: bool = False
    in_use: bool = False

    @property
    def reclaimable(self) -> bool:
        """Whether ``prune --all`` would remove it now."""
        return not self.in_use


class _Privilege:
    """Starts the sandbox only when some file belongs to another than this user."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.sandbox: Sandbox | None = None

    def _started(self) -> Privilege:
        if self.sandbox is None:
            self.sandbox = Sandbox.start(self._state)
        return self.sandbox.privilege

    def call(self, function: str, *arguments: object, files: Iterable[int] = ()) -> object:
        return self._started().call(function, *arguments, files=tuple(files))

    def open(self, path: Path) -> BinaryIO:
        return self._started().open(path)


class Storage:
    """One state directory as its collector sees it. Nothing that is looked at counts as used by that."""

    def __init__(self, state: State, layers: LayerStore) -> None:
        self.state = state
        self.layers = layers
        self.layout = Layout(state.content)
        self._database = Database(state.database, room="storage", version=_VERSION, schema=_SCHEMA)
        rows = self._database.read("SELECT id, size FROM storage_sizes")
        self._sizes = {str(id): int(str(size)) for id, size in rows}

    @classmethod
    @contextmanager
    def open(cls, state: State) -> Iterator[Storage]:
        """The storage of ``state``, for the time of a block."""
        privilege = _Privilege(state)
        layers = LayerStore(state, Layout(state.content), privilege)
        storage = None
        try:
            storage = cls(state, layers)
            yield storage
        finally:
            if storage is not None:
                storage.close()
            layers.close()
            if privilege.sandbox is not None:
                privilege.sandbox.close()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def claim(self) -> Claim:
        """The right to remove what nobody uses now."""
        return Claim.make(self.state.leases)

    def used(self) -> int:
        """Bytes that everything takes together."""
        return sum(item.size for item in self.items(self.claim())) + self.database_size()

    def database_size(self) -> int:
        """Bytes of the cache's own records."""
        base = self.state.database
        return sum(_size(base.with_name(base.name + suffix)) for suffix in ("", "-wal"))

    def items(self, claim: Claim) -> list[Item]:
        """Everything there is, kind by kind."""
        images, needed = self._images(claim)
        young = self._young(claim, needed)
        layers = self._layers_of(needed)
        return [
            *images,
            *self._blobs(claim, needed, young),
            *self._trees(claim, layers),
            *self._cache_mounts(),
            *self._sources(claim),
            *self._uploads(claim),
            *self._temporary(claim),
        ]

    # --- images and blobs -----------------------------------------------------------------------------------

    def _images(self, claim: Claim) -> tuple[list[Item], set[str]]:
        """Every image, and the digests that any of them needs."""
        names: dict[str, list[str]] = {}
        roots: dict[str, Descriptor] = {}
        for root in self.layout.roots():
            name = root.annotations.get(CONTAINERD_NAME) or root.annotations.get(REF_NAME)
            names.setdefault(root.digest, []).extend([name] if name else [])
            roots[root.digest] = root
        items, needed = [], set(self._drafted())
        for digest, root in roots.items():
            below = self.below(root) - needed
            needed |= below
            path, used, _ = self._blob(digest)
            size = sum(self._blob(one)[2] for one in below)
            text = ", ".join(names[digest]) or "<none>"
            items.append(Item("image", digest, size, used, path, text, in_use=used >= claim.limit))
        return items, needed

    def below(self, root: Descriptor) -> set[str]:
        """The digests ``root`` leads to, as far as they can be read."""
        found = {root.digest}
        try:
            for descriptor in walk(self.layout, root, sparse=True):
                found.add(descriptor.digest)
        except PolyarchError:
            pass  # a damaged image keeps what is left of it
        return found

    def _young(self, claim: Claim, needed: set[str]) -> set[str]:
        """What manifests lead to that a living process has just read or written: it may go on to name or
        unpack them."""
        found: set[str] = set()
        for digest, size in self.layout.blobs():
            if digest in needed or size > MAX_BYTES or self._blob(digest)[1] < claim.limit:
                continue
            manifest = self._manifest(digest, size)
            if manifest is not None:
                found |= self.below(manifest)
        return found

    def _manifest(self, digest: str, size: int) -> Descriptor | None:
        """The blob as a manifest or index, if it is one."""
        plain = Descriptor(media_type="", digest=digest, size=size)
        try:
            with self.layout.open(plain) as stream:
                if stream.read(1) != b"{":
                    return None
            document = msgspec.json.decode(read(self.layout, plain, limit=MAX_BYTES))
        except (PolyarchError, msgspec.DecodeError):
            return None
        if not isinstance(document, dict) or document.get("schemaVersion") != 2:
            return None
        given = document.get("mediaType")
        default = media_types.OCI_INDEX if "manifests" in document else media_types.OCI_MANIFEST
        return Descriptor(media_type=given if isinstance(given, str) else default, digest=digest, size=size)

    def _drafted(self) -> Iterator[str]:
        """What local manifest lists need."""
        for path in (self.state.content / "manifests").glob("*.json"):
            try:
                document = msgspec.json.decode(path.read_bytes())
                members = [member["descriptor"] for member in document["members"]]
                for descriptor in members:
                    yield from self.below(msgspec.convert(descriptor, Descriptor))
            except (OSError, msgspec.MsgspecError, KeyError, TypeError):
                continue

    def _blob(self, digest: str) -> tuple[Path, int, int]:
        """Path, last use and size of a blob; a size of 0 where it is not here."""
        algorithm, _, encoded = digest.partition(":")
        path = self.state.content / "blobs" / algorithm / encoded
        return path, _used(path), _size(path)

    def _blobs(self, claim: Claim, needed: set[str], young: set[str]) -> Iterator[Item]:
        for digest, size in self.layout.blobs():
            if digest not in needed:
                path, used, _ = self._blob(digest)
                in_use = used >= claim.limit or digest in young
                yield Item("blob", digest, size, used, path, in_use=in_use)

    def below_image(self, digest: str) -> set[str]:
        """What the image of that digest needs."""
        roots = (root for root in self.layout.roots() if root.digest == digest)
        return {one for root in roots for one in self.below(root)}

    # --- layers ---------------------------------------------------------------------------------------------

    def _layers_of(self, needed: set[str]) -> set[str]:
        """The layers whose blobs are among ``needed``."""
        return {id for id, _, digest in self.layers.forms.all_blobs() if digest in needed}

    def _trees(self, claim: Claim, needed: set[str]) -> Iterator[Item]:
        for id, folder in self.layers.trees():
            used = _used(folder)
            if not used:
                continue  # another collector was faster
            yield Item(
                "layer",
                id,
                self._tree_size(id, folder),
                used,
                folder,
                shared=id in needed,
                in_use=used >= claim.limit,
            )

    def _tree_size(self, id: str, folder: Path) -> int:
        """Trees never change, so one measurement is enough."""
        if id not in self._sizes:
            self._sizes[id] = self.layers.measure(folder)[0]
            rows = [(id, self._sizes[id])]
            self._database.write([("INSERT OR REPLACE INTO storage_sizes VALUES (?, ?)", rows)])
        return self._sizes[id]

    def forget_sizes(self, trees: set[str]) -> None:
        """Forget the sizes of all trees but these."""
        gone = [(id,) for id in self._sizes if id not in trees]
        self._database.write([("DELETE FROM storage_sizes WHERE id = ?", gone)])

    # --- the rest -------------------------------------------------------------------------------------------

    def _cache_mounts(self) -> Iterator[Item]:
        for lock in self.state.cache_mounts.glob("*/*.lock"):
            folder = lock.with_suffix("")
            if folder.is_dir():
                size = self.layers.measure(folder)[0]
                label = _text(lock.parent / "label")
                yield Item(
                    "cachemount",
                    f"{folder.parent.name[:25]}.{folder.name}",
                    size,
                    _used(lock),
                    folder,
                    label,
                    in_use=is_locked(lock),
                )

    def _sources(self, claim: Claim) -> Iterator[Item]:
        for lock in self.state.sources.glob("*/*/lock"):
            folder = lock.parent
            if any(entry.name != "lock" for entry in folder.iterdir()):
                size, used = self.layers.measure(folder)[0], _used(lock)
                in_use = used >= claim.limit or is_locked(lock)
                kind = folder.parent.name
                yield Item("source", folder.name, size, used, folder, kind, in_use=in_use)

    def _uploads(self, claim: Claim) -> Iterator[Item]:
        for path in self.state.uploads.glob("*.json"):
            in_use = _used(path) >= claim.limit or is_locked(path)
            yield Item("upload", path.stem, _size(path), _used(path), path, in_use=in_use)

    def _temporary(self, claim: Claim) -> Iterator[Item]:
        """What is being made, and what dead processes left of it."""
        folders = sorted(self.state.temporary.iterdir()) if self.state.temporary.is_dir() else []
        for path in folders:
            if path.name.startswith(_OURS):
                continue
            locked = is_locked(path) if path.name.startswith(PURPOSES) else claim.living > 0
            size = self.layers.measure(path)[0] if path.is_dir() else _size(path)
            yield Item("temporary", path.name, size, _used(path), path, in_use=locked)
        for path in self.state.content.glob(".ingest-*"):
            yield Item("temporary", path.name, _size(path), _used(path), path, in_use=is_locked(path))


def is_locked(path: Path) -> bool:
    """Whether some process holds a lock on a file or folder."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _used(path: Path) -> int:
    try:
        return path.lstat().st_mtime_ns
    except OSError:
        return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
