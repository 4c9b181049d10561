"""What the client of a build lends a node while it solves: files, secrets, agents, credentials, caches.

A node is answered only for what the build has: contexts by the names the user gave, blobs that its graph
names, credentials for registries that it reads from or pushes to. Nothing here writes to the client's disk.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from polyarch.builder.embedded import EmbeddedNode, Surroundings
from polyarch.builder.wire.peer import CHUNK, Call, Handler
from polyarch.content.store import Store
from polyarch.errors import NotFoundError, PolyarchError
from polyarch.layer import toc as tocs
from polyarch.layer.rootfs import Rootfs
from polyarch.oci.descriptor import Descriptor
from polyarch.registry.credentials import Credential
from polyarch.solver.remote import Elsewhere

Sources = Callable[[str], Store]  # the store behind an image's origin, as the client reaches it


class Lender:
    """Answers one node's questions during one build."""

    def __init__(self, home: EmbeddedNode, around: Surroundings) -> None:
        self._home = home
        self._around = around
        self._files: dict[str, Rootfs] = {}
        self._lock = threading.Lock()
        self._lent: dict[str, tuple[str, Descriptor]] = {}
        self._registries: set[str] = set()

    def handlers(self) -> Mapping[str, Handler]:
        """What a node may ask."""
        return {
            "context": self._context,
            "toc": self._toc,
            "describe": self._describe,
            "files": self._send_files,
            "secret": self._secret,
            "agent": self._agent,
            "credential": self._credential,
            "places": self._places,
            "blob": self._blob,
            "known": self._known,
            "note": self._note,
            "imported": self._imported,
        }

    def lend_blob(self, origin: str, descriptor: Descriptor) -> None:
        """From now on the node may ask for this content."""
        self._lent[descriptor.digest] = (origin, descriptor)

    def lend_credentials(self, registry: str) -> None:
        """From now on the node may use the user's credentials for ``registry``."""
        self._registries.add(registry)

    # --- contexts -------------------------------------------------------------------------------------------

    def _layers(self, name: str) -> Rootfs:
        with self._lock:
            if name not in self._files:
                opener = self._around.contexts.get(name)
                if opener is None:
                    raise NotFoundError(f"there is no build context {name!r}", reason="unknown-context")
                self._files[name] = opener(self._home.layers)
            return self._files[name]

    def _context(self, call: Call, name: str) -> list[str]:
        """The ids of a context's layers."""
        return [layer.id for layer in self._layers(name).layers]

    def _toc(self, call: Call, name: str, number: int) -> None:
        """The entries of one, compressed; digests are there where they are known."""
        import zstandard

        toc = self._layers(name).layers[number].toc()
        call.write_all(zstandard.ZstdCompressor(level=1).compress(tocs.encode(toc)))

    def _describe(self, call: Call, name: str, number: int) -> None:
        """Digest and machine of the files that are asked for, which are read for it."""
        paths = msgspec.msgpack.decode(call.read_all(1 << 28), type=list[str])
        rootfs = self._layers(name)
        own = Rootfs((rootfs.layers[number],))
        found = own.files([_path(path) for path in paths])
        call.write_all(msgspec.msgpack.encode([(entry.digest, entry.machine) for entry in found]))

    def _send_files(self, call: Call, name: str, number: int, encoding: str) -> None:
        """The files that are asked for, one behind the other; the node knows their sizes. ``encoding`` is
        "zstd" or ""."""
        paths = msgspec.msgpack.decode(call.read_all(1 << 28), type=list[str])
        own = Rootfs((self._layers(name).layers[number],))
        sink = _Sink(call, compressed=encoding == "zstd")
        for path in paths:
            with own.open(_path(path)) as stream:
                sink.copy(stream)
        sink.close()

    # --- secrets and agents ---------------------------------------------------------------------------------

    def _secret(self, call: Call, name: str) -> bytes:
        read = self._around.secrets.get(name)
        if read is None:
            raise NotFoundError(f"secret {name}: not found", reason="secret-not-found")
        return read()

    def _agent(self, call: Call, name: str) -> None:
        """A connection to an agent of the user, for as long as the step on the other side talks to it."""
        path = self._around.agents.get(name)
        if path is None:
            raise NotFoundError(f"ssh agent {name}: not found", reason="ssh-not-found")
        with socket.socket(socket.AF_UNIX) as agent:
            try:
                agent.connect(str(Path(path)))
            except OSError as error:
                raise PolyarchError(f"ssh agent {name}: {error.strerror}", reason="ssh-not-found") from None
            tunnel(call, agent)

    # --- images ---------------------------------------------------------------------------------------------

    def _credential(self, call: Call, registry: str, repository: str) -> Credential | None:
        if registry not in self._registries:
            return None
        return self._home.client.credentials.find(registry, repository)

    def _places(self, call: Call, digest: str) -> list[str]:
        """Repositories where content that was lent can be had besides."""
        return list(self._home.local.origins.places(digest)) if digest in self._lent else []

    def _blob(self, call: Call, digest: str) -> None:
        """Content that was lent, by way of this machine."""
        if digest not in self._lent:
            raise NotFoundError(f"{digest} is no part of this build", reason="not-found")
        origin, descriptor = self._lent[digest]
        with self._home.origin(origin).open(descriptor) as stream:
            while piece := stream.read(CHUNK):
                call.write(piece)

    # --- caches ---------------------------------------------------------------------------------------------

    def _imports(self) -> Elsewhere | None:
        return self._home.imports

    def _known(self, call: Call, key: str) -> tuple[Sequence[str], str] | None:
        imports = self._imports()
        return imports.result(key) if imports is not None else None

    def _note(self, call: Call, key: str) -> str | None:
        imports = self._imports()
        return imports.note(key) if imports is not None else None

    def _imported(self, call: Call, id: str) -> bytes | None:
        """What is known of a layer of another machine's cache; its content is lent with it."""
        imports = self._home.imports
        found = imports.find(id) if imports is not None else None
        if found is None:
            return None
        place, layer = found
        self._home.local.origins.record({layer.blob.descriptor.digest: (place,)})
        self.lend_blob(place, layer.blob.descriptor)
        if not place.startswith("oci-layout:"):
            self.lend_credentials(place.partition("/")[0])
        blob = layer.blob
        return msgspec.msgpack.encode((place, blob.descriptor, blob.diff_id, layer.made_as))


