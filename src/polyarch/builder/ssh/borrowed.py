"""What a node has from its client, for the time of a build and in memory only: credentials, agents, images
that no registry has, caches of other machines."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from polyarch.builder.ssh.files import Incoming
from polyarch.builder.ssh.lending import tunnel
from polyarch.builder.wire.peer import Peer
from polyarch.content.store import Store
from polyarch.content.verify import verified
from polyarch.errors import NotFoundError, PolyarchError
from polyarch.graph.vertex import LOCAL
from polyarch.image.cache_table import Layer as CachedLayer
from polyarch.image.sparse import LAYOUT_PREFIX, SparseStore
from polyarch.layer.layer import Blob, Layer
from polyarch.layer.store import LayerStore
from polyarch.layer.stored import StoredLayer
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.reference import Reference
from polyarch.registry.client import Client
from polyarch.registry.config import is_loopback
from polyarch.registry.credentials import Credential


class BorrowedCredentials:
    """The user's credentials, asked for when a registry wants some."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def find(self, registry: str, repository: str = "") -> Credential | None:
        answer = self._peer.ask("credential", registry, repository)
        return None if answer is None else msgspec.convert(answer, Credential)


class Reach:
    """Which registries this node can reach itself. One that did not answer is not asked again; loopback is
    somebody else here, unless client and node are one machine."""

    def __init__(self, client: Client, *, same_host: bool) -> None:
        self.client = client
        self._same_host = same_host
        self._unreachable: set[str] = set()

    def store(self, place: str) -> Store | None:
        """The repository ``place`` as a store; None when it is none, or cannot be reached."""
        if place == LOCAL or place.startswith(LAYOUT_PREFIX):
            return None
        registry = place.partition("/")[0]
        if registry in self._unreachable or (is_loopback(registry) and not self._same_host):
            return None
        return self.client.repository(Reference.parse(place))

    def failed(self, place: str, error: PolyarchError) -> None:
        """Remember a registry that did not answer."""
        if error.reason == "registry-down":
            self._unreachable.add(place.partition("/")[0])


class BorrowedImages:
    """The store behind an image's origin: the registry where this node reaches it, else the client."""

    def __init__(self, peer: Peer, reach: Reach, origin: str) -> None:
        self._peer = peer
        self._reach = reach
        self._origin = origin

    def open(self, wanted: Descriptor) -> BinaryIO:
        """See ``Store.open``."""
        for place in self._places(wanted):
            store = self._reach.store(place)
            if store is None:
                continue
            try:
                return store.open(wanted)
            except PolyarchError as error:
                self._reach.failed(place, error)
        stream = cast(BinaryIO, Incoming(self._peer.call("blob", wanted.digest)))
        return verified(stream, wanted, where="the client of this build")

    def _places(self, wanted: Descriptor) -> Sequence[str]:
        if self._origin == LOCAL or self._origin.startswith(LAYOUT_PREFIX):
            return [str(place) for place in self._peer.ask("places", wanted.digest)]
        return [self._origin]

    def exists(self, digest: str) -> bool:
        """Origins are believed to have what they are named for."""
        return True

    def push(self, source: BinaryIO, expected: Descriptor) -> None:
        raise _read_only()

    def resolve(self, reference: str) -> Descriptor:
        raise _read_only()

    def tag(self, reference: str, target: Descriptor) -> None:
        raise _read_only()


def _read_only() -> PolyarchError:
    return PolyarchError("images of a build's client are only read", reason="read-only")


class BorrowedCache:
    """The client's ``--cache-from``. Implements ``Imports``."""

    def __init__(self, peer: Peer, reach: Reach) -> None:
        self._peer = peer
        self._reach = reach

    def result(self, key: str) -> tuple[Sequence[str], str] | None:
        """See ``Elsewhere``."""
        answer = self._peer.ask("known", key)
        return None if answer is None else (tuple(answer[0]), str(answer[1]))

    def note(self, key: str) -> str | None:
        """See ``Elsewhere``."""
        answer = self._peer.ask("note", key)
        return None if answer is None else str(answer)

    def find(self, id: str) -> tuple[str, CachedLayer] | None:
        """See ``Imports``."""
        answer = self._peer.ask("imported", id)
        if answer is None:
            return None
        place, descriptor, diff_id, made_as = msgspec.msgpack.decode(
            answer, type=tuple[str, Descriptor, str, str]
        )
        return place, CachedLayer(Blob(descriptor, diff_id), made_as)

    def attach(self, layers: LayerStore, local: SparseStore) -> None:
        """See ``Imports``."""

        def elsewhere(id: str) -> Layer | None:
            found = self.find(id)
            if found is None:
                return None
            place, cached = found
            layer = layers.remote_layer(id, cached.blob, cached.made_as)
            if isinstance(layer, StoredLayer):
                layer.origin = BorrowedImages(self._peer, self._reach, place)
            return layer

        layers.elsewhere = elsewhere


class Agents:
    """Sockets on this machine that lead to the user's ssh agents. No key ever comes here."""

    def __init__(self, peer: Peer, names: Sequence[str]) -> None:
        self._peer = peer
        self._folder: str | None = None
        self._listening: list[socket.socket] = []
        self.sockets: dict[str, Path] = {}
        if names:
            self._folder = tempfile.mkdtemp(prefix="polyarch-agents-")
            for number, name in enumerate(names):
                self.sockets[name] = self._listen(Path(self._folder) / str(number), name)

    def close(self) -> None:
        """Take the sockets away."""
        for listening in self._listening:
            listening.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _listen(self, path: Path, name: str) -> Path:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        os.chmod(path, 0o600)
        listening.listen(8)
        self._listening.append(listening)
        threading.Thread(target=self._accept, args=(listening, name), name="agent", daemon=True).start()
        return path

    def _accept(self, listening: socket.socket, name: str) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._pass, args=(connection, name), daemon=True).start()

    def _pass(self, connection: socket.socket, name: str) -> None:
        try:
            tunnel(self._peer.call("agent", name), connection)
        except (PolyarchError, NotFoundError):
            connection.close()
