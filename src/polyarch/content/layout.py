"""A store on disk: an OCI image layout (image-spec, image-layout.md), shared safely by many processes.

Blobs appear whole or not at all; index.json, which holds the names, is replaced atomically under a lock on
the layout's folder. A name is written only after the blobs it may lead to are durable.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from polyarch.content import ingest, naming
from polyarch.content.ingest import BlobWriter, Ingest
from polyarch.content.lease import Lease
from polyarch.content.names import MAX_BYTES, NameTable
from polyarch.content.state import State
from polyarch.content.verify import pump, verified
from polyarch.errors import ContentError, NotFoundError
from polyarch.oci import digest as digests
from polyarch.oci import manifest as manifests
from polyarch.oci.descriptor import Descriptor

_MARKER = b'{"imageLayoutVersion":"1.0.0"}'


class Layout:
    """The layout in the folder ``path``.

    Without ``create`` the folder must be a layout already (NotFoundError, ContentError). With it, nothing is
    made before something is written. In our own local store the names are full references as docker
    normalises them; in foreign layouts they are whatever is there. Safe to share between threads.

    With ``lease`` nothing that was found or written here is collected while the lease lives. ``admit`` is
    asked before so many bytes are written, and raises where there is no room for them.
    """

    def __init__(self, path: Path, *, create: bool = True, lease: Lease | None = None) -> None:
        self.root = Path(path)
        self.lease = lease
        self.admit: Callable[[int], None] = _anything
        self._swept = False
        if not create:
            self._require()

    @property
    def limited(self) -> bool:
        """Whether anybody is asked before something is written (``admit``)."""
        return self.admit is not _anything

    @classmethod
    def local(cls, state: State) -> Layout:
        """The local store of ``state``, for whoever relies on what he finds in it."""
        return cls(state.content, lease=Lease(state.leases))

    # --- the Store protocol ---------------------------------------------------------------------------------

    def exists(self, digest: str) -> bool:
        return self._held(self._locate(digest)) is not None

    def open(self, wanted: Descriptor) -> BinaryIO:
        stream, size = self._open(wanted.digest)
        if size != wanted.size:
            stream.close()
            raise ContentError(
                f"{wanted.digest} in {self.root} has {size} bytes, not {wanted.size}",
                reason="truncated" if size < wanted.size else "size-mismatch",
            )
        return verified(stream, wanted, where=str(self.root))

    def push(self, source: BinaryIO, expected: Descriptor) -> None:
        target = self._locate(expected.digest)
        if self._holds(target, expected.size):
            return
        self.admit(expected.size)
        with self._ingest() as temporary:
            pump(source, expected, temporary.write)
            temporary.place(target)

    def resolve(self, reference: str) -> Descriptor:
        if digest := naming.digest_of(reference):
            return self._describe(digest, reference)
        found = self._table().find(reference, naming.normalized(reference))
        if found is None:
            raise naming.missing(reference, str(self.root))
        self.exists(found.digest)  # from here on it stays, also without the name
        return found

    def tag(self, reference: str, target: Descriptor) -> None:
        self._settle(target)
        with self._edit() as table:
            table.set(naming.normalized(reference), target)

    # --- more than the protocol -----------------------------------------------------------------------------

    def names(self) -> list[tuple[str, Descriptor]]:
        """Every name and what it names, in the order they were given."""
        return self._table().names()

    def roots(self) -> list[Descriptor]:
        """Every entry of index.json, named or not."""
        return self._table().roots()

    def publish(self, entry: Descriptor) -> None:
        """Add an entry to index.json with exactly the annotations it has, as archives for other tools need
        them (``org.opencontainers.image.ref.name``, ``io.containerd.image.name``); replaces one of the same
        name, or of the same digest when it has none."""
        self._settle(entry)
        with self._edit() as table:
            table.publish(entry)

    def untag(self, reference: str) -> bool:
        """Forget a name; whether it was there. The content stays until it is collected."""
        if not (self.root / "index.json").exists():
            return False
        with self._edit() as table:
            return table.remove(reference) or table.remove(naming.normalized(reference))

    def forget(self, digest: str) -> None:
        """Remove all entries of index.json that lead to ``digest``."""
        with self._edit() as table:
            table.forget(digest)

    def path(self, digest: str) -> Path:
        """The file of a blob that is there (NotFoundError). Its bytes are not verified by this."""
        found = self._locate(digest)
        if not found.is_file():
            raise naming.missing(digest, str(self.root))
        return found

    def delete(self, digest: str) -> bool:
        """Remove a blob whatever may need it; whether it was there."""
        try:
            self._locate(digest).unlink()
        except FileNotFoundError:
            return False
        return True

    def blobs(self) -> Iterator[tuple[str, int]]:
        """Every blob's digest and size in bytes."""
        for algorithm in ("sha256", "sha512"):
            folder = self.root / "blobs" / algorithm
            if not folder.is_dir():
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    digest = f"{algorithm}:{entry.name}"
                    if digests.is_valid(digest) and entry.is_file():
                        yield digest, entry.stat().st_size

    def writer(self) -> BlobWriter:
        """Stream a blob whose digest is not known yet; see BlobWriter."""
        self._prepare()
        self.admit(0)
        return BlobWriter(self.root / "blobs", self.root, self._holds)

    def push_bytes(self, data: bytes, media_type: str) -> Descriptor:
        """Store ``data``; returns its descriptor."""
        with self.writer() as writer:
            writer.write(data)
            digest, size = writer.commit()
        return Descriptor(media_type=media_type, digest=digest, size=size)

    def push_file(self, path: Path, expected: Descriptor) -> None:
        """``push`` from a file."""
        with path.open("rb") as source:
            self.push(source, expected)

    def adopt(self, path: Path, digest: str) -> None:
        """Move a file of the same file system, whose bytes the caller has hashed, in among the blobs."""
        self._prepare()
        target = self._locate(digest)
        with ingest.disk("storing content", self.root):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)

    def write_file(self, name: Path, data: bytes) -> None:
        """Replace a small file below the layout's folder atomically, for what is kept beside the blobs."""
        self._prepare()
        with Ingest(self.root) as temporary:
            temporary.write(data)
            temporary.place(self.root / name)
        ingest.sync_folder((self.root / name).parent)

    # --- inside ---------------------------------------------------------------------------------------------

    def _settle(self, target: Descriptor) -> None:
        """Before a name leads to ``target``: it must be there, and survive a power cut."""
        if not self.exists(target.digest):
            raise naming.missing(target.digest, str(self.root))
        ingest.sync_folder(self._locate(target.digest).parent)

    def _locate(self, digest: str) -> Path:
        checked = digests.parse(digest)  # so that no digest can lead out of the folder
        return self.root / "blobs" / digests.algorithm(checked) / digests.encoded(checked)

    def _open(self, digest: str) -> tuple[BinaryIO, int]:
        path = self._locate(digest)
        try:
            # Not blocking, because a hostile layout may hold a pipe here.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            raise naming.missing(digest, str(self.root)) from None
        status = os.fstat(descriptor)
        if self.lease is not None:
            self.lease.hold(path, status)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise ContentError(f"{path} is not a regular file", reason="invalid-layout")
        return open(descriptor, "rb", buffering=0), status.st_size

    def _describe(self, digest: str, reference: str) -> Descriptor:
        try:
            stream, size = self._open(digest)
        except NotFoundError:
            raise naming.missing(reference, str(self.root)) from None
        with stream:
            if size > manifests.MAX_BYTES:
                return Descriptor(media_type=naming.OPAQUE, digest=digest, size=size)
            wanted = Descriptor(media_type=naming.OPAQUE, digest=digest, size=size)
            return naming.describe(verified(stream, wanted, where=str(self.root)).read(), digest)

    def _holds(self, target: Path, size: int) -> bool:
        status = self._held(target)
        return status is not None and status.st_size == size

    def _held(self, path: Path) -> os.stat_result | None:
        """The status of a regular file that is there, and stays while the lease lives."""
        try:
            status = path.stat()
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        if self.lease is not None and not self.lease.hold(path, status):
            return None
        return status

    def _ingest(self) -> Ingest:
        self._prepare()
        return Ingest(self.root)

    def _prepare(self) -> None:
        """Make the folder a layout, and clean up once after processes that were killed."""
        if self._swept:
            return
        if self.lease is not None:
            self.lease.take()
        with ingest.disk("making a content store", self.root):
            (self.root / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        if not (self.root / "oci-layout").exists():
            self._replace("oci-layout", _MARKER)
        ingest.sweep(self.root)
        self._swept = True
        if not (self.root / "index.json").exists():
            with self._edit():
                pass  # writes an empty one, unless another process was faster

    def _require(self) -> None:
        if not (self.root / "index.json").is_file() or not (self.root / "oci-layout").is_file():
            raise NotFoundError(
                f"{self.root} is not an OCI layout",
                hint="an OCI layout is a folder with the files oci-layout and index.json",
                reason="not-a-layout",
            )
        self._table()

    def _table(self) -> NameTable:
        path = self.root / "index.json"
        try:
            with path.open("rb") as stream:
                data = stream.read(MAX_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return NameTable.empty()
        if len(data) > MAX_BYTES:
            raise ContentError(f"{path} is larger than {MAX_BYTES} bytes", reason="too-large")
        return NameTable.parse(data, str(path))

    @contextmanager
    def _edit(self) -> Iterator[NameTable]:
        """The names, to be changed; written when the block ends well. Nobody else edits meanwhile."""
        self._prepare()
        lock = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            table = self._table()
            before = table.encode()
            yield table
            after = table.encode()
            if after != before or not (self.root / "index.json").exists():
                self._replace("index.json", after)
                os.fsync(lock)
        finally:
            os.close(lock)

    def _replace(self, name: str, data: bytes) -> None:
        with Ingest(self.root) as temporary:
            temporary.write(data)
            temporary.place(self.root / name)


def _anything(size: int) -> None:
    """There is always room."""