class _Sink:
    """Writes a stream of bytes into a call, compressed or not."""

    def __init__(self, call: Call, *, compressed: bool) -> None:
        self._call = call
        self._compressor = None
        if compressed:
            import zstandard

            self._compressor = zstandard.ZstdCompressor(level=1).compressobj()

    def copy(self, stream: BinaryIO) -> None:
        while piece := stream.read(CHUNK):
            self._send(self._compressor.compress(piece) if self._compressor else piece)

    def close(self) -> None:
        if self._compressor:
            self._send(self._compressor.flush())

    def _send(self, data: bytes) -> None:
        self._call.write_all(data)


def tunnel(call: Call, connection: socket.socket) -> None:
    """Pass bytes between a call and a socket until either side has ended, or the call is over."""

    def outward() -> None:
        try:
            while data := connection.recv(CHUNK):
                call.write(data)
            call.end()
        except (OSError, PolyarchError):
            pass

    thread = threading.Thread(target=outward, name="tunnel", daemon=True)
    thread.start()
    try:
        while data := call.read(call.cancelled):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        thread.join()
    except (OSError, PolyarchError):
        pass  # the step has gone, or the agent has
    finally:
        connection.close()


def _path(path: str) -> str:
    """Names come as MessagePack text; what is not UTF-8 is marked as in stored tocs."""
    return tocs.unquoted(path)
